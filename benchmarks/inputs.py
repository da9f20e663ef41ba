"""2D keypoints for the models: a built-in synthetic gait, or the windows of a file."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lifter.skeleton import H36M

KEYS = ("input_2d_det", "input_2d_gt")  # what a detector would give, before the exact projection


@dataclass(frozen=True)
class Clips:
    keypoints: torch.Tensor  # (clips, T, 17, 2), normalised
    description: str

    def batch(self, size, frames) -> torch.Tensor:
        """The first `frames` frames of the first `size` clips, which start again where they end."""
        if frames > self.keypoints.shape[1]:
            raise ValueError(f"the input has clips of {self.keypoints.shape[1]} frames, expected at least {frames}")
        return self.keypoints[torch.arange(size) % len(self.keypoints), :frames].contiguous()


def normalise(pixels, width, height):
    """x / w * 2 - 1, y / w * 2 - h / w."""
    return pixels / width * 2 - np.array([1, height / width], dtype=pixels.dtype)


def load(path) -> Clips:
    """An npz with (clips, frames, 17, 2 or more) keypoints in pixels and `image_size`, as in cmu_pairs_small.npz."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--input: there is no file {path}")
    try:
        with np.load(path) as archive:
            data = {key: archive[key] for key in (*KEYS, "image_size") if key in archive.files}
            found = ", ".join(archive.files) or "nothing"
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"--input: {path} is not an npz file of arrays ({error})") from None
    key = next((key for key in KEYS if key in data), None)
    if key is None or "image_size" not in data:
        missing = " and ".join(([] if key else [" or ".join(KEYS)]) + ([] if "image_size" in data else ["image_size"]))
        raise KeyError(f"--input: {path} has no {missing} (it has {found})")
    pixels, size = data[key], data["image_size"]
    if pixels.ndim != 4 or pixels.shape[2] != H36M.num_joints or pixels.shape[3] < 2 or 0 in pixels.shape:
        raise ValueError(f"--input: {key} of {path} has shape {pixels.shape}, expected (clips, frames, 17, 2 or more)")
    if size.shape != (2,) or not (size > 0).all():
        raise ValueError(f"--input: image_size of {path} is {size.tolist()}, expected (width, height)")
    keypoints = torch.from_numpy(normalise(pixels[..., :2].astype(np.float32), *map(float, size)).astype(np.float32))
    if not keypoints.isfinite().all():
        raise ValueError(f"--input: {key} of {path} has values that are not finite")
    clips, frames = pixels.shape[:2]
    return Clips(keypoints, f"{key} of {path.name}: {clips} clips of {frames} frames, normalised")


def synthetic_gait(clips=8, frames=243, fps=50, seed=0) -> Clips:
    """People who walk: a stick figure with swinging limbs, seen from all sides by a pinhole camera 5 m away."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[None] / fps + np.zeros((clips, 1))
    draw = lambda low, high: rng.uniform(low, high, (clips, 1))  # noqa: E731
    phase = draw(0, 2 * math.pi) + 2 * math.pi * draw(0.8, 1.1) * time
    swing, heading, size = draw(0.35, 0.5), draw(0, 2 * math.pi), draw(0.9, 1.1)

    def limb(start, lengths, angles):
        """Joints below `start`, (forward, up, left) each, hanging at `angles` from the vertical."""
        joints = []
        for length, angle in zip(lengths, angles):
            start = start + np.stack([length * np.sin(angle), -length * np.cos(angle), np.zeros_like(angle)], -1)
            joints.append(start)
        return joints

    def at(height, left):
        bounce = 0.02 * np.cos(2 * phase)
        return np.stack([np.zeros_like(phase), height + bounce, left + np.zeros_like(phase)], -1)

    def leg(side, phase):
        hip = at(0.95, 0.13 * side)
        knee_bend = 0.5 * np.maximum(0, np.sin(phase + 0.6)) + 0.05
        thigh = swing * np.sin(phase)
        return [hip, *limb(hip, (0.44, 0.43), (thigh, thigh - knee_bend))]

    def arm(side, phase):
        shoulder = at(1.42, 0.17 * side)
        upper = 0.7 * swing * np.sin(phase)
        return [shoulder, *limb(shoulder, (0.28, 0.25), (upper, upper + 0.35))]

    torso = [at(height, 0) for height in (0.95, 1.18, 1.45, 1.55, 1.68)]
    # H36M: pelvis, right leg, left leg, spine to head top, left arm, right arm; opposite arm and leg swing together.
    right, left = phase, phase + math.pi
    joints = [torso[0], *leg(-1, right), *leg(1, left), *torso[1:], *arm(1, right), *arm(-1, left)]
    forward, up, side = np.moveaxis(np.stack(joints, 2) * size[..., None, None], -1, 0)
    cos, sin = np.cos(heading)[..., None], np.sin(heading)[..., None]
    x, depth = forward * cos - side * sin, 5 + forward * sin + side * cos
    pixels = np.stack([500 + 1145 * x / depth, 501 + 1145 * (0.9 - up) / depth], -1)
    keypoints = torch.from_numpy(normalise(pixels, 1000, 1002).astype(np.float32))
    return Clips(keypoints, f"synthetic gait: {clips} clips of {frames} frames, seed {seed}")
