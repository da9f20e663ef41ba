"""Graph convolution along the joints of every frame over a fixed graph: a weighted sum of a few neighbours per joint.

Sources: MotionAGFormer (arXiv 2310.16288), its spatial GCNFormer; MASC-Pose, equation 1. The projections are PyTorch's. The
graph acts on joints and a projection on channels, so either may come first; projecting first lets this op fuse the rest of the
layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_index, check_map, check_shape
from ._op import Cost, Kernel, Op

__all__ = ["skeleton_graph_conv", "skeleton_graph_conv_ref"]


def skeleton_graph_conv(
    x: Tensor,
    neighbours: Tensor,
    weights: Tensor,
    root: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute y_j = sum over d of weights[j, d] x[neighbours[j, d]], followed by the rest of a graph convolution layer.

    The rest is fused into the same pass: y <- scale_j (y + root) + shift_j, for example a batch norm over joints in evaluation
    mode; y <- y + residual; and max(y, 0) if `relu`. Steps whose argument is None are skipped.

    Args:
        x: (B, T, J, C) map; float32, bfloat16 or float16 (float64 runs on the reference). Any strides; maps with contiguous
            channels are read in place.
        neighbours: (J, D) int32, the joints that each joint receives from; negative entries are ignored. An entry of J or more
            raises ValueError on the CPU and is ignored on the GPU, where checking would force a synchronization.
        weights: (J, D), floating point, weights of the neighbours. Not differentiable, as the graph is fixed.
        root, residual: shape and dtype of `x`.
        scale, shift: (J,), floating point.
        relu: apply a ReLU at the end.

    Returns:
        (B, T, J, C) with the dtype of `x`. Differentiable with respect to all arguments except `neighbours` and `weights`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "skeleton_graph_conv"
    check_float(op, {"root": root, "scale": scale, "shift": shift, "residual": residual}, x=x, weights=weights)
    _, _, J, _ = check_map(op, "x", x, ("B", "T", "J", "C"))
    check_index(op, "neighbours", neighbours, "joint", J)
    check_shape(op, "neighbours", neighbours, (J, "D"))
    check_shape(op, "weights", weights, tuple(neighbours.shape))
    check_tail(op, x, (J,), root, scale, shift, residual)
    if weights.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: weights requires a gradient, which it does not have")
    return SKELETON_GRAPH_CONV(x, neighbours, weights, root, scale, shift, residual, relu)


def skeleton_graph_conv_ref(
    x: Tensor,
    neighbours: Tensor,
    weights: Tensor,
    root: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Reference of `skeleton_graph_conv`: a product with the dense graph, in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    senders = F.one_hot(neighbours.clamp(min=0).long(), x.shape[2]) * (neighbours >= 0)[..., None]
    graph = (senders * weights[..., None].to(dtype)).sum(1)
    y = graph @ x.to(dtype)
    return tail_ref(y, (slice(None), None), root, scale, shift, residual, relu).to(x.dtype)


# ---- the tail, which temporal_topk_graph_conv shares -----------------------------------------------------------------


def check_tail(op, x, nodes, root, scale, shift, residual):
    """Check the shapes of root, scale, shift and residual for a map like `x` with a batch norm over `nodes`."""
    for name, y in (("root", root), ("residual", residual)):
        check_shape(op, name, y, tuple(x.shape))
    for name, y in (("scale", scale), ("shift", shift)):
        check_shape(op, name, y, nodes)


def tail_ref(y, nodes, root, scale, shift, residual, relu):
    """Compute relu(scale (y + root) + shift + residual); indexing scale and shift with `nodes` makes them broadcast with y."""
    if root is not None:
        y = y + root
    if scale is not None:
        y = y * scale[nodes].to(y.dtype)
    if shift is not None:
        y = y + shift[nodes].to(y.dtype)
    if residual is not None:
        y = y + residual
    return y.relu() if relu else y


# ---- registration ----------------------------------------------------------------------------------------------------


def _fake(x, *args):
    return x.new_empty(x.shape)


def _fake_bwd(dout, neighbours, weights, scale, out, x, root, passed_wanted, root_wanted, shift_wanted):
    nothing = lambda: dout.new_empty(0, dtype=torch.float32)
    passed, droot = (dout.new_empty(dout.shape) if wanted else nothing() for wanted in (passed_wanted, root_wanted))
    dscale, dshift = (weights.new_empty(len(weights)) if wanted else nothing() for wanted in (x is not None, shift_wanted))
    return dout.new_empty(dout.shape), passed, droot, dscale, dshift


class _Formula:
    """Saves little: the sign of the output, which the next layer keeps anyway, shows where the ReLU was active, and only
    dscale needs the sums. Without ReLU the residual's gradient is dout itself; without scale, so is the root's."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, neighbours, weights, root, scale, _, _, relu = inputs
        summed = (x, root) if ctx.needs_input_grad[4] else (None, None)
        ctx.save_for_backward(neighbours, weights, scale, output if relu else None, *summed)

    @staticmethod
    def backward(ops, ctx, saved, dout):
        _, _, scale, out, x, _ = saved
        _, _, _, root, _, shift, residual, *_ = ctx.needs_input_grad
        passes, scaled = out is not None, scale is not None
        dx, passed, droot, dscale, dshift = ops.skeleton_graph_conv_bwd(
            dout, *saved, passes and (residual or root and not scaled), scaled and root, shift
        )
        passed = passed if passes else dout
        droot = droot if scaled else passed
        return (
            dx, None, None, droot if root else None, None if x is None else dscale, dshift if shift else None,
            passed if residual else None, None,
        )  # fmt: skip


def _cost(x, neighbours, *args):
    """Count a product per entry of `neighbours`, including ignored ones."""
    return Cost(flops=2 * x.numel() * neighbours.shape[1])


def _cost_bwd(dout, neighbours, weights, scale, out, x, *args):
    """Count the same for the gradient, plus the sums if dscale is needed."""
    return Cost(flops=_cost(dout, neighbours).flops * (1 if x is None else 2))


# `passed`: dout where relu let it pass, if `out`, the output of a call with relu, is given. With `x`, and the root if there
# was one, comes dscale.
SKELETON_GRAPH_CONV = Op(
    skeleton_graph_conv,
    skeleton_graph_conv_ref,
    "skeleton_graph_conv(Tensor x, Tensor neighbours, Tensor weights, Tensor? root, Tensor? scale, Tensor? shift, "
    "Tensor? residual, bool relu) -> Tensor out",
    maps="x root residual",
    parameters="weights scale shift",
    fake=_fake,
    cost=_cost,
    triton="skeleton_graph_conv:forward",
    backward=Kernel(
        "skeleton_graph_conv_bwd(Tensor dout, Tensor neighbours, Tensor weights, Tensor? scale, Tensor? out, Tensor? x, "
        "Tensor? root, bool passed_wanted, bool root_wanted, bool shift_wanted) "
        "-> (Tensor dx, Tensor passed, Tensor droot, Tensor dscale, Tensor dshift)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="skeleton_graph_conv:backward",
    ),
    formula=_Formula,
)
