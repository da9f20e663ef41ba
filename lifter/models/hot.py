"""HoT: hourglass tokenizer, which prunes the frames of a transformer after a few blocks and recovers them at its end.

CVPR 2024, arXiv 2311.12028. Here on MixSTE, also in its form without recovery ("TPC"), and on MotionAGFormer.
"""

import torch
from torch import Tensor, nn

from lifter.layers import DensityPeakPrune, FrameRecovery, take_frames

from ._register import register_model, register_official
from .mixste import MixSTE
from .motionagformer import MotionAGFormer, TwoStreams


class PrunedMixSTE(MixSTE):
    """MixSTE whose blocks from pair `prune_at` on see the `tokens` most representative frames of the clip.

    Args:
        num_frames, num_joints, in_channels, dim, depth, num_heads, mlp_ratio, and others: see `lifter.models.MixSTE`.
        tokens: how many frames are kept at most, 1 to num_frames; None: a third of num_frames.
        prune_at: the pair of blocks before which the frames are pruned, 1 to depth - 1.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        *,
        tokens: int | None = None,
        prune_at: int = 3,
        **mixste,
    ):
        super().__init__(num_frames, num_joints, in_channels, dim, depth, num_heads, **mixste)
        self.tokens, self.prune_at = checked_pruning(type(self).__name__, tokens, prune_at, num_frames, depth)
        self.prune = DensityPeakPrune()

    def _blocks(self, x, prune):
        """`prune` is what becomes of the frames before pair `prune_at`."""
        for i, (spatial, temporal) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            x = self.Spatial_norm(spatial(prune(x) if i == self.prune_at else x))
            if i == 0:
                x = self.pos_drop(x + self.Temporal_pos_embed[:, : x.shape[1], None])
            x = self.Temporal_norm(temporal(x))
        return x


def checked_pruning(name, tokens, prune_at, num_frames, depth):
    """Return the number of frames kept and the block that they are chosen before; ValueError for what cannot be."""
    tokens = max(1, num_frames // 3) if tokens is None else tokens
    if not 1 <= tokens <= num_frames:
        raise ValueError(f"{name}: tokens is {tokens}, expected 1 to num_frames={num_frames}")
    if not 1 <= prune_at < depth:
        raise ValueError(f"{name}: prune_at is {prune_at}, expected 1 to depth - 1 = {depth - 1}")
    return tokens, prune_at


class HoTMixSTE(PrunedMixSTE):
    """HoT on MixSTE: the frames are pruned, and recovered at the end.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames. `forward(keypoints, noise=..., kept=...)`: noise (B, T)
    is what the official code draws to break ties, see `lifter.kernels.density_peak_prune`; kept is how many frames to
    keep, at most `tokens` and T; None: as many as that. Arguments: see `PrunedMixSTE`.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        **pruned,
    ):
        attention = {"qkv_bias": qkv_bias, "qk_scale": qk_scale, "drop": drop, "attn_drop": attn_drop}
        super().__init__(num_frames, num_joints, in_channels, dim, depth, num_heads, **attention, **pruned)
        self.pos_embed_token = nn.Parameter(torch.zeros(1, self.tokens, dim))
        self.x_token = nn.Parameter(torch.zeros(1, num_frames, dim))
        self.cross_attention = FrameRecovery(dim, num_heads, qkv_bias, qk_scale, attn_drop, drop)

    def forward(self, keypoints: Tensor, noise: Tensor | None = None, kept: int | None = None) -> Tensor:
        most = min(self.tokens, keypoints.shape[1])
        if kept is not None and not 1 <= kept <= most:
            raise ValueError(f"HoTMixSTE: kept is {kept}, expected 1 to {most}, the smaller of tokens and the frames")
        x = self._embed(keypoints)
        return self._lift(x, noise, most if kept is None else kept).to(keypoints.dtype)

    def _lift(self, x, noise, kept):
        prune = lambda x: self.prune(x, kept, noise=noise)[0] + self.pos_embed_token[:, :kept, None]
        return self.head(self.cross_attention(self.x_token, self._blocks(x, prune), x.shape[1]))


class TPCMixSTE(PrunedMixSTE):
    """HoT on MixSTE without recovery: the poses of the frames that are kept, of which the one in the centre is always one.

    (B, T, J, in_channels) -> (B, tokens, J, 3) for any T <= num_frames, or (poses, index) with `return_index`: index
    (B, tokens) are the frames, ascending. `forward(keypoints, index=...)` keeps these, as for the mirror image of a clip;
    `noise`: see `HoTMixSTE`. Arguments: see `PrunedMixSTE`. `lift_sequence` has no use for it, nor has a stream.
    """

    def forward(
        self, keypoints: Tensor, noise: Tensor | None = None, index: Tensor | None = None, return_index: bool = False
    ) -> Tensor:
        x = self._embed(keypoints)
        if index is None:
            found = []
            centre, kept = (x.shape[1] - 1) // 2, min(self.tokens, x.shape[1])

            def prune(x):
                x, index = self.prune(x, kept, noise=noise, always=centre)
                found.append(index)
                return x

        else:
            found, prune = [index], lambda x: take_frames(x, index)
        poses = self.head(self._blocks(x, prune)).to(keypoints.dtype)
        return (poses, found[0]) if return_index else poses


