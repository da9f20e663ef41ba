"""Linear layer that uses PyTorch's fastest matrix product on this machine.

On a CPU, PyTorch multiplies float32 matrices with MKL, which does not use AVX-512 on AMD processors; oneDNN, which PyTorch
also includes, does. Everything else is `torch.nn.functional.linear`.
"""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ._op import forced_backend
from ._torch import autocast_dtype, derivative_lost, exporting

__all__ = ["linear", "linear_ref"]

ROWS = 64  # with fewer, reordering the weight, which oneDNN does in every call, costs more than it saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias like `torch.nn.functional.linear`; float32 on a CPU uses the faster of MKL and oneDNN.

    oneDNN is used for 64 rows or more on AMD processors with AVX-512, and wherever possible inside `backend("cpu")`. In all
    other cases, including autocast, torch.func and exported graphs, PyTorch's own function is called. Both have gradients of
    any order.

    Args:
        x: (..., in), any float dtype, any strides, on any device.
        weight: (out, in). bias: (out,). Both have the dtype and the device of `x`.

    Returns:
        (..., out) with the dtype of `x`.

    Raises:
        The same errors as `torch.nn.functional.linear`.
    """
    if _by_onednn(x, weight, bias):
        return torch.ops.lifter.linear(x, weight, bias)
    return linear_ref(x, weight, bias)


def linear_ref(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Reference of `linear`: PyTorch's own function."""
    return F.linear(x, weight, bias)


def _made_by_amd():
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "AuthenticAMD" in platform.processor()


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # private: may vanish
# oneDNN uses wider vectors than MKL here. Other processors and instruction sets keep PyTorch's choice.
PREFERS_ONEDNN = HAS_ONEDNN and torch.backends.cpu.get_cpu_capability() == "AVX512" and _made_by_amd()


def _by_onednn(x, weight, bias):
    """Return whether oneDNN can run the call. PyTorch runs all others and raises their errors."""
    forced = forced_backend()
    if not (HAS_ONEDNN if forced == "cpu" else PREFERS_ONEDNN and forced is None) or exporting():
        return False
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if any(not isinstance(y, torch.Tensor) or y.dtype != torch.float32 or y.device.type != "cpu" for y in tensors):
        return False
    if autocast_dtype(x) is not None or not torch.compiler.is_compiling() and derivative_lost(*tensors):
        return False
    if x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1] or 0 in (*x.shape, *weight.shape):
        return False
    return forced == "cpu" or x.numel() // x.shape[-1] >= ROWS


# ---- registration ----------------------------------------------------------------------------------------------------


def _multiply(x, weight, bias):
    bias = None if bias is None else bias.contiguous()  # its strides are not read
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _fake(x, weight, bias):
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx, dout):
    """Compute both gradients with the same kind of product, so that they are differentiable too."""
    x, weight = ctx.saved_tensors
    rows = dout.flatten(0, -2)
    dx, dweight, dbias = ctx.needs_input_grad
    return (
        torch.ops.lifter.linear(dout, weight.mT, None) if dx else None,
        torch.ops.lifter.linear(rows.mT, x.flatten(0, -2).mT, None) if dweight else None,
        rows.sum(0) if dbias else None,
    )


def _flops(x, weight, bias, *, out_val=None):
    return 2 * x.numel() * weight.shape[0]


_library = torch.library.Library("lifter", "FRAGMENT")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_library.impl("linear", _multiply, "CPU")
torch.library.register_fake("lifter::linear", _fake, lib=_library)
torch.library.register_autograd("lifter::linear", _backward, setup_context=_setup_context, lib=_library)
register_flop_formula(torch.ops.lifter.linear, get_raw=True)(_flops)
