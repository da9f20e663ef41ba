"""Graph convolution along the joints of every frame, over a graph that is fixed: the sum of a few neighbours per joint.

Sources: MotionAGFormer (arXiv 2310.16288), its spatial GCNFormer; MASC-Pose, equation 1. The projections are PyTorch's. As
the graph acts on joints and they on channels, they may come before or after; before, the sum can end what they began.
"""

import torch
import torch.nn.functional as F

from ._op import (
    Op,
    autocast_dtype,
    check_device,
    check_float,
    check_joints,
    check_like,
    check_shape,
    kernel_dtype,
    no_autocast,
)


def skeleton_graph_conv(x, neighbours, weights, root=None, scale=None, shift=None, residual=None, relu=False):
    """y_j = sum over d of weights[j, d] x[neighbours[j, d]], and what a layer does with that sum.

    The rest, in one pass: y <- scale_j (y + root) + shift_j, which may be a batch norm over joints in evaluation; y <- y +
    residual; and max(y, 0) if `relu`. What is None is left out.

    Args:
        x: (B, T, J, C) map; float32, bfloat16 or float16 (float64 runs on the reference). Any strides; those with contiguous
            channels cost nothing.
        neighbours: (J, D) int32, the joints that send to each joint; a negative entry adds nothing. One of J or more is a
            ValueError on the CPU, and adds nothing on the GPU, which cannot look without waiting.
        weights: (J, D), floating point, of the neighbours. No gradient: the graph is fixed.
        root, residual: like `x`.
        scale, shift: (J,), floating point.
        relu: whether negative results become 0.

    Returns:
        (B, T, J, C) with the dtype of `x`. Differentiable in all but `neighbours` and `weights`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "skeleton_graph_conv"
    check_float(op, {"root": root, "scale": scale, "shift": shift, "residual": residual}, x=x, weights=weights)
    check_shape(op, "x", x, ("B", "T", "J", "C"))
    if 0 in x.shape[1:]:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected no empty dimension after the first")
    J = x.shape[2]
    check_joints(op, "neighbours", neighbours, J)
    check_shape(op, "neighbours", neighbours, (J, "D"))
    check_shape(op, "weights", weights, tuple(neighbours.shape))
    check_tail(op, "x", x, (J,), root, scale, shift, residual)
    check_device(op, "x", x, neighbours=neighbours, weights=weights)
    if weights.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: weights requires a gradient, which it does not have")
    if (dtype := autocast_dtype(x)) is not None:
        x, root, residual = (None if y is None else y.to(dtype) for y in (x, root, residual))
    check_like(op, "x", x, root=root, residual=residual)

    ops = SKELETON_GRAPH_CONV.namespace(x, root, scale, shift, residual)
    if ops is None:
        with no_autocast(x):
            return skeleton_graph_conv_ref(x, neighbours, weights, root, scale, shift, residual, relu)
    y, root, residual = kernel_dtype(x, root, residual)
    scale, shift = (None if p is None else p.float() for p in (scale, shift))
    out = ops.skeleton_graph_conv(y, neighbours, weights.float(), root, scale, shift, residual, relu)
    return out.to(x.dtype)


def skeleton_graph_conv_ref(x, neighbours, weights, root=None, scale=None, shift=None, residual=None, relu=False):
    """`skeleton_graph_conv` as a product with the dense graph, in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    senders = F.one_hot(neighbours.clamp(min=0).long(), x.shape[2]) * (neighbours >= 0)[..., None]
    graph = (senders * weights[..., None].to(dtype)).sum(1)
    y = graph @ x.to(dtype)
    return tail_ref(y, (slice(None), None), root, scale, shift, residual, relu).to(x.dtype)


# ---- the tail, which temporal_topk_graph_conv shares -----------------------------------------------------------------


def check_tail(op, first, x, nodes, root, scale, shift, residual):
    """Shapes and devices of the tail of a map like `x` with a batch norm over `nodes`."""
    for name, y in (("root", root), ("residual", residual)):
        check_shape(op, name, y, tuple(x.shape))
    for name, y in (("scale", scale), ("shift", shift)):
        check_shape(op, name, y, nodes)
    check_device(op, first, x, root=root, scale=scale, shift=shift, residual=residual)


def tail_ref(y, nodes, root, scale, shift, residual, relu):
    """relu(scale (y + root) + shift + residual); `nodes` indexes scale and shift so that they stand beside y."""
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
    dscale, dshift = (
        weights.new_empty(len(weights)) if wanted else nothing() for wanted in (x is not None, shift_wanted)
    )
    return dout.new_empty(dout.shape), passed, droot, dscale, dshift


def _setup_context(ctx, inputs, output):
    """The sign of the output, which the next layer keeps anyway, says where relu let pass. Only dscale needs the sums."""
    x, neighbours, weights, root, scale, _, _, relu = inputs
    summed = (x, root) if ctx.needs_input_grad[4] else (None, None)
    ctx.save_for_backward(neighbours, weights, scale, output if relu else None, *summed)


def _backward(ops, ctx, dout):
    _, _, scale, out, x, _ = ctx.saved_tensors
    _, _, _, root, _, shift, residual, *_ = ctx.needs_input_grad
    passes, scaled = out is not None, scale is not None
    dx, passed, droot, dscale, dshift = ops.skeleton_graph_conv_bwd(
        dout, *ctx.saved_tensors, passes and (residual or root and not scaled), scaled and root, shift
    )
    # Without relu the residual's gradient is dout itself, and without a scale the root's is the same.
    passed = passed if passes else dout
    droot = droot if scaled else passed
    return (
        dx, None, None, droot if root else None, None if x is None else dscale, dshift if shift else None,
        passed if residual else None, None,
    )  # fmt: skip


def _flops(x_shape, neighbours_shape, *args, out_shape=None, **kwargs) -> int:
    """A product per neighbour, also where there is none."""
    B, T, J, C = x_shape
    return 2 * B * T * J * C * neighbours_shape[1]


def _flops_bwd(dout_shape, neighbours_shape, weights, scale, out, x_shape, *args, out_shape=None, **kwargs) -> int:
    """The same for the way back, and for dscale the sums again."""
    return _flops(dout_shape, neighbours_shape) * (1 if x_shape is None else 2)


SKELETON_GRAPH_CONV = Op(
    "skeleton_graph_conv(Tensor x, Tensor neighbours, Tensor weights, Tensor? root, Tensor? scale, Tensor? shift, "
    "Tensor? residual, bool relu) -> Tensor out",
    fake=_fake,
    triton="skeleton_graph_conv:forward",
    flops=_flops,
    setup_context=_setup_context,
    backward=_backward,
)
# `passed`: dout where relu let it pass, if `out`, the output of a call with relu, is given. With `x`, and the root if there
# was one, comes dscale.
Op(
    "skeleton_graph_conv_bwd(Tensor dout, Tensor neighbours, Tensor weights, Tensor? scale, Tensor? out, Tensor? x, "
    "Tensor? root, bool passed_wanted, bool root_wanted, bool shift_wanted) "
    "-> (Tensor dx, Tensor passed, Tensor droot, Tensor dscale, Tensor dshift)",
    fake=_fake_bwd,
    triton="skeleton_graph_conv:backward",
    flops=_flops_bwd,
    public=False,
)
