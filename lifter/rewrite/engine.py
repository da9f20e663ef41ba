"""Rewrites parts of a model to compute the same, but faster, once it has been seen that they do."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

TOLERANCE = 1e-4  # of the largest number: some ten times what float32 loses on the way
GRANTED = 8  # times the error of the original, where rounding is amplified


@dataclass
class Rewrite:
    """Rule to rewrite a kind of module.

    kind: what the module is, for the report.
    make: module -> what stands for it, the module itself or another that may share its parts.
    examples: arguments of the module to compare both on; a tuple stands for random numbers of that shape.
    stub: module -> one to compare in its place, if it takes inputs that the rule cannot know.
    reference: lifter's reference stands for the module where that cannot run. True if what is made is the module's own code
        around ops of the same meaning.
    """

    kind: str
    make: Callable
    examples: list
    stub: Callable | None = None
    reference: bool = False


class Report(list):
    """One (name of the module, its class, whether it was rewritten, why) per module that a rule knows or nearly knows."""

    @property
    def swapped(self):
        return [name for name, _, done, _ in self if done]

    @property
    def left(self):
        return {name: why for name, _, done, why in self if not done}

    def __str__(self):
        lines = [f"{'swapped' if done else 'left   '}  {name} ({kind}): {why}" for name, kind, done, why in self]
        return "\n".join(lines) or "nothing recognised"


def rewrite(model, rules, verify):
    """Rewrite what the rules know, from the outside in: (what stands for `model`, `Report`).

    Args:
        rules: functions of a module: a `Rewrite`, None if the rule does not know the module, or the reason to leave one that
            it nearly knows.
        verify: (module, `Rewrite`) -> (what stands for the module, how it was verified), or (None, why it is left).
    """
    report, stands = Report(), {}

    def visit(name, module):
        if module in stands:  # shared, and rewritten once
            return stands[module]
        stands[module] = result = module
        for rule in rules:
            found = rule(module)
            if found is None:
                continue
            made, why = (None, found) if isinstance(found, str) else verify(module, found)
            report.append((name or type(module).__name__, type(module).__name__, made is not None, why))
            if made is not None:
                stands[module] = result = made
                break
        for part, child in list(result._modules.items()):
            if child is not None and (new := visit(f"{name}.{part}" if name else part, child)) is not child:
                setattr(result, part, new)
        return result

    return visit("", model), report


# ---- what could interfere --------------------------------------------------------------------------------------------


def untouched(modules, kinds=None):
    """Return whether the modules are exactly of these kinds, and no hook or replaced method changes what they do."""
    return all((kinds is None or type(module) in kinds) and not _is_touched(module) for module in modules)


def _is_touched(module):
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or any(callable(getattr(type(module), name, None)) for name in vars(module))


# ---- comparing -------------------------------------------------------------------------------------------------------


def draw(example, like):
    """The arguments that an example describes, random numbers with dtype and device of `like`; always the same ones."""
    generator = torch.Generator().manual_seed(0)
    make = lambda shape: torch.randn(shape, generator=generator, device="cpu").to(like)
    return [make(arg) if isinstance(arg, tuple) else arg for arg in example]


def difference(name, exact, ours, theirs=None):
    """Describe how `ours` differs from `exact` by more than rounding, or return None. `theirs`, if given, was computed in the
    precision of `ours`, and several times its error is granted."""
    if exact.shape != ours.shape:
        return f"{name} has shape {tuple(exact.shape)}, lifter's {tuple(ours.shape)}"
    if not exact.numel():
        return None
    error = lambda y: (y.to(exact.dtype) - exact).abs().max().item()
    allowed = TOLERANCE * exact.abs().max().item() + (0 if theirs is None else GRANTED * error(theirs))
    return None if error(ours) <= allowed else f"{name} differs from lifter's by {error(ours):.1e}"


# ---- modules with other methods --------------------------------------------------------------------------------------


def extend(module, mixin):
    """Give `module`, in place, the methods of a class `mixin`: it becomes an instance of a subclass of its own class.

    Unlike methods that are set on an instance, these go with copies, pickles and the replicas of DataParallel.
    """
    module.__class__ = _extended(type(module), mixin)
    return module


def is_extended(module):
    return isinstance(module, _Extended)


def shallow_copy(module):
    """A module with the parts of another, and other places for them."""
    twin = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[name] = dict(getattr(module, name))
    return twin


class _Extended:
    def __reduce_ex__(self, protocol):
        """Make the class anew when an instance is unpickled: it has no name to import."""
        make, (first, *args), *state = super().__reduce_ex__(max(2, protocol))
        return (_new, (*self._extends, *args), *state) if first is type(self) else (make, (first, *args), *state)


@cache
def _extended(kind, mixin):
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (mixin, _Extended, kind), names | {"_extends": (kind, mixin)})


def _new(kind, mixin, *args):
    extended = _extended(kind, mixin)
    return extended.__new__(extended, *args)
