"""Mask of the frames of a joint that are alike: the symmetric graph of every frame's k most similar frames, one bit per pair.

Source: HTP (arXiv 2508.21363), section IV-B and algorithm 1, phase 1.
"""

import torch
from torch import Tensor

from ._checks import check_dtype, check_float, check_map, check_shape
from ._op import Cost, Op

__all__ = ["pack_mask", "topk_temporal_mask", "topk_temporal_mask_ref", "unpack_mask"]

BITS = 32  # pairs of a word


def topk_temporal_mask(x: Tensor, k: int) -> Tensor:
    """M_j[t, s] = 1 if s = t, or s is among the k frames most similar to t, or t among those most similar to s.

    The similarity of two frames of a joint is the product x_t . x_s of their tokens; the frame itself is not among its k.
    Of equally similar frames the lower index is taken.

    Args:
        x: (B, T, J, C) joint-wise tokens; float32, bfloat16 or float16 (float64 runs on the reference). Any strides; those
            with contiguous channels cost nothing. What is selected of tokens that are not finite is not specified.
        k: how many frames every frame selects, at least 1; T - 1 and more select all.

    Returns:
        (B, J, T, ceil(T / 32)) int32: bit s % 32 of word s // 32 of row t is M_j[t, s]; bits from T on are 0. It is what
        `axial_attention`, `temporal_graph_conv` and `density_peak_prune` take as mask; `unpack_mask` makes it bool. It has
        no gradient.

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
    """`topk_temporal_mask` as written."""
    x = (x if x.dtype == torch.float64 else x.float()).transpose(1, 2)  # (B, J, T, C)
    T = x.shape[2]
    itself = torch.eye(T, dtype=torch.bool, device=x.device)
    similarity = frame_products(x).masked_fill(itself, -torch.inf)
    nearest = similarity.argsort(dim=-1, descending=True, stable=True)[..., : min(k, T - 1)]
    selected = torch.zeros_like(similarity, dtype=torch.bool).scatter_(-1, nearest, True)
    return pack_mask(selected | selected.mT | itself)


def frame_products(x):
    """x x^T of frames (..., T, C), the same for equal frames: a BLAS rounds by their places."""
    weights = torch.arange(1, x.shape[-1] + 1, dtype=torch.float64, device=x.device).cos()  # no multiples nor sums of others
    marks = (x.double() * weights).sum(-1)  # in one order: the same for equal frames, and for no others
    first = (marks[..., None] == marks[..., None, :]).int().argmax(-1)  # of every frame the first one that equals it
    products = x @ x.mT
    rows, columns = (index.expand_as(products) for index in (first[..., None], first[..., None, :]))
    return products.gather(-2, rows).gather(-1, columns)


def pack_mask(mask: Tensor) -> Tensor:
    """(..., T) bool -> (..., ceil(T / 32)) int32, the bits of `topk_temporal_mask`."""
    check_dtype("pack_mask", "mask", mask, torch.bool)
    words = -(-mask.shape[-1] // BITS)
    bits = torch.nn.functional.pad(mask, (0, words * BITS - mask.shape[-1])).unflatten(-1, (words, BITS))
    packed = torch.bitwise_left_shift(bits.long(), torch.arange(BITS, device=mask.device)).sum(-1)
    return torch.where(packed < 2**31, packed, packed - 2**32).int()


def unpack_mask(mask: Tensor, frames: int) -> Tensor:
    """(..., ceil(T / 32)) int32 -> (..., T) bool for T = `frames`."""
    check_dtype("unpack_mask", "mask", mask, torch.int32)
    check_shape("unpack_mask", "mask", mask, (*mask.shape[:-1], -(-frames // BITS)))
    bits = torch.bitwise_right_shift(mask[..., None], torch.arange(BITS, dtype=torch.int32, device=mask.device)) & 1
    return bits.flatten(-2)[..., :frames].bool()


def check_packed(op, mask, batch, frames, joints):
    """ValueError unless `mask`, int32, is packed as `topk_temporal_mask` does for such a clip."""
    check_shape(op, "mask", mask, (batch, joints, frames, -(-frames // BITS)))


# ---- registration ----------------------------------------------------------------------------------------------------


def _fake(x, k):
    B, T, J, _ = x.shape
    return x.new_empty(B, J, T, -(-T // BITS), dtype=torch.int32)


def _cost(x, k):
    """The products of all pairs of frames. They are symmetric: half of them would do; where all are selected, none."""
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
