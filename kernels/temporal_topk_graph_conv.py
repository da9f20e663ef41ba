"""Graph convolution along the frames of every joint; each frame receives from its k most similar frames.

Sources: MotionAGFormer (arXiv 2310.16288), its temporal GCNFormer, whose windows are whole clips and whose similarity is the
product; MASC-Pose, equations 3 to 9, with several windows and the cosine.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_map, check_shape
from ._op import Cost, Kernel, Op
from .skeleton_graph_conv import check_tail, tail_ref
from .topk_temporal_mask import BITS, frame_products

__all__ = ["temporal_topk_graph_conv", "temporal_topk_graph_conv_ref"]


def temporal_topk_graph_conv(
    x: Tensor,
    values: Tensor,
    k: int = 2,
    window: int | Sequence[int] | None = None,
    similarity: str = "dot",
    ties: str = "first",
    root: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute y_j = D^-1/2 A_j D^-1/2 V_j for the values V_j of every joint. A_j[t, s] is 1 if s is among the k frames of t's
    window that are most similar to t, including t itself. D holds the row sums of A_j and normalizes both rows and columns.

    The rest is fused into the same pass: y <- scale_t (y + root) + shift_t, for example a batch norm over frames in evaluation
    mode; y <- y + residual; and max(y, 0) if `relu`. Steps whose argument is None are skipped.

    Args:
        x: (B, T, J, C) tokens to compare; float32, bfloat16 or float16 (float64 runs on the reference). The choice among
            tokens that are not finite is unspecified.
        values: (B, T, J, D) values to sum, with the dtype of `x`; see also `window`.
        k: number of frames to choose, at least 1; a window with fewer frames uses all of them.
        window: frames per window. Windows do not overlap; the last may be shorter. None: the whole clip. A sequence of S
            window sizes computes S results; values are then (B, T, J, S, D).
        similarity: "dot", the product x_t . x_s, or "cosine", whose norms are clamped to at least 1e-12.
        ties: "first": of equally similar frames the lower index is chosen, so every row of A_j has k ones. "all":
            MotionAGFormer's rule, which chooses all frames that are as similar as the k-th.
        root, residual: shape and dtype of `values`.
        scale, shift: (T,), or (T, S), floating point.
        relu: apply a ReLU at the end.

    Returns:
        A tensor with the shape and dtype of `values`. Differentiable with respect to all arguments except `x`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "temporal_topk_graph_conv"
    check_float(op, {"root": root, "scale": scale, "shift": shift, "residual": residual}, x=x, values=values)
    B, T, J, _ = check_map(op, "x", x, ("B", "T", "J", "C"))
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"{op}: k is {k!r}, expected an integer of at least 1")
    windows = _windows(op, window, T)
    several = () if window is None or isinstance(window, int) else (len(windows),)
    check_shape(op, "values", values, (B, T, J, *several, "D"))
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"{op}: similarity is {similarity!r}, expected 'dot' or 'cosine'")
    if ties not in ("first", "all"):
        raise ValueError(f"{op}: ties is {ties!r}, expected 'first' or 'all'")
    check_tail(op, values, (T, *several), root, scale, shift, residual)
    return TEMPORAL_TOPK_GRAPH_CONV(
        x.detach(), values, min(k, T), window, similarity, ties, root, scale, shift, residual, relu
    )


def temporal_topk_graph_conv_ref(
    x: Tensor,
    values: Tensor,
    k: int = 2,
    window: int | Sequence[int] | None = None,
    similarity: str = "dot",
    ties: str = "first",
    root: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Reference of `temporal_topk_graph_conv`, in at least float32, with a dense graph per window."""
    windows = _windows("temporal_topk_graph_conv", window, x.shape[1])
    several = values.dim() == 5
    dtype = torch.promote_types(x.dtype, torch.float32)
    parts = values.to(dtype).unbind(3) if several else [values.to(dtype)]
    sums = [
        torch.cat([_window_sums(x[:, a:b].to(dtype), part[:, a:b], k, size, similarity, ties) for a, b in _whole(x, size)], 1)
        for size, part in zip(windows, parts, strict=True)
    ]
    y = torch.stack(sums, 3) if several else sums[0]
    return tail_ref(y, (slice(None), None, ..., None), root, scale, shift, residual, relu).to(values.dtype)


def _whole(x, size):
    """Return (begin, end) of the frames in whole windows, and of those in the last, shorter one."""
    T = x.shape[1]
    return [(a, b) for a, b in ((0, T - T % size), (T - T % size, T)) if a < b]


def _window_sums(x, values, k, size, similarity, ties):
    """Sum over the windows of T frames, where T is a multiple of `size` or less than one window."""
    size = min(size, x.shape[1])
    x, values = (y.unflatten(1, (-1, size)).transpose(2, 3) for y in (x, values))  # (B, windows, J, size, C)
    graph = _graph(x.detach(), min(k, size), similarity, ties)
    degrees = graph.sum(-1)
    return (graph * (degrees[..., None] * degrees[..., None, :]).rsqrt() @ values).transpose(2, 3).flatten(1, 2)


def _graph(x, k, similarity, ties):
    """Return the graph (..., T, T) of zeros and ones."""
    if similarity == "cosine":
        x = F.normalize(x, dim=-1)
    similar = frame_products(x)
    last = similar.topk(k).values[..., -1:]
    chosen, tied = similar >= last, similar == last
    if ties == "first":
        room = k - (similar > last).sum(-1, keepdim=True)
        chosen &= ~tied | (tied.cumsum(-1) <= room)
    return chosen.to(x.dtype)


