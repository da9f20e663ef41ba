"""2D keypoints for the models: a built-in synthetic gait, or the windows of a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lifter.data import synthetic

from . import windows


@dataclass(frozen=True)
class Clips:
    keypoints: torch.Tensor  # (clips, T, 17, 2), normalised
    description: str

    def batch(self, size, frames) -> torch.Tensor:
        """The first `frames` frames of the first `size` clips, which start again where they end."""
        if frames > self.keypoints.shape[1]:
            raise ValueError(f"the input has clips of {self.keypoints.shape[1]} frames, expected at least {frames}")
        return self.keypoints[torch.arange(size) % len(self.keypoints), :frames].contiguous()


def load(path) -> Clips:
    """An npz with (clips, frames, 17, 2 or more) keypoints in pixels and `image_size`, as in cmu_pairs_small.npz."""
    keypoints = _stacked(windows.open_windows(path))
    return Clips(keypoints, f"windows of {Path(path).name}: {len(keypoints)} clips of {keypoints.shape[1]} frames, normalised")


def synthetic_gait(clips=8, frames=243, fps=50, seed=0) -> Clips:
    """People who walk, see `lifter.data.synthetic`."""
    keypoints = _stacked(synthetic.open_gait(clips, frames, fps, seed))
    return Clips(keypoints, f"synthetic gait: {clips} clips of {frames} frames, seed {seed}")


def _stacked(sequences):
    return torch.from_numpy(np.stack([sequence.keypoints[..., :2] for sequence in sequences]))
