"""Motions in the world: rotations, axes, and what virtual cameras see of them."""

from dataclasses import replace
from functools import partial

import numpy as np

from lifter._notices import notice
from lifter.skeleton import H36M

from .cameras import around, normalise
from .noise import detect
from .sequence import Dataset, Sequence

FPS = 30.0  # of a file that has to tell them, where they are not known


def rotation(order, angles):
    """The matrices (..., 3, 3) of turns by `angles` (..., n) in radians about the axes `order`, the first one first."""
    result = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for axis, angle in zip(order, np.moveaxis(angles, -1, 0)):
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        turn = np.zeros((*angle.shape, 3, 3)) + np.eye(3)
        turn[..., i, i] = turn[..., j, j] = np.cos(angle)
        turn[..., j, i] = np.sin(angle)
        turn[..., i, j] = -turn[..., j, i]
        result = turn @ result
    return result


def upright(points, up):
    """(..., 3) with z up, of points with the axis `up` up, as "y" or "-z"."""
    x, y, z = np.moveaxis(points, -1, 0)
    turned = {"x": (y, z, x), "-x": (z, y, -x), "y": (x, -z, y), "-y": (x, z, -y), "z": (x, y, z), "-z": (x, -y, -z)}
    return np.stack(turned[up], -1)


def known_rate(sequence) -> float:
    """The frames per second of a sequence for a file that has to tell them; if they are not known 30, which is said."""
    if not sequence.fps:
        notice(f"{sequence.source or sequence.name}: {sequence.name}: the frames per second are not known: written as {FPS:g}")
    return sequence.fps or FPS


def z_up(points):
    """(..., 3) with y up -> with z up."""
    return upright(points, "y")


def y_up(sequence: Sequence):
    """The poses of a sequence (T, J, 3) float64 with y up. In a camera, of which its keypoints tell too, y is down; in the
    world `sequence.up` is up."""
    if sequence.poses is None:
        raise ValueError(f"{sequence.name}: no poses")
    x, y, z = np.moveaxis(sequence.poses.astype(np.float64), -1, 0)
    seen = sequence.camera is not None or sequence.keypoints is not None
    return np.stack({"-y": (x, -y, -z), "y": (x, y, z), "z": (x, z, -y)}["-y" if seen else sequence.up], -1)


def seen_by(camera, world, seed=None) -> dict:
    """Return the view of a camera on a motion (T, 17, 3) in the world: `poses` in the camera and `keypoints`, exact;
    or with a seed those of a detector, and `keypoints_true`."""
    poses = camera.to_camera(world)
    pixels = camera.project(poses)
    exact = normalise(pixels, camera.size)
    if seed is None:
        return {"poses": poses, "keypoints": exact}
    detected, _ = detect(pixels, camera.size, seed)
    return {"poses": poses, "keypoints": normalise(detected, camera.size), "keypoints_true": exact}


def middle(motions: Dataset, seconds) -> Dataset:
    """Cut `seconds` from the middle of every motion."""
    items = {name: partial(_middle, read, seconds) for name, read in motions.items.items()}
    return Dataset(motions.format, motions.path, items)


def _middle(read, seconds):
    motion = read()
    first = max(0, (len(motion) - int(seconds * motion.fps)) // 2)
    return motion.take(slice(first, len(motion) - first))


def film(motions: Dataset, noise=None, pitch=None, roll=0.0) -> Dataset:
    """Every motion in the world seen by four virtual cameras around it (`lifter.data.cameras.around`): sequences
    "02_02/0" with poses in the camera and keypoints; `noise` as of `seen_by`, `pitch` and `roll` as of `around`."""
    items = {}
    for name, read in motions.items.items():
        for index in range(4):
            items[f"{name}/{index}"] = partial(_filmed, f"{name}/{index}", read, index, noise, pitch, roll)
    return Dataset(motions.format, motions.path, items)


def _filmed(name, read, index, noise, pitch, roll) -> Sequence:
    motion = read()
    if motion.poses is None or motion.camera is not None or motion.skeleton is not H36M:
        raise ValueError(
            f"{motion.source}: {motion.name}: expected poses of Human3.6M's joints in the world, without a camera"
        )
    world = motion.poses if motion.up == "z" else z_up(y_up(motion)).astype(np.float32)
    camera = around(world, pitch=pitch, roll=roll)[index]
    seen = seen_by(camera, world.astype(np.float64), None if noise is None else (noise, name))
    return replace(motion, name=name, camera=camera, size=camera.size, **seen)
