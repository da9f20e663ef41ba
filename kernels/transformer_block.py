"""Pre-norm transformer block on (frame, joint) maps in one call: optional attention along the joints or the frames, and an
MLP. Norms, residuals and activations are applied while the products are still in the cache.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_dtype, check_float, check_shape
from ._op import Cost, Op
from ._panels import pack_panels, pack_vector, padded, panels_size, unpack_panels
from ._torch import no_autocast
from .axial_attention import AXES, MAX_CHANNELS, attention_cost, axial_attention_ref, check_mask, kernel_mask

__all__ = ["PackedBlock", "pack_block", "transformer_block", "transformer_block_ref"]

NO_ATTENTION = -1  # axis passed to the kernels if there is no attention


class PackedBlock(NamedTuple):
    """Result of `pack_block`: all weights of linear layers in one tensor, all other parameters in another (at least float32),
    and the sizes of the block."""

    weights: torch.Tensor
    vectors: torch.Tensor
    dim: int
    hidden: int  # width of the MLP
    num_heads: int = 1
    axis: str | None = None  # axis of the attention, "joint" or "frame"; None: only an MLP
    scale: float = 1.0  # of attention
    eps: float = 1e-6  # of the norms


def transformer_block(x: Tensor, packed: PackedBlock, mask: Tensor | None = None) -> Tensor:
    """Compute x + attention(norm1(x)), if there is attention, then x + mlp(norm2(x)), in evaluation mode.

    Args:
        x: (B, T, J, C) in the dtype of the packed weights, float32 or bfloat16 (float64 runs on the reference), any strides.
        packed: `PackedBlock`.
        mask: mask for attention along the frames, see `axial_attention`.

    Returns:
        A tensor with the shape and dtype of `x`. Autocast has no effect. There is a CPU kernel for inference; the reference
        runs on a GPU, if a derivative is needed, and if `has_kernel` is false.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op, p = "transformer_block", packed
    check_float(op, x=x, weights=p.weights, vectors=p.vectors)
    if p.axis not in (None, *AXES):
        raise ValueError(f"{op}: axis is {p.axis!r}, expected 'joint', 'frame' or None")
    check_shape(op, "x", x, ("B", "T", "J", p.dim))
    sizes = (_count if torch.compiler.is_compiling() else _known_count)(p.weights.dtype, *p[2:])
    for name, tensor, size in zip(("weights", "vectors"), (p.weights, p.vectors), sizes, strict=True):
        check_shape(op, name, tensor, (size,))
    check_dtype(op, "vectors", p.vectors, torch.promote_types(p.weights.dtype, torch.float32))
    if mask is not None and p.axis != "frame":
        raise ValueError(f"{op}: mask is given, expected none without attention along the frames")
    check_mask(op, mask, "x", x)

    return TRANSFORMER_BLOCK(x, p.weights, p.vectors, mask, p)


def has_kernel(dtype: torch.dtype, dim: int, head: int) -> bool:
    """Return whether the CPU kernels support blocks of this width with `head` channels per head (0: no attention)."""
    return dtype in (torch.float32, torch.bfloat16) and dim % 2 == 0 and head <= MAX_CHANNELS


def transformer_block_ref(x: Tensor, packed: PackedBlock, mask: Tensor | None = None) -> Tensor:
    """Reference of `transformer_block`, in at least float32."""
    p, read = packed, Reader(packed, torch.promote_types(x.dtype, torch.float32))
    y = x.to(read.dtype)
    if p.axis is not None:
        y = read.attend(y, p.num_heads, p.axis, mask, p.scale, p.eps)
    return read.feed_forward(y, p.hidden, p.eps).to(x.dtype)


# ---- parameters ------------------------------------------------------------------------------------------------------


def pack_block(parameters: dict[str, Tensor], **sizes):
    """Pack parameters, named as in `block_parameters` (norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2), into
    `PackedBlock(weights, vectors, **sizes)`. Linear layers keep their dtype."""
    empty = PackedBlock(None, None, **sizes)  # pyright: ignore[reportArgumentType]
    weights, vectors = pack(parameters, block_parameters(empty))
    return PackedBlock(weights, vectors, **sizes)


def block_parameters(packed):
    """List (name, *shape, has_bias) of the parameters in the order of the buffer; `has_bias` is None for parameters that do
    not belong to a linear layer."""
    return block("", packed.dim, packed.hidden, *(attention("", packed.dim) if packed.axis else []))


def block(prefix, dim, hidden, *mixer):
    """List the parameters of a block; `mixer` lists those before its MLP."""
    linears = [(f"{prefix}mlp.fc1", hidden, dim, True), (f"{prefix}mlp.fc2", dim, hidden, True)]
    return [*mixer, *norm(f"{prefix}norm2", dim), *linears]


def attention(prefix, dim):
    linears = [(f"{prefix}attn.qkv", 3 * dim, dim, True), (f"{prefix}attn.proj", dim, dim, True)]
    return [*norm(f"{prefix}norm1", dim), *linears]


def norm(name, dim):
    return [(f"{name}.{part}", dim, None) for part in ("weight", "bias")]


