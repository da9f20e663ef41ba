"""Films: clips of motion capture in other bodies, seen by any camera, found by any detector; made while a model trains.

films = Films(open_data("mocap"), frames=81, clips=32)
keypoints, poses = films[0]  # the first batch: (32, 81, 17, 3) with confidences, and metres in the camera
"""

import torch
from torch.utils.data import Dataset

from lifter.geometry import mirror, towards
from lifter.skeleton import H36M

from .bodies import Bodies
from .cameras import Cameras
from .checks import check_numbers, check_ranges
from .detectors import Detectors
from .draw import Draw
from .faces import with_face
from .mixing import mixed
from .motions import Motions

__all__ = ["Bodies", "Cameras", "Detectors", "Films", "Motions"]


class Films(Dataset):
    """Batches without end: batch `i` follows from the seeds and `i` alone, whoever asks for it, and when.

    `films[i]` is the keypoints (B, T, 17, 3) that a detector finds, normalised, with confidences, and the poses (B, T, 17, 3)
    in metres, relative to the root. The joints are those that the detector marks, without its errors.

    Args:
        motions: `Motions`, or a `lifter.data.Dataset` of motions in the world.
        frames, clips: T and B.
        fps: the slowest and the fastest film.
        seeds: one number or more.
        weights: of `Motions`, made of a data set.
        mixed: share of the clips that have the upper body of another one.
        bodies, cameras, detectors: how they are drawn.
        centred: whether the poses are for a model of centred clips, in the axes of a camera that looks straight at the mean
            place of the root (`lifter.inference.facing`), or in those of the camera.
    """

    skeleton, channels = H36M, 3

    def __init__(
        self, motions, frames=81, clips=32, fps=(20.0, 120.0), seeds=(0,), weights=None, mixed=0.1, bodies=None, cameras=None,
        detectors=None, centred=True,
    ):  # fmt: skip
        check_numbers("Films", 1, frames=frames, clips=clips)
        check_numbers("Films", 0, 1, mixed=mixed)
        check_ranges("Films", 1, fps=fps)
        self.motions = motions if isinstance(motions, Motions) else Motions(motions, weights)
        self.frames, self.clips, self.fps, self.seeds, self.mixed = frames, clips, fps, seeds, mixed
        self.centred = centred
        self.bodies, self.cameras, self.detectors = bodies or Bodies(), cameras or Cameras(), detectors or Detectors()

    def __getitem__(self, index):
        draw = Draw(self.clips, *self.seeds, index)
        world, _ = self.motions.clips(draw, self.frames, self.fps)
        world = mixed(draw, world, self.mixed)
        world = self.bodies(draw, world, self.motions.bones)
        world = torch.where(draw.chance(0.5, 1, 1, 1), mirror(world), world)
        shots = self.cameras(draw, world)
        points = with_face(draw, world)
        habits = self.detectors.choose(draw)
        exact = shots.project(shots.to_camera(self.detectors.define(draw, points)))
        keypoints = self.detectors.find(draw, exact, shots.inside(exact), habits)
        poses = self.detectors.targets(shots.to_camera(points), habits)
        root = poses[:, :, :1]
        poses = poses - root
        if self.centred:
            poses = torch.einsum("bji,btpj->btpi", towards(root[:, :, 0].mean(1)), poses)
        return keypoints, poses
