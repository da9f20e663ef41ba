"""Softmax attention along one axis of the (frame, joint) grid of a pose clip.

Sources: Vaswani et al., "Attention is all you need" (2017), equation 1; MixSTE and MotionBERT apply it along the joints
and along the frames in turn, HTP (arXiv 2508.21363) with a mask of the most similar frames. Both axes are strided walks over
the same (B, T, J, 3, H, D) buffer that the projection wrote.
"""

import math

import torch
from torch import Tensor

from ._checks import check_constant, check_device, check_float, check_map, check_number, check_shape
from ._op import Cost, Kernel, Op, gradient_products
from .topk_temporal_mask import BITS, unpack_mask

__all__ = ["axial_attention", "axial_attention_ref"]

AXES = {"joint": 0, "frame": 1}
MAX_CHANNELS = 256  # of a head


def axial_attention(
    qkv: Tensor, axis: str, mask: Tensor | None = None, scale: float | None = None, dropout_p: float = 0.0
) -> Tensor:
    """Compute softmax(scale q k^T + mask) v, with dropout of the weights, along the joints of a frame or the frames of a
    joint.

    Args:
        qkv: (B, T, J, 3, H, D) queries, keys and values of H heads, D <= 256; float32, bfloat16 or float16 (float64
            runs on the reference). `F.linear(x, weight).unflatten(-1, (3, H, D))` of a clip (B, T, J, C) has this layout.
        axis: "joint" for attention within each frame, "frame" for attention within each joint.
        mask: for axis "frame" only; B and J may be 1. Either (B, J, T, T): bool, True where query t may attend to key s, or
            floating point, added to the scores. Or (B, J, T, ceil(T / 32)) int32: bits packed as by `topk_temporal_mask`,
            which lets the kernels skip masked keys. A query with no visible key (False or -inf everywhere) gets zeros. The
            mask gets no gradient. If all scores of a query are finite but huge, as with -1e9 for every key, its gradients have
            large float32 rounding errors, as with scaled_dot_product_attention.
        scale: factor of the scores. Default: D^-0.5.
        dropout_p: probability of dropping a weight, 0 <= p < 1; the others are divided by 1 - p. Each call draws one seed from
            the device's default generator, so every backend drops the same weights.

    Returns:
        (B, T, J, H * D) with the dtype of `qkv`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "axial_attention"
    check_float(op, qkv=qkv)
    if axis not in tuple(AXES):
        raise ValueError(f"{op}: axis is {axis!r}, expected 'joint' or 'frame'")
    check_map(op, "qkv", qkv, ("B", "T", "J", 3, "H", "D"))
    if qkv.shape[5] > MAX_CHANNELS:
        raise ValueError(f"{op}: qkv has {qkv.shape[5]} channels per head, expected at most {MAX_CHANNELS}")
    dropout_p = check_number(op, "dropout_p", dropout_p)
    if not 0 <= dropout_p < 1:
        raise ValueError(f"{op}: dropout_p is {dropout_p}, expected 0 <= dropout_p < 1")
    if mask is not None and axis != "frame":
        raise ValueError(f"{op}: mask is given with axis 'joint', expected None (masks are for the frame axis)")
    check_mask(op, mask, "qkv", qkv)
    scale = qkv.shape[-1] ** -0.5 if scale is None else check_number(op, "scale", scale)
    seed = torch.randint(2**31, (1,), device=qkv.device) if dropout_p else None
    return AXIAL_ATTENTION(qkv, axis, mask, scale, dropout_p, seed)


def axial_attention_ref(
    qkv: Tensor,
    axis: str,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Reference of `axial_attention`; `seed` is the (1,) int64 number that it draws."""
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    order = (3, 0, 1, 4, 2, 5) if axis == "joint" else (3, 0, 2, 4, 1, 5)  # (3, B, rows, H, N, D)
    q, k, v = qkv.permute(order)
    scores = scale * q @ k.transpose(-2, -1)
    if mask is not None:
        mask = (unpack_mask(mask, qkv.shape[1]) if mask.dtype == torch.int32 else mask)[:, :, None]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(q.dtype)
    nothing = (scores == -torch.inf).all(-1, keepdim=True)  # their softmax would be NaN
    weights = scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    if dropout_p:
        weights = weights * kept(weights.shape, dropout_p, seed) / (1 - dropout_p)
    return (weights @ v).permute(0, 3, 1, 2, 4).flatten(3) if axis == "frame" else (weights @ v).transpose(2, 3).flatten(3)


