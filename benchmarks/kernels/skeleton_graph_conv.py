"""skeleton_graph_conv as MotionAGFormer calls it: 128 channels, the bones of Human3.6M, a batch norm in evaluation."""

from functools import partial

import torch
import torch.nn.functional as F

from lifter.kernels import skeleton_graph_conv
from lifter.layers import SkeletonGraphConv, both_ways
from lifter.skeleton import H36M

from . import Case, sizes

CHANNELS = 128
FRAMES = (1, 27, 243)


def inputs(frames, batch, device, dtype):
    draw = lambda *shape: torch.randn(*shape, device=device, dtype=dtype)
    shape = (batch, frames, H36M.num_joints, CHANNELS)
    graph = SkeletonGraphConv(1, H36M.num_joints, both_ways(H36M.bones)).to(device)
    # The graph, which has no gradient, comes in a tuple: what is differentiated are the tensors.
    inputs = {name: draw(*shape) for name in ("x", "root", "residual")}
    return inputs | {name: draw(H36M.num_joints) for name in ("scale", "shift")} | {"graph": (graph.neighbours, graph.weights)}


def cases(setup):
    return [case(*size) for size in sizes(setup, FRAMES)]


def case(label, frames, batch):
    return Case(
        f"skeleton_graph_conv {label}",
        partial(inputs, frames, batch),
        lambda x, graph, **tail: skeleton_graph_conv(x, *graph, **tail, relu=True),
        {"eager": eager},
    )


def eager(x, root, residual, scale, shift, graph):
    """MotionAGFormer's chain: a dense graph for every frame, normalised by products with diagonal matrices, the batch norm
    and what follows."""
    neighbours, weights = graph
    J = x.shape[2]
    adjacency = torch.zeros(J, J + 1, device=x.device).scatter_(1, neighbours.long() % (J + 1), weights.sign())[:, :J]
    adjacency = adjacency.to(x.dtype).repeat(x.shape[0] * x.shape[1], 1, 1)
    degrees = torch.eye(J, device=x.device, dtype=x.dtype) * adjacency.sum(-1, keepdim=True) ** -0.5
    y = torch.bmm(torch.bmm(degrees, adjacency), degrees) @ x.flatten(0, 1)
    mean, variance = torch.zeros_like(shift), torch.ones_like(scale)
    y = F.batch_norm(y + root.flatten(0, 1), mean, variance, scale, shift, eps=0)
    return (residual + y.view(x.shape)).relu()
