"""Graph convolutions along the joints or the frames of a clip, with a fixed, learned or data-dependent graph."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import skeleton_graph_conv, temporal_topk_graph_conv

from .block import Pointwise
from .linear import Linear


def known_graph(name, num_nodes, edges):
    """Return a bool matrix (N, N) with both directions of every edge; raise ValueError, naming the layer, for invalid
    edges."""
    known = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
    for i, j in edges:
        if not (0 <= i < num_nodes and 0 <= j < num_nodes and i != j):
            raise ValueError(f"{name}: edges has ({i}, {j}), expected two different nodes below {num_nodes}")
        known[i, j] = known[j, i] = True
    return known


def partly_learned(known, learned):
    """Return the symmetric part of (known + learned), both (N, N); the known weights of a node's neighbours sum to 1."""
    known = known.to(learned.dtype)
    graph = known / known.sum(1, keepdim=True).clamp(min=1) + learned
    return (graph + graph.mT) / 2


class LearnedGraphConv(nn.Module):
    """Graph convolution of KTPFormer (arXiv 2404.00658) along one axis: (B, T, J, C_in) -> (B, T, J, C_out).

    Every node sums a projection of itself and projections of the other nodes, weighted by the symmetrized graph (known +
    learned): y_i = G_ii M_i * (W_0 x_i) + sum over j != i of G_ij M_j * (W_1 x_j) + bias. The known weights of a node's
    neighbours sum to 1; its own known weight is 1.

    Along frames, a clip may be shorter than the graph: it uses the first T nodes, with the known part of a graph of T nodes.

    Args:
        in_channels, out_channels: C_in, C_out.
        axis: "joint" if the joints of a frame are the nodes, "frame" if the frames of a joint are.
        num_nodes: J, or the largest T.
        edges: pairs of different nodes, connected in the known part.
    """

    known: Tensor

    def __init__(self, in_channels: int, out_channels: int, axis: str, num_nodes: int, edges: Sequence[tuple[int, int]]):
        super().__init__()
        if axis not in ("joint", "frame"):
            raise ValueError(f"LearnedGraphConv: axis is {axis!r}, expected 'joint' or 'frame'")
        known = known_graph("LearnedGraphConv", num_nodes, edges)
        self.axis, self.num_nodes = axis, num_nodes
        self.register_buffer("known", known, persistent=False)  # a constant of the architecture, not a weight
        self.W = nn.Parameter(torch.empty(2, in_channels, out_channels))
        self.M = nn.Parameter(torch.ones(num_nodes, out_channels))
        self.adj2 = nn.Parameter(torch.full((num_nodes, num_nodes), 1e-6))  # the learned part, under its official name
        self.bias = nn.Parameter(torch.zeros(out_channels))
        for weight in self.W.detach():
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1 if self.axis == "frame" else 2]
        if n > self.num_nodes or (n < self.num_nodes and self.axis == "joint"):
            most = "at most " if self.axis == "frame" else ""
            raise ValueError(f"LearnedGraphConv: x has {n} {self.axis}s, expected {most}{self.num_nodes}")
        graph, modulation = self.graph(n), self.M[:n]
        itself = graph.diagonal()
        others = graph - itself.diag()
        own = itself[:, None] * modulation
        if self.axis == "joint":
            received = others @ (modulation * (x @ self.W[1]))
        else:
            own, modulation = own[:, None], modulation[:, None]
            received = (others @ (modulation * (x @ self.W[1])).flatten(2)).unflatten(2, (x.shape[2], -1))
        return received + own * (x @ self.W[0]) + self.bias

    def graph(self, n: int):
        """Return the symmetric graph (n, n) of the first n nodes."""
        itself = torch.eye(n, dtype=self.adj2.dtype, device=self.adj2.device)
        return partly_learned(self.known[:n, :n], self.adj2[:n, :n]) + itself

    def extra_repr(self):
        _, in_channels, out_channels = self.W.shape
        return f"{in_channels}, {out_channels}, axis={self.axis!r}, nodes={self.num_nodes}"


class GraphConv(nn.Module):
    """Base class of MotionAGFormer's graph convolutions (arXiv 2310.16288): relu(x + norm(A V(x) + U(x))).

    The norm is a batch norm over the nodes. Names are the official ones.
    """

    def __init__(self, dim: int, num_nodes: int):
        super().__init__()
        self.U, self.V = Linear(dim, dim), Linear(dim, dim)
        self.batch_norm = nn.BatchNorm1d(num_nodes)
        for linear in (self.U, self.V):
            nn.init.normal_(linear.weight, std=math.sqrt(2 / dim))

    def convolve(self, x: Tensor, conv: Callable[..., Tensor], nodes: Callable[[Tensor], Tensor]):
        """Apply `conv`, the op with its graph, and the norm. `nodes` flattens (B, T, J, C) so that the nodes are dimension
        1."""
        values, root = self.V(x), self.U(x)
        if can_fold(self.batch_norm):
            scale, shift = fold(self.batch_norm)
            return conv(values, root=root, scale=scale, shift=shift, residual=x, relu=True)
        y = conv(values, root=root)
        return (x + self.batch_norm(nodes(y)).view(y.shape)).relu()


