"""The motion capture of ../shared/data: cmu_h36m17.npz (clips in the world and their cameras), and the windows of
cmu_pairs_small.npz or of any npz in that form."""

from functools import partial
from pathlib import Path

import numpy as np

from lifter.skeleton import H36M

from .cameras import Camera, normalise
from .files import Npz, existing, numbers, take
from .noise import detect
from .sequence import Dataset, Sequence


def open_clips(path, noise=None) -> Dataset:
    """Sequences "S1/01_01/0" of a subject, a clip and a camera: poses in the camera and keypoints, read clip by clip.

    `noise`: None for exact keypoints; or a seed, for those of a detector (`lifter.data.noise.detect`), with confidences and
    the exact ones beside them. Every sequence has a random stream of its own.
    """
    archive = Npz(path)
    fps = float(numbers(archive["fps"], (), f"{path}: fps"))
    clips = take(archive.json("cameras_json"), "clips", f"{path}: cameras_json")
    items = {}
    for key in (key for key in archive.keys if "/" in key):
        where = f"{path}: cameras_json: clips"
        cameras = take(clips, key, where)
        for index, values in enumerate(cameras if isinstance(cameras, list) else []):
            name = f"{key}/{index}"
            camera = Camera.of_dict(values, f"{where}: {name}")
            items[name] = partial(_clip, name, archive, key, camera, fps, noise)
    return Dataset("cmu", path, items)


def _clip(name, archive, key, camera, fps, noise) -> Sequence:
    world = numbers(archive[key], (None, H36M.num_joints, 3), f"{archive.path}: {key}")
    seen = seen_by(camera, world, None if noise is None else (noise, name))
    subject, action, _ = name.split("/")
    return Sequence(name, **seen, fps=fps, camera=camera, subject=subject, action=action, source=str(archive.path))


def seen_by(camera, world, seed=None) -> dict:
    """What a camera sees of a motion (T, 17, 3) in the world: `poses` in the camera and `keypoints`, exact; or with a seed
    those of a detector, and `keypoints_true`."""
    poses = camera.to_camera(world)
    pixels = camera.project(poses)
    exact = normalise(pixels, camera.size)
    if seed is None:
        return {"poses": poses, "keypoints": exact}
    detected, _ = detect(pixels, camera.size, seed)
    return {"poses": poses, "keypoints": normalise(detected, camera.size), "keypoints_true": exact}


KEYPOINTS = ("input_2d_det", "input_2d_gt")  # what a detector would give, before the exact projection


def open_windows(path) -> Dataset:
    """Windows (n, T, 17, 2 or more) in pixels with `image_size`: sequences "0", "1", ... with poses where there is a
    `target_3d`. Of an array that a detector made the third channel is the confidence."""
    path = Path(existing(path))
    archive = Npz(path)
    arrays = {key: archive[key] for key in (*KEYPOINTS, "target_3d", "subject", "clip", "camera", "start") if key in archive}
    key = next((key for key in KEYPOINTS if key in arrays), None)
    if key is None or "image_size" not in archive:
        lacks = [] if key else [" or ".join(KEYPOINTS)]
        lacks += [] if "image_size" in archive else ["image_size"]
        raise KeyError(f"{path}: no {' and '.join(lacks)}, it has {', '.join(archive.keys) or 'nothing'}")
    size = numbers(archive["image_size"], None, f"{path}: image_size")
    if size.shape != (2,) or not (size > 0).all():
        raise ValueError(f"{path}: image_size is {size.tolist()}, expected (width, height)")
    size = tuple(map(float, size))
    pixels = numbers(arrays[key], None, f"{path}: {key}")
    if pixels.ndim != 4 or pixels.shape[2] != H36M.num_joints or pixels.shape[3] < 2 or 0 in pixels.shape:
        raise ValueError(f"{path}: {key} has shape {pixels.shape}, expected (clips, frames, 17, 2 or more)")
    for name, array in arrays.items():
        if len(array) != len(pixels):
            raise ValueError(f"{path}: {name} has {len(array)} windows, expected {len(pixels)} as {key}")
    fps = float(numbers(archive["fps"], (), f"{path}: fps")) if "fps" in archive else None
    channels = 3 if key == KEYPOINTS[0] and pixels.shape[3] >= 3 else 2
    common = {"size": size, "fps": fps, "source": str(path)}
    items = {str(i): partial(_window, i, arrays, pixels[i, :, :, :channels], key, common) for i in range(len(pixels))}
    return Dataset("windows", path, items)


def _window(index, arrays, pixels, key, common) -> Sequence:
    known = {"keypoints": normalise(pixels, common["size"])}
    if key != KEYPOINTS[1] and KEYPOINTS[1] in arrays:
        known["keypoints_true"] = normalise(np.asarray(arrays[KEYPOINTS[1]][index], np.float64), common["size"])
    if "target_3d" in arrays:
        known["poses"] = arrays["target_3d"][index]
    known |= {
        field: str(arrays[column][index]) for field, column in (("subject", "subject"), ("action", "clip")) if column in arrays
    }
    if "start" in arrays:
        known["start"] = int(arrays["start"][index])
    return Sequence(str(index), **known, **common)
