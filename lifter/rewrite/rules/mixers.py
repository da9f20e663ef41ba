"""Mixers of mamba-ssm and of transformers (Mamba, FalconMamba, Jamba; Mamba2, Bamba, FalconH1, GraniteMoeHybrid, NemotronH,
Zamba2): their own code on lifter's functions.

Their `forward` calls a few functions by name: mamba-ssm's and causal-conv1d's, or, in transformers, what takes their
place in slow PyTorch. The swapped `forward` is the same code with lifter's functions under these names, so that caches,
masks and whatever else a version does around them stay as they are.
"""

import inspect
from functools import cache
from types import FunctionType

from lifter.compat.mamba import mamba_inner_fn, selective_state_update
from lifter.kernels import causal_conv1d_fn, causal_conv1d_update, mamba_chunk_scan_combined, selective_scan_fn
from lifter.layers import mamba_split_conv1d_scan_combined

from ..engine import Rewrite, extend, is_extended

# kind: (children, parameters) that it has, and children that it may have.
KINDS = {
    "Mamba mixer": (
        {"in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"},
        {"A_log", "D"},
        {"act", "dt_layernorm", "b_layernorm", "c_layernorm"},
    ),
    "Mamba-2 mixer": ({"in_proj", "conv1d", "out_proj"}, {"A_log", "D", "dt_bias"}, {"act", "norm"}),
}


def mixer(module):
    has_children = {name for name, _ in module.named_children()}
    has_parameters = {name for name, _ in module.named_parameters(recurse=False)}
    fits = lambda children, parameters, others: children <= has_children and parameters <= has_parameters
    kind = next((kind for kind, parts in KINDS.items() if fits(*parts)), None)
    if kind is None:
        return None
    children, parameters, others = KINDS[kind]
    if more := (has_children - children - others) | (has_parameters - parameters):
        return f"it has more than a {kind}: {', '.join(sorted(more))}"
    if is_extended(module) or "forward" in vars(module):
        return "its forward was replaced before"
    if hasattr(module, "_hf_hook"):
        return "accelerate has hooks on it"
    if not _replaced(_code(type(module), "forward")):
        return "its forward calls none of the functions that are known"
    C = module.in_proj.in_features
    make = lambda module: extend(module, Mixer)
    return Rewrite(kind, make, [((2, 5, C),), ((1, 130, C),)], reference=True)


class Mixer:
    def __init_subclass__(cls):
        """Rebind the methods of the class that is extended."""
        original = next(kind for kind in cls.__mro__ if "forward" in vars(kind))
        for name in ("forward", "step"):
            if hasattr(original, name):
                setattr(cls, name, _rebound(original, name))


@cache
def _rebound(kind, method):
    """The method of a class with lifter's functions in place of those that it calls."""
    code = _code(kind, method)
    names = code.__globals__ | _replaced(code)
    names.pop("__name__", None)  # by which torch.compile would find their module, and in it their functions
    function = FunctionType(code.__code__, names, code.__name__, code.__defaults__, code.__closure__)
    function.__kwdefaults__ = code.__kwdefaults__
    return function


def _code(kind, method):
    return inspect.unwrap(getattr(kind, method))


def _replaced(function):
    """{global name: lifter's function} of what `function` calls."""
    names = function.__code__.co_names
    ours = TRANSFORMERS if {"mamba_selective_scan", "mamba2_chunk_scan"} & set(names) else MAMBA_SSM
    return {name: ours[name] for name in names if name in ours}


def _lenient(function):
    """`function`, which leaves out the keywords that it does not know, as transformers calls them."""
    known = tuple(inspect.signature(function).parameters)  # of what torch.compile can look into
    return lambda *args, **kwargs: function(*args, **{name: x for name, x in kwargs.items() if name in known})


CONVOLUTIONS = {"causal_conv1d_fn": causal_conv1d_fn, "causal_conv1d_update": causal_conv1d_update}
MAMBA_SSM = CONVOLUTIONS | {
    "mamba_inner_fn": mamba_inner_fn,
    "selective_scan_fn": selective_scan_fn,
    "selective_state_update": selective_state_update,
    "mamba_chunk_scan_combined": mamba_chunk_scan_combined,
    "mamba_split_conv1d_scan_combined": mamba_split_conv1d_scan_combined,
}
# Not its fused mixers, which without a GPU do nothing and let the others run.
TRANSFORMERS = {name: _lenient(function) for name, function in CONVOLUTIONS.items()} | {
    "mamba_selective_scan": _lenient(selective_scan_fn),
    "mamba_selective_state_update": _lenient(selective_state_update),
    "mamba2_chunk_scan": _lenient(mamba_chunk_scan_combined),
    "mamba2_selective_state_update": _lenient(selective_state_update),
}
