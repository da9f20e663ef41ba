"""HoT: hourglass tokenizer, which prunes the frames of a transformer after a few blocks and recovers them at its end.

CVPR 2024, arXiv 2311.12028. Here on MixSTE.
"""

import torch
from torch import nn

from lifter.layers import DensityPeakPrune, FrameRecovery

from ._register import register_model, register_official
from .mixste import MixSTE


class HoTMixSTE(MixSTE):
    """MixSTE whose blocks from pair `prune_at` on see the `tokens` most representative frames of the clip.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames. `forward(keypoints, noise=..., kept=...)`: noise (B, T)
    is what the official code draws to break ties, see `lifter.kernels.density_peak_prune`; kept is how many frames to
    keep, at most `tokens` and T; None: as many as that.

    Args:
        num_frames, num_joints, in_channels, dim, depth, num_heads, mlp_ratio, and others: see `lifter.models.MixSTE`.
        tokens: how many frames are kept at most, 1 to num_frames; None: a third of num_frames.
        prune_at: the pair of blocks before which the frames are pruned, 1 to depth - 1.
    """

    def __init__(
        self, num_frames=243, num_joints=17, in_channels=2, dim=512, depth=8, num_heads=8, *, tokens=None, prune_at=3,
        qkv_bias=True, qk_scale=None, drop=0.0, attn_drop=0.0, **mixste,
    ):  # fmt: skip
        drops = {"drop": drop, "attn_drop": attn_drop}
        super().__init__(
            num_frames, num_joints, in_channels, dim, depth, num_heads, qkv_bias=qkv_bias, qk_scale=qk_scale, **drops, **mixste
        )
        tokens = max(1, num_frames // 3) if tokens is None else tokens
        if not 1 <= tokens <= num_frames:
            raise ValueError(f"HoTMixSTE: tokens is {tokens}, expected 1 to num_frames={num_frames}")
        if not 1 <= prune_at < depth:
            raise ValueError(f"HoTMixSTE: prune_at is {prune_at}, expected 1 to depth - 1 = {depth - 1}")
        self.tokens, self.prune_at = tokens, prune_at
        self.prune = DensityPeakPrune()
        self.pos_embed_token = nn.Parameter(torch.zeros(1, tokens, dim))
        self.x_token = nn.Parameter(torch.zeros(1, num_frames, dim))
        self.cross_attention = FrameRecovery(dim, num_heads, qkv_bias, qk_scale, attn_drop, drop)

    def forward(self, keypoints, noise=None, kept=None):
        most = min(self.tokens, keypoints.shape[1])
        if kept is not None and not 1 <= kept <= most:
            raise ValueError(f"HoTMixSTE: kept is {kept}, expected 1 to {most}, the smaller of tokens and the frames")
        x = self._embed(keypoints)
        return self._lift(x, noise, most if kept is None else kept).to(keypoints.dtype)

    def _lift(self, x, noise, kept):
        frames = x.shape[1]
        for i, (spatial, temporal) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            if i == self.prune_at:
                x, _ = self.prune(x, kept, noise=noise)
                x = x + self.pos_embed_token[:, :kept, None]
            x = self.Spatial_norm(spatial(x))
            if i == 0:
                x = self.pos_drop(x + self.Temporal_pos_embed[:, :frames, None])
            x = self.Temporal_norm(temporal(x))
        return self.head(self.cross_attention(self.x_token, x, frames))


@register_model
def hot_mixste(**kwargs):
    """HoT on MixSTE: 8 block pairs of width 512, a third of the frames from the fourth pair on, 35.00 M parameters."""
    return HoTMixSTE(**kwargs)


@register_official("model.mixste.hot_mixste.Model", tolerance=1e-5)
def official_hot_mixste(
    layers=8, channel=512, d_hid=1024, frames=243, n_joints=17, out_joints=17, token_num=81, layer_index=3
):
    """The official code has 8 pairs of blocks and MLPs of twice the width whatever `layers` and `d_hid` are, and as many
    joints out as in."""
    return HoTMixSTE(frames, n_joints, dim=channel, tokens=token_num, prune_at=layer_index)
