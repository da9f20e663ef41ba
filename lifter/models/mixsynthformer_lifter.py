"""MixSynthFormer as a lifter: an estimator lifts the keyframes, MixSynthFormer recovers all frames from their poses."""

from collections.abc import Iterable

from torch import Tensor, nn

from ._inputs import check_keypoints
from ._register import MODELS, register_model
from .mixsynthformer import MixSynthFormer


class MixSynthFormerLifter(nn.Module):
    """Keypoints of a window to its poses, of which only every `interval`-th frame is estimated: (B, T, J, in_channels) ->
    (B, T, J, 3) for T = num_frames = interval * steps + 1.

    The keypoints of the frames between are not read.

    Args:
        num_frames: the frames of the window; follows from `interval` and `steps`, and is only compared with them.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, interval, steps, and others: see `lifter.models.MixSynthFormer`, which refines the estimates.
        estimator: any module (B, T, J, in_channels) -> (B, T, J, 3) for T = steps + 1 keyframes, part of this model and
            trained with it; or the arguments of `create_model`, as {"name": "conv", "dim": 192}.
            None: `lifter.models.LinearLifter`.
    """

    def __init__(
        self,
        num_frames: int | None = None,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 64,
        depth: int = 4,
        *,
        estimator: nn.Module | dict | None = None,
        **mixsynthformer,
    ):
        super().__init__()
        self.estimator = _estimator(estimator or {"name": "linear"}, num_joints, in_channels)
        self.refiner = MixSynthFormer(num_frames, num_joints, 3, dim, depth, **mixsynthformer)
        if self.refiner.predict:
            raise ValueError(f"MixSynthFormerLifter: predict is {self.refiner.predict}, expected 0: all frames are recovered")
        self.num_frames, self.num_joints, self.in_channels = self.refiner.window, num_joints, in_channels
        self.clip_multiple = self.num_frames  # what a stream gives it

    def forward(self, keypoints: Tensor) -> Tensor:
        check_keypoints("MixSynthFormerLifter", keypoints, None, self.num_joints, self.in_channels)
        if keypoints.shape[1] != self.num_frames:
            got = f"keypoints have {keypoints.shape[1]} frames"
            raise ValueError(f"MixSynthFormerLifter: {got}, expected num_frames={self.num_frames}")
        return self.refiner(self.estimator(keypoints[:, :: self.refiner.interval]))

    def fit(self, pairs: Iterable[tuple]):
        """Fit the estimator, if it can be; see `lifter.models.LinearLifter.fit`."""
        if hasattr(self.estimator, "fit"):
            self.estimator.fit(pairs)


def _estimator(given, num_joints, in_channels):
    if isinstance(given, nn.Module):
        return given
    if not isinstance(given, dict) or given.get("name") not in MODELS:
        names = ", ".join(sorted(MODELS))
        raise ValueError(f"MixSynthFormerLifter: estimator is {given!r}, expected a module, or a dict with a name of {names}")
    sizes = {key: value for key, value in given.items() if key != "name"}
    return MODELS[given["name"]](num_joints=num_joints, in_channels=in_channels, **sizes)


@register_model
def mixsynthformer_lifter(**kwargs):
    """MixSynthFormer lifting 2D: 101 frames from the keypoints of 11 of them, 0.18 M parameters."""
    return MixSynthFormerLifter(**kwargs)
