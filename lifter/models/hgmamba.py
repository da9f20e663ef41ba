"""HGMamba: enhancing 3D human pose estimation with a HyperGCN-Mamba network.

IJCNN 2025, arXiv 2504.06638. By its code, whose hypergraph has the parts of the body, not the limbs.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lifter.layers import BidirectionalMamba, ChainGraphConv, HyperGraphConv, ScaledBlock, TemporalGraphConv, fuse_streams

from ._register import register_model, register_official
from .motionagformer import DualStream, TwoStreams, edges_or_default

# The joints of each part of the body, in the orders of Human3.6M and MPI-INF-3DHP.
BODY_PARTS = {
    "h36m": ((0, 7, 8), (8, 9, 10), (0, 1, 2), (2, 3), (0, 4, 5), (5, 6), (8, 14, 15), (8, 11, 12), (15, 16), (12, 13)),
    "mpi": ((1, 14, 15), (0, 1, 16), (11, 12, 14), (12, 13), (8, 9, 14), (9, 10), (1, 5, 6), (1, 2, 3), (6, 7), (3, 4)),
}
# The joints of each limb and the trunk, which the paper has and the code leaves out.
BODY = {
    "h36m": ((0, 1, 4, 7, 8, 9, 10, 11, 14), (14, 15, 16), (11, 12, 13), (1, 2, 3), (4, 5, 6)),
    "mpi": ((0, 1, 2, 5, 11, 14, 15, 16), (5, 6, 7), (2, 3, 4), (11, 12, 13), (8, 9, 10)),
}


class STMamba(nn.Module):
    """One scan, forward and backward, over all tokens of a clip: (B, T, J, C) -> (B, T, J, C).

    `axis`: "joint", frame by frame, the joints of a frame follow each other; or "frame", joint by joint.
    """

    def __init__(self, dim: int, axis: str):
        super().__init__()
        self.axis = axis
        self.forward_backward_mamba = BidirectionalMamba(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.axis == "frame" else x
        y = self.forward_backward_mamba(x.flatten(1, 2)).view(x.shape)
        return y.transpose(1, 2) if self.axis == "frame" else y


class HGMambaLayer(DualStream):
    """Both scans side by side, each a block of its own, their sum beside a stream of graphs, fused per token.

    In training the joints are shuffled before the scans, and put back, with the probability `shuffle`.
    """

    NAMES = ("mamba_spatial", "mamba_temporal", "graph_spatial", "graph_temporal")

    def __init__(self, dim, block, mixers, shuffle):
        super().__init__(dim, block, mixers)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()) < self.shuffle:
            order = torch.randperm(x.shape[2], device=x.device)
            scanned = self._scan(x[:, :, order])[:, :, order.argsort()]
        else:
            scanned = self._scan(x)
        return fuse_streams(self.fusion, scanned, self.graph_temporal(self.graph_spatial(x)))

    def _scan(self, x):
        return self.mamba_spatial(x) + self.mamba_temporal(x)


class HGMamba(TwoStreams):
    """HGMamba: MotionAGFormer with two scans of the whole clip in place of attention, and a hypergraph of the body's parts.

    (B, T, J, in_channels) -> (B, T, J, 3) for T = num_frames only, for its batch norms are over frames.

    Args:
        num_frames: T.
        num_joints: J. in_channels: 3, with confidences, or 2.
        dim, dim_rep, depth, mlp_ratio: width, width of the motion representation, layers, hidden width of the MLPs by dim.
        temporal_graph: "topk", every frame receives from the `k` most similar ones; or "chain", from itself and the next
            `reach` ones.
        ties: see `lifter.kernels.temporal_topk_graph_conv`.
        parts, body: the joints of each part of the body, and of trunk and limbs, see `lifter.layers.HyperGraphConv`. None: the
            parts of Human3.6M, for 17 joints; and no second scale.
        shuffle: probability with which the last layer shuffles the joints in training, growing linearly from 0.
        layer_scale: what the scales of the branches start from.
        drop, drop_path: dropout of the MLPs; stochastic depth.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 128,
        dim_rep: int = 512,
        depth: int = 16,
        mlp_ratio: float = 4.0,
        temporal_graph: str = "topk",
        k: int = 2,
        ties: str = "all",
        reach: int = 1,
        parts: Sequence[Sequence[int]] | None = None,
        body: Sequence[Sequence[int]] | None = None,
        shuffle: float = 0.4,
        layer_scale: float = 1e-5,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        graphs = {"topk": partial(TemporalGraphConv, k=k, ties=ties), "chain": partial(ChainGraphConv, reach=reach)}
        if temporal_graph not in graphs:
            raise ValueError(f"HGMamba: temporal_graph is {temporal_graph!r}, expected 'topk' or 'chain'")
        if temporal_graph == "topk" and not 1 <= k <= num_frames:
            raise ValueError(f"HGMamba: k is {k}, expected 1 <= k <= num_frames={num_frames}")
        edges = edges_or_default("HGMamba", None, num_joints)
        mixers = [
            *(partial(STMamba, axis=axis) for axis in ("joint", "frame")),
            partial(HyperGraphConv, num_joints=num_joints, edges=edges, parts=parts or BODY_PARTS["h36m"], body=body),
            partial(graphs[temporal_graph], num_frames=num_frames),
        ]
        block = partial(ScaledBlock, mlp_ratio=mlp_ratio, scale=layer_scale, drop=drop, drop_path=drop_path)
        rates = [shuffle * i / max(depth - 1, 1) for i in range(depth)]
        layers = [HGMambaLayer(dim, block, mixers, rate) for rate in rates]
        super().__init__(layers, num_frames, num_joints, in_channels, dim, dim_rep)

    def place(self, x: Tensor):
        return self.norm(x) + self.pos_embed  # the norm that also follows the layers


@register_model
def hgmamba_xs(**kwargs):
    """HGMamba-XS: 12 layers of width 64, for 27 frames 2.88 M parameters."""
    return HGMamba(**{"dim": 64, "depth": 12} | kwargs)


@register_model
def hgmamba_s(**kwargs):
    """HGMamba-S: 26 layers of width 64, for 81 frames 6.19 M parameters."""
    return HGMamba(**{"dim": 64, "depth": 26} | kwargs)


@register_model
def hgmamba_b(**kwargs):
    """HGMamba-B: 16 layers of width 128, for 243 frames 14.20 M parameters."""
    return HGMamba(**kwargs)


@register_official("model.HGMamba.HGMamba", tolerance=1e-5)
def official_hgmamba(
    n_layers, dim_in, dim_feat, dim_rep=512, dim_out=3, mlp_ratio=4, attn_drop=0.0, drop=0.0, drop_path=0.0,
    layer_scale_init_value=1e-5, num_heads=4, num_joints=17, use_temporal_similarity=True, temporal_connection_len=1,
    neighbour_num=4, n_frames=243, shuffle_rate=0.5,
):  # fmt: skip
    """The official code has no attention, whatever `num_heads` and `attn_drop` are."""
    return HGMamba(
        n_frames, num_joints, dim_in, dim_feat, dim_rep, n_layers, mlp_ratio, "topk" if use_temporal_similarity else "chain",
        neighbour_num, reach=temporal_connection_len, shuffle=shuffle_rate, layer_scale=layer_scale_init_value, drop=drop,
        drop_path=drop_path,
    )  # fmt: skip
