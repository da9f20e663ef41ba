"""MixSTE: seq2seq mixed spatio-temporal encoder for 3D human pose estimation in video.

CVPR 2022, arXiv 2203.00859. And the network around its blocks, into which PoseRetNet, PoseMamba and SasMamba put others.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lifter.layers import AxialAttention, Linear, TransformerBlock

from ._inputs import check_keypoints
from ._register import register_model, register_official


class Alternating(nn.Module):
    """The network that MixSTE, PoseRetNet, PoseMamba and SasMamba share: (B, T, J, in_channels) -> (B, T, J, 3).

    Joint embedding, then `depth` pairs of a spatial and a temporal block. Each kind has one norm that follows its blocks,
    shared over the depth. The temporal position is added once, between the first two blocks.

    Args:
        spatial, temporal: make one block, a module (B, T, J, C) -> (B, T, J, C), from its rate of stochastic depth.
        num_frames: longest clip, the length of the temporal position; None: no such position, and clips of any length.
        num_joints, in_channels, dim, depth: J, channels of a keypoint, C, pairs of blocks.
        drop, drop_path: dropout of the embedding; stochastic depth of the last pair, growing linearly from 0.
    """

    def __init__(
        self,
        spatial: Callable[..., nn.Module],
        temporal: Callable[..., nn.Module],
        num_frames: int,
        num_joints: int,
        in_channels: int,
        dim: int,
        depth: int,
        drop: float,
        drop_path: float,
    ):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.Spatial_patch_to_embedding = Linear(in_channels, dim)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, num_joints, dim))
        position = None if num_frames is None else nn.Parameter(torch.zeros(1, num_frames, dim))
        self.register_parameter("Temporal_pos_embed", position)
        self.pos_drop = nn.Dropout(drop)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.STEblocks = nn.ModuleList(spatial(rate) for rate in rates)
        self.TTEblocks = nn.ModuleList(temporal(rate) for rate in rates)
        self.Spatial_norm = nn.LayerNorm(dim, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(dim), Linear(dim, 3))

    def forward(self, keypoints: Tensor, **temporal_args) -> Tensor:
        """`temporal_args` go to every temporal block."""
        return self._lift(self._embed(keypoints), **temporal_args).to(keypoints.dtype)

    def _lift(self, x, **temporal_args):
        """Blocks and head on embedded keypoints, (B, T, J, C) -> (B, T, J, 3)."""
        for i, (spatial, temporal) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            x = self.Spatial_norm(spatial(x))
            if i == 0 and self.Temporal_pos_embed is not None:
                x = self.pos_drop(x + self.Temporal_pos_embed[:, : x.shape[1], None])
            x = self.Temporal_norm(temporal(x, **temporal_args))
        return self.head(x)

    def _embed(self, keypoints):
        check_keypoints(type(self).__name__, keypoints, self.num_frames, self.num_joints, self.in_channels)
        x = self.Spatial_patch_to_embedding(keypoints.to(self.Spatial_pos_embed.dtype))
        return self.pos_drop(x + self.Spatial_pos_embed)


class MixSTE(Alternating):
    """MixSTE: attention along the joints of every frame and along the frames of every joint, in turn.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames. `forward(keypoints, mask=...)` restricts the temporal
    attention, see `lifter.kernels.axial_attention`.

    Args:
        num_frames: longest clip; the length of the temporal position embedding.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, num_heads, mlp_ratio: width, pairs of blocks, heads, hidden width of the MLPs by dim.
        qkv_bias, qk_scale: see `lifter.layers.AxialAttention`.
        temporal_mixer: makes the mixer of one temporal block, any module (B, T, J, C) -> (B, T, J, C), for example
            `partial(lifter.layers.SkeletonMixer, 512)`. None: attention along the frames.
        drop, attn_drop, drop_path: dropout of embedding and blocks; of attention weights; stochastic depth of the last
            pair, growing linearly from 0.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        temporal_mixer: Callable[..., nn.Module] | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.1,
    ):
        attention = partial(
            AxialAttention, dim, num_heads, qkv_bias=qkv_bias, scale=qk_scale, attn_drop=attn_drop, proj_drop=drop
        )
        temporal_mixer = temporal_mixer or partial(attention, "frame")
        spatial = lambda rate: TransformerBlock(dim, attention("joint"), mlp_ratio, drop, rate)
        temporal = lambda rate: TransformerBlock(dim, temporal_mixer(), mlp_ratio, drop, rate)
        super().__init__(spatial, temporal, num_frames, num_joints, in_channels, dim, depth, drop, drop_path)


@register_model
def mixste(**kwargs):
    """MixSTE: 8 block pairs of width 512, 33.78 M parameters."""
    return MixSTE(**kwargs)


@register_official("common.model_cross.MixSTE2", tolerance=1e-5)
def official_mixste(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=32, depth=4, num_heads=8, mlp_ratio=2.0, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.2,
):  # fmt: skip
    return MixSTE(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, num_heads, mlp_ratio, qkv_bias, qk_scale,
        drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate,
    )  # fmt: skip
