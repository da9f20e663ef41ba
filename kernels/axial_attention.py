"""Softmax attention of a pose clip along one axis of its (frame, joint) grid.

Sources: Vaswani et al., "Attention is all you need" (2017), equation 1; MixSTE and MotionBERT apply it along the joints
and along the frames in turn, HTP (arXiv 2508.21363) with a mask of the most similar frames. Both are walks over one
(B, T, J, 3, H, D) buffer, as the projection wrote it.
"""

import torch

from ._op import Op, autocast_dtype, check_device, check_float, check_shape, kernel_dtype, no_autocast
from .topk_temporal_mask import BITS, unpack_mask

AXES = {"joint": 0, "frame": 1}
MAX_CHANNELS = 256  # of a head


def axial_attention(qkv, axis, mask=None, scale=None, dropout_p=0.0):
    """softmax(scale q k^T + mask) v, with dropout on the weights, along the joints of a frame or the frames of a joint.

    Args:
        qkv: (B, T, J, 3, H, D) queries, keys and values of H heads, D <= 256; float32, bfloat16 or float16 (float64
            runs on the reference). `F.linear(x, weight).unflatten(-1, (3, H, D))` of a clip (B, T, J, C) has this layout.
        axis: "joint", each frame alone, or "frame", each joint alone.
        mask: for axis "frame"; B and J may be 1. Either (B, J, T, T), bool, True where query t may look at key s, or
            floating point, added to the scores; or (B, J, T, ceil(T / 32)) int32, as `topk_temporal_mask` packs bools, of
            which the kernels skip what they can. A query that may look at nothing (False or -inf everywhere) gets zeros.
            No gradient. If all scores of a query are finite but huge, as with -1e9 for every key, its gradients are
            wrong by the rounding of their size in float32, as those of scaled_dot_product_attention are.
        scale: factor of the scores; None is D^-0.5.
        dropout_p: probability with which a weight is dropped, 0 <= p < 1; the others are divided by 1 - p. Drawn from
            torch's default generator of the device, one number per call: every backend drops the same weights.

    Returns:
        (B, T, J, H * D) with the dtype of `qkv`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "axial_attention"
    check_float(op, qkv=qkv)
    if axis not in AXES:
        raise ValueError(f"{op}: axis is {axis!r}, expected 'joint' or 'frame'")
    check_shape(op, "qkv", qkv, ("B", "T", "J", 3, "H", "D"))
    if 0 in qkv.shape[1:]:
        raise ValueError(f"{op}: qkv has shape {tuple(qkv.shape)}, expected no empty dimension after the first")
    if qkv.shape[5] > MAX_CHANNELS:
        raise ValueError(f"{op}: qkv has {qkv.shape[5]} channels per head, expected at most {MAX_CHANNELS}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"{op}: dropout_p is {dropout_p}, expected 0 <= dropout_p < 1")
    if mask is not None and axis != "frame":
        raise ValueError(f"{op}: mask is given with axis 'joint', expected None (masks are for the frame axis)")
    check_mask(op, mask, "qkv", qkv)
    if (dtype := autocast_dtype(qkv)) is not None:
        qkv = qkv.to(dtype)
    scale = qkv.shape[-1] ** -0.5 if scale is None else float(scale)
    seed = torch.randint(2**31, (1,), device=qkv.device) if dropout_p else None

    ops = AXIAL_ATTENTION.namespace(qkv)
    if ops is None:
        with no_autocast(qkv):
            return axial_attention_ref(qkv, axis, mask, scale, dropout_p, seed)
    (x,) = kernel_dtype(qkv)
    out, _ = ops.axial_attention(x, kernel_mask(op, mask, qkv), AXES[axis], scale, dropout_p, seed)
    return out.to(qkv.dtype)


def axial_attention_ref(qkv, axis, mask=None, scale=None, dropout_p=0.0, seed=None):
    """`axial_attention` as written: `seed` is the (1,) int64 number that it draws."""
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    order = (3, 0, 1, 4, 2, 5) if axis == "joint" else (3, 0, 2, 4, 1, 5)  # (3, B, rows, H, N, D)
    q, k, v = qkv.permute(order)
    scores = scale * q @ k.transpose(-2, -1)
    if mask is not None:
        mask = unpack_mask(mask, qkv.shape[1]) if mask.dtype == torch.int32 else mask
        additive = mask if mask.dtype != torch.bool else torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        scores = scores + additive.to(q.dtype)[:, :, None]
    nothing = (scores == -torch.inf).all(-1, keepdim=True)  # their softmax would be NaN
    weights = scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    if dropout_p:
        weights = weights * kept(weights.shape, dropout_p, seed) / (1 - dropout_p)
    return (weights @ v).permute(0, 3, 1, 2, 4).flatten(3) if axis == "frame" else (weights @ v).transpose(2, 3).flatten(3)


def kept(shape, dropout_p, seed):
    """Which weights of (B, rows, H, N, N) survive: a hash of the seed and the place, the same on every backend.

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
    """Errors unless `mask` is None or one of the frames of x (B, T, J, ...)."""
    if mask is None:
        return
    kind = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
    if kind not in (torch.bool, torch.int32) and not (isinstance(mask, torch.Tensor) and kind.is_floating_point):
        raise TypeError(f"{op}: mask is {kind}, expected a tensor of bool, int32 (packed) or floating point")
    B, T, J = x.shape[:3]
    keys = -(-T // BITS) if kind == torch.int32 else T
    check_shape(op, "mask", mask, *((b, j, T, keys) for b in (B, 1) for j in (J, 1)))
    check_device(op, name, x, mask=mask)


def kernel_mask(op, mask, x):
    """A mask that is checked, as the kernels take it."""
    if mask is None:
        return None
    if mask.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: mask requires a gradient, which only backend('reference') has")
    B, T, J = x.shape[:3]
    return (mask.float() if mask.is_floating_point() else mask).expand(B, J, T, -1)


# ---- registration ----------------------------------------------------------------------------------------------------
# The kernels read q, k and v by their strides; only D must be contiguous, and the three may lie anywhere.


def _fake(qkv, mask, axis, scale, dropout_p, seed):
    B, T, J, _, H, D = qkv.shape
    return qkv.new_empty(B, T, J, H * D), qkv.new_empty(B, T, J, H, dtype=torch.float32)


def _fake_bwd(dout, qkv, out, lse, mask, axis, scale, dropout_p, seed):
    return qkv.new_empty(qkv.shape)


def _setup_context(ctx, inputs, output):
    qkv, mask, ctx.axis, ctx.scale, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(qkv, *output, mask, seed)


def _backward(ops, ctx, dout, _):
    qkv, out, lse, mask, seed = ctx.saved_tensors
    dqkv = ops.axial_attention_bwd(dout, qkv, out, lse, mask, ctx.axis, ctx.scale, ctx.dropout_p, seed)
    return dqkv, None, None, None, None, None


def flops(qkv_shape, mask_shape, axis, *args, out_shape=None, **kwargs) -> int:
    """The two products, as FlopCounterMode counts scaled_dot_product_attention; a mask saves nothing."""
    B, T, J, _, H, D = qkv_shape
    return 4 * B * T * J * (T if axis else J) * H * D


def _flops_bwd(dout_shape, qkv_shape, out_shape_, lse_shape, mask_shape, axis, *args, out_shape=None, **kwargs) -> int:
    """Five products where the forward has two: the scores again, and two per gradient of the forward's."""
    return flops(qkv_shape, mask_shape, axis) * 5 // 2


AXIAL_ATTENTION = Op(
    "axial_attention(Tensor qkv, Tensor? mask, int axis, float scale, float dropout_p, Tensor? seed) "
    "-> (Tensor out, Tensor lse)",
    fake=_fake,
    triton="axial_attention:forward",
    flops=flops,
    setup_context=_setup_context,
    backward=_backward,
)
Op(
    "axial_attention_bwd(Tensor dout, Tensor qkv, Tensor out, Tensor lse, Tensor? mask, int axis, float scale, "
    "float dropout_p, Tensor? seed) -> Tensor dqkv",
    fake=_fake_bwd,
    triton="axial_attention:backward",
    flops=_flops_bwd,
    public=False,
)
