"""MHFormer: three hypotheses of a clip, each refined by itself, then each by the other two.

CVPR 2022, arXiv 2111.12707.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import AxialAttention, DropPath, Linear, Mlp, TransformerBlock

from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, windows

NORM = {"eps": 1e-6}


class HypothesisEncoder(nn.Module):
    """A transformer whose tokens are the coordinates of the joints, and whose channels are the frames: (B, J * 2, T)."""

    def __init__(
        self, frames: int, tokens: int, depth: int = 4, num_heads: int = 9, drop: float = 0.1, drop_path: float = 0.2
    ):
        super().__init__()
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        attention = lambda: AxialAttention(frames, num_heads, "joint", proj_drop=drop)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, frames))
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(TransformerBlock(frames, attention(), 2.0, drop, rate) for rate in rates)
        self.norm = nn.LayerNorm(frames, **NORM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos_drop(x + self.pos_embed)[:, None]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class SelfRefinement(nn.Module):
    """Attention within each hypothesis, then one MLP over all three: three (B, T, C) -> three of the same shape."""

    def __init__(self, dim: int, num_heads: int, hidden: int, drop: float, drop_path: float):
        super().__init__()
        for i in (1, 2, 3):
            self.add_module(f"norm1_{i}", nn.LayerNorm(dim, **NORM))
            self.add_module(f"attn_{i}", AxialAttention(dim, num_heads, "frame", proj_drop=drop))
        self.norm2, self.mlp = nn.LayerNorm(3 * dim, **NORM), Mlp(3 * dim, hidden, drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, hypotheses):
        refined = [x + self.drop_path(self._attend(i, x)) for i, x in enumerate(hypotheses, 1)]
        x = torch.cat(refined, -1)
        return (x + self.drop_path(self.mlp(self.norm2(x)))).chunk(3, -1)

    def _attend(self, i, x):
        return getattr(self, f"attn_{i}")(getattr(self, f"norm1_{i}")(x)[:, :, None])[:, :, 0]


class CrossAttention(nn.Module):
    """Attention along the frames whose queries, keys and values are of three hypotheses: three (B, T, C) -> (B, T, C)."""

    def __init__(self, dim: int, num_heads: int, drop: float):
        super().__init__()
        self.num_heads = num_heads
        self.linear_q, self.linear_k, self.linear_v, self.proj = (Linear(dim, dim) for _ in range(4))
        self.proj_drop = nn.Dropout(drop)

    def forward(self, *hypotheses):
        layers = self.linear_q, self.linear_k, self.linear_v
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer, x in zip(layers, hypotheses))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(x))


class CrossInteraction(nn.Module):
    """Each hypothesis attends where the other two agree, which are new already if they came before; then one MLP over all.

    Nobody attends to the last one nor to what the MLP makes: of both only the frames `wanted` are computed.
    """

    def __init__(self, dim: int, num_heads: int, hidden: int, drop: float, drop_path: float):
        super().__init__()
        for i in (1, 2, 3):
            self.add_module(f"attn_{i}", CrossAttention(dim, num_heads, drop))
            for role in (1, 2, 3):  # of queries, keys and values
                self.add_module(f"norm3_{i}{role}", nn.LayerNorm(dim, **NORM))
        self.norm2, self.mlp = nn.LayerNorm(3 * dim, **NORM), Mlp(3 * dim, hidden, drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, hypotheses, wanted):
        first, second, third = hypotheses
        first = first + self._attend(1, second, third, first)
        second = second + self._attend(2, first, third, second)
        third = third[:, wanted] + self._attend(3, first[:, wanted], second, third)
        x = torch.cat([first[:, wanted], second[:, wanted], third], -1)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, i, *hypotheses):
        normed = (getattr(self, f"norm3_{i}{role}")(x) for role, x in enumerate(hypotheses, 1))
        return self.drop_path(getattr(self, f"attn_{i}")(*normed))


class Refinement(nn.Module):
    """`depth` - 1 blocks of self-refinement and one of interaction: three (B, T, C) -> (B, frames `wanted`, 3 C)."""

    def __init__(self, frames: int, dim: int, hidden: int, depth: int, num_heads: int, drop: float, drop_path: float):
        super().__init__()
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        for i in (1, 2, 3):
            self.register_parameter(f"pos_embed_{i}", nn.Parameter(torch.zeros(1, frames, dim)))
        self.pos_drop = nn.Dropout(drop)
        self.SHR_blocks = nn.ModuleList(SelfRefinement(dim, num_heads, hidden, drop, rate) for rate in rates[:-1])
        self.CHI_blocks = nn.ModuleList([CrossInteraction(dim, num_heads, hidden, drop, rates[-1])])
        self.norm = nn.LayerNorm(3 * dim, **NORM)

    def forward(self, hypotheses, wanted):
        x = [self.pos_drop(x + getattr(self, f"pos_embed_{i}")) for i, x in enumerate(hypotheses, 1)]
        for block in self.SHR_blocks:
            x = block(x)
        return self.norm(self.CHI_blocks[0](x, wanted))


class MHFormer(nn.Module):
    """MHFormer: encoders that each add to the hypothesis before them, embeddings, and blocks that refine the hypotheses.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames: the poses in the centres of all windows,
    by which the paper judges. In training all frames of a window, (B, num_frames, J, 3): its loss is on all.

    Args:
        num_frames: frames of a window, a multiple of 9, the heads of the encoders. num_joints, in_channels: J, channels of a
            keypoint.
        dim, hidden, depth, num_heads: width of a hypothesis, hidden width of the MLP over all three, blocks, heads.
        drop, drop_path: dropout; stochastic depth of the last block, growing linearly from 0.
    """

    def __init__(
        self,
        num_frames: int = 351,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        hidden: int = 1024,
        depth: int = 3,
        num_heads: int = 8,
        *,
        drop: float = 0.1,
        drop_path: float = 0.2,
    ):
        super().__init__()
        if num_frames % 9:
            raise ValueError(f"MHFormer: num_frames is {num_frames}, expected a multiple of 9, the heads of its encoders")
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.margins = margins_around_centre(num_frames)
        tokens = num_joints * in_channels
        for i in (1, 2, 3):
            self.add_module(f"norm_{i}", nn.LayerNorm(num_frames))
            self.add_module(f"Transformer_encoder_{i}", HypothesisEncoder(num_frames, tokens, drop=drop, drop_path=drop_path))
            embedding = nn.Conv1d(tokens, dim, 1)
            if num_frames <= 27:
                embedding = nn.Sequential(embedding, nn.BatchNorm1d(dim, momentum=0.1), nn.ReLU(), nn.Dropout(0.25))
            self.add_module(f"embedding_{i}", embedding)
        self.Transformer_hypothesis = Refinement(num_frames, dim, hidden, depth, num_heads, drop, drop_path)
        self.regression = nn.Sequential(nn.BatchNorm1d(3 * dim, momentum=0.1), nn.Conv1d(3 * dim, 3 * num_joints, 1))

    def forward(self, keypoints: Tensor) -> Tensor:
        if self.training:
            return self.lift_all(keypoints)
        centre = self.margins[0]
        poses = self._regressed(self._refined(keypoints, slice(centre, centre + 1)))
        return poses_of_windows(self, poses, keypoints).to(keypoints.dtype)

    def lift_all(self, keypoints: Tensor):
        """Lift all frames of each window: (B * N, num_frames, J, 3)."""
        return self._regressed(self._refined(keypoints, slice(None))).to(keypoints.dtype)

    def _refined(self, keypoints, wanted):
        """(B * N, frames `wanted`, 3 C) of all windows."""
        check_clip(self, keypoints)
        x, hypotheses = windows(keypoints.flatten(2).to(self.norm_1.weight.dtype), self.num_frames).mT, []
        for i in (1, 2, 3):
            x = x + getattr(self, f"Transformer_encoder_{i}")(getattr(self, f"norm_{i}")(x))
            hypotheses.append(getattr(self, f"embedding_{i}")(x).mT)
        return self.Transformer_hypothesis(hypotheses, wanted)

    def _regressed(self, x):
        return self.regression(x.mT).mT.unflatten(-1, (self.num_joints, 3))


@register_model
def mhformer(**kwargs):
    """MHFormer: three hypotheses of 351 frames of width 512, one pose, 31.52 M parameters."""
    return MHFormer(**kwargs)


@register_official("model.mhformer.Model", tolerance=2e-5, run=lambda model, keypoints: model.lift_all(keypoints))
def official_mhformer(layers=3, channel=512, d_hid=1024, frames=351, n_joints=17, out_joints=17):
    """The official code has as many joints out as in."""
    return MHFormer(frames, n_joints, 2, channel, d_hid, layers)
