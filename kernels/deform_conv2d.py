"""Deformable convolution: every tap of the kernel reads the input at an offset of its own, with bilinear interpolation.

Sources: Dai et al., "Deformable Convolutional Networks" (2017), equations 2 to 4; Zhu et al., its version 2 (2019), for
the mask; torchvision.ops.deform_conv2d for the conventions. SasMamba samples the (T, J) grid with the depthwise form.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_shape
from ._op import Cost, Kernel, Op
from ._torch import no_autocast

__all__ = ["deform_conv2d", "deform_conv2d_ref"]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Compute a deformable convolution, with torchvision's signature and layouts.

    A channels-last input (a clip (B, T, J, C) as `x.permute(0, 3, 1, 2)`) is read in place; any other layout costs one copy of
    the input and one of the output. A depthwise convolution is one fused kernel. Other groupings first sample the columns, kh
    * kw times the size of the input, and multiply them by the weight with PyTorch's matrix product, whose rounding may depend
    on the number of threads.

    Args:
        input: (B, Cin, H, W), float32, bfloat16 or float16 (float64 runs on the reference).
        offset: (B, 2 * G * kh * kw, Ho, Wo), (dy, dx) of each tap for each of G groups of input channels. Any float dtype and
            strides; computed in float32. A sample outside the input, or at a NaN offset, is zero.
        weight: (Cout, Cin / groups, kh, kw), dtype of `input`. bias: (Cout,), dtype of `input`.
        stride, padding, dilation: int or (vertical, horizontal).
        mask: (B, G * kh * kw, Ho, Wo), factor for each tap; any float dtype and strides.

    Returns:
        (B, Cout, Ho, Wo) with the dtype of `input`, channels-last if `input` is.

    Raises:
        ValueError for wrong shapes, TypeError for wrong dtypes; both name the argument.
    """
    op = "deform_conv2d"
    check_float(op, {"bias": bias, "mask": mask}, input=input, offset=offset, weight=weight)
    stride, padding, dilation = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    _check_shapes(op, input, offset, weight, bias, stride, padding, dilation, mask)
    out = DEFORM_CONV2D(input, offset, weight, bias, stride, padding, dilation, mask)
    channels_last = input.stride(1) == 1 and not input.is_contiguous()
    return out.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if channels_last else out.contiguous()


def _kernels(ops, input, offset, weight, bias, stride, padding, dilation, mask):
    x = input.permute(0, 2, 3, 1)
    x = x if x.stride(3) == 1 else x.contiguous()
    if weight.shape[1] == 1 and weight.shape[0] == input.shape[1]:
        weight, bias = weight.squeeze(1).permute(1, 2, 0).float(), None if bias is None else bias.float()
        out = ops.deform_conv2d(x, offset, mask, weight, bias, stride, padding, dilation)
    else:
        columns = ops.deform_sample(x, offset, mask, list(weight.shape[2:]), stride, padding, dilation)
        out = _multiply(columns, weight, bias)
    return out.permute(0, 3, 1, 2)


def _multiply(columns, weight, bias):
    """(B, Ho, Wo, kh * kw, Cin) sampled columns times the weight -> (B, Ho, Wo, Cout)."""
    groups = columns.shape[-1] // weight.shape[1]
    if groups == 1:
        return F.linear(columns.flatten(3), weight.permute(0, 2, 3, 1).flatten(1), bias)
    columns = columns.unflatten(-1, (groups, -1))
    weight = weight.flatten(2).unflatten(0, (groups, -1))
    out = torch.einsum("bhwkgc,gock->bhwgo", columns, weight).flatten(3)
    return out if bias is None else out + bias


