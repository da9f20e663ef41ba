"""People who walk, for when there is no data at all."""

import math
from functools import partial

import numpy as np

from .cameras import Camera, normalise
from .sequence import Dataset, Sequence

CAMERA = Camera(1000, 1002, 1145.0, 1145.0, 500.0, 501.0, translation=np.array([0.0, 0.9, 0.0]), id="synthetic")


def open_gait(clips=8, frames=243, fps=50, seed=0) -> Dataset:
    """Stick figures with swinging limbs, seen from all sides by a pinhole camera 5 m away, 0.9 m above the ground: sequences
    "0", "1", ... of keypoints and poses in the camera."""
    poses = _poses(clips, frames, fps, seed)
    source = f"synthetic gait, seed {seed}"
    return Dataset("synthetic", source, {str(i): partial(_clip, str(i), poses[i], fps, source) for i in range(clips)})


def _clip(name, poses, fps, source) -> Sequence:
    keypoints = normalise(CAMERA.project(poses), CAMERA.size)
    return Sequence(name, keypoints=keypoints, poses=poses, fps=fps, camera=CAMERA, source=source)


def _poses(clips, frames, fps, seed):
    """(clips, frames, 17, 3) metres in the camera."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[None] / fps + np.zeros((clips, 1))
    draw = lambda low, high: rng.uniform(low, high, (clips, 1))
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
    return np.stack([x, 0.9 - up, depth], -1)
