"""Graph convolution along the frames of every joint; the graph is the similarity of the frames times a learned graph.

Source: HTP (arXiv 2508.21363), section IV-B: the masked softmax, its Hadamard product with the global topology, and the
aggregation. The projection, GELU and residual that follow are PyTorch's (`lifter.layers.TCEP`).
"""

import torch
from torch import Tensor

from ._checks import check_dtype, check_float, check_map, check_number, check_shape
from ._op import Cost, Kernel, Op
from .topk_temporal_mask import check_packed, unpack_mask

__all__ = ["temporal_graph_conv", "temporal_graph_conv_ref"]


def temporal_graph_conv(x: Tensor, graph: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Compute y_j = (softmax(scale X_j X_j^T where M_j) * graph) X_j for the frames X_j of every joint.

    Args:
        x: (B, T, J, C) tokens; float32, bfloat16 or float16 (float64 runs on the reference).
        graph: (T, T), floating point, multiplied with the softmax; shared by all clips and joints.
        mask: (B, J, T, ceil(T / 32)) int32, the frames visible to each frame, packed as by `topk_temporal_mask`. None: all. A
            frame without visible frames gets zeros.
        scale: factor of the products. Default: C^-0.5.

    Returns:
        (B, T, J, C) with the dtype of `x`. Differentiable with respect to `x` and `graph`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "temporal_graph_conv"
    check_float(op, x=x, graph=graph)
    B, T, J, C = check_map(op, "x", x, ("B", "T", "J", "C"))
    check_shape(op, "graph", graph, (T, T))
    if mask is not None:
        check_dtype(op, "mask", mask, torch.int32)
        check_packed(op, mask, B, T, J)
    scale = C**-0.5 if scale is None else check_number(op, "scale", scale)
    return TEMPORAL_GRAPH_CONV(x, graph, mask, scale)


def temporal_graph_conv_ref(x: Tensor, graph: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Reference of `temporal_graph_conv`."""
    scale = x.shape[-1] ** -0.5 if scale is None else scale
    frames = x.transpose(1, 2)  # (B, J, T, C)
    scores = scale * frames @ frames.mT
    hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else ~unpack_mask(mask, x.shape[1])
    nothing = hidden.all(-1, keepdim=True)  # their softmax would be NaN
    weights = scores.masked_fill(hidden & ~nothing, -torch.inf).softmax(-1).masked_fill(nothing, 0)
    return ((weights * graph.to(x.dtype)) @ frames).transpose(1, 2)


# ---- registration ----------------------------------------------------------------------------------------------------
# The kernels read x and dout through their strides; only the channels must be contiguous. They allocate a workspace for the
# products of all pairs of frames: of one joint per thread on the CPU; on the GPU, of as many clips as fit in 256 MB, at least
# one. The gradient of the graph is reduced in two stages with at most 32 partial sums (16 on the GPU); their number depends on
# the shapes only.


def _fake(x, graph, mask, scale):
    B, T, J, _ = x.shape
    return x.new_empty(x.shape), x.new_empty(B, T, J, dtype=torch.float32)


def _fake_bwd(dout, x, graph, lse, mask, scale):
    return x.new_empty(x.shape), torch.empty_like(graph)


def _cost(x, graph, mask, scale):
    """Count two products, as for attention; masked pairs count too. Half of the first would be enough, as it is symmetric."""
    B, T, J, C = x.shape
    return Cost(
        flops=4 * B * J * T * T * C,
        products=[(B * J, T, C, (T + 1) // 2), (B * J, T, T, C)],
        exponentials=B * J * T * T,
    )


def _cost_bwd(dout, x, graph, lse, mask, scale):
    """Count four products for the forward's two: the recomputed scores, dout x^T, and the weights and their gradient times the
    frames. The scores' two gradients with respect to the frames take a single product."""
    B, T, J, C = x.shape
    return Cost(
        flops=8 * B * J * T * T * C,
        products=[(B * J, T, C, (T + 1) // 2), (B * J, T, C, T), (B * J, T, T, C), (B * J, T, T, C)],
        exponentials=B * J * T * T,
    )


TEMPORAL_GRAPH_CONV = Op(
    temporal_graph_conv,
    temporal_graph_conv_ref,
    "temporal_graph_conv(Tensor x, Tensor graph, Tensor? mask, float scale) -> (Tensor out, Tensor lse)",
    maps="x",
    parameters="graph",
    fake=_fake,
    cost=_cost,
    triton="temporal_graph_conv:forward",
    backward=Kernel(
        "temporal_graph_conv_bwd(Tensor dout, Tensor x, Tensor graph, Tensor lse, Tensor? mask, float scale) "
        "-> (Tensor dx, Tensor dgraph)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="temporal_graph_conv:backward",
    ),
)