def _windows(op, window, frames):
    windows = [frames] if window is None else list(window) if hasattr(window, "__iter__") else [window]
    if not windows or any(not isinstance(size, int) or size < 1 for size in windows):
        raise ValueError(f"{op}: window is {window!r}, expected None, a positive integer or a sequence of them")
    return [min(size, frames) for size in windows]


# ---- registration ----------------------------------------------------------------------------------------------------
# Values, root and residual are (B, T, J, S, D); scale and shift are (T, S). The graph saved for the backward has one bit per
# pair of frames of a window: bit i % 32 of word i // 32 of frame t is the i-th frame of its `owner` window. Results that the
# caller already has are empty in the backward: without scale, the gradient of root is that of residual; without relu, that is
# dout. Without values, the gradients of scale and shift are empty too.


def owner(windows, size, frames):
    """Return the longest window that is made of whole windows of this size; it compares the frames for all of them."""
    return max(window for window in windows if window % size == 0 or window == frames)


def _kernels(ops, x, values, k, window, similarity, ties, root, scale, shift, residual, relu):
    T, shape = x.shape[1], values.shape
    if values.dim() == 4:
        values, root, residual = (None if y is None else y[:, :, :, None] for y in (values, root, residual))
    scale, shift = (None if p is None else p.reshape(T, -1) for p in (scale, shift))
    windows = _windows("temporal_topk_graph_conv", window, T)
    if similarity == "cosine" and x.shape[-1] == 1:  # all are equally similar or opposite, so nothing may be rounded
        x = F.normalize(x, dim=-1)
    out, _ = ops.temporal_topk_graph_conv(
        x, values, k, windows, similarity == "cosine", ties == "all", root, scale, shift, residual, relu
    )
    return out.reshape(shape)


def _fake(x, values, k, windows, *args):
    B, T, J, S, _ = values.shape
    return values.new_empty(values.shape), x.new_empty(B, J, S, T, -(-max(windows) // BITS), dtype=torch.int32)


def _fake_bwd(dout, graph, k, windows, out, values, root, scale):
    like = lambda wanted, *shape, **dtype: dout.new_empty(shape if wanted is not None else 0, **dtype)
    sums = (like(values, dout.shape[1], dout.shape[3], dtype=torch.float32) for _ in range(2))
    return dout.new_empty(dout.shape), like(scale, *dout.shape), like(out, *dout.shape), *sums


class _Formula:
    @staticmethod
    def setup_context(ctx, inputs, output):
        _, values, ctx.k, ctx.windows, _, _, root, scale, shift, _, ctx.relu = inputs
        out, graph = output
        learned = any(p is not None and p.requires_grad for p in (scale, shift))
        ctx.save_for_backward(graph, out if ctx.relu else None, *((values, root) if learned else (None, None)), scale)

    @staticmethod
    def backward(ops, ctx, saved, dout, _):
        graph, *saved, scale = saved
        dvalues, droot, dresidual, dscale, dshift = ops.temporal_topk_graph_conv_bwd(
            dout, graph, ctx.k, ctx.windows, *saved, scale
        )
        dresidual = dresidual if ctx.relu else dout
        droot = dresidual if scale is None else droot
        _, _, _, _, _, _, root_there, scale_there, shift_there, residual_there, _ = ctx.needs_input_grad
        tail = (droot, root_there), (dscale, scale_there), (dshift, shift_there), (dresidual, residual_there)
        return None, dvalues, *[None] * 4, *(y if wanted else None for y, wanted in tail), None


def _cost(x, values, k, windows, *args):
    """Count the products of all pairs of frames in a window, and k products per frame for the sums. Half of the pairs would be
    enough, and windows made of other windows share their pairs."""
    B, T, J, C = x.shape
    longest = sorted({owner(windows, size, T) for size in windows})
    parts = [(B * J * (T // size), size) for size in longest] + [(B * J, T % size) for size in longest if T % size]
    return Cost(
        flops=2 * B * T * J * (sum(windows) * C + len(windows) * k * values.shape[-1]),
        products=[(batch, size, C, (size + 1) // 2) for batch, size in parts],
    )


def _cost_bwd(dout, graph, k, *args):
    """Count the sums alone; the choice of frames has no gradient."""
    return Cost(flops=2 * dout.numel() * k)


TEMPORAL_TOPK_GRAPH_CONV = Op(
    temporal_topk_graph_conv,
    temporal_topk_graph_conv_ref,
    "temporal_topk_graph_conv(Tensor x, Tensor values, int k, int[] windows, bool cosine, bool all_ties, Tensor? root, "
    "Tensor? scale, Tensor? shift, Tensor? residual, bool relu) -> (Tensor out, Tensor graph)",
    maps="x values root residual",
    parameters="scale shift",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="temporal_topk_graph_conv:forward",
    backward=Kernel(
        "temporal_topk_graph_conv_bwd(Tensor dout, Tensor graph, int k, int[] windows, Tensor? out, Tensor? values, "
        "Tensor? root, Tensor? scale) -> (Tensor dvalues, Tensor droot, Tensor dresidual, Tensor dscale, Tensor dshift)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="temporal_topk_graph_conv:backward",
    ),
    formula=_Formula,
)