class SkeletonGraphConv(GraphConv):
    """MotionAGFormer's graph convolution along the joints of a frame: (B, T, J, C) -> (B, T, J, C).

    Args:
        dim: C. num_joints: J.
        edges: (i, j) if joint i receives from joint j; the graph need not be symmetric.
    """

    def __init__(self, dim: int, num_joints: int, edges: Sequence[tuple[int, int]]):
        super().__init__(dim, num_joints)
        register_graph(self, num_joints, edges)

    def forward(self, x: Tensor) -> Tensor:
        conv = partial(skeleton_graph_conv, neighbours=self.neighbours, weights=self.weights)
        return self.convolve(x, conv, lambda y: y.flatten(0, 1))


class TemporalGraphConv(GraphConv):
    """MotionAGFormer's graph convolution along the frames of a joint, (B, T, J, C) -> (B, T, J, C): every frame receives
    from the k most similar ones.

    Args:
        dim: C. num_frames: T. No other length is accepted, as the batch norm is over frames.
        k, ties: see `lifter.kernels.temporal_topk_graph_conv`.
    """

    def __init__(self, dim: int, num_frames: int, k: int, ties: str = "all"):
        super().__init__(dim, num_frames)
        self.k, self.ties = k, ties

    def forward(self, x: Tensor) -> Tensor:
        conv = partial(temporal_topk_graph_conv, x, k=self.k, ties=self.ties)
        return self.convolve(x, conv, lambda y: y.flatten(2))

    def extra_repr(self):
        return f"k={self.k}, ties={self.ties!r}"


class ChainGraphConv(SkeletonGraphConv):
    """MotionAGFormer's graph convolution along the frames of a joint, (B, T, J, C) -> (B, T, J, C), over a fixed graph: every
    frame receives from itself and the next `reach` frames. T is num_frames."""

    def __init__(self, dim: int, num_frames: int, reach: int = 1):
        edges = [(t, later) for t in range(num_frames) for later in range(t, min(t + reach + 1, num_frames))]
        super().__init__(dim, num_frames, edges)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class HyperGraphConv(SkeletonGraphConv):
    """HGMamba's graph convolution along the joints of a frame (arXiv 2504.06638): relu(x + norm(y + U(x))), where y sums
    messages of the joints of the same body part and of the same limb. (B, T, J, C) -> (B, T, J, C).

    Each of these scales is a projection of G x with a learned, column-normalized G, initialized with the operator of the
    hypergraph. If both scales are used, the fixed graph of the bones is a third one, and each has a learned weight; if neither
    is, the fixed graph is used alone.

    Args:
        dim: C. num_joints: J.
        edges: (i, j) if joint i receives from joint j in the fixed graph.
        parts, body: joints of each body part and of each limb, sequences of sequences. None: omit this scale.
    """

    def __init__(
        self,
        dim: int,
        num_joints: int,
        edges: Sequence[tuple[int, int]],
        parts: Sequence[Sequence[int]] | None = None,
        body: Sequence[Sequence[int]] | None = None,
    ):
        super().__init__(dim, num_joints, edges)
        self.alpha1 = nn.Parameter(torch.ones(1))
        if parts is not None:
            self.p_adj = nn.Parameter(hypergraph(num_joints, parts))
            self.conv_part, self.alpha2 = Pointwise(dim, dim), nn.Parameter(torch.ones(1))
        if body is not None:
            self.b_adj = nn.Parameter(hypergraph(num_joints, body))
            self.conv_body, self.alpha3 = Pointwise(dim, dim), nn.Parameter(torch.ones(1))
        self.scales = tuple(name for name, joints in (("part", parts), ("body", body)) if joints is not None)
        if len(self.scales) < 2:  # present in official checkpoints, but unused
            unread = [p for name, p in self.named_parameters() if name.startswith("alpha")]
            for p in unread + (list(self.V.parameters()) if self.scales else []):
                p.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.scales:
            return super().forward(x)
        scales = [self._scale(x, getattr(self, f"{name[0]}_adj"), getattr(self, f"conv_{name}")) for name in self.scales]
        y = scales[0]
        if len(scales) == 2:
            part, body = scales
            y = self.alpha1 * part + self.alpha2 * body
            y = y + self.alpha3 * skeleton_graph_conv(self.V(x), self.neighbours, self.weights)
        y = y + self.U(x)
        return (x + self.batch_norm(y.flatten(0, 1)).view(y.shape)).relu()

    @staticmethod
    def _scale(x, graph, conv):
        graph = graph / (graph.sum(0) + 0.001)
        return conv(graph.mT @ x)


