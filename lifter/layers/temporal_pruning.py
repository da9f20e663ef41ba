"""HTP's hierarchical temporal pruning (arXiv 2508.21363), three modules for any host of (B, T, J, C) maps.

TCEP finds which frames of a joint belong together, SFT attends along those, MGPTP keeps the frames that stand for the
others; `FrameRecovery` brings all frames back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import temporal_graph_conv, topk_temporal_mask, unpack_mask

from .axial_attention import AxialAttention
from .block import TransformerBlock
from .graph_conv import known_graph, partly_learned
from .linear import Linear
from .prune import DensityPeakPrune


class TCEP(nn.Module):
    """Temporal correlation-enhanced pruning: (B, T, J, C) -> (B, T, J, C), and the mask of every joint's frames.

    X_j + GELU(B_j X_j W) for the frames X_j of a joint. B_j is the softmax of X_j X_j^T / sqrt(C) over the frames that are
    in the mask, times the graph of the frames that all joints share: a chain, plus what is learned, symmetrised.

    The mask is that of `lifter.kernels.topk_temporal_mask`, (B, J, T, ceil(T / 32)) int32; nothing has a gradient through the
    choice. A shorter clip has the graph of its own length, with the first T rows and columns of what was learned.

    Args:
        dim: C. num_frames: the longest T.
    """

    chain: Tensor

    def __init__(self, dim: int, num_frames: int):
        super().__init__()
        chain = known_graph("TCEP", num_frames, [(t, t + 1) for t in range(num_frames - 1)])
        self.register_buffer("chain", chain, persistent=False)  # a constant of the architecture, not a weight
        self.topology = nn.Parameter(torch.full((num_frames, num_frames), 1e-6))
        self.proj = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, k: int | None = None):
        """`k`: how many frames every frame selects; None: two thirds of them."""
        frames = x.shape[1]
        if frames > len(self.chain):
            raise ValueError(f"TCEP: x has {frames} frames, expected at most num_frames={len(self.chain)}")
        mask = topk_temporal_mask(x, max(1, 2 * frames // 3) if k is None else k)
        graph = partly_learned(self.chain[:frames, :frames], self.topology[:frames, :frames])
        return x + F.gelu(self.proj(temporal_graph_conv(x, graph, mask))), mask

    def extra_repr(self):
        return f"frames={len(self.chain)}"


class SFT(TransformerBlock):
    """Sparse-focused temporal attention: a block whose attention along the frames of a joint sees what `mask` shows.

    (B, T, J, C) -> (B, T, J, C); `forward(x, mask=...)` with TCEP's mask, or without.

    Args:
        dim: C. num_heads: a divisor of C. mlp_ratio: hidden width of the MLP by dim. drop, drop_path: see `TransformerBlock`.
        attention: `qkv_bias`, `scale`, `attn_drop`, see `AxialAttention`.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 2.0, drop: float = 0.0, drop_path: float = 0.0, **attention
    ):
        mixer = AxialAttention(dim, num_heads, "frame", proj_drop=drop, **attention)
        super().__init__(dim, mixer, mlp_ratio, drop, drop_path)


class MGPTP(DensityPeakPrune):
    """Mask-guided pose token pruner: keeps the same frames for all joints, (B, T, J, C) -> (B, kept, J, C), and their indices
    (B, kept), ascending.

    Pairs of frames that no joint's graph has are farther than any other, and frames that many graphs have count as denser;
    see `lifter.kernels.density_peak_prune`. The gradient flows through the kept tokens.

    Args:
        k: how many nearest frames, itself among them, make the density of a frame.
    """

    def forward(self, x: Tensor, kept: int, mask: Tensor | None = None, noise: Tensor | None = None):
        """`mask`: TCEP's, or None: of the tokens alone. `noise` (B, T): see `density_peak_prune`."""
        mean = None if mask is None else unpack_mask(mask, x.shape[1]).float().mean(1)
        return super().forward(x, kept, mean, noise)
