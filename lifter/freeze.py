"""Models for inference on a CPU, with their weights laid out for it once."""

import copy

import torch
from torch import nn


def freeze(model):
    """A copy of `model` for inference on the CPU, faster the fewer frames a call has: packed linear layers.

    Every `nn.Linear` in float32 or bfloat16 holds its weight in oneDNN's blocked layout instead of the ordinary one,
    which would be rearranged in every call, and every `Mlp` multiplies and applies its GELU in one pass. What has a kernel of
    its own (MixSynthFormer; all blocks of MixSTE, D3DP and PoseRetNet together; every other `TransformerBlock` and
    `ScaledBlock`) packs its parameters for that instead. Nothing else changes; results differ by rounding. What the machine
    or this build of PyTorch cannot pack stays as it is.

    Args:
        model: any module on the CPU. It is not touched, and what happens to its weights later does not reach the copy.

    Returns:
        The copy, in evaluation mode. It cannot be trained, saved, copied, moved or cast, nor run under autocast: freeze a
        model that is what you want instead. Layers that have hooks stay as they are.

    Raises:
        TypeError if `model` is no module, ValueError if some parameter of it is not on the CPU.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"freeze: model is {type(model).__name__}, expected a torch.nn.Module")
    elsewhere = [f"{name} on {p.device}" for name, p in model.named_parameters() if p.device.type != "cpu"]
    if elsewhere:
        raise ValueError(f"freeze: expected a model on the CPU, got {elsewhere[0]}")
    return _frozen(copy.deepcopy(model).eval().requires_grad_(False), {})


def _frozen(module, done):
    """What stands for `module`: itself with frozen parts, or what computes the same from packed weights."""
    from lifter.layers import Mlp  # here: `import lifter` loads no kernels
    from lifter.layers.frozen_block import freeze_block

    if module in done:
        return done[module]
    frozen = PackedLinear(module) if _can_pack(module) else freeze_block(module) or module
    done[module] = frozen
    if hasattr(frozen, "pack") and frozen.pack():
        return frozen
    if type(frozen) is Mlp and _can_pack(frozen.fc1) and is_exact_gelu(frozen.act):
        frozen.fc1, frozen.act = PackedLinear(frozen.fc1, "gelu"), nn.Identity()
    for name, part in list(frozen._modules.items()):
        if part is not None and (packed := _frozen(part, done)) is not part:
            setattr(frozen, name, packed)
    return frozen


class Frozen(nn.Module):
    """A part of a frozen model: it is not copied, saved or loaded."""

    def __reduce__(self):
        raise TypeError("a frozen model cannot be copied or saved: do that with the model that was frozen")

    def _save_to_state_dict(self, *args):
        self.__reduce__()

    def _load_from_state_dict(self, *args):
        raise TypeError("a frozen model cannot load weights: load them before freezing")

    def check(self, x, dtype, channels):
        """Errors unless x (..., channels) can be computed here."""
        if torch.is_autocast_enabled("cpu"):
            raise TypeError(f"frozen layer: called under autocast, expected to compute in {dtype}")
        if x.dtype != dtype or x.device.type != "cpu":
            raise TypeError(f"frozen layer: x is {x.dtype} on {x.device}, expected {dtype} on the CPU")
        if x.shape[-1] != channels:
            raise ValueError(f"frozen layer: x has {x.shape[-1]} channels, expected {channels}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("frozen layer: x requires a gradient, which a frozen model does not have")


class PackedLinear(Frozen):
    """`linear(x)`, then `activation` ("none" or "gelu"), with the weight packed for oneDNN."""

    ROWS = 4096  # for which the layout is chosen; it suits fewer rows as well

    def __init__(self, linear, activation="none"):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation, self.dtype = activation, linear.weight.dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), self.ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x):
        self.check(x, self.dtype, self.in_features)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")

    def extra_repr(self):
        return f"{self.in_features}, {self.out_features}, activation={self.activation!r}, {self.dtype}"


def _can_pack(module):
    """Exactly nn.Linear, no subclass and no hooks, which may do more. The packing ops are private to PyTorch: they may
    vanish."""
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks or not module.weight.numel():
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    ops = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(torch.ops.mkldnn, op) for op in ops):
        return False
    dtype = module.weight.dtype
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def is_exact_gelu(module):
    return type(module) is nn.GELU and module.approximate == "none" and not module._forward_hooks
