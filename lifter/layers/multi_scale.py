"""Graph convolutions of MASC-Pose: along the joints, with learned weights for a joint and its neighbours, and along the frames
at several scales."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lifter.kernels import skeleton_graph_conv, temporal_topk_graph_conv

from .graph_conv import both_ways, can_fold, fold, register_graph
from .linear import Linear


class SAGCN(nn.Module):
    """Skeleton-constrained adaptive graph convolution, equation 1: relu(w_self U(x) + w_nei V(A x)) along the joints of a
    frame, (B, T, J, C) -> (B, T, J, C), where (w_self, w_nei) is the softmax of two learned numbers.

    A is the adjacency without self loops, divided by the square roots of both degrees; w_self weighs the joint itself. V needs
    no bias, as U has one.

    Args:
        dim: C. num_joints: J.
        bones: pairs of connected joints. hops: a joint receives from all joints within this many bones.
        adaptive: if False, w_self = w_nei = 1/2.
    """

    def __init__(self, dim: int, num_joints: int, bones: Sequence[tuple[int, int]], hops: int = 1, adaptive: bool = True):
        super().__init__()
        self.U, self.V = Linear(dim, dim), Linear(dim, dim, bias=False)
        self.balance = nn.Parameter(torch.zeros(2)) if adaptive else None
        register_graph(self, num_joints, within(bones, hops))

    def forward(self, x: Tensor) -> Tensor:
        balance = x.new_zeros(2) if self.balance is None else self.balance
        w_self, w_nei = balance.softmax(0).to(x.dtype)
        # The graph acts on joints and V on channels, so V can come first and the op fuses the rest.
        tail = dict(scale=w_nei.expand(x.shape[2]), residual=w_self * self.U(x), relu=True)
        return skeleton_graph_conv(self.V(x), self.neighbours, self.weights, **tail)


class STGC(nn.Module):
    """Sparse temporal graph convolutions, equations 3 to 9: relu(norm(A V(x) + U(x))) along the frames of a joint, in windows
    of S lengths, (B, T, J, C) -> (B, T, J, S, C).

    A connects each frame with the k frames of the window that have the highest cosine similarity, and is divided by k. The
    norm is MotionAGFormer's batch norm over the frames, here of a window. V needs no bias, as U has one.

    Args:
        dim: C.
        windows: S window sizes in frames; T must be a multiple of each. k: number of frames that a frame receives from.
    """

    def __init__(self, dim: int, windows: Sequence[int], k: int = 2):
        super().__init__()
        if k < 1:
            raise ValueError(f"STGC: k is {k}, expected at least 1")
        self.windows, self.k = tuple(windows), k
        self.U, self.V = Linear(dim, len(windows) * dim), Linear(dim, len(windows) * dim, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(window) for window in windows)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        if any(T % window for window in self.windows):
            raise ValueError(f"STGC: x has {T} frames, expected a multiple of each window in {self.windows}")
        root, values = (linear(x).unflatten(-1, (len(self.windows), -1)) for linear in (self.U, self.V))
        conv = partial(temporal_topk_graph_conv, x, values, self.k, self.windows, "cosine", root=root)
        if all(can_fold(norm) for norm in self.norms):
            folded = zip(*map(fold, self.norms), strict=True)
            scale, shift = (torch.stack([p.repeat(T // len(p)) for p in each], 1) for each in folded)
            return conv(scale=scale, shift=shift, relu=True)
        parts = zip(conv().unbind(3), self.norms, self.windows, strict=True)
        return torch.stack([self._norm(part, norm, window) for part, norm, window in parts], 3).relu()

    def _norm(self, x, norm, window):
        windows = x.unflatten(1, (-1, window)).flatten(3).flatten(0, 1)  # (B * T / window, window, J * C)
        return norm(windows).view(x.shape)

    def extra_repr(self):
        return f"windows={self.windows}, k={self.k}"


class AMTM(nn.Module):
    """Adaptive multi-scale temporal modelling, equations 2 to 10: a weighted sum of `STGC` at S scales. An MLP computes the
    weights of each joint from its mean over the frames. (B, T, J, C) -> (B, T, J, C).

    Args:
        dim, windows, k: see `STGC`.
        adaptive: if False, every weight is 1 / S.
    """

    def __init__(self, dim: int, windows: Sequence[int], k: int = 2, adaptive: bool = True):
        super().__init__()
        self.stgc = STGC(dim, windows, k)
        hidden = max(dim // 4, 1)
        mlp = nn.Sequential(Linear(dim, hidden), nn.ReLU(), Linear(hidden, len(windows)))
        self.selector = mlp if adaptive else None

    def forward(self, x: Tensor) -> Tensor:
        scales = self.stgc(x)
        if self.selector is None:
            return scales.mean(3)
        weights = self.scale_weights(x)
        return (scales * weights[:, None, :, :, None]).sum(3)

    def scale_weights(self, x: Tensor):
        """Return the weights of the scales (B, J, S), which sum to 1 (figure 5 of the paper)."""
        return self.selector(x.mean(1)).softmax(-1)


def within(bones, hops):
    """Return edges (i, j) between different joints that are at most `hops` bones apart."""
    step = both_ways(bones)
    edges = set(step)
    for _ in range(hops - 1):
        edges |= {(i, k) for i, j in edges for j_, k in step if j == j_ and i != k}
    return edges
