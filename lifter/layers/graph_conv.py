"""Graph convolution along the joints or the frames of a clip, by the skeleton or by a graph that is partly learned."""

import torch
import torch.nn.functional as F
from torch import nn


def known_graph(name, num_nodes, edges):
    """(N, N) bool, both directions of every edge; ValueError in the name of the layer for edges that are none."""
    known = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
    for i, j in edges:
        if not (0 <= i < num_nodes and 0 <= j < num_nodes and i != j):
            raise ValueError(f"{name}: edges has ({i}, {j}), expected two different nodes below {num_nodes}")
        known[i, j] = known[j, i] = True
    return known


def partly_learned(known, learned):
    """The symmetric part of (known + learned), both (N, N); the neighbours of a node share a known weight of 1."""
    known = known.to(learned.dtype)
    graph = known / known.sum(1, keepdim=True).clamp(min=1) + learned
    return (graph + graph.mT) / 2


class SkeletonGCN(nn.Module):
    """MotionAGFormer's graph convolution over the bones, ReLU(x + BatchNorm(A V(x) + U(x))): (B, T, J, C) -> (B, T, J, C).

    A joins neighbours, with weight 1 / sqrt(the number of the one's neighbours times that of the other's). The statistics of
    BatchNorm are those of a joint.

    Args:
        dim: C. num_joints: J. bones: pairs of joints.
    """

    def __init__(self, dim, num_joints, bones):
        super().__init__()
        known = known_graph("SkeletonGCN", num_joints, bones).float()
        root = known.sum(1).clamp(min=1).sqrt()
        self.register_buffer("adjacency", known / root / root[:, None], persistent=False)  # a constant
        self.U, self.V = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(num_joints)

    def forward(self, x):
        y = self.adjacency.to(x.dtype) @ self.V(x) + self.U(x)
        return F.relu(x + self.norm(y.flatten(0, 1)).view(x.shape))


class LearnedGraphConv(nn.Module):
    """Graph convolution of KTPFormer (arXiv 2404.00658) along one axis: (B, T, J, C_in) -> (B, T, J, C_out).

    Every node sums what it makes of itself and what the other nodes send, weighted by the graph (known + learned),
    symmetrised: y_i = G_ii M_i * (W_0 x_i) + sum over j != i of G_ij M_j * (W_1 x_j) + bias. The known part shares a
    weight of 1 among the neighbours of a node, and adds 1 for the node itself.

    Along frames the clip may be shorter than the graph: it takes the first T nodes, whose known part is that of a graph
    of T nodes.

    Args:
        in_channels, out_channels: C_in, C_out.
        axis: "joint", the joints of a frame are the nodes, or "frame", the frames of a joint.
        num_nodes: J, or the longest T.
        edges: pairs of different nodes that the known part connects.
    """

    def __init__(self, in_channels, out_channels, axis, num_nodes, edges):
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

    def forward(self, x):
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

    def graph(self, n):
        """(n, n), the symmetric graph of the first n nodes."""
        itself = torch.eye(n, dtype=self.adj2.dtype, device=self.adj2.device)
        return partly_learned(self.known[:n, :n], self.adj2[:n, :n]) + itself

    def extra_repr(self):
        _, in_channels, out_channels = self.W.shape
        return f"{in_channels}, {out_channels}, axis={self.axis!r}, nodes={self.num_nodes}"