def deform_conv2d_ref(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Reference of `deform_conv2d`, in float32 (float64 for float64 input)."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    columns = _sample(input.to(dtype), offset.to(dtype), weight.shape[2:], stride, padding, dilation, mask)
    groups = input.shape[1] // weight.shape[1]
    columns = columns.unflatten(1, (groups, -1)).flatten(2, 3)
    weight = weight.to(dtype).flatten(1).unflatten(0, (groups, -1))
    with no_autocast(input):
        out = torch.einsum("bgkhw,gok->bgohw", columns, weight).flatten(1, 2)
    if bias is not None:
        out = out + bias.to(dtype)[:, None, None]
    return out.to(input.dtype)


def _sample(input, offset, kernel_size, stride, padding, dilation, mask):
    """Return the values that the taps read, (B, C, kh * kw, Ho, Wo)."""
    (stride_y, stride_x), (pad_y, pad_x), (step_y, step_x) = (
        (value, value) if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    kh, kw = kernel_size
    batch, channels, height, width = input.shape
    *_, out_height, out_width = offset.shape
    offset = offset.unflatten(1, (-1, kh, kw, 2))  # (B, G, kh, kw, 2, Ho, Wo)
    groups = offset.shape[1]

    def places(offset, size, taps, outputs, taps_step, stride, pad):
        """Return the lower neighbour of each position and the distance from it; positions outside become -2."""
        place = (taps * taps_step) + (outputs * stride - pad) + offset
        place = torch.where((place >= -1) & (place < size), place, -2)
        lower = place.detach().floor()
        return lower.long(), place - lower

    def steps(count, dim):
        return torch.arange(count, device=input.device).view(-1, *[1] * dim)

    y, fy = places(offset[:, :, :, :, 0], height, steps(kh, 3), steps(out_height, 1), step_y, stride_y, pad_y)
    x, fx = places(offset[:, :, :, :, 1], width, steps(kw, 2), steps(out_width, 0), step_x, stride_x, pad_x)

    # A border of zeros, so that all four neighbours of every position exist.
    framed = F.pad(input, (2, 1, 2, 1)).unflatten(1, (groups, -1)).flatten(3)  # (B, G, C / G, pixels)
    sampled = 0
    for row, wy in ((y + 2, 1 - fy), (y + 3, fy)):
        for column, wx in ((x + 2, 1 - fx), (x + 3, fx)):
            pixel = (row * (width + 3) + column).flatten(2).unsqueeze(2).expand(-1, -1, framed.shape[2], -1)
            sampled = sampled + framed.gather(3, pixel) * (wy * wx).flatten(2).unsqueeze(2)
    sampled = sampled.unflatten(3, (kh * kw, out_height, out_width))  # (B, G, C / G, kh * kw, Ho, Wo)
    if mask is not None:
        sampled = sampled * mask.to(sampled.dtype).unflatten(1, (groups, 1, -1))
    return sampled.flatten(1, 2)


def _pair(name, value, least):
    pair = (value, value) if isinstance(value, int) else value
    pairs = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not pairs or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"deform_conv2d: {name} is {value!r}, expected an int or a pair of ints, at least {least}")
    return list(pair)


def _check_shapes(op, input, offset, weight, bias, stride, padding, dilation, mask):
    check_shape(op, "input", input, ("B", "Cin", "H", "W"))
    check_shape(op, "weight", weight, ("Cout", "Cin / groups", "kh", "kw"))
    batch, channels, height, width = input.shape
    out_channels, group_channels, kh, kw = weight.shape
    if 0 in weight.shape:
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}, expected no empty dimension")
    if channels == 0 or channels % group_channels or out_channels % (channels // group_channels):
        raise ValueError(
            f"{op}: weight has shape {tuple(weight.shape)}, which makes no groups of the {channels} channels of input"
        )
    check_shape(op, "bias", bias, (out_channels,))
    size = _out_size((height, width), (kh, kw), stride, padding, dilation)
    if min(size) < 1:
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}, too small: the output would be {size}")
    check_shape(op, "offset", offset, (batch, "2 * G * kh * kw", *size))
    groups = offset.shape[1] // (2 * kh * kw)
    if offset.shape[1] % (2 * kh * kw) or groups == 0 or channels % groups:
        raise ValueError(
            f"{op}: offset has {offset.shape[1]} channels, expected {2 * kh * kw} (2 * kh * kw) times a divisor of the "
            f"{channels} channels of input"
        )
    check_shape(op, "mask", mask, (batch, groups * kh * kw, *size))


