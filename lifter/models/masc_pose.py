"""MASC-Pose: motion-adaptive multi-scale temporal modelling with skeleton-constrained spatial graphs.

There is no official code. Where the paper leaves a choice, one was made that meets its counts at 243 frames, 13.0 M parameters
and 53.4 G multiply-accumulates by thop: the layers are MotionAGFormer-B's with both graph convolutions exchanged; the batch
norm of a window is over its frames; the window selector has a hidden layer of a quarter of the channels; and for the
"progressive layer fusion" see `LayerFusion`: without it the two counts are 12.8 M and 52.7 G.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lifter.layers import AMTM, SAGCN, Linear, ScaledBlock, SkeletonGraphConv, TemporalGraphConv, both_ways

from ._inputs import bones_or_default
from ._register import register_model
from .motionagformer import DualStream, TwoStreams, attentions

FUSED = 3  # layers whose result is fused


class LayerFusion(nn.Module):
    """One step of the progressive layer fusion: norm(Linear(memory, x)), two maps (B, T, J, C) -> (B, T, J, C).

    The paper says only that it aggregates features across layers, for multi-level representations and gradient flow. Here a
    memory, which starts as the embedding, takes in the result of every third layer, and is added to that of the last.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.linear = Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory, x):
        return self.norm(self.linear(torch.cat([memory, x], -1)))


class MASCPose(TwoStreams):
    """MASC-Pose: MotionAGFormer whose graph stream weighs neighbours against joints, and three temporal scales by joint.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T that is a multiple of all scales; without `amtm` for num_frames only.

    Args:
        num_frames: T of the training.
        num_joints: J. in_channels: 3, with confidences, or 2.
        dim, dim_rep, depth, num_heads, mlp_ratio: width, width of the motion representation, layers, heads, hidden width of
            the MLPs by dim.
        scales: frames of the windows (table IV). None: a 27th, a ninth and a third of num_frames, as the paper has them for
            243 and 81 frames.
        k: how many frames a frame receives from. The paper does not say; MotionAGFormer's are 2.
        hops: a joint receives from all within so many bones (table V).
        amtm, sagcn: False: MotionAGFormer's graph convolution along frames or joints instead (table III).
        adaptive_scales, adaptive_aggregation: False: all scales, or a joint and its neighbours, weigh the same (table III).
        bones: pairs of joints that receive from each other. None: those of Human3.6M, for 17 joints.
        qkv_bias, qk_scale: see `lifter.layers.AxialAttention`.
        layer_scale: what the scales of the branches start from.
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
        scales: Sequence[int] | None = None,
        k: int = 2,
        hops: int = 1,
        amtm: bool = True,
        sagcn: bool = True,
        adaptive_scales: bool = True,
        adaptive_aggregation: bool = True,
        bones: Sequence[tuple[int, int]] | None = None,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        layer_scale: float = 1e-5,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        bones = bones_or_default("MASCPose", bones, num_joints)
        scales = tuple(num_frames // parts for parts in (27, 9, 3)) if scales is None else tuple(scales)
        if not scales or any(not isinstance(scale, int) or scale < 1 or num_frames % scale for scale in scales):
            raise ValueError(f"MASCPose: scales are {scales}, expected positive divisors of num_frames={num_frames}")
        if not isinstance(hops, int) or hops < 1:
            raise ValueError(f"MASCPose: hops is {hops!r}, expected a positive integer")
        spatial = partial(SkeletonGraphConv, num_joints=num_joints, edges=both_ways(bones))
        if sagcn:
            spatial = partial(SAGCN, num_joints=num_joints, bones=bones, hops=hops, adaptive=adaptive_aggregation)
        temporal = partial(TemporalGraphConv, num_frames=num_frames, k=k, ties="first")
        if amtm:
            temporal = partial(AMTM, windows=scales, k=k, adaptive=adaptive_scales)
        attention = attentions(num_heads, qkv_bias=qkv_bias, scale=qk_scale, attn_drop=attn_drop, proj_drop=drop)
        block = partial(ScaledBlock, mlp_ratio=mlp_ratio, scale=layer_scale, drop=drop, drop_path=drop_path)
        layers = [DualStream(dim, block, (*attention, spatial, temporal)) for _ in range(depth)]
        super().__init__(layers, num_frames, num_joints, in_channels, dim, dim_rep)
        self.fusions = nn.ModuleList(LayerFusion(dim) for _ in range(depth // FUSED))
        self.scales = scales if amtm else None

    def encode(self, x: Tensor):
        memory = x
        for i, layer in enumerate(self.layers, 1):
            x = layer(x)
            if i % FUSED == 0:
                memory = self.fusions[i // FUSED - 1](memory, x)
        return x + memory

    @property
    def clip_multiple(self):
        return super().clip_multiple if self.scales is None else math.lcm(*self.scales)

    def check_frames(self, frames: int):
        if self.scales is None:
            super().check_frames(frames)
        elif any(frames % scale for scale in self.scales):
            raise ValueError(f"MASCPose: keypoints have {frames} frames, expected a multiple of each scale in {self.scales}")


@register_model
def masc_pose(**kwargs):
    """MASC-Pose: 16 layers of width 128, attention beside graphs at three temporal scales, 13.00 M parameters."""
    return MASCPose(**kwargs)