class AdaptiveGraphConv(nn.Module):
    """Graph convolution over three graphs, each the sum of a known one, a learned one, and the similarity of the joints.

    (B, C_in, T, J) -> (B, C_out, T, J). The similarity of two joints is one number per window.
    """

    known: Tensor

    def __init__(self, in_channels: int, out_channels: int, known: Tensor, drop: float = 0.1):
        super().__init__()
        conv = lambda channels: nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for _ in known)
        inner = out_channels // 4 or 3
        self.register_buffer("known", known, persistent=False)  # a constant of the architecture, not a weight
        self.PA = nn.Parameter(torch.full_like(known, 1e-6))
        self.conv_a, self.conv_b, self.conv_d = conv(inner), conv(inner), conv(out_channels)
        if in_channels != out_channels:
            self.down = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))
        self.bn = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout(drop)
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = 0
        for i, (graph, a, b, d) in enumerate(zip(self.known + self.PA, self.conv_a, self.conv_b, self.conv_d, strict=True)):
            queries, keys = a(x).flatten(1, 2), b(x).flatten(1, 2)
            alike = (queries.mT @ keys / queries.shape[1]).softmax(-2)
            y = y + d((self.sent(x, i).flatten(1, 2) @ (graph + alike)).unflatten(1, x.shape[1:3]))
        return F.relu(self.drop(self.bn(y)) + (self.down(x) if hasattr(self, "down") else x))

    def sent(self, x: Tensor, graph: int):
        """Compute what the joints send over one of the graphs."""
        return x


def hypergraph(num_nodes, edges):
    """Return the operator (N, N) of a hypergraph whose edges are sequences of nodes: D^-1/2 H B^-1 H^T D^-1/2, where H (N, E)
    is the incidence matrix and D and B are the degrees of nodes and edges."""
    if {node for edge in edges for node in edge} != set(range(num_nodes)):
        raise ValueError(f"hypergraph: edges are {edges}, expected every node below {num_nodes} in one")
    nodes = torch.zeros(num_nodes, len(edges))
    for edge, joints in enumerate(edges):
        nodes[list(joints), edge] = 1
    nodes = nodes * nodes.sum(1, keepdim=True) ** -0.5
    return nodes / (nodes > 0).sum(0) @ nodes.mT


def bone_graphs(num_joints: int, bones: Sequence[tuple[int, int]]) -> Tensor:
    """Return three graphs (3, J, J): self loops, along the bones, and against them; the outgoing weights of a joint sum to
    1."""
    along = torch.zeros(num_joints, num_joints)
    for source, target in bones:
        along[target, source] = 1
    return torch.stack([x / x.sum(0).clamp(min=1) for x in (torch.eye(num_joints), along, along.mT)])


def register_graph(module, num_nodes, edges):
    """Register the buffers `neighbours` and `weights` for `lifter.kernels.skeleton_graph_conv`: the adjacency of the edges (i,
    j), where i receives from j, divided by the square roots of both degrees. They are constants of the architecture."""
    senders = [sorted(j for i, j in set(edges) if i == node) for node in range(num_nodes)]
    degrees = [len(nodes) for nodes in senders]
    if not all(0 <= node < num_nodes for edge in edges for node in edge) or 0 in degrees:
        raise ValueError(f"edges are {edges}, expected pairs of joints below {num_nodes} in which each is once the first")
    neighbours = torch.full((num_nodes, max(degrees)), -1, dtype=torch.int32)
    weights = torch.zeros(num_nodes, max(degrees))
    for i, nodes in enumerate(senders):
        neighbours[i, : len(nodes)] = torch.tensor(nodes)
        weights[i, : len(nodes)] = torch.tensor([(degrees[i] * degrees[j]) ** -0.5 for j in nodes])
    module.register_buffer("neighbours", neighbours, persistent=False)
    module.register_buffer("weights", weights, persistent=False)


def both_ways(bones: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return edges in both directions of every bone."""
    return [edge for i, j in bones for edge in ((i, j), (j, i))]


def can_fold(norm):
    """Return whether a batch norm may be folded: it has statistics, is in evaluation mode, and no hook watches it."""
    watched = norm.training or norm._forward_hooks or norm._forward_pre_hooks
    return type(norm) is nn.BatchNorm1d and norm.running_var is not None and not watched


def fold(norm):
    """Return (scale, shift) of a batch norm in evaluation mode."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - scale * norm.running_mean
