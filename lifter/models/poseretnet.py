"""PoseRetNet: 3D human pose estimation via non-causal retentive networks.

ECCV 2024. Equation and figure numbers are those of the paper.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from lifter.layers import AxialAttention, Retention, TransformerBlock, joint_decays, shared_decays

from ._register import register_model, register_official
from .mixste import Alternating


class PoseRetNet(Alternating):
    """PoseRetNet: MixSTE whose temporal attention is retention, so that a video is lifted chunk by chunk, without end.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T. A frame sees its chunk and, fading, everything before; how long a
    joint remembers depends on the joint. All of a long clip in one call (the staircase of figure 2) or one chunk per call
    with the state give the same numbers.

    Args:
        num_frames: frames per chunk if `chunk_size` is None; no limit on T.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, num_heads, mlp_ratio: width, pairs of blocks, heads, hidden width of the MLPs by dim.
        chunk_size: frames that see each other, counted from the first of a call; the last chunk of a call may be
            shorter. May be smaller than in training (the paper's knowledge transfer).
        causal: no frame sees a later one (figure 2, left).
        joint_decay: one decay per joint and head, by `lifter.layers.joint_decays`; else one per head.
        dataset: "h36m" (17 or 16 joints), "mpii3d" (14) or "mpii3d_univ" (17): which table of decays.
        decay_divider: scale of all memory lengths. trainable_decay: the decays are learned.
        qkv_bias, qk_scale: of the spatial attention, see `lifter.layers.AxialAttention`.
        drop, attn_drop, drop_path: dropout of embedding and blocks; of the spatial attention's weights; stochastic
            depth of the last pair, growing linearly from 0.
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
        chunk_size: int | None = None,
        causal: bool = False,
        joint_decay: bool = True,
        dataset: str = "h36m",
        decay_divider: float = 8,
        trainable_decay: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.1,
    ):
        attention = partial(AxialAttention, dim, num_heads, "joint", qkv_bias, qk_scale, attn_drop=attn_drop, proj_drop=drop)
        if joint_decay:
            decay = joint_decays(num_heads, dataset, num_joints, decay_divider)
        else:
            decay = shared_decays(num_heads, decay_divider)
        chunk_size = num_frames if chunk_size is None else chunk_size
        retention = partial(Retention, dim, num_heads, decay, causal, chunk_size, trainable_decay)
        spatial = lambda rate: TransformerBlock(dim, attention(), mlp_ratio, drop, rate)
        temporal = lambda rate: TransformerBlock(dim, retention(), mlp_ratio, drop, rate)
        super().__init__(spatial, temporal, None, num_joints, in_channels, dim, depth, drop, drop_path)
        self.chunk_size = chunk_size

    def forward(
        self, keypoints: Tensor, state: Sequence[Tensor] | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Poses of the frames; with `return_state` (poses, state after the last frame).

        `state` is what an earlier call returned for the frames before: a list of one tensor per temporal block,
        (B, J, H, C / H, C / H) in float32. None: nothing came before. Its size does not grow, nor depend on chunks.
        """
        out = self._lift(self._embed(keypoints), state, return_state)
        poses, new_state = out if return_state else (out, None)
        poses = poses.to(keypoints.dtype)
        return (poses, new_state) if return_state else poses

    def _lift(self, x, state, return_state):
        state = check_state(state, len(self.TTEblocks))
        state = [None] * len(self.TTEblocks) if state is None else state
        new_state = []
        for spatial, temporal, before in zip(self.STEblocks, self.TTEblocks, state, strict=True):
            x = self.Spatial_norm(spatial(x))
            x = temporal(x, state=before, return_state=return_state)
            if return_state:
                x, after = x
                new_state.append(after)
            x = self.Temporal_norm(x)
        poses = self.head(x)
        return (poses, new_state) if return_state else poses


def check_state(state, depth):
    """`state`, or None if none of its tensors is given; ValueError unless it is that of so many temporal blocks."""
    if state is not None and len(state) != depth:
        raise ValueError(f"PoseRetNet: state has {len(state)} tensors, expected one per temporal block, {depth}")
    return None if state is None or all(before is None for before in state) else state


@register_model
def poseretnet(**kwargs):
    """PoseRetNet: 8 block pairs of width 512, 35.75 M parameters (25.2 M as the paper counts)."""
    return PoseRetNet(**kwargs)


@register_official("common.model.model_retnet.RetMixSTE", tolerance=1e-4)
def official_poseretnet(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=512, depth=4, num_heads=8, mlp_ratio=2.0, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.1, gamma_divider=8, joint_related=False,
    trainable=False, chunk_size=None, causal=True, dataset="h36m",
):  # fmt: skip
    return PoseRetNet(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, num_heads, mlp_ratio, chunk_size, causal,
        joint_related, dataset, gamma_divider, trainable, qkv_bias, qk_scale, drop_rate, attn_drop_rate, drop_path_rate,
    )  # fmt: skip
