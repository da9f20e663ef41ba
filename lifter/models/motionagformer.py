"""MotionAGFormer: enhancing 3D human pose estimation with a transformer-GCNFormer network.

WACV 2024, arXiv 2310.16288. And the network around its layers, into which TCPFormer and MASC-Pose put others.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lifter.layers import AxialAttention, Linear, ScaledBlock, SkeletonGraphConv, TemporalGraphConv, both_ways, fuse_streams

from ._inputs import bones_or_default, check_keypoints
from ._register import register_model, register_official

# The official list of neighbours forgets these: the pelvis does not receive from the left hip, nor the thorax from the
# shoulders, which receive from them.
FORGOTTEN = {(0, 4), (8, 11), (8, 14)}


class TwoStreams(nn.Module):
    """The network that MotionAGFormer, TCPFormer and MASC-Pose share: (B, T, J, in_channels) -> (B, T, J, 3).

    Joint embedding, then `layers`, a sequence of modules (B, T, J, C) -> (B, T, J, C), norm and head.

    Args:
        num_frames: T. The only length, unless a subclass says otherwise.
        num_joints, in_channels, dim, dim_rep: J, channels of a keypoint, C, width of the motion representation.
    """

    def __init__(self, layers, num_frames, num_joints, in_channels, dim, dim_rep):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.joints_embed = Linear(in_channels, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_joints, dim))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.rep_logit = nn.Sequential(OrderedDict(fc=Linear(dim, dim_rep), act=nn.Tanh()))
        self.head = Linear(dim_rep, 3)

    def forward(self, keypoints: Tensor) -> Tensor:
        return self.head(self.represent(keypoints)).to(keypoints.dtype)

    def represent(self, keypoints: Tensor):
        """(B, T, J, dim_rep), the motion representation that the head reads."""
        return self.rep_logit(self.norm(self.encode(self.embed(keypoints))))

    def embed(self, keypoints: Tensor):
        """(B, T, J, C), what the first layer reads."""
        check_keypoints(type(self).__name__, keypoints, None, self.num_joints, self.in_channels)
        self.check_frames(keypoints.shape[1])
        return self.place(self.joints_embed(keypoints.to(self.pos_embed.dtype)))

    def place(self, x: Tensor):
        return x + self.pos_embed

    def encode(self, x: Tensor):
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def clip_multiple(self):
        """Divisor of the number of frames of a clip."""
        return self.num_frames

    def check_frames(self, frames: int):
        """ValueError, saying why, unless the layers can take so many."""
        if frames != self.num_frames:
            name, expected = type(self).__name__, f"exactly num_frames={self.num_frames}"
            raise ValueError(f"{name}: keypoints have {frames} frames, expected {expected}: its batch norms are over frames")


class DualStream(nn.Module):
    """Attention and graph side by side, each along the joints and then along the frames, fused per token.

    `mixers`: make, in this order, the mixers of the streams for the names below. `block`: makes a block of a mixer.
    """

    NAMES = ("att_spatial", "att_temporal", "graph_spatial", "graph_temporal")

    def __init__(self, dim, block, mixers):
        super().__init__()
        for name, mixer in zip(self.NAMES, mixers, strict=True):
            setattr(self, name, block(dim, mixer(dim)))
        self.fusion = Linear(2 * dim, 2)
        nn.init.zeros_(self.fusion.weight)
        nn.init.constant_(self.fusion.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x_attention = self.att_temporal(self.att_spatial(x))
        x_graph = self.graph_temporal(self.graph_spatial(x))
        return fuse_streams(self.fusion, x_attention, x_graph)


class HierarchicalDualStream(DualStream):
    """Each stream has half of the channels; the graph's starts from its own and what attention made of the other half."""

    def __init__(self, dim, block, mixers):
        super().__init__(dim // 2, block, mixers)
        self.fusion.requires_grad_(False)  # official checkpoints have it, nothing reads it

    def forward(self, x: Tensor) -> Tensor:
        x_attention, x_graph = x.chunk(2, -1)
        x_attention = self.att_temporal(self.att_spatial(x_attention))
        x_graph = self.graph_temporal(self.graph_spatial(x_graph + x_attention))
        return torch.cat([x_attention, x_graph], -1)


class MultiScaleTCN(nn.Module):
    """Convolutions along the frames with steps of 1 and 2, a maximum of three frames and a projection, a quarter of the
    channels each: x + what they make of it. (B, T, J, C) -> (B, T, J, C)."""

    def __init__(self, dim: int):
        super().__init__()
        if dim % 4:
            raise ValueError(f"MultiScaleTCN: dim is {dim}, expected a multiple of 4")
        part = dim // 4

        def branch(*more):
            return nn.Sequential(nn.Conv2d(dim, part, 1), nn.BatchNorm2d(part), *more)

        def conv(dilation):
            along = nn.Conv2d(part, part, (5, 1), padding=(2 * dilation, 0), dilation=(dilation, 1))
            return nn.Sequential(OrderedDict(conv=along, bn=nn.BatchNorm2d(part)))

        pool = nn.MaxPool2d((3, 1), stride=1, padding=(1, 0))
        self.branches = nn.ModuleList([
            branch(nn.ReLU(), conv(1)), branch(nn.ReLU(), conv(2)), branch(nn.ReLU(), pool, nn.BatchNorm2d(part)), branch(),
        ])  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        channels_first = x.permute(0, 3, 1, 2)  # a view: the convolutions see channels last
        return x + torch.cat([branch(channels_first) for branch in self.branches], 1).permute(0, 2, 3, 1)


class MotionAGFormer(TwoStreams):
    """MotionAGFormer: a stream of attention and a stream of graph convolutions, fused per token after every layer.

    (B, T, J, in_channels) -> (B, T, J, 3) for T = num_frames only, for its batch norms are over frames. With
    `temporal_graph="tcn"` any T.

    Args:
        num_frames: T.
        num_joints: J. in_channels: 3, with confidences, or 2.
        dim, dim_rep, depth, num_heads, mlp_ratio: width, width of the motion representation, layers, heads, hidden width of
            the MLPs by dim.
        temporal_graph: "topk", every frame receives from the `k` most similar ones, see
            `lifter.kernels.temporal_topk_graph_conv` for `ties`; or "tcn", convolutions along the frames.
        hierarchical: whether each stream has half of the channels.
        bones: pairs of joints that receive from each other. None: the official ones of Human3.6M, for 17 joints, of which
            three go one way only.
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
        temporal_graph: str = "topk",
        k: int = 2,
        ties: str = "all",
        hierarchical: bool = False,
        bones: Sequence[tuple[int, int]] | None = None,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        layer_scale: float = 1e-5,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        if temporal_graph not in ("topk", "tcn"):
            raise ValueError(f"MotionAGFormer: temporal_graph is {temporal_graph!r}, expected 'topk' or 'tcn'")
        if temporal_graph == "topk" and not 1 <= k <= num_frames:
            raise ValueError(f"MotionAGFormer: k is {k}, expected 1 <= k <= num_frames={num_frames}")
        graphs = {"topk": partial(TemporalGraphConv, num_frames=num_frames, k=k, ties=ties), "tcn": MultiScaleTCN}
        edges = edges_or_default("MotionAGFormer", bones, num_joints)
        mixers = [
            *attentions(num_heads, qkv_bias=qkv_bias, scale=qk_scale, attn_drop=attn_drop, proj_drop=drop),
            partial(SkeletonGraphConv, num_joints=num_joints, edges=edges),
            graphs[temporal_graph],
        ]
        block = partial(ScaledBlock, mlp_ratio=mlp_ratio, scale=layer_scale, drop=drop, drop_path=drop_path)
        layer = HierarchicalDualStream if hierarchical else DualStream
        layers = [layer(dim, block, mixers) for _ in range(depth)]
        super().__init__(layers, num_frames, num_joints, in_channels, dim, dim_rep)
        self.temporal_graph = temporal_graph

    def check_frames(self, frames: int):
        if self.temporal_graph == "topk":
            super().check_frames(frames)


def edges_or_default(name, bones, num_joints):
    """The edges of the spatial graph: both ways along `bones`; None: the official ones of Human3.6M."""
    edges = both_ways(bones_or_default(name, bones, num_joints))
    return [edge for edge in edges if bones is not None or edge not in FORGOTTEN]


def attentions(num_heads: int, **kwargs):
    """Makers, from a width, of attention along joints and along frames."""
    return [partial(AxialAttention, num_heads=num_heads, axis=axis, **kwargs) for axis in ("joint", "frame")]


@register_model
def motionagformer_xs(**kwargs):
    """MotionAGFormer-XS: 12 layers of width 64, for 27 frames 2.24 M parameters."""
    return MotionAGFormer(**{"dim": 64, "depth": 12} | kwargs)


@register_model
def motionagformer_s(**kwargs):
    """MotionAGFormer-S: 26 layers of width 64, for 81 frames 4.82 M parameters."""
    return MotionAGFormer(**{"dim": 64, "depth": 26} | kwargs)


@register_model
def motionagformer_b(**kwargs):
    """MotionAGFormer-B: 16 layers of width 128, for 243 frames 11.72 M parameters."""
    return MotionAGFormer(**kwargs)


@register_model
def motionagformer_l(**kwargs):
    """MotionAGFormer-L: 26 layers of width 128, for 243 frames 19.01 M parameters."""
    return MotionAGFormer(**{"depth": 26} | kwargs)


@register_official("model.MotionAGFormer.MotionAGFormer", tolerance=1e-5)
def official_motionagformer(
    n_layers, dim_in, dim_feat, dim_rep=512, mlp_ratio=4, attn_drop=0.0, drop=0.0, drop_path=0.0,
    layer_scale_init_value=1e-5, num_heads=4, qkv_bias=False, qkv_scale=None, hierarchical=False, num_joints=17,
    use_tcn=False, neighbour_num=4, n_frames=243,
):  # fmt: skip
    return MotionAGFormer(
        n_frames, num_joints, dim_in, dim_feat, dim_rep, n_layers, num_heads, mlp_ratio, "tcn" if use_tcn else "topk",
        neighbour_num, hierarchical=hierarchical, qkv_bias=qkv_bias, qk_scale=qkv_scale, layer_scale=layer_scale_init_value,
        drop=drop, attn_drop=attn_drop, drop_path=drop_path,
    )  # fmt: skip