class HoTMotionAGFormer(MotionAGFormer):
    """HoT on MotionAGFormer: the layers from `prune_at` on see the `tokens` most representative frames of the clip.

    (B, T, J, in_channels) -> (B, T, J, 3) for T = num_frames only. `forward(keypoints, noise=...)`: see `HoTMixSTE`.

    Args:
        num_frames, depth, and others: see `lifter.models.MotionAGFormer`.
        tokens: how many frames are kept, 1 to num_frames; None: a third of num_frames.
        prune_at: the layer before which the frames are pruned, 1 to depth - 1.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 128,
        dim_rep: int = 512,
        depth: int = 16,
        num_heads: int = 4,
        *,
        tokens: int | None = None,
        prune_at: int = 7,
        k: int = 4,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        **agformer,
    ):
        tokens, prune_at = checked_pruning("HoTMotionAGFormer", tokens, prune_at, num_frames, depth)
        attention = {"qkv_bias": qkv_bias, "qk_scale": qk_scale, "drop": drop, "attn_drop": attn_drop}
        sizes = dict(num_joints=num_joints, in_channels=in_channels, dim=dim, dim_rep=dim_rep, num_heads=num_heads, k=k)
        super().__init__(num_frames, depth=prune_at, **sizes, **attention, **agformer)
        self.layers.extend(MotionAGFormer(tokens, depth=depth - prune_at, **sizes, **attention, **agformer).layers)
        self.tokens, self.prune_at = tokens, prune_at
        self.prune = DensityPeakPrune()
        self.pos_embed_token = nn.Parameter(torch.zeros(1, tokens, dim))
        self.x_token = nn.Parameter(torch.zeros(1, num_frames, dim))
        self.cross_attention = FrameRecovery(dim, num_heads, qkv_bias, qk_scale, attn_drop, drop)

    def forward(self, keypoints: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.head(self.represent(keypoints, noise)).to(keypoints.dtype)

    def represent(self, keypoints: Tensor, noise: Tensor | None = None):
        x = self.embed(keypoints)
        for i, layer in enumerate(self.layers):
            if i == self.prune_at:
                x = self.prune(x, self.tokens, noise=noise)[0] + self.pos_embed_token[:, :, None]
            x = layer(x)
        return self.rep_logit(self.cross_attention(self.x_token, self.norm(x), self.num_frames))

    def check_frames(self, frames: int):
        TwoStreams.check_frames(self, frames)


@register_model
def hot_mixste(**kwargs):
    """HoT on MixSTE: 8 block pairs of width 512, a third of the frames from the fourth pair on, 35.00 M parameters."""
    return HoTMixSTE(**kwargs)


@register_model
def hot_tpc_mixste(**kwargs):
    """HoT on MixSTE without recovery: the poses of the frames that are kept, a third of them, 33.78 M parameters."""
    return TPCMixSTE(**kwargs)


@register_model
def hot_motionagformer(**kwargs):
    """HoT on MotionAGFormer-B: a third of the frames from the eighth of 16 layers on, 11.83 M parameters."""
    return HoTMotionAGFormer(**kwargs)


@register_official("model.mixste.hot_mixste.Model", tolerance=1e-5)
def official_hot_mixste(
    layers=8, channel=512, d_hid=1024, frames=243, n_joints=17, out_joints=17, token_num=81, layer_index=3
):
    """The official code has 8 pairs of blocks and MLPs of twice the width whatever `layers` and `d_hid` are, and as many
    joints out as in."""
    return HoTMixSTE(frames, n_joints, dim=channel, tokens=token_num, prune_at=layer_index)


@register_official("model.mixste.tpc_mixste.Model", tolerance=1e-5)
def official_tpc_mixste(channel=512, frames=243, n_joints=17, token_num=81, layer_index=3):
    return TPCMixSTE(frames, n_joints, dim=channel, tokens=token_num, prune_at=layer_index)


@register_official(
    "model.motionagformer.hot_motionagformer.Model", tolerance=1e-5, told=lambda config: config.get("hard_coded", {})
)
def official_hot_motionagformer(
    dim_in=3, dim_rep=512, num_heads=4, neighbour_num=4, maxlen=243, n_layers=16, dim=128, tokens=81, layer_index=7
):
    """All but the first four are fixed in the official code."""
    return HoTMotionAGFormer(
        maxlen, 17, dim_in, dim, dim_rep, n_layers, num_heads, tokens=tokens, prune_at=layer_index, k=neighbour_num
    )
