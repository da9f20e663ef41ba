"""PoseFormer: a transformer over the joints of each frame, then one over the frames, for the pose of the frame in the centre.

ICCV 2021, arXiv 2103.10455.
"""

import torch
from torch import Tensor, nn

from lifter.layers import AxialAttention, Linear, TransformerBlock

from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, windows


def transformer(
    axis: str,
    depth: int,
    dim: int,
    num_heads: int,
    mlp_ratio: float,
    qkv_bias: bool,
    qk_scale: float,
    drop: float,
    attn_drop: float,
    drop_path: float,
):
    """`depth` blocks of attention along one axis, whose stochastic depth grows linearly from 0 to `drop_path`."""
    rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
    attention = lambda: AxialAttention(dim, num_heads, axis, qkv_bias, qk_scale, attn_drop, drop)
    return nn.ModuleList(TransformerBlock(dim, attention(), mlp_ratio, drop, rate) for rate in rates)


class PoseFormer(nn.Module):
    """PoseFormer: attention along the joints of every frame, then along the frames, whose weighted mean is lifted.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames: the poses in the centres of all windows.
    Attention along the joints of a frame runs once for all windows that have it.

    Args:
        num_frames: frames of a window. num_joints, in_channels: J, channels of a keypoint.
        dim: width of a joint; that of a frame is J times as many.
        depth, num_heads, mlp_ratio: blocks of either transformer, heads, hidden width of the MLPs by the width.
        qkv_bias, qk_scale: see `lifter.layers.AxialAttention`.
        drop, attn_drop, drop_path: see `lifter.models.MixSTE`.
    """

    def __init__(
        self,
        num_frames: int = 81,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 32,
        depth: int = 4,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.1,
    ):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.margins = margins_around_centre(num_frames)
        options = num_heads, mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, drop_path
        width = num_joints * dim
        self.Spatial_patch_to_embedding = Linear(in_channels, dim)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, num_joints, dim))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, num_frames, width))
        self.pos_drop = nn.Dropout(drop)
        self.Spatial_blocks = transformer("joint", depth, dim, *options)
        self.blocks = transformer("frame", depth, width, *options)
        self.Spatial_norm = nn.LayerNorm(dim, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(width, eps=1e-6)
        self.weighted_mean = nn.Conv1d(num_frames, 1, 1)
        self.head = nn.Sequential(nn.LayerNorm(width), Linear(width, num_joints * 3))

    def forward(self, keypoints: Tensor) -> Tensor:
        check_clip(self, keypoints)
        x = self.Spatial_patch_to_embedding(keypoints.to(self.Spatial_pos_embed.dtype))
        x = self.pos_drop(x + self.Spatial_pos_embed)
        for block in self.Spatial_blocks:
            x = block(x)
        x = windows(self.Spatial_norm(x).flatten(2), self.num_frames)
        x = self.pos_drop(x + self.Temporal_pos_embed)[:, :, None]
        for block in self.blocks:
            x = block(x)
        x = self.head(self.weighted_mean(self.Temporal_norm(x)[:, :, 0]))
        return poses_of_windows(self, x, keypoints).unflatten(-1, (self.num_joints, 3)).to(keypoints.dtype)


@register_model
def poseformer(**kwargs):
    """PoseFormer: 4 blocks along the joints of width 32, 4 along 81 frames, one pose, 9.60 M parameters."""
    return PoseFormer(**kwargs)


@register_official("common.model_poseformer.PoseTransformer", tolerance=1e-5)
def official_poseformer(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=32, depth=4, num_heads=8, mlp_ratio=2.0, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.2,
):  # fmt: skip
    return PoseFormer(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, num_heads, mlp_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale,
        drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate,
    )  # fmt: skip
