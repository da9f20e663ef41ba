"""Fewer frames inside a network than outside: pruned by density peaks, and recovered by attention, as in HoT and HTP."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import density_peak_prune

from .block import check_rate
from .linear import Linear


class DensityPeakPrune(nn.Module):
    """Keeps the same frames for all joints: (B, T, J, C) -> (B, kept, J, C), and their indices (B, kept), ascending.

    The token of a frame is the mean over its joints. The gradient flows through the kept tokens, not through the choice.

    Args:
        k: how many nearest frames make the density, or all of a shorter clip; see `lifter.kernels.density_peak_prune`.
    """

    def __init__(self, k: int = 2):
        super().__init__()
        self.k = k

    def forward(
        self, x: Tensor, kept: int, mask: Tensor | None = None, noise: Tensor | None = None, always: int | None = None
    ):
        """`mask` (B, T, T) and `noise` (B, T): see `lifter.kernels.density_peak_prune`. `always`: a frame that is kept
        whatever its score."""
        indices, scores = density_peak_prune(x.detach().mean(2), kept, min(self.k, x.shape[1]), mask, noise)
        if always is not None:
            scores[:, always] = torch.inf
            indices = scores.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(dim=1).values
        return take_frames(x, indices), indices

    def extra_repr(self):
        return f"k={self.k}"


def take_frames(x: Tensor, indices: Tensor) -> Tensor:
    """The frames `indices` (B, kept) of (B, T, ...)."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], indices]


class FrameRecovery(nn.Module):
    """Attention of learned queries, one per frame, to the frames of each joint: (B, f, J, C) -> (B, T, J, C).

    The queries are the same for all clips and joints, so they are projected once.

    Args:
        dim: C. num_heads: a divisor of C.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        scale: factor of the scores; None is (C / num_heads)^-0.5.
        attn_drop, proj_drop: dropout of the attention weights and of the result, in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"FrameRecovery: dim is {dim}, expected a multiple of num_heads={num_heads}")
        check_rate("FrameRecovery", "attn_drop", attn_drop)
        self.num_heads, self.scale, self.attn_drop = num_heads, scale, attn_drop
        self.linear_q, self.linear_k, self.linear_v = (Linear(dim, dim, bias=qkv_bias) for _ in range(3))
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, queries: Tensor, x: Tensor, frames: int) -> Tensor:
        """`queries`: (1, N, C), of which the first T = `frames` ask. (They come whole: FlopCounterMode fails on a module that
        is given a view of a parameter without gradients.)"""
        heads = lambda y: y.unflatten(-1, (self.num_heads, -1))
        q = heads(self.linear_q(queries)[:, None, :frames]).transpose(2, 3)  # (1, 1, H, T, D)
        k, v = (heads(y).permute(0, 2, 3, 1, 4) for y in (self.linear_k(x), self.linear_v(x)))  # (B, J, H, f, D)
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        weights = (q * scale @ k.mT).softmax(-1)  # not torch's attention, which FlopCounterMode misses on the CPU
        out = F.dropout(weights, self.attn_drop, self.training) @ v
        out = out.permute(0, 3, 1, 2, 4).flatten(3)
        return queries[:, :frames, None] + self.proj_drop(self.proj(out))

    def extra_repr(self):
        return f"heads={self.num_heads}, scale={self.scale}, attn_drop={self.attn_drop}"