def _out_size(size, kernel_size, stride, padding, dilation):
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation))


# ---- registration ----------------------------------------------------------------------------------------------------
# The kernels take channels last: the input as (B, H, W, C), the depthwise weight as (kh, kw, C).


def _fake(input, offset, mask, weight, bias, stride, padding, dilation):
    return input.new_empty(input.shape[0], *offset.shape[2:], input.shape[3])


def _fake_bwd(dout, input, offset, mask, weight, stride, padding, dilation):
    dinput, doffset, dmask = _fake_sample_bwd(dout, input, offset, mask, weight.shape[:2], stride, padding, dilation)
    return dinput, doffset, dmask, weight.new_empty(weight.shape), weight.new_empty(weight.shape[2])


def _fake_sample(input, offset, mask, kernel_size, stride, padding, dilation):
    return input.new_empty(input.shape[0], *offset.shape[2:], kernel_size[0] * kernel_size[1], input.shape[3])


def _fake_sample_bwd(dout, input, offset, mask, kernel_size, stride, padding, dilation):
    dmask = offset.new_empty(0) if mask is None else torch.empty_like(mask)
    return input.new_empty(input.shape), torch.empty_like(offset), dmask


def _cost(input, offset, mask, weight, *args):
    """Count four multiply-adds of interpolation and one of the weight per output value and tap. Sampling positions and mask
    are not counted, as all channels share them."""
    return Cost(flops=10 * _taps(input, offset, weight.shape[:2]))


def _cost_sample(input, offset, mask, kernel_size, *args):
    """Four multiply-adds per sampled value."""
    return Cost(flops=8 * _taps(input, offset, kernel_size))


def _taps(input, offset, kernel_size):
    batch, _, _, channels = input.shape
    return batch * offset.shape[2] * offset.shape[3] * kernel_size[0] * kernel_size[1] * channels


def _twice(cost):
    """Count twice the forward, FlopCounterMode's convention for the two gradients of a product."""
    return lambda dout, *args: Cost(flops=2 * cost(*args).flops)


DEFORM_CONV2D = Op(
    deform_conv2d,
    deform_conv2d_ref,
    "deform_conv2d(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, int[] stride, "
    "int[] padding, int[] dilation) -> Tensor out",
    maps="input weight bias",
    parameters="offset mask",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="deform_conv2d:forward",
    backward=Kernel(
        "deform_conv2d_bwd(Tensor dout, Tensor input, Tensor offset, Tensor? mask, Tensor weight, int[] stride, "
        "int[] padding, int[] dilation) "
        "-> (Tensor dinput, Tensor doffset, Tensor dmask, Tensor dweight, Tensor dbias)",
        fake=_fake_bwd,
        cost=_twice(_cost),
        triton="deform_conv2d:backward",
    ),
)
Kernel(
    "deform_sample(Tensor input, Tensor offset, Tensor? mask, int[] kernel_size, int[] stride, int[] padding, "
    "int[] dilation) -> Tensor columns",
    fake=_fake_sample,
    cost=_cost_sample,
    triton="deform_conv2d:sample",
    backward=Kernel(
        "deform_sample_bwd(Tensor dcolumns, Tensor input, Tensor offset, Tensor? mask, int[] kernel_size, int[] stride, "
        "int[] padding, int[] dilation) -> (Tensor dinput, Tensor doffset, Tensor dmask)",
        fake=_fake_sample_bwd,
        cost=_twice(_cost_sample),
        triton="deform_conv2d:sample_backward",
    ),
)
