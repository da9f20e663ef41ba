"""MixSynthFormer: poses of all frames out of the poses of every tenth, by mixed synthetic self-attention.

ICCV 2023. Section and equation numbers are those of the paper.
"""

import torch
from torch import Tensor, nn

from lifter.layers import Linear, MixSynthEncoder

from ._inputs import check_poses
from ._register import register_model, register_official
from ._windows import mean_of_windows


class MixSynthFormer(nn.Module):
    """MixSynthFormer: interpolates sparse poses, then refines the whole window with temporal and spatial attention.

    Poses are (B, T, J, C), or flat as the official data, (B, T, J * C). They may be 2D, 3D or rotations, come from any
    estimator, and go out refined in the same form. A window is `interval * steps + 1` frames; its keyframes are the
    `steps + 1` frames at the multiples of `interval`. What is given follows from T:
      * `model(keyframes)`, T = steps + 1: the keyframes of one window -> (B, window, J, C).
      * `model(sequence)`, T >= window: all frames -> (B, T, J, C). Windows begin at every multiple of `interval`, as in
        the official evaluation. If the last of them ends before the sequence, one more ends with it; the official code
        drops those frames. Only keyframes of these windows are read. A frame is the mean over its windows.
    Any other T is an error. No T means both, for a window is longer than its keyframes unless `interval` is 1, when all
    frames of a window are its keyframes.

    Motion prediction (section 3.6): with `predict` the window goes on for so many frames after its last keyframe, and they
    alone are returned, (B, predict, J, C). What is given is the history: its keyframes, or its `interval * steps + 1`
    frames. The paper's is all of consecutive keyframes, `interval=1`.

    The network is small and its time that of a hundred calls: `lifter.freeze` makes evaluation one call, if `variant` is
    "official" and `branches` are both.

    Paper and official code weight the two branches of the attention differently, see `lifter.layers.MixSynthAttention`.

    Args:
        num_frames: the frames of the window; follows from `interval` and `steps`, and is only compared with them.
        num_joints, in_channels: J, C.
        dim, depth, mlp_ratio: width, encoder layers, hidden width of the MLPs by dim.
        interval, steps: frames from one keyframe to the next, and how often.
        r_t, r_s: reduction of the temporal and of the spatial attention.
        interpolation: "learned", a linear layer from keyframes to frames, or "linear", between (in prediction: on from) the
            two nearest keyframes.
        predict: frames to predict; 0: none, the window ends with its last keyframe.
        variant, branches: see `lifter.layers.MixSynthAttention`.
        drop: dropout of attention and MLPs.
    """

    def __init__(
        self,
        num_frames: int | None = None,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 64,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        *,
        interval: int = 10,
        steps: int = 10,
        r_t: int = 4,
        r_s: int = 4,
        interpolation: str = "learned",
        predict: int = 0,
        drop: float = 0.1,
        **attention,
    ):
        super().__init__()
        for name, value, least in (("interval", interval, 1), ("steps", steps, 1), ("predict", predict, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"MixSynthFormer: {name} is {value!r}, expected an integer of at least {least}")
        if interpolation not in ("learned", "linear"):
            raise ValueError(f"MixSynthFormer: interpolation is {interpolation!r}, expected 'learned' or 'linear'")
        span = interval * steps + 1
        window = span + predict
        if num_frames not in (None, window):
            parts = f"interval={interval} * steps={steps} + 1" + (f" + predict={predict}" if predict else "")
            raise ValueError(f"MixSynthFormer: num_frames is {num_frames}, expected {parts} = {window}, or none")
        self.num_joints, self.in_channels = num_joints, in_channels
        self.interval, self.steps, self.predict, self.span, self.window = interval, steps, predict, span, window
        self.l_interp = (
            Linear(steps + 1, window) if interpolation == "learned" else LinearInterpolation(steps, interval, window)
        )
        self.encoder_emb = Linear(num_joints * in_channels, dim)
        self.encoder = MixSynthEncoder(window, dim, depth, mlp_ratio=mlp_ratio, drop=drop, r_t=r_t, r_s=r_s, **attention)
        self.norm = nn.LayerNorm(dim)
        self.fc = Linear(dim, num_joints * in_channels)
        self.reset_parameters()

    def reset_parameters(self):
        """The official start."""
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, poses: Tensor) -> Tensor:
        self._check(poses)
        x = poses.flatten(2).to(self.norm.weight.dtype)
        if x.shape[1] in (self.steps + 1, self.span):
            merged = self._windows(x if x.shape[1] == self.steps + 1 else x[:, :: self.interval])
        else:
            keyframes = self._keyframes(x)
            windows = self._windows(keyframes.flatten(0, 1)).unflatten(0, keyframes.shape[:2])
            merged = mean_of_windows(windows, self.interval, x.shape[1])
        merged = merged[:, self.span :] if self.predict else merged
        return merged.to(poses.dtype).reshape(*merged.shape[:2], *poses.shape[2:])

    def refine(self, recovered: Tensor):
        """Refine interpolated poses: (N, window, J * C) -> the same shape, equations 2 to 5."""
        return self.fc(self.norm(self.encoder(self.encoder_emb(recovered)))) + recovered

    def _windows(self, keyframes):
        """(N, steps + 1, P) -> (N, window, P)."""
        return self.refine(self.l_interp(keyframes.mT).mT)

    def _keyframes(self, x):
        """(B, T, P) -> (B, windows, steps + 1, P)."""
        frames = x.shape[1]
        keyframes = x[:, :: self.interval].unfold(1, self.steps + 1, 1).mT
        if (frames - self.span) % self.interval == 0:
            return keyframes
        last = x[:, None, frames - self.span :: self.interval]
        return torch.cat((keyframes, last), 1)

    def _check(self, poses):
        check_poses("MixSynthFormer", poses, self.num_joints, self.in_channels)
        frames, keyframes = poses.shape[1], self.steps + 1
        if frames in (keyframes, self.span) or (frames > self.span and not self.predict):
            return
        sequence = f"{self.span} (its history)" if self.predict else f"at least {self.span} (a sequence)"
        raise ValueError(f"MixSynthFormer: poses have {frames} frames, expected {keyframes} (keyframes) or {sequence}")


