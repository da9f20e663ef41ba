"""TCPFormer: learning temporal correlation with implicit pose proxy for 3D human pose estimation.

AAAI 2025, arXiv 2501.01770. Its network is called MemoryInducedTransformer.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import axial_attention
from lifter.layers import AxialAttention, DropPath, Linear, Mlp, ScaledBlock

from ._register import register_model, register_official
from .motionagformer import DualStream, TwoStreams, attentions

CLIP_PARTS = 3  # of a clip


class CrossAttention(nn.Module):
    """Attention along the frames of one clip to those of another: (B, N, J, C) and (B, M, J, C) -> (B, N, J, C), and the
    weights, (B, J, H, N, M)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"CrossAttention: dim is {dim}, expected a multiple of num_heads={num_heads}")
        self.num_heads, self.scale, self.attn_drop = num_heads, scale, attn_drop
        self.wq, self.wk, self.wv = (Linear(dim, dim, bias=qkv_bias) for _ in range(3))
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x, memory):
        q, k, v = (frames_last(y, self.num_heads) for y in (self.wq(x), self.wk(memory), self.wv(memory)))
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        weights = F.dropout((q * scale @ k.mT).softmax(-1), self.attn_drop, self.training)
        return self.proj_drop(self.proj(joints_last(weights @ v))), weights


class ProxyAttention(AxialAttention):
    """Attention along the frames, of which the share 1 - `share` goes through the proxies: to them with the weights `there`,
    (B, J, H, N, T), and `back`, (B, J, H, T, N).

    The official code makes one matrix T x T of both and adds it to the attention's; dropout of that sum is left out.
    """

    def forward(self, x, there, back, share):
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        dropout_p = self.attn_drop if self.training else 0.0
        direct = axial_attention(qkv, "frame", None, self.scale, dropout_p)
        v = qkv[:, :, :, 2].permute(0, 2, 3, 1, 4)
        through = joints_last(back @ (there @ v))
        return self.proj_drop(self.proj(share * direct + (1 - share) * through))


class ProxyInteraction(nn.Module):
    """Proxies, (B, N, J, C), look at the clip, (B, T, J, C), and the clip at them; then the clip at itself, twice, the
    second time also through them. Returns both."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, layer_scale: float, drop: float, drop_path: float, **attention
    ):
        super().__init__()
        self.norm_full, self.norm_center = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.center_full = CrossAttention(dim, num_heads, **attention)
        self.full_center = CrossAttention(dim, num_heads, **attention)
        self.map_sa_self = AxialAttention(dim, num_heads, "frame", **attention)
        self.map_sum = ProxyAttention(dim, num_heads, "frame", **attention)
        for name in ("norm_1", "norm_2", "norm_sa_self", "norm_mlp_self", "norm_sa_1", "norm_sa_2"):
            setattr(self, name, nn.LayerNorm(dim))
        for name in ("mlp_1", "mlp_2", "mlp_sa_self", "mlp_sa"):
            setattr(self, name, Mlp(dim, int(dim * mlp_ratio), drop))
        for i in range(1, 9):
            self.register_parameter(f"layer_scale_{i}", nn.Parameter(torch.full((dim,), layer_scale)))
        self.att_weight = nn.Parameter(torch.rand(1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x, proxies):
        looked, there = self.center_full(self.norm_center(proxies), self.norm_full(x))
        proxies = proxies + self.drop_path(self.layer_scale_1 * looked)
        proxies = proxies + self.drop_path(self.layer_scale_2 * self.mlp_1(self.norm_1(proxies)))
        looked, back = self.full_center(self.norm_full(x), self.norm_center(proxies))
        x = x + self.drop_path(self.layer_scale_3 * looked)
        x = x + self.drop_path(self.layer_scale_4 * self.mlp_2(self.norm_2(x)))
        x = x + self.drop_path(self.layer_scale_7 * self.map_sa_self(self.norm_sa_self(x)))
        x = x + self.drop_path(self.layer_scale_8 * self.mlp_sa_self(self.norm_mlp_self(x)))
        mixed = self.map_sum(self.norm_sa_1(x), there, back, self.att_weight.sigmoid())
        x = x + self.drop_path(self.layer_scale_5 * mixed)
        return x + self.drop_path(self.layer_scale_6 * self.mlp_sa(self.norm_sa_2(x))), proxies


class TemporalLayer(nn.Module):
    """A block of attention for each third of the clip, then `ProxyInteraction`. The names are the official ones.

    The scales of those three blocks are in no official checkpoint and are trained by nobody: constants.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, layer_scale: float, drop: float, drop_path: float, **attention
    ):
        super().__init__()
        self.layer_scale = layer_scale
        self.local_attention_list = nn.ModuleList(
            AxialAttention(dim, num_heads, "frame", **attention) for _ in range(CLIP_PARTS)
        )
        self.loacl_mlps = nn.ModuleList(Mlp(dim, int(dim * mlp_ratio), drop) for _ in range(CLIP_PARTS))
        self.local_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * CLIP_PARTS))
        self.drop_path = DropPath(drop_path)
        self.cross_temporal = ProxyInteraction(dim, num_heads, mlp_ratio, layer_scale, drop, drop_path, **attention)

    def forward(self, x, proxies):
        parts = []
        for i, part in enumerate(x.chunk(CLIP_PARTS, 1)):
            part = part + self.drop_path(self.layer_scale * self.local_attention_list[i](self.local_norms[i](part)))
            part = part + self.drop_path(self.layer_scale * self.loacl_mlps[i](self.local_norms[CLIP_PARTS + i](part)))
            parts.append(part)
        return self.cross_temporal(torch.cat(parts, 1), proxies)


