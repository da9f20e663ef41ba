"""KTPFormer: kinematics and trajectory prior knowledge-enhanced transformer for 3D human pose estimation.

CVPR 2024, arXiv 2404.00658.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import LearnedGraphConv

from ._inputs import bones_or_default
from ._register import register_model, register_official
from .mixste import MixSTE

# Where an official checkpoint keeps what begins with these; the first that fits counts. The other blocks count from 0 there.
OFFICIAL = {
    "Spatial_patch_to_embedding.": "kpattention.attn.kpa.",
    "Spatial_pos_embed": "kpattention.attn.Spatial_pos_embed",
    "STEblocks.0.norm1.": "kpattention.attn.norm1.",
    "STEblocks.0.": "kpattention.",
    "TTEblocks.0.tpa.": "tpattention.attn.tpa.",
    "TTEblocks.0.Temporal_pos_embed": "tpattention.attn.Temporal_pos_embed",
    "TTEblocks.0.block.norm1.": "tpattention.attn.norm1.",
    "TTEblocks.0.block.": "tpattention.",
}


class KTPFormer(MixSTE):
    """KTPFormer: MixSTE that knows the skeleton and the order of the frames before it attends to them.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames. Before its `depth` pairs of blocks comes one more,
    which starts from graphs: keypoints are embedded by a graph convolution over the bones, and the first temporal block
    reads two more over neighbouring frames. A shorter clip has the graph of its own length, with the first T rows and
    columns of what was learned. `forward(keypoints, mask=...)` restricts the temporal attention, not the graphs.

    Args:
        num_frames: longest clip; the length of the temporal position embedding and of the graph of frames.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, num_heads, mlp_ratio: width, pairs of blocks after the first, heads, hidden width of the MLPs by dim.
        bones: pairs of joints that the graph connects. None: those of Human3.6M, for 17 joints.
        mixste: `qkv_bias`, `qk_scale`, `drop`, `attn_drop`, `drop_path`, see `lifter.models.MixSTE`.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 7,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        bones: Sequence[tuple[int, int]] | None = None,
        **mixste,
    ):
        bones = bones_or_default("KTPFormer", bones, num_joints)
        super().__init__(num_frames, num_joints, in_channels, dim, depth + 1, num_heads, mlp_ratio, **mixste)
        self.Spatial_patch_to_embedding = GraphEmbedding(in_channels, dim, "joint", num_joints, bones)
        for block in (self.STEblocks[0], self.TTEblocks[0]):
            block.norm1 = nn.LayerNorm(dim)  # eps 1e-5 here, 1e-6 in all other blocks
        self.TTEblocks[0] = TrajectoryBlock(self.TTEblocks[0], num_frames, dim, self.pos_drop.p)
        self.Temporal_pos_embed = None  # that block adds it, after its graphs

    def official_weights(self):
        """{official name: our tensor}: there the first pair is not among the blocks."""
        return {_official_name(key): tensor for key, tensor in self.state_dict().items()}


class GraphEmbedding(nn.Module):
    """ReLU(BatchNorm(graph convolution)), (B, T, J, C_in) -> (B, T, J, C_out); for the arguments see `LearnedGraphConv`."""

    def __init__(self, in_channels, out_channels, axis, num_nodes, edges):
        super().__init__()
        self.gconv = LearnedGraphConv(in_channels, out_channels, axis, num_nodes, edges)
        self.bn = nn.BatchNorm1d(out_channels)  # one statistic per channel over all clips, frames and joints

    def forward(self, x: Tensor) -> Tensor:
        x = self.gconv(x)
        return F.relu(self.bn(x.flatten(0, 2)).view(x.shape))


class TrajectoryBlock(nn.Module):
    """The first temporal block: `block` of x + two graph convolutions over neighbouring frames + position."""

    def __init__(self, block, num_frames, dim, drop):
        super().__init__()
        neighbours = [(t, t + 1) for t in range(num_frames - 1)]
        graphs = {name: GraphEmbedding(dim, dim, "frame", num_frames, neighbours) for name in ("gconv1", "gconv2")}
        self.tpa = nn.Sequential(OrderedDict(graphs))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, num_frames, dim))
        self.pos_drop = nn.Dropout(drop)
        self.block = block

    def forward(self, x: Tensor, **mixer) -> Tensor:
        x = x + self.tpa(x) + self.Temporal_pos_embed[:, : x.shape[1], None]
        return self.block(self.pos_drop(x), **mixer)


def _official_name(key):
    for ours, official in OFFICIAL.items():
        if key.startswith(ours):
            return official + key.removeprefix(ours)
    return re.sub(r"(?<=blocks\.)\d+", lambda i: str(int(i[0]) - 1), key)


@register_model
def ktpformer(**kwargs):
    """KTPFormer: 1 + 7 block pairs of width 512, graphs of bones and frames before the first, 35.21 M parameters."""
    return KTPFormer(**kwargs)


@register_official("common.model_ktpformer.KTPFormer", tolerance=1e-5)
def official_ktpformer(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=32, depth=4, num_heads=8, mlp_ratio=2.0, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.2,
):  # fmt: skip
    """Its arguments `adj` and `adj_temporal` are the graphs of Human3.6M and of neighbouring frames, as ours."""
    return KTPFormer(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, num_heads, mlp_ratio, qkv_bias=qkv_bias,
        qk_scale=qk_scale, drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate,
    )  # fmt: skip
