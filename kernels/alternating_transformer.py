"""Blocks and head of MixSTE (CVPR 2022), D3DP (ICCV 2023) and PoseRetNet (ECCV 2024) in one call.

Transformer blocks mix the joints of a frame and the frames of a joint in turn. A single frame has 17 rows; run layer by layer,
it spends its time on the overhead of 300 calls and on loading 36 million weights. A long clip gains because norms, residuals
and activations are applied while the products are still in the cache.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_device, check_dtype, check_float, check_shape
from ._op import Cost, Op
from ._torch import no_autocast
from .axial_attention import AXES, check_mask, kernel_mask
from .retention import MAX_XPOS_CHUNK, retention_cost, retention_ref
from .transformer_block import NO_ATTENTION, Reader, attention, block, block_cost, check_sizes, count, has_kernel, norm, pack

__all__ = ["PackedTransformer", "alternating_transformer", "alternating_transformer_ref", "pack_transformer"]

BLOCK_EPS, EPS = 1e-6, 1e-5  # eps of the norms in and after blocks; eps of the norms in retention and head


class PackedTransformer(NamedTuple):
    """Result of `pack_transformer`: all weights of linear layers in one tensor, all other parameters in another (at least
    float32), and the sizes of the network."""

    weights: torch.Tensor
    vectors: torch.Tensor
    num_joints: int
    dim: int
    hidden: int  # width of the MLPs
    num_heads: int
    depth: int  # pairs of blocks
    scale: float  # of attention
    positions: int = 0  # frames with a position embedding before the first temporal block; 0: no such embedding
    xpos_scale: torch.Tensor | None = None  # if the temporal blocks use retention; None: they use attention
    chunk_size: int = 1  # of retention, as `causal`
    causal: bool = False


def alternating_transformer(
    x: Tensor,
    packed: "PackedTransformer",
    mask: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, list[Tensor]]:
    """Compute the poses of an embedded clip as `lifter.models.MixSTE`, `D3DP` and `PoseRetNet` do in evaluation mode.

    Args:
        x: (B, T, J, C) in the dtype of the packed weights, float32 or bfloat16 (float64 runs on the reference), any strides. T
            is at most `packed.positions`, unless that is 0.
        packed: `PackedTransformer`.
        mask: mask for the attention along the frames, see `axial_attention`.
        state: retention state returned by the call for the previous frames, one tensor (B, J, H, C / H, C / H) of at least
            float32 per temporal block. None: the clip starts here.

    Returns:
        Poses (B, T, J, 3) in the dtype of `x`; with `return_state`, (poses, state after the last frame). Autocast has no
        effect. There is a CPU kernel for inference; the reference runs on a GPU, if a derivative is needed, and if
        `has_kernel` is false.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op, p = "alternating_transformer", packed
    check_float(op, {"xpos_scale": p.xpos_scale}, x=x, weights=p.weights, vectors=p.vectors)
    check_shape(op, "x", x, ("B", "T", p.num_joints, p.dim))
    B, T, J, _ = x.shape
    if T < 1 or (p.positions and T > p.positions):
        expected = f"1 to {p.positions}" if p.positions else "at least 1"
        raise ValueError(f"{op}: x has {T} frames, expected {expected}")
    for name, tensor, size in zip(("weights", "vectors"), (p.weights, p.vectors), _counts(p), strict=True):
        check_shape(op, name, tensor, (size,))
    check_dtype(op, "vectors", p.vectors, torch.promote_types(p.weights.dtype, torch.float32))
    check_shape(op, "xpos_scale", p.xpos_scale, (p.dim // p.num_heads // 2,))
    check_mask(op, mask, "x", x)
    retains, head = p.xpos_scale is not None, p.dim // p.num_heads
    if retains and not 1 <= min(p.chunk_size, T) <= MAX_XPOS_CHUNK:
        raise ValueError(f"{op}: chunk_size is {p.chunk_size}, expected 1 to {MAX_XPOS_CHUNK}")
    if retains and mask is not None:
        raise ValueError(f"{op}: mask is given, expected none with retention")
    if not retains and (return_state or state is not None):
        raise ValueError(f"{op}: a state is given or asked for, expected none with attention")
    state = [] if state is None else list(state)
    if len(state) not in (0, p.depth):
        raise ValueError(f"{op}: state has {len(state)} tensors, expected one per temporal block, {p.depth}")
    for i, before in enumerate(state):
        check_float(op, None, **{f"state[{i}]": before})
        check_shape(op, f"state[{i}]", before, (B, J, p.num_heads, head, head))
        check_device(op, "x", x, f"state[{i}]", before)

    poses, after = ALTERNATING_TRANSFORMER(x, p.weights, p.vectors, mask, p.xpos_scale, p, return_state, *state)
    return (poses, after) if return_state else poses


def alternating_transformer_ref(
    x: Tensor, packed: "PackedTransformer", mask: Tensor | None = None, state: Sequence[Tensor] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Reference of `alternating_transformer`, in at least float32; returns (poses, state after the last frame)."""
    p, out_dtype, dtype = packed, x.dtype, torch.promote_types(x.dtype, torch.float32)
    read, states = Reader(p, dtype), []

    def attend(x, axis, mask=None):
        return read.attend(x, p.num_heads, axis, mask, p.scale, BLOCK_EPS)

    def retain(x, before):
        qkvg = read.linear(read.norm(x, BLOCK_EPS), 4 * p.dim, has_bias=False)
        q, k, v, gate = qkvg.unflatten(-1, (4, p.num_heads, -1)).unbind(-3)
        y, after = retention_ref(
            q, k, v, read.vector(p.num_joints, p.num_heads), 1.0, before,
            chunk_size=p.chunk_size, causal=p.causal, xpos_scale=p.xpos_scale,
        )  # fmt: skip
        states.append(after)
        weight, bias = (read.vector(p.num_heads, p.dim // p.num_heads) for _ in range(2))
        y = F.layer_norm(y, y.shape[-1:], eps=EPS) * weight + bias
        return x + read.linear((F.silu(gate) * y).flatten(-2), p.dim, has_bias=False)

    x = x.to(dtype)
    spatial_norm, temporal_norm = [(read.vector(p.dim), read.vector(p.dim)) for _ in range(2)]
    for i in range(p.depth):
        x = read.feed_forward(attend(x, "joint"), p.hidden, BLOCK_EPS)
        x = F.layer_norm(x, (p.dim,), *spatial_norm, BLOCK_EPS)
        if i == 0 and p.positions:
            x = x + read.vector(p.positions, 1, p.dim)[: x.shape[1]]
        x = attend(x, "frame", mask) if p.xpos_scale is None else retain(x, state[i] if len(state) else None)
        x = F.layer_norm(read.feed_forward(x, p.hidden, BLOCK_EPS), (p.dim,), *temporal_norm, BLOCK_EPS)
    return read.linear(read.norm(x, EPS), 3).to(out_dtype), states


# ---- parameters ------------------------------------------------------------------------------------------------------


def pack_transformer(parameters: dict[str, Tensor], **sizes):
    """Pack parameters, named as in `linears_and_vectors`, into `PackedTransformer(weights, vectors, **sizes)`. Linear layers
    keep their dtype."""
    empty = PackedTransformer(None, None, **sizes)  # pyright: ignore[reportArgumentType]
    weights, vectors = pack(parameters, linears_and_vectors(empty))
    return PackedTransformer(weights, vectors, **sizes)


def linears_and_vectors(packed):
    """List (name, *shape, has_bias) of the parameters in the order of the buffer; `has_bias` is None for parameters that do
    not belong to a linear layer. A decay may be shared by all joints."""
    C, J, H = packed.dim, packed.num_joints, packed.num_heads

    def attend(name):
        return block(f"{name}.", C, packed.hidden, *attention(f"{name}.", C))

    def retain(name):
        mixer = [*norm(f"{name}.norm1", C), (f"{name}.attn.qkvg", 4 * C, C, False), (f"{name}.attn.decay", J, H, None)]
        mixer += [*norm(f"{name}.attn.group_norm", C), (f"{name}.attn.out", C, C, False)]
        return block(f"{name}.", C, packed.hidden, *mixer)

    yield from norm("spatial_norm", C) + norm("temporal_norm", C)
    for i in range(packed.depth):
        yield from attend(f"spatial.{i}")
        if i == 0 and packed.positions:
            yield "positions", 1, packed.positions, C, None
        yield from (attend if packed.xpos_scale is None else retain)(f"temporal.{i}")
    yield from [*norm("head_norm", C), ("head", 3, C, True)]


def _counts(packed):
    """Return the number of elements of the packed weights and vectors; raise ValueError for impossible sizes."""
    retains = packed.xpos_scale is not None
    if torch.compiler.is_compiling():
        return _count(packed.weights.dtype, retains, *packed[2:9])
    return _known_count(packed.weights.dtype, retains, *packed[2:9])


def _count(dtype, retains, *sizes):
    packed = PackedTransformer(None, None, *sizes, xpos_scale=() if retains else None)  # pyright: ignore[reportArgumentType]
    check_sizes("alternating_transformer", packed, "num_joints", "dim", "hidden", "num_heads", "depth")
    if retains and packed.dim // packed.num_heads % 2:
        expected = "a divisor of dim with an even quotient"
        raise ValueError(f"alternating_transformer: num_heads is {packed.num_heads}, expected {expected}, {packed.dim}")
    return count(linears_and_vectors(packed), dtype)


_known_count = cache(_count)  # iterating over 200 parameters would take longer than a frame's arithmetic


# ---- registration ----------------------------------------------------------------------------------------------------


def _reference(x, weights, vectors, mask, xpos_scale, packed, return_state, *state):
    return alternating_transformer_ref(x, packed, mask, state)


def _kernels(ops, x, weights, vectors, mask, xpos_scale, packed, return_state, *state):
    p, mapped = packed, torch._C._are_functorch_transforms_active()  # lists of tensors have no batching rule
    if mapped or not has_kernel(p.weights.dtype, p.dim, p.dim // p.num_heads):
        with no_autocast(x):
            return alternating_transformer_ref(x, p, mask, state)
    mask = kernel_mask("alternating_transformer", mask, x)
    return ops.alternating_transformer(
        x, weights, vectors, mask, xpos_scale, [s.float() for s in state], p.positions, p.hidden, p.num_heads, p.depth,
        p.scale, p.chunk_size, p.causal, return_state,
    )  # fmt: skip


def _fake(
    x, weights, vectors, mask, xpos_scale, state, positions, hidden, heads, depth, scale, chunk_size, causal, return_state
):
    B, T, J, C = x.shape
    shape = (B, J, heads, C // heads, C // heads)
    return x.new_empty(B, T, J, 3), [vectors.new_empty(shape) for _ in range(depth if return_state else 0)]


def _cost(
    x, weights, vectors, mask, xpos_scale, state, positions, hidden, heads, depth, scale, chunk_size, causal, return_state
):
    """Count the products of the layers as their own ops count them."""
    B, T, J, C = x.shape
    rows, parts = B * T * J, [block_cost(x, None, AXES["joint"], hidden, heads)]
    if xpos_scale is None:
        parts.append(block_cost(x, mask, AXES["frame"], hidden, heads))
    else:
        q = x.new_empty(B, T, J, heads, C // heads, device="meta")
        retained = retention_cost(q, q, state or None, min(chunk_size, T), causal, return_state)
        projections = [(1, rows, C, 4 * C), *retained.products, (1, rows, C, C)]
        parts += [Cost(10 * rows * C * C + retained.flops, projections), block_cost(x, None, NO_ATTENTION, hidden, heads)]
    return Cost(
        flops=depth * sum(part.flops for part in parts) + 6 * rows * C,
        products=[shape for part in parts for shape in part.products] * depth + [(1, rows, C, 3)],
    )


ALTERNATING_TRANSFORMER = Op(
    alternating_transformer,
    _reference,
    "alternating_transformer(Tensor x, Tensor weights, Tensor vectors, Tensor? mask, Tensor? xpos_scale, Tensor[] state, "
    "int positions, int hidden, int heads, int depth, float scale, int chunk_size, bool causal, bool return_state) "
    "-> (Tensor poses, Tensor[] state)",
    maps="x weights",
    parameters="xpos_scale",
    kernels=_kernels,
    autocast=False,
    fake=_fake,
    cost=_cost,
)
