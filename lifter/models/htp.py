"""HTP: efficient diffusion-based 3D human pose estimation with hierarchical temporal pruning.

arXiv 2508.21363. On D3DP's denoiser, on MixSTE and on MotionBERT. There is no official code: where the text leaves a
choice, it is the one that gives the printed multiply-accumulates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lifter.layers import MGPTP, SFT, TCEP, FrameRecovery, SkeletonGraphConv, both_ways

from ._inputs import bones_or_default
from ._register import register_model
from .d3dp import D3DP
from .mixste import MixSTE
from .motionbert import MotionBERT

MOST_KEPT = 54  # frames of a long clip; of one below 162 a third


class Pruning:
    """Options that the three networks share: the frames that every frame selects, the frames kept, and from which block on.

    `n`, `k` and `kept` of a call may differ from those of training.
    """

    def _add_pruning(
        self, dim, num_frames, num_heads, n, nearest, tcep, sft, mgptp, guided, qkv_bias, qk_scale, attn_drop, drop
    ):  # fmt: skip
        name = type(self).__name__
        if not tcep and (sft or guided and mgptp):
            raise ValueError(f"{name}: tcep is False, expected sft=False and guided=False: there is no mask")
        self.n, self.sft, self.guided = n, sft, guided
        self.tcep = TCEP(dim, num_frames) if tcep else None
        self.mgptp = MGPTP(nearest) if mgptp else None
        if self._most_pairs() < 0:
            raise ValueError(f"{name}: depth is too small, expected a pair of blocks before the pruning and one after it")
        self._number(name, "n", n, self._most_pairs())
        self._number(name, "nearest", nearest, num_frames, least=1)
        if mgptp:
            self.x_token = nn.Parameter(torch.zeros(1, num_frames, dim))
            self.cross_attention = FrameRecovery(dim, num_heads, qkv_bias, qk_scale, attn_drop, drop)

    def _choices(self, frames, n, k, kept):
        """n and kept of a call; all checked."""
        name = type(self).__name__
        n = self.n if n is None else self._number(name, "n", n, self._most_pairs())
        if k is not None and (not self.tcep or not isinstance(k, int) or k < 1):
            expected = "an integer of at least 1" if self.tcep else "None: tcep is False"
            raise ValueError(f"{name}: k is {k!r}, expected {expected}")
        if kept is not None and not self.mgptp:
            raise ValueError(f"{name}: kept is {kept!r}, expected None: mgptp is False")
        kept = max(1, min(MOST_KEPT, frames // 3)) if kept is None else self._number(name, "kept", kept, frames, least=1)
        return n, kept

    def _prune(self, x, kept, mask):
        return self.mgptp(x, kept, mask if self.guided else None)[0]

    @staticmethod
    def _number(name, what, number, most, least=0):
        if not isinstance(number, int) or not least <= number <= most:
            raise ValueError(f"{name}: {what} is {number!r}, expected an integer from {least} to {most}")
        return number


class PrunedMixSTE(Pruning):
    """Hierarchical temporal pruning around the blocks of a MixSTE, of which this is the first base.

    Skeleton graph convolution, first spatial block, TCEP; then `n` temporal blocks, each but the first after a spatial one,
    are SFT's; one more pair sees all frames without a mask; MGPTP; the other pairs see the kept frames; recovery, head.
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
        n: int = 1,
        nearest: int = 2,
        bones: Sequence[tuple[int, int]] | None = None,
        tcep: bool = True,
        sft: bool = True,
        mgptp: bool = True,
        guided: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        **host,
    ):
        bones = bones_or_default(type(self).__name__, bones, num_joints)
        attention = {"qkv_bias": qkv_bias, "qk_scale": qk_scale, "drop": drop, "attn_drop": attn_drop}
        super().__init__(num_frames, num_joints, in_channels, dim, depth, num_heads=num_heads, **attention, **host)
        self.gcn = SkeletonGraphConv(dim, num_joints, both_ways(bones))
        self._add_pruning(dim, num_frames, num_heads, n, nearest, tcep, sft, mgptp, guided, **attention)

    def _most_pairs(self):
        return len(self.STEblocks) - (2 if self.mgptp else 0)

    def _lift(self, x, moment=None, n=None, k=None, kept=None):
        """`moment`: what tells the time, added before the temporal blocks."""
        frames, mask = x.shape[1], None
        n, kept = self._choices(frames, n, k, kept)
        x = self.gcn(x)
        for i, (spatial, temporal) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            if self.mgptp and i == n + 1:
                x = self._prune(x, kept, mask)
            x = self.Spatial_norm(spatial(x))
            if i == 0:
                if self.tcep:
                    x, mask = self.tcep(x, k)
                x = self.pos_drop(x + self.Temporal_pos_embed[:, :frames, None])
                x = x if moment is None else x + moment
            x = self.Temporal_norm(temporal(x, mask=mask if self.sft and i < n else None))
        return self.head(self.cross_attention(self.x_token, x, frames) if self.mgptp else x)