def pack(parameters, entries):
    """Pack `entries` into (weights, vectors); a missing bias becomes zero."""
    weights, vectors = [], []
    for name, *shape, has_bias in entries:
        if has_bias is None:
            vectors.append(parameters[name].expand(shape))
            continue
        weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        weights.append(pack_panels(weight))
        if has_bias:
            vectors.append(weight.new_zeros(len(weight)) if bias is None else bias)
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    return torch.cat(weights), torch.cat([pack_vector(v.to(wide)) for v in vectors])


def shapes(entries):
    """Return {name: shape} of the parameters; the bias of attn.qkv may be missing."""
    found = {}
    for name, *shape, has_bias in entries:
        found[name if has_bias is None else f"{name}.weight"] = tuple(shape)
        if has_bias:
            found[f"{name}.bias"] = tuple(shape[:1])
    return found


def count(entries, dtype):
    """Return the number of elements of the packed weights and vectors."""
    weights = vectors = 0
    for _, *shape, has_bias in entries:
        if has_bias is None:
            vectors += padded(torch.Size(shape).numel())
        else:
            out, width = shape
            weights += panels_size(out, width, dtype)
            vectors += padded(out) * has_bias
    return weights, vectors


def check_sizes(op, packed, *names):
    """Raise ValueError unless all sizes are positive and the heads divide the width."""
    for name in names:
        if getattr(packed, name) < 1:
            raise ValueError(f"{op}: {name} is {getattr(packed, name)}, expected at least 1")
    if packed.dim % packed.num_heads:
        raise ValueError(f"{op}: num_heads is {packed.num_heads}, expected a divisor of dim, {packed.dim}")


def _count(dtype, *sizes):
    packed = PackedBlock(None, None, *sizes)  # pyright: ignore[reportArgumentType]
    check_sizes("transformer_block", packed, "dim", "hidden", "num_heads")
    return count(block_parameters(packed), dtype)


_known_count = cache(_count)


class Reader:
    """Reader of packed parameters: each layer takes the next ones in order."""

    def __init__(self, packed, dtype):
        self.weights, self.vectors, self.dtype = packed.weights, packed.vectors.to(dtype), dtype

    def vector(self, *shape):
        size = torch.Size(shape).numel()
        x, self.vectors = self.vectors[:size].view(shape), self.vectors[padded(size) :]
        return x

    def norm(self, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.vector(x.shape[-1]), self.vector(x.shape[-1]), eps)

    def linear(self, x, out, has_bias=True):
        size = panels_size(out, x.shape[-1], self.weights.dtype)
        weight, self.weights = unpack_panels(self.weights[:size], out, x.shape[-1]), self.weights[size:]
        return F.linear(x, weight.to(self.dtype), self.vector(out) if has_bias else None)

    def attend(self, x, num_heads, axis, mask, scale, eps):
        qkv = self.linear(self.norm(x, eps), 3 * x.shape[-1]).unflatten(-1, (3, num_heads, -1))
        return x + self.linear(axial_attention_ref(qkv, axis, mask, scale), x.shape[-1])

    def feed_forward(self, x, hidden, eps):
        return x + self.linear(F.gelu(self.linear(self.norm(x, eps), hidden)), x.shape[-1])


# ---- registration ----------------------------------------------------------------------------------------------------


def _reference(x, weights, vectors, mask, packed):
    return transformer_block_ref(x, packed, mask)


def _kernels(ops, x, weights, vectors, mask, packed):
    p = packed
    if not has_kernel(p.weights.dtype, p.dim, p.dim // p.num_heads if p.axis else 0):
        with no_autocast(x):
            return transformer_block_ref(x, p, mask)
    axis = NO_ATTENTION if p.axis is None else AXES[p.axis]
    mask = kernel_mask("transformer_block", mask, x)
    return ops.transformer_block(x, weights, vectors, mask, axis, p.hidden, p.num_heads, p.scale, p.eps)


def _fake(x, weights, vectors, mask, axis, hidden, heads, scale, eps):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _cost(x, weights, vectors, mask, axis, hidden, heads, scale, eps):
    """Count the products of the layers as their own ops count them."""
    return block_cost(x, mask, axis, hidden, heads)


def block_cost(x, mask, axis, hidden, heads):
    B, T, J, C = x.shape
    rows = B * T * J
    mlp = [(1, rows, C, hidden), (1, rows, hidden, C)]
    if axis == NO_ATTENTION:
        return Cost(flops=4 * rows * C * hidden, products=mlp)
    attention = attention_cost(x.new_empty(B, T, J, 3, heads, C // heads, device="meta"), mask, axis)
    return Cost(
        flops=4 * rows * C * hidden + 8 * rows * C * C + attention.flops,
        products=[(1, rows, C, 3 * C), *attention.products, (1, rows, C, C), *mlp],
    )


TRANSFORMER_BLOCK = Op(
    transformer_block,
    _reference,
    "transformer_block(Tensor x, Tensor weights, Tensor vectors, Tensor? mask, int axis, int hidden, int heads, float scale, "
    "float eps) -> Tensor",
    maps="x weights",
    kernels=_kernels,
    autocast=False,
    fake=_fake,
    cost=_cost,
)
