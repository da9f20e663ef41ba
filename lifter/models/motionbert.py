"""MotionBERT: a unified perspective on learning human motion representations.

ICCV 2023, arXiv 2210.06551. Its network is called DSTformer.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lifter.layers import AxialAttention, Linear, Retention, TransformerBlock, fuse_streams, joint_decays

from ._inputs import check_keypoints
from ._register import register_model, register_official


class BlockPair(nn.Module):
    """A spatial and a temporal block in the order "st" or "ts"."""

    def __init__(self, order: str, spatial: nn.Module, temporal: nn.Module):
        super().__init__()
        self.order = order
        self.s, self.t = spatial, temporal

    def forward(self, x: Tensor, **temporal_args) -> Tensor:
        for name in self.order:
            x = getattr(self, name)(x, **(temporal_args if name == "t" else {}))
        return x

    def official_weights(self):
        """{official name: our tensor}: MotionBERT keeps both blocks in one, `attn_s` is the `attn` of block s."""
        weights = {}
        for name in "st":
            for key, tensor in getattr(self, name).state_dict().items():
                module, _, rest = key.partition(".")
                weights[f"{module}_{name}.{rest}"] = tensor
        return weights


class MotionBERT(nn.Module):
    """MotionBERT's DSTformer: two streams, space before time and time before space, fused per token after every depth.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames.

    Args:
        num_frames: longest clip; the length of the temporal position embedding.
        num_joints: J. in_channels: 3, with confidences, or 2.
        dim, dim_rep, depth, num_heads, mlp_ratio: width, width of the motion representation, pairs of blocks per
            stream, heads, hidden width of the MLPs by dim.
        temporal_mixer: "attention"; "retention", as in the supplement of the PoseRetNet paper, with one decay per joint
            of Human3.6M and the whole clip as one chunk; or what makes the mixer of one temporal block, any module
            (B, T, J, C) -> (B, T, J, C).
        qkv_bias, qk_scale: see `lifter.layers.AxialAttention`.
        drop, attn_drop, drop_path: dropout of embedding and blocks; of attention weights; stochastic depth of the last
            blocks, growing linearly from 0.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 512,
        dim_rep: int = 512,
        depth: int = 5,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        temporal_mixer: str | Callable[[], nn.Module] = "attention",
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        attention = partial(
            AxialAttention, dim, num_heads, qkv_bias=qkv_bias, scale=qk_scale, attn_drop=attn_drop, proj_drop=drop
        )
        if temporal_mixer == "attention":
            temporal_mixer = partial(attention, "frame")
        elif temporal_mixer == "retention":
            temporal_mixer = partial(Retention, dim, num_heads, joint_decays(num_heads, "h36m", num_joints))
        elif not callable(temporal_mixer):
            raise ValueError(
                f"MotionBERT: temporal_mixer is {temporal_mixer!r}, expected 'attention', 'retention' or a callable"
            )

        def stream(order, rate):
            block = partial(TransformerBlock, dim, mlp_ratio=mlp_ratio, drop=drop, drop_path=rate)
            return BlockPair(order, block(attention("joint")), block(temporal_mixer()))

        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.joints_embed = Linear(in_channels, dim)
        self.pos_drop = nn.Dropout(drop)
        self.blocks_st = nn.ModuleList(stream("st", rate) for rate in rates)
        self.blocks_ts = nn.ModuleList(stream("ts", rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pre_logits = nn.Sequential(OrderedDict(fc=Linear(dim, dim_rep), act=nn.Tanh()))
        self.head = Linear(dim_rep, 3)
        self.temp_embed = nn.Parameter(torch.zeros(1, num_frames, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_joints, dim))
        self.ts_attn = nn.ModuleList(Linear(2 * dim, 2) for _ in range(depth))
        self.reset_parameters()

    def reset_parameters(self):
        """The official start: everything small, both streams with the same weight. (Its normals are truncated at 100
        standard deviations.)"""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for position in (self.temp_embed, self.pos_embed):
            nn.init.normal_(position, std=0.02)
        for fusion in self.ts_attn:
            nn.init.zeros_(fusion.weight)

    def forward(self, keypoints: Tensor, **represent_args) -> Tensor:
        return self.head(self.represent(keypoints, **represent_args)).to(keypoints.dtype)

    def represent(self, keypoints: Tensor):
        """(B, T, J, dim_rep), the motion representation that the head reads."""
        x = self._embed(keypoints)
        for i in range(len(self.ts_attn)):
            x = self._fused(i, x)
        return self.pre_logits(self.norm(x))

    def _embed(self, keypoints):
        check_keypoints(type(self).__name__, keypoints, self.num_frames, self.num_joints, self.in_channels)
        x = self.joints_embed(keypoints.to(self.pos_embed.dtype)) + self.pos_embed
        return self.pos_drop(x + self.temp_embed[:, : x.shape[1]])

    def _fused(self, i, x, **temporal_args):
        """Depth `i` of both streams."""
        return fuse_streams(self.ts_attn[i], self.blocks_st[i](x, **temporal_args), self.blocks_ts[i](x, **temporal_args))


@register_model
def motionbert(**kwargs):
    """MotionBERT: two streams of 5 block pairs of width 512, 42.47 M parameters."""
    return MotionBERT(**kwargs)


@register_official("lib.model.DSTformer.DSTformer", tolerance=1e-5)
def official_motionbert(
    dim_in=3, dim_feat=256, dim_rep=512, depth=5, num_heads=8, mlp_ratio=4, num_joints=17, maxlen=243, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0,
):  # fmt: skip
    return MotionBERT(
        maxlen, num_joints, dim_in, dim_feat, dim_rep, depth, num_heads, mlp_ratio, "attention", qkv_bias, qk_scale,
        drop_rate, attn_drop_rate, drop_path_rate,
    )  # fmt: skip
