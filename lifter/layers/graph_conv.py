"""Graph convolution along the joints or the frames of a clip, with a graph that is part known and part learned."""

import torch
from torch import nn


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
        known = torch.zeros(num_nodes, num_nodes, dtype=torch.bool)
        for i, j in edges:
            if not (0 <= i < num_nodes and 0 <= j < num_nodes and i != j):
                raise ValueError(f"LearnedGraphConv: edges has ({i}, {j}), expected two different nodes below {num_nodes}")
            known[i, j] = known[j, i] = True
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
        known = self.known[:n, :n].to(self.adj2.dtype)
        known = known / known.sum(1, keepdim=True).clamp(min=1)
        graph = known + torch.eye(n, dtype=known.dtype, device=known.device) + self.adj2[:n, :n]
        return (graph + graph.mT) / 2

    def extra_repr(self):
        _, in_channels, out_channels = self.W.shape
        return f"{in_channels}, {out_channels}, axis={self.axis!r}, nodes={self.num_nodes}"
