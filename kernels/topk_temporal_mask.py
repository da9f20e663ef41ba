"""Mask of similar frames of a joint: the symmetric graph of every frame's k most similar frames, with one bit per pair.

Source: HTP (arXiv 2508.21363), section IV-B and algorithm 1, phase 1.
"""

import torch
from torch import Tensor

from ._checks import check_dtype, check_float, check_map, check_shape
from ._op import Cost, Op

__all__ = ["pack_mask", "topk_temporal_mask", "topk_temporal_mask_ref", "unpack_mask"]

BITS = 32  # pairs of a word


def topk_temporal_mask(x: Tensor, k: int) -> Tensor:
    """Compute a mask with M_j[t, s] = 1 if s = t, if s is among the k frames most similar to t, or if t is among those of s.

    The similarity of two frames of a joint is the product x_t . x_s of their tokens. A frame is not one of its own k frames.
    The lower index wins ties.

    Args:
        x: (B, T, J, C) joint-wise tokens; float32, bfloat16 or float16 (float64 runs on the reference). Any strides; maps with
            contiguous channels are read in place. The selection among tokens that are not finite is unspecified.
        k: number of frames that every frame selects, at least 1; T - 1 or more selects all.

    Returns:
        (B, J, T, ceil(T / 32)) int32: bit s % 32 of word s // 32 of row t is M_j[t, s]; bits from T on are 0.
        `axial_attention`, `temporal_graph_conv` and `density_peak_prune` accept it as mask; `unpack_mask` converts it to bool.
        Not differentiable.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "topk_temporal_mask"
    check_float(op, x=x)
    check_map(op, "x", x, ("B", "T", "J", "C"))
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"{op}: k is {k!r}, expected an integer of at least 1")
    return TOPK_TEMPORAL_MASK(x.detach(), min(k, x.shape[1]))


@torch.no_grad()
def topk_temporal_mask_ref(x: Tensor, k: int) -> Tensor:
    """Reference of `topk_temporal_mask`."""
    x = (x if x.dtype == torch.float64 else x.float()).transpose(1, 2)  # (B, J, T, C)
    T = x.shape[2]
    itself = torch.eye(T, dtype=torch.bool, device=x.device)
    similarity = frame_products(x).masked_fill(itself, -torch.inf)
    nearest = similarity.argsort(dim=-1, descending=True, stable=True)[..., : min(k, T - 1)]
    selected = torch.zeros_like(similarity, dtype=torch.bool).scatter_(-1, nearest, True)
    return pack_mask(selected | selected.mT | itself)


def frame_products(x):
    """Compute x x^T for frames (..., T, C), with equal results for equal frames; a BLAS may round them differently."""
    weights = torch.arange(1, x.shape[-1] + 1, dtype=torch.float64, device=x.device).cos()  # not multiples or sums of others
    marks = (x.double() * weights).sum(-1)  # summed in one order: the same for equal frames, and only for them
    first = (marks[..., None] == marks[..., None, :]).int().argmax(-1)  # for every frame, the first frame that equals it
    products = x @ x.mT
    rows, columns = (index.expand_as(products) for index in (first[..., None], first[..., None, :]))
    return products.gather(-2, rows).gather(-1, columns)


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a bool mask (..., T) into bits (..., ceil(T / 32)) int32, as `topk_temporal_mask` returns them."""
    check_dtype("pack_mask", "mask", mask, torch.bool)
    words = -(-mask.shape[-1] // BITS)
    bits = torch.nn.functional.pad(mask, (0, words * BITS - mask.shape[-1])).unflatten(-1, (words, BITS))
    packed = torch.bitwise_left_shift(bits.long(), torch.arange(BITS, device=mask.device)).sum(-1)
    return torch.where(packed < 2**31, packed, packed - 2**32).int()


def unpack_mask(mask: Tensor, frames: int) -> Tensor:
    """Unpack bits (..., ceil(T / 32)) int32 into a bool mask (..., T) for T = `frames`."""
    check_dtype("unpack_mask", "mask", mask, torch.int32)
    check_shape("unpack_mask", "mask", mask, (*mask.shape[:-1], -(-frames // BITS)))
    bits = torch.bitwise_right_shift(mask[..., None], torch.arange(BITS, dtype=torch.int32, device=mask.device)) & 1
    return bits.flatten(-2)[..., :frames].bool()


def check_packed(op, mask, batch, frames, joints):
    """Raise an error unless `mask` is int32 and has the shape of `topk_temporal_mask`'s result for such a clip."""
    check_shape(op, "mask", mask, (batch, joints, frames, -(-frames // BITS)))


# ---- registration ----------------------------------------------------------------------------------------------------


def _fake(x, k):
    B, T, J, _ = x.shape
    return x.new_empty(B, J, T, -(-T // BITS), dtype=torch.int32)


def _cost(x, k):
    """Count the products of all pairs of frames. Half would be enough, as they are symmetric; none are needed if all frames
    are selected."""
    B, T, J, C = x.shape
    return Cost(flops=2 * B * J * T * T * C, products=[(B * J, T, C, (T + 1) // 2)] if k < T - 1 else [])


TOPK_TEMPORAL_MASK = Op(
    topk_temporal_mask,
    topk_temporal_mask_ref,
    "topk_temporal_mask(Tensor x, int k) -> Tensor mask",
    maps="x",
    fake=_fake,
    cost=_cost,
    triton="topk_temporal_mask:forward",
)