def kept(shape, dropout_p, seed):
    """Return the dropout mask (B, rows, H, N, N), a hash of seed and position that is the same on every backend.

    One hash per row of heads, `_mix(seed + (b * rows + row) * H + h)`, a second per weight, `_mix(first + i * N + j)`,
    in 32 bits; a weight is kept where it is at least p * 2^32.
    """
    B, rows, H, N, _ = shape
    first = _mix(seed + torch.arange(B * rows * H, device=seed.device))
    second = _mix(first[:, None] + torch.arange(N * N, device=seed.device))
    return (second >= dropout_threshold(dropout_p)).view(shape)


def dropout_threshold(dropout_p):
    return int(dropout_p * 2**32)


def _mix(x):
    """The 32-bit finaliser of C. Wellons' hash prospector ("lowbias32"), in 64-bit integers."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def check_mask(op, mask, name, x):
    """Raise an error unless `mask` is None or a valid mask over the frames of x (B, T, J, ...)."""
    if mask is None:
        return
    is_tensor = isinstance(mask, torch.Tensor)
    kind = mask.dtype if is_tensor else type(mask).__name__
    if kind not in (torch.bool, torch.int32) and not (is_tensor and mask.is_floating_point()):
        raise TypeError(f"{op}: mask is {kind}, expected a tensor of bool, int32 (packed) or floating point")
    B, T, J = x.shape[:3]
    keys = -(-T // BITS) if kind == torch.int32 else T
    check_shape(op, "mask", mask, *((b, j, T, keys) for b in (B, 1) for j in (J, 1)))
    check_device(op, name, x, "mask", mask)


def kernel_mask(op, mask, x):
    """Convert a checked mask to the form that the kernels take."""
    if mask is None:
        return None
    check_constant(op, "mask", mask)
    B, T, J = x.shape[:3]
    return (mask.float() if mask.is_floating_point() else mask).expand(B, J, T, -1)


# ---- registration ----------------------------------------------------------------------------------------------------
# The kernels read q, k and v through their strides; only D must be contiguous.


def _kernels(ops, qkv, axis, mask, scale, dropout_p, seed):
    out, _ = ops.axial_attention(qkv, kernel_mask("axial_attention", mask, qkv), AXES[axis], scale, dropout_p, seed)
    return out


def _fake(qkv, mask, axis, scale, dropout_p, seed):
    B, T, J, _, H, D = qkv.shape
    return qkv.new_empty(B, T, J, H * D), qkv.new_empty(B, T, J, H, dtype=torch.float32)


def _fake_bwd(dout, qkv, out, lse, mask, axis, scale, dropout_p, seed):
    return qkv.new_empty(qkv.shape)


def attention_cost(qkv, mask, axis):
    """Count the two products, as FlopCounterMode does for scaled_dot_product_attention; masked keys count too, although
    kernels may skip them."""
    B, T, J, _, H, D = qkv.shape
    (rows, N), keys = (J, T) if axis else (T, J), _keys(qkv, mask, axis)
    return Cost(
        flops=4 * B * T * J * N * H * D,
        products=[(B * rows * H, N, D, keys), (B * rows * H, N, keys, D)],
        exponentials=B * T * J * H * keys,
    )


def _keys(qkv, mask, axis):
    """Return the number of keys per query: the average number of visible keys if there is a packed mask that can be read."""
    _, T, J, *_ = qkv.shape
    if mask is None or mask.dtype != torch.int32 or mask.device.type == "meta" or type(mask) is not torch.Tensor:
        return T if axis else J
    return math.ceil(unpack_mask(mask, T).sum(-1, dtype=torch.float32).mean().item())


def _cost(qkv, mask, axis, *args):
    return attention_cost(qkv, mask, axis)


def _cost_bwd(dout, qkv, out, lse, mask, axis, *args):
    """Count five products: the recomputed scores, and two gradients for each of the forward's two products."""
    forward = attention_cost(qkv, mask, axis)
    return Cost(forward.flops * 5 // 2, gradient_products(forward.products), forward.exponentials)


AXIAL_ATTENTION = Op(
    axial_attention,
    axial_attention_ref,
    "axial_attention(Tensor qkv, Tensor? mask, int axis, float scale, float dropout_p, Tensor? seed) "
    "-> (Tensor out, Tensor lse)",
    maps="qkv",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="axial_attention:forward",
    backward=Kernel(
        "axial_attention_bwd(Tensor dout, Tensor qkv, Tensor out, Tensor lse, Tensor? mask, int axis, float scale, "
        "float dropout_p, Tensor? seed) -> Tensor dqkv",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="axial_attention:backward",
    ),
)
