"""Models for inference on a CPU, with their weights laid out for it once."""

import copy
import warnings

import torch
from torch import nn

from lifter._errors import first_line

from .engine import difference, draw, rewrite
from .rules import FREEZING


def freeze(model: nn.Module) -> nn.Module:
    """Copy `model` for inference on the CPU, faster the fewer frames a call has.

    Every `nn.Linear` in float32 or bfloat16 holds its weight in oneDNN's blocked layout instead of the ordinary one,
    which would be rearranged in every call, and every `Mlp` multiplies and applies its GELU in one pass. Some parts have a
    kernel of their own and pack their parameters for that instead: MixSynthFormer; all blocks of MixSTE, D3DP and PoseRetNet
    together; every other `TransformerBlock` and `ScaledBlock`. Nothing else changes; results differ by rounding. Parts that
    the machine or this build of PyTorch cannot pack stay as they are, and so do layers with hooks or replaced methods.

    Each part is compared with its original on random input. One that differs by more than rounding stays as it is, and a
    warning says so.

    Args:
        model: any module on the CPU. It is not touched, and later changes of its weights do not reach the copy.

    Returns:
        The copy, in evaluation mode. It cannot be trained, saved, copied, moved or cast, nor run under autocast: do that with
        the model, then freeze it.

    Raises:
        TypeError if `model` is no module, ValueError if some parameter of it is not on the CPU.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"freeze: model is {type(model).__name__}, expected a torch.nn.Module")
    elsewhere = [f"{name} on {p.device}" for name, p in model.named_parameters() if p.device.type != "cpu"]
    if elsewhere:
        raise ValueError(f"freeze: expected a model on the CPU, got {elsewhere[0]}")
    frozen, report = rewrite(copy.deepcopy(model).eval().requires_grad_(False), FREEZING, _verify)
    for name, why in report.left.items():
        warnings.warn(f"freeze: {name} stays as it is: {why}", stacklevel=2)
    return frozen


@torch.no_grad()
def _verify(module, rewrite):
    """Evaluate both. Where they differ, the original in float64 says which of them is wrong."""
    theirs = rewrite.stub(module) if rewrite.stub else module
    like = next(theirs.parameters())
    try:
        made = rewrite.make(module)
        ours = rewrite.make(theirs) if rewrite.stub else made
        with torch.autocast("cpu", enabled=False):
            for example in rewrite.examples:
                args = draw(example, like)
                expected, found = theirs(*args), ours(*args)
                if difference("its output", expected, found):
                    wide = [arg.double() if isinstance(arg, torch.Tensor) else arg for arg in args]
                    if why := difference("its output", copy.deepcopy(theirs).double()(*wide), found, expected):
                        return None, why
    except Exception as error:  # whatever it is, the original still runs
        return None, f"it cannot be compared ({first_line(error)})"
    return made, f"{rewrite.kind}, verified"