class LinearInterpolation(nn.Module):
    """Keyframes at 0, interval, ... -> all frames, on the line through the two nearest; (..., steps + 1) -> (..., window).

    Frames after the last keyframe are on the line through the last two.
    """

    def __init__(self, steps, interval, window):
        super().__init__()
        self.steps, self.interval, self.window = steps, interval, window

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.arange(self.window, device=x.device)
        before = (frames // self.interval).clamp(max=self.steps - 1)
        fraction = (frames - before * self.interval).to(x.dtype) / self.interval
        return torch.lerp(x[..., before], x[..., before + 1], fraction)

    def extra_repr(self):
        return f"steps={self.steps}, interval={self.interval}, window={self.window}"


# Where the paper gives no figure the sizes are those of the official configurations.


@register_model
def mixsynthformer_h36m(**kwargs):
    """MixSynthFormer for Human3.6M: 101 frames of 17 joints in 3D from 11 keyframes, 0.18 M parameters."""
    return MixSynthFormer(**kwargs)


@register_model
def mixsynthformer_jhmdb(**kwargs):
    """MixSynthFormer for Sub-JHMDB: 11 frames of 15 joints in 2D from 2 keyframes, 0.49 M parameters."""
    return MixSynthFormer(**{"num_joints": 15, "in_channels": 2, "dim": 128, "depth": 5, "steps": 1} | kwargs)


@register_model
def mixsynthformer_3dpw(**kwargs):
    """MixSynthFormer for 3DPW: 51 frames of 14 joints in 3D from 6 keyframes, 0.05 M parameters."""
    return MixSynthFormer(**{"num_joints": 14, "dim": 32, "steps": 5} | kwargs)


@register_model
def mixsynthformer_3dpw_smpl(**kwargs):
    """MixSynthFormer for 3DPW in SMPL: 51 frames of 24 rotations in 6D from 6 keyframes, 0.14 M parameters."""
    return MixSynthFormer(**{"num_joints": 24, "in_channels": 6, "steps": 5} | kwargs)


@register_model
def mixsynthformer_aist(**kwargs):
    """MixSynthFormer for AIST++: 101 frames of 14 joints in 3D from 11 keyframes, 0.60 M parameters."""
    return MixSynthFormer(**{"num_joints": 14, "dim": 128, "depth": 5} | kwargs)


@register_model
def mixsynthformer_aist_smpl(**kwargs):
    """MixSynthFormer for AIST++ in SMPL: 101 frames of 24 rotations in 6D from 11 keyframes, 0.62 M parameters."""
    return MixSynthFormer(**{"num_joints": 24, "in_channels": 6, "dim": 128, "depth": 5} | kwargs)


@register_official("lib.models.mixsynthformer.PoseRefinementModel", tolerance=1e-5)
def official_mixsynthformer(
    sample_interval=10, step=1, joint_dim=30, emb_dim=128, num_encoder_layers=5, expansion_factor=2, dropout=0.1,
    reduce_token=4, reduce_channel=8,
):  # fmt: skip
    """Its poses are flat: how many joints `joint_dim` stands for, it does not know."""
    return MixSynthFormer(
        None, 1, joint_dim, emb_dim, num_encoder_layers, expansion_factor, interval=sample_interval, steps=step,
        r_t=reduce_token, r_s=reduce_channel, drop=dropout,
    )  # fmt: skip
