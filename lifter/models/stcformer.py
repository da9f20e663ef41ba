"""STCFormer: 3D human pose estimation with spatio-temporal criss-cross attention.

CVPR 2023.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import axial_attention
from lifter.layers import DropPath, Linear, Mlp, ReorderedLinear

from ._inputs import check_keypoints
from ._register import register_model, register_official

# The part of each joint of Human3.6M: torso and head, right leg, left leg, left arm, right arm.
BODY_PARTS = (0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 4, 4, 4)


class CrissCrossAttention(nn.Module):
    """Attention along the joints on half of the channels and along the frames on the others: (B, T, J, C) -> (B, T, J, C).

    Each half adds its structure-enhanced position embedding: a depthwise 3x3 convolution of the values over frames and
    joints, and what is learned of the joint's body part. The latter is scaled as in the official code, to nothing: by 1e-4
    and 1e-9.
    """

    def __init__(self, dim: int, num_heads: int, parts: Sequence[int]):
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"CrissCrossAttention: dim is {dim}, expected a multiple of 2 * num_heads = {2 * num_heads}")
        half = dim // 2
        self.scale = half**-0.5  # scale of the half, not of a head
        self.layer_norm = nn.LayerNorm(dim)
        # The official rows are those of a channel's query, key and value in turn.
        self.qkv = ReorderedLinear(dim, 3 * dim, torch.arange(3 * dim).view(2, half, 3).transpose(1, 2).flatten())
        self.num_heads = num_heads
        self.emb = nn.Embedding(5, half // num_heads)
        self.sep2_s, self.sep2_t = (nn.Conv2d(half, half, 3, padding=1, groups=half) for _ in range(2))
        self.drop = DropPath(0.5)
        self.proj = Linear(dim, dim)
        self.register_buffer("part", torch.tensor(parts), persistent=False)  # a constant of the architecture

    def forward(self, x: Tensor) -> Tensor:
        part = self.emb(self.part)[None]
        qkv_of_halves = self.qkv(self.layer_norm(x)).unflatten(-1, (2, 3, self.num_heads, -1)).unbind(3)
        halves = []
        for qkv, axis, conv, scale in zip(
            qkv_of_halves, ("joint", "frame"), (self.sep2_s, self.sep2_t), (1e-4, 1e-9), strict=True
        ):
            values = qkv[..., 2, :, :].flatten(3)
            near = conv(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            heads = (axial_attention(qkv, axis, scale=self.scale) + near).unflatten(-1, qkv.shape[-2:])
            halves.append(heads + scale * self.drop(part)[:, :, None])
        return x + self.proj(torch.cat(halves, -1).flatten(3))


class STCBlock(nn.Module):
    """x + attention, then x + MLP; the attention has the first norm inside."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, parts: Sequence[int], drop: float):
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop, bias=False)
        self.stc_att = CrissCrossAttention(dim, num_heads, parts)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stc_att(x)
        return x + self.mlp(self.layer_norm(x))


class STCFormer(nn.Module):
    """STCFormer: attention along joints and along frames side by side, each on half of the channels.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T: no weight depends on it.

    Args:
        num_frames: T of the training.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, num_heads, mlp_ratio: width, blocks, heads of each half, hidden width of the MLPs by dim.
        parts: the body part of each joint, 0 to 4. None: those of Human3.6M, for 17 joints.
        drop: dropout of the MLPs.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 256,
        depth: int = 6,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        parts: Sequence[int] | None = None,
        drop: float = 0.1,
    ):
        super().__init__()
        parts = BODY_PARTS if parts is None else tuple(parts)
        if len(parts) != num_joints or not set(parts) <= set(range(5)):
            raise ValueError(f"STCFormer: parts are {parts}, expected a number from 0 to 4 for each of {num_joints} joints")
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.pose_emb = Linear(in_channels, dim, bias=False)
        blocks = nn.ModuleList(STCBlock(dim, num_heads, mlp_ratio, parts, drop) for _ in range(depth))
        self.stcformer = nn.ModuleDict({"stc_block": blocks})  # the official names
        self.regress_head = Linear(dim, 3, bias=False)

    def forward(self, keypoints: Tensor) -> Tensor:
        check_keypoints("STCFormer", keypoints, None, self.num_joints, self.in_channels)
        x = F.gelu(self.pose_emb(keypoints.to(self.pose_emb.weight.dtype)))
        for block in self.stcformer["stc_block"]:
            x = block(x)
        return self.regress_head(x).to(keypoints.dtype)


@register_model
def stcformer(**kwargs):
    """STCFormer: 6 blocks of criss-cross attention of width 256, 4.75 M parameters."""
    return STCFormer(**kwargs)


@register_model
def stcformer_l(**kwargs):
    """STCFormer-L: 6 blocks of criss-cross attention of width 512, 18.93 M parameters."""
    return STCFormer(**{"dim": 512} | kwargs)


@register_official("model.stcformer.Model", tolerance=1e-5)
def official_stcformer(layers=6, d_hid=256, frames=243, n_joints=17, out_joints=17):
    return STCFormer(frames, n_joints, dim=d_hid, depth=layers)
