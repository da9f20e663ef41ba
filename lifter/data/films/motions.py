"""Clips of motion capture at any frame rate."""

from fnmatch import fnmatchcase

import numpy as np
import torch

from lifter.skeleton import H36M

from ..mocap import upright
from ..sequence import Dataset
from .checks import check_numbers


class Motions:
    """All motions of a data set in one tensor, from which clips are taken.

    Args:
        data: sequences of Human3.6M's joints in the world, without cameras.
        weights: how much a second of a motion counts, by patterns of names, as {"rai*": 0.25}; of the others 1.

    Attributes:
        poses: (N, 17, 3) metres, z up, all motions one after another. first, frames, fps: (K,) of each motion.
        bones: (K, 16) the mean lengths of the bones of `H36M.bones`.
    """

    def __init__(self, data: Dataset, weights=None):
        weights = weights or {}
        check_numbers("Motions: weights", 0, **weights)
        poses, fps, share, self.bones = [], [], [], []
        for sequence in data:
            where = f"{sequence.source}: {sequence.name}"
            if sequence.poses is None or sequence.camera is not None or sequence.skeleton is not H36M:
                raise ValueError(f"{where}: expected poses of Human3.6M's joints in the world, without a camera")
            if sequence.fps is None:
                raise ValueError(f"{where}: the frames per second are not known, expected them of a motion to film")
            weight = next((value for name, value in weights.items() if fnmatchcase(sequence.name, name)), 1.0)
            world = torch.from_numpy(np.ascontiguousarray(upright(sequence.poses, sequence.up)))
            joint, parent = (list(side) for side in zip(*H36M.bones))
            self.bones.append((world[:, joint] - world[:, parent]).norm(dim=-1).mean(0).clamp(min=1e-3))
            poses.append(world)
            fps.append(sequence.fps)
            share.append(weight * len(world) / sequence.fps)
        if not sum(share):
            raise ValueError(f"Motions: weights is {weights}, by which no motion of {data.path} counts")
        self.poses, self.bones = torch.cat(poses), torch.stack(self.bones)
        self.frames = torch.tensor([len(world) for world in poses])
        self.first = self.frames.cumsum(0) - self.frames
        self.fps = torch.tensor(fps)
        self.cumulative = torch.tensor(share, dtype=torch.float64).cumsum(0)

    def clips(self, draw, frames, fps):
        """Clips that begin anywhere, seen at rates from `fps[0]` to `fps[1]` frames per second, cubic between those captured.
        A motion that ends before the clip runs back.

        Returns:
            (B, frames, 17, 3) and (B,): which motions they are of.
        """
        chosen = draw.index(self.cumulative)
        last = (self.frames[chosen] - 1).float()
        step = self.fps[chosen] / draw.log_uniform(*fps)
        start = draw.share() * (last - step * (frames - 1)).clamp(min=0)
        time = start[:, None] + step[:, None] * torch.arange(frames)
        last = last.clamp(min=1)[:, None]
        time = last - (time % (2 * last) - last).abs()
        before = time.floor()
        t = (time - before)[..., None, None]
        most = (self.frames[chosen] - 1)[:, None]
        around = [self.poses[self.first[chosen, None] + (before.long() + i).clamp(min=0).minimum(most)] for i in (-1, 0, 1, 2)]
        return _cubic(*around, t), chosen


def _cubic(a, b, c, d, t):
    """Catmull and Rom's curve from b (t = 0) to c (t = 1)."""
    return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