class HTPMixSTE(PrunedMixSTE, MixSTE):
    """HTP on MixSTE: (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames.

    `forward(keypoints, n=..., k=..., kept=...)`: n as below; k, how many frames every frame selects for its graph, None: two
    thirds of T; kept, how many frames the later pairs see, None: a third of T, at most 54.

    Args:
        num_frames, num_joints, in_channels, dim, depth, num_heads, and others: see `lifter.models.MixSTE`.
        n: how many temporal blocks are masked, before one more pair sees all frames: 0 to depth - 2. The paper trains with 3
            and infers with 1. Without MGPTP up to depth.
        nearest: how many nearest frames make a frame's density, see `lifter.layers.MGPTP`.
        bones: pairs of joints that the skeleton's graph connects. None: those of Human3.6M, for 17 joints.
        tcep, sft, mgptp, guided: False leaves out TCEP, and then there is no mask; the mask of the attention; pruning and
            recovery; the mask of the pruning: the paper's tables XI and XII.
    """


class HTP(PrunedMixSTE, D3DP):
    """HTP on D3DP's denoiser, for `lifter.diffusion.sample`; the time is told to it again after TCEP.

    `forward(keypoints, poses, time, n=..., k=..., kept=...)` as `lifter.models.D3DP`, with the choices and arguments of
    `HTPMixSTE` besides.
    """

    def _lift_told(self, x, moment, hypotheses, **choices):
        return self._lift(x, moment, **choices)


class HTPMotionBERT(Pruning, MotionBERT):
    """HTP on MotionBERT: (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames.

    TCEP and one SFT block come before the two streams, whose first `n` depths are masked; MGPTP follows them.
    `forward(keypoints, n=..., k=..., kept=...)` as `HTPMixSTE`.

    Args:
        num_frames, num_joints, in_channels, dim, dim_rep, depth, num_heads, mlp_ratio, and others: see
            `lifter.models.MotionBERT`; the temporal mixer is attention.
        n: how many depths see all frames, masked: 0 to depth - 1. nearest, sft, mgptp, guided: see `HTPMixSTE`.
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
        *,
        n: int = 2,
        nearest: int = 2,
        sft: bool = True,
        mgptp: bool = True,
        guided: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        attention = {"qkv_bias": qkv_bias, "qk_scale": qk_scale, "drop": drop, "attn_drop": attn_drop}
        super().__init__(
            num_frames, num_joints, in_channels, dim, dim_rep, depth, num_heads, mlp_ratio, drop_path=drop_path, **attention
        )
        self.first = SFT(dim, num_heads, mlp_ratio, drop, qkv_bias=qkv_bias, scale=qk_scale, attn_drop=attn_drop)
        self._add_pruning(dim, num_frames, num_heads, n, nearest, True, sft, mgptp, guided, **attention)

    def _most_pairs(self):
        return len(self.ts_attn) - (1 if self.mgptp else 0)

    def represent(self, keypoints: Tensor, n: int | None = None, k: int | None = None, kept: int | None = None):
        x = self._embed(keypoints)
        frames = x.shape[1]
        n, kept = self._choices(frames, n, k, kept)
        x, mask = self.tcep(x, k)
        seen = {"mask": mask if self.sft else None}
        x = self.first(x, **seen)
        for i in range(len(self.ts_attn)):
            if self.mgptp and i == n:
                x = self._prune(x, kept, mask)
            x = self._fused(i, x, **(seen if i < n else {}))
        return self.pre_logits(self.norm(self.cross_attention(self.x_token, x, frames) if self.mgptp else x))


@register_model
def htp(**kwargs):
    """HTP: the denoiser of d3dp with hierarchical temporal pruning, for lifter.diffusion, 36.86 M parameters."""
    return HTP(**kwargs)


@register_model
def htp_mixste(**kwargs):
    """HTP on MixSTE: 54 of 243 frames from the third pair of blocks on, 35.81 M parameters."""
    return HTPMixSTE(**kwargs)


@register_model
def htp_motionbert(**kwargs):
    """HTP on MotionBERT: 54 of 243 frames after two of five depths, 46.07 M parameters."""
    return HTPMotionBERT(**kwargs)
