"""Retention: attention without softmax whose weights decay with distance, which allows a recurrent state of fixed size.

Sources: Sun et al., "Retentive Network" (2023), equations 5 to 7; PoseRetNet paper, equations 1 to 5, for the mask that looks
ahead to the end of a chunk and the decay per joint; Sun et al., "A length-extrapolatable transformer" (2022),
for xPos.
"""

import torch
from torch import Tensor

from ._checks import check_constant, check_float, check_map, check_number, check_shape
from ._op import Cost, Kernel, Op, gradient_products
from ._torch import exporting

__all__ = ["retention", "retention_ref", "xpos_scale"]

XPOS_BASE = 512  # frames over which a channel pair is scaled by s_d
CAUSAL_CHUNK = 64  # frames between two states of the causal form, if the caller does not choose
MAX_XPOS_CHUNK = 32_768  # in longer chunks the smallest s_d ** (frames / XPOS_BASE) underflows in float32


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    *,
    chunk_size: int | None = None,
    causal: bool = True,
    xpos_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute retention, with flash-linear-attention's layouts and PoseRetNet's mask and decays.

    out_n = sum_m decay^|n - m| (scale q_n . k_m) v_m over the frames m <= n (`causal`), or over all m up to the end of n's
    chunk (PoseRetNet's staircase mask; with a single chunk, all frames). `initial_state` represents the frames before the
    first. With xPos, q_n and k_m are rotated by their frame numbers. Only n - m matters, so frames are numbered from the start
    of their chunk, and streams of any length do not overflow.

    Args:
        q, k: (B, T, H, K) rows, or (B, T, J, H, K) clips. v: (B, T, H, V) or (B, T, J, H, V). float32, bfloat16 or
            float16 (float64 runs on the reference). Strided views with a contiguous last dimension are read in place.
        decay: decay per frame, 0 < decay <= 1 (not checked; 0 gives NaN). (H,); (J, H) for clips, one per joint; or (R, H)
            for rows, where row b uses decay[b % R], so that rows of (batch, joint) have one per joint. Default: RetNet's
            1 - 2^(-5 - h).
        scale: factor of q. Default: K^-0.5.
        initial_state: (B, H, K, V) or (B, J, H, K, V), the final state of the previous frames. Default: zeros.
        output_final_state: also return the state after the last frame.
        chunk_size: frames per chunk of the mask; the last chunk may be shorter. None: one chunk of all frames. If `causal`, it
            affects only the rounding.
        causal: False for the mask that looks ahead to the end of a chunk.
        xpos_scale: (K / 2,) scales s_d of xPos, as returned by `xpos_scale(K)`; channel pair d is rotated by 10000^(-2d / K)
            per frame. None: no positions. Not differentiable.

    Returns:
        (out, final_state): out has the shape of `v` and the dtype of `q`; final_state has the shape of `initial_state` in
        float32, or is None. Its keys are rotated relative to the frame after the last one, which is frame 0 of the next call.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "retention"
    check_float(op, {"decay": decay, "initial_state": initial_state, "xpos_scale": xpos_scale}, q=q, k=k, v=v)
    if decay is None:
        decay = 1 - torch.exp2(-5.0 - torch.arange(q.shape[-2], device=q.device, dtype=torch.float32))
    chunk_size = _check(op, q, k, v, decay, initial_state, chunk_size, causal, xpos_scale)
    scale = q.shape[-1] ** -0.5 if scale is None else check_number(op, "scale", scale)

    # Rows (batch, joint) become clips; the row groups of the decay are their joints.
    rows = q.dim() == 4
    if rows:
        groups = decay.shape[0] if decay.dim() == 2 else 1
        as_clip = lambda x: x.unflatten(0, (-1, groups)).movedim(1, 2)
        state = None if initial_state is None else initial_state.unflatten(0, (-1, groups))
        clip = [as_clip(x) for x in (q, k, v)]
    else:
        clip, state = [q, k, v], initial_state
    decay = decay.expand(clip[0].shape[2], -1)

    out, final = RETENTION(*clip, decay, state, xpos_scale, scale, chunk_size, causal, output_final_state)
    if rows:
        out, final = out.movedim(2, 1).flatten(0, 1), final.flatten(0, 1) if output_final_state else None
    return out, final if output_final_state else None


def retention_ref(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    scale: float,
    initial_state: Tensor | None = None,
    *,
    chunk_size: int,
    causal: bool = True,
    xpos_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Reference: the chunkwise form (PoseRetNet, equations 3 to 5) for clips (B, T, J, H, K), decay (J, H), in at least
    float32."""
    B, T, J, H, K = q.shape
    out_dtype, dtype = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v = (x.movedim(1, 3).to(dtype) for x in (q, k, v))  # (B, J, H, T, .)
    state = q.new_zeros(B, J, H, K, v.shape[-1]) if initial_state is None else initial_state.to(dtype)
    decay = decay.to(dtype)[..., None]
    outs = []
    for q_c, k_c, v_c in zip(*(x.split(chunk_size, 3) for x in (scale * q, k, v))):
        n = torch.arange(q_c.shape[3], device=q.device)
        if xpos_scale is not None:
            q_c, k_c = xpos(q_c, n, xpos_scale), xpos(k_c, n, xpos_scale, downscale=True)
        distance = (n[:, None] - n).abs()
        mask = decay[..., None] ** distance
        if causal:
            mask = mask.tril()
        outs.append((q_c @ k_c.mT * mask) @ v_c + decay[..., None] ** (n[:, None] + 1) * (q_c @ state))
        length = len(n)
        state = decay[..., None] ** length * state + (k_c * decay[..., None] ** (length - 1 - n[:, None])).mT @ v_c
        if xpos_scale is not None:  # frames are numbered from the end of this chunk from here on
            state = xpos(state.mT, torch.tensor(-length, device=q.device), xpos_scale, downscale=True).mT
    return torch.cat(outs, 3).movedim(3, 1).to(out_dtype), state


def xpos(x: Tensor, n: Tensor, scale: Tensor, downscale: bool = False) -> Tensor:
    """Apply xPos to x (..., T, K) at frames n (T,) or a single n: rotate pair d by n * 10000^(-2d / K) and scale it by
    s_d^(+-n / 512)."""
    half = x.shape[-1] // 2
    n = n.to(x.dtype)[..., None]
    angle = n * 10000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    size = scale.to(x.dtype) ** (n / (-XPOS_BASE if downscale else XPOS_BASE))
    even, odd = x.unflatten(-1, (half, 2)).unbind(-1)
    cos, sin = angle.cos() * size, angle.sin() * size
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def xpos_scale(head_dim: int, device: torch.device | str | None = None) -> Tensor:
    """Return the scales s_d = (2d + 0.4 K) / (1.4 K) of xPos, (K / 2,) float32."""
    return (torch.arange(0, head_dim, 2, device=device) + 0.4 * head_dim) / (1.4 * head_dim)


def _check(op, q, k, v, decay, initial_state, chunk_size, causal, xpos_scale):
    """Check the arguments and return the chunk size to use."""
    rows, clip = ("B", "T", "H", "K"), ("B", "T", "J", "H", "K")
    *lead, K = check_map(op, "q", q, rows, clip)
    B, T, *J, H = lead
    check_shape(op, "k", k, tuple(q.shape))
    check_shape(op, "v", v, (*lead, "V"))
    V = v.shape[-1]
    if V < 1:
        raise ValueError(f"{op}: v has shape {tuple(v.shape)}, expected at least one value channel")
    check_shape(op, "decay", decay, (H,), (*(J or ["R"]), H))
    if not J and decay.dim() == 2 and (decay.shape[0] < 1 or B % decay.shape[0]):
        raise ValueError(f"{op}: decay has {decay.shape[0]} row groups, expected a divisor of q's {B} rows")
    check_shape(op, "initial_state", initial_state, (B, *J, H, K, V))
    check_shape(op, "xpos_scale", xpos_scale, (K // 2,))
    if xpos_scale is not None and K % 2:
        raise ValueError(f"{op}: q has {K} key channels, expected an even number with xpos_scale")
    if chunk_size is None:
        chunk_size = CAUSAL_CHUNK if causal else T
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"{op}: chunk_size is {chunk_size!r}, expected an integer of at least 1")
    if not exporting():  # an exported graph is for clips of all lengths; the ops clip the size themselves
        chunk_size = min(chunk_size, T)
    if xpos_scale is not None and chunk_size > MAX_XPOS_CHUNK:
        raise ValueError(f"{op}: chunk_size is {chunk_size}, expected at most {MAX_XPOS_CHUNK} with xpos_scale")
    return chunk_size


# ---- registration ----------------------------------------------------------------------------------------------------
# The ops read clips (B, T, J, H, .) through their strides, with a contiguous last dimension; everything else is float32.


def _reference(q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal, output_final_state):
    return retention_ref(q, k, v, decay, scale, initial_state, chunk_size=chunk_size, causal=causal, xpos_scale=xpos_scale)


def _kernels(ops, q, k, v, decay, initial_state, xpos_scale, *sizes):
    check_constant("retention", "xpos_scale", xpos_scale)
    return ops.retention(q, k, v, decay, initial_state, xpos_scale, *sizes)


def _fake(q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal, output_final_state):
    B, T, J, H, K = q.shape
    state = (B, J, H, K, v.shape[-1]) if output_final_state else (0,)
    return v.new_empty(v.shape), decay.new_empty(state)


def _fake_bwd(dout, dfinal_state, q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal):
    dstate = decay.new_empty(0) if initial_state is None else initial_state.new_empty(initial_state.shape)
    return *(x.new_empty(x.shape) for x in (q, k, v, decay)), dstate


def _cost(q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal, output_final_state):
    return retention_cost(q, v, initial_state, chunk_size, causal, output_final_state)


def retention_cost(q, v, initial_state, chunk_size, causal, output_final_state):
    """Count q k^T and its product with v over the visible frames of a chunk; the product with the state for every frame that
    reads one; and the update of the state for every frame that writes one. The matrix products include masked pairs."""
    B, T, J, H, K = q.shape
    V, rows = v.shape[-1], B * J * H
    full, last = divmod(T, chunk_size)
    lengths = [chunk_size] * full + [last] * (last > 0)
    reading = lengths if initial_state is not None else lengths[1:]
    writing = lengths if output_final_state else lengths[:-1]
    pairs = sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    several = lambda of, *shapes: [(rows * of.count(n), *shape(n)) for n in sorted(set(of)) for shape in shapes]
    inside = several(lengths, lambda n: (n, K, n), lambda n: (n, n, V))
    states = several(reading, lambda n: (n, K, V)) + several(writing, lambda n: (K, n, V))
    return Cost(
        flops=rows * (2 * pairs * (K + V) + 2 * (sum(reading) + sum(writing)) * K * V),
        products=inside + states,
    )


def _cost_bwd(dout, dfinal_state, q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal):
    """Count five products for the forward's two."""
    forward = retention_cost(q, v, initial_state, chunk_size, causal, dfinal_state is not None)
    return Cost(flops=forward.flops * 5 // 2, products=gradient_products(forward.products))


RETENTION = Op(
    retention,
    _reference,
    "retention(Tensor q, Tensor k, Tensor v, Tensor decay, Tensor? initial_state, Tensor? xpos_scale, float scale, "
    "int chunk_size, bool causal, bool output_final_state) -> (Tensor out, Tensor final_state)",
    maps="q k v",
    parameters="decay initial_state xpos_scale",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="retention:forward",
    backward=Kernel(
        "retention_bwd(Tensor dout, Tensor? dfinal_state, Tensor q, Tensor k, Tensor v, Tensor decay, Tensor? initial_state, "
        "Tensor? xpos_scale, float scale, int chunk_size, bool causal) "
        "-> (Tensor dq, Tensor dk, Tensor dv, Tensor ddecay, Tensor dinitial_state)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="retention:backward",
    ),
)
