"""lifter's kernels inside a model of somebody else's."""

import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import nn


@dataclass
class Swap:
    """How a module of a known kind runs on lifter's kernels.

    `functions` are by name of the method that they replace: `function(module, ...)` for `module.method(...)`. `examples`
    are arguments of the whole module, a shape first, to compare both on. `tables` are constants of the functions, kept as
    buffers that no state dict has. `reference`: where the original cannot run, lifter's reference stands for it, because
    the functions are its own code around ops of the same meaning.
    """

    kind: str
    functions: dict
    examples: list
    tables: dict = field(default_factory=dict)
    reference: bool = False

    def apply(self, module):
        for name, table in self.tables.items():
            module.register_buffer(name, table.to(next(module.parameters()).device), persistent=False)
        for method, function in self.functions.items():
            setattr(module, method, partial(function, module))


class Report(list):
    """One (name of the module, its kind, whether it was swapped, why) per module that looked like one of ours."""

    @property
    def swapped(self):
        return [name for name, _, done, _ in self if done]

    @property
    def left(self):
        return {name: why for name, _, done, why in self if not done}

    def __str__(self):
        lines = [f"{'swapped' if done else 'left   '}  {name} ({kind}): {why}" for name, kind, done, why in self]
        return "\n".join(lines) or "nothing recognised"


def optimize(model):
    """Let what we recognise in somebody else's model run on lifter's kernels, in place, and say what was done.

    Known are attention blocks of MixSTE, MotionBERT, MotionAGFormer and their kin, the four-direction scans of PoseMamba,
    SasMamba and VMamba, and the Mamba (1) mixers of mamba-ssm and transformers. They are known by what they hold (names,
    shapes and kinds of their parts, signature of `forward`), and each is then compared with its original, in float32 on
    random input, outputs and gradients: what differs by more than rounding, or cannot run here, is left alone.

    Nothing else changes: modules, parameters, hooks and the keys of the state dict stay; a swapped module has `forward`
    (a scan its `forward_core`) as an attribute of its own. Dropout of attention weights draws other random numbers. A
    model may be copied and trained as before; what was swapped already is left.

    A model that needs an extension to run at all, such as PoseMamba's `selective_scan_cuda_core`, needs
    `lifter.compat.install()` before it is imported.

    Args:
        model: any module, on any device but "meta".

    Returns:
        `Report`; print it. `.swapped` are names, `.left` is {name: why}.

    Raises:
        TypeError if `model` is no module.
    """
    from lifter.swaps import KINDS  # here: `import lifter` loads no kernels

    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}, expected a torch.nn.Module")
    report = Report()
    for name, module in model.named_modules():
        if type(module).__module__.startswith("lifter."):
            continue
        for kind in KINDS:
            swap = kind(module)
            if swap is None:
                continue
            name = name or type(module).__name__
            same, why = (False, swap) if isinstance(swap, str) else _compare(module, swap)
            if same:
                swap.apply(module)
            report.append((name, type(module).__name__, same, why))
            break
    return report


TOLERANCE = 1e-4  # of the largest number: some ten times what float32 loses on the way


def _compare(module, swap):
    """Whether the swapped module does the same, and the line of the report. Nothing is done to it: two copies run."""
    from lifter.kernels import backend

    if any(p.device.type == "meta" for p in module.parameters()):
        return False, "its weights are on the meta device"
    verified = f"{swap.kind}, verified"
    try:
        theirs = copy.deepcopy(module).float().eval().requires_grad_(True)
    except Exception as error:  # of somebody else's code, whatever it is, here and below
        return False, f"it cannot be copied ({_first_line(error)})"
    ours = copy.deepcopy(theirs)
    swap.apply(ours)
    before = dict(vars(theirs))
    try:
        expected = [_run(theirs, args) for args in swap.examples]
    except Exception as error:
        why = f"its own code does not run here ({_first_line(error)})"
        if not swap.reference:
            return False, why
        expected = None
        verified += f" on the reference: {why}"
    if any(key not in before or value is not before[key] for key, value in vars(theirs).items()):
        return False, "its forward keeps something of what it computes"
    try:
        found = [_run(ours, args) for args in swap.examples]
    except Exception as error:
        return False, f"lifter's ops do not take it ({_first_line(error)})"
    if expected is None:
        with backend("reference"):
            expected = [_run(ours, args) for args in swap.examples]
    for (name, a), (_, b) in zip(chain(*expected), chain(*found), strict=True):
        if a.shape != b.shape:
            return False, f"{name} has shape {tuple(a.shape)}, lifter's {tuple(b.shape)}"
        if not (error := (a - b).abs().max().item()) <= TOLERANCE * a.abs().max().item():
            return False, f"{name} differs from lifter's by {error:.1e}"
    return True, verified


def _first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _run(module, args):
    """[(name, tensor)]: the output, and the gradients of input and parameters for a fixed random cotangent."""
    shape, *more = args
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device).requires_grad_()
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        out = module(x, *more)
        weights = torch.randn(out.shape, generator=generator).to(device)
        named = [("input", x), *module.named_parameters()]
        grads = torch.autograd.grad(out, [p for _, p in named], weights, allow_unused=True)
    tensors = [(f"the gradient of {name}", g) for (name, _), g in zip(named, grads) if g is not None]
    with torch.no_grad():  # may take another way
        return [("its output", out.detach()), ("its output without gradients", module(x.detach(), *more)), *tensors]