class TCPFormer(TwoStreams):
    """TCPFormer: two streams of attention, and a memory of pose proxies that every layer reads and writes.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T that 3 divides. There are num_frames / 3 proxies for clips of any length.

    Args:
        num_frames: T of the training, which 3 divides.
        num_joints: J. in_channels: 3, with confidences, or 2.
        dim, dim_rep, depth, num_heads, mlp_ratio: width, width of the motion representation, layers, heads, hidden width of
            the MLPs by dim.
        qkv_bias, qk_scale: see `lifter.layers.AxialAttention`.
        layer_scale: what the scales of the branches start from, and those of the three parts stay at.
        drop, attn_drop, drop_path: dropout of blocks; of attention weights; stochastic depth.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 128,
        dim_rep: int = 512,
        depth: int = 16,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        layer_scale: float = 1e-5,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        if num_frames % CLIP_PARTS:
            raise ValueError(f"TCPFormer: num_frames is {num_frames}, expected a multiple of {CLIP_PARTS}")
        attention = dict(qkv_bias=qkv_bias, scale=qk_scale, attn_drop=attn_drop, proj_drop=drop)
        joint, frame = attentions(num_heads, **attention)
        block = partial(ScaledBlock, mlp_ratio=mlp_ratio, scale=layer_scale, drop=drop, drop_path=drop_path)
        layers = [DualStream(dim, block, (joint, frame, frame, joint)) for _ in range(depth)]
        super().__init__(layers, num_frames, num_joints, in_channels, dim, dim_rep)
        self.temporal_layers = nn.ModuleList(
            TemporalLayer(dim, num_heads, mlp_ratio, layer_scale, drop, drop_path, **attention) for _ in range(depth)
        )
        self.center_pose = nn.Parameter(torch.randn(num_frames // CLIP_PARTS, num_joints, dim))
        self.center_pos_embed = nn.Parameter(torch.zeros(1, num_joints, dim))

    def encode(self, x: Tensor):
        proxies = (self.center_pose + self.center_pos_embed).expand(x.shape[0], -1, -1, -1)
        for layer, temporal_layer in zip(self.layers, self.temporal_layers, strict=True):
            x, proxies = temporal_layer(layer(x), proxies)
        return x

    clip_multiple = CLIP_PARTS

    def check_frames(self, frames: int):
        if frames % CLIP_PARTS:
            raise ValueError(
                f"TCPFormer: keypoints have {frames} frames, expected a multiple of {CLIP_PARTS}, the parts of a clip"
            )


def frames_last(x: Tensor, num_heads: int):
    """(B, T, J, H * D) -> (B, J, H, T, D)"""
    return x.unflatten(-1, (num_heads, -1)).permute(0, 2, 3, 1, 4)


def joints_last(x: Tensor):
    """(B, J, H, T, D) -> (B, T, J, H * D)"""
    return x.permute(0, 3, 1, 2, 4).flatten(3)


@register_model
def tcpformer(**kwargs):
    """TCPFormer: two streams and a memory of pose proxies, 16 layers of width 128, for 243 frames 35.12 M parameters."""
    return TCPFormer(**kwargs)


@register_official("model.Model.MemoryInducedTransformer", tolerance=1e-5)
def official_tcpformer(
    n_layers, dim_in=3, dim_feat=128, dim_rep=512, mlp_ratio=4, attn_drop=0.0, drop=0.0, drop_path=0.0,
    layer_scale_init_value=1e-5, num_heads=4, qkv_bias=False, qkv_scale=None, num_joints=17, n_frames=243,
):  # fmt: skip
    return TCPFormer(
        n_frames, num_joints, dim_in, dim_feat, dim_rep, n_layers, num_heads, mlp_ratio, qkv_bias, qkv_scale,
        layer_scale_init_value, drop, attn_drop, drop_path,
    )  # fmt: skip
