"""The form of `--input`: an npz of windows of keypoints in pixels. Importing this makes `lifter.data.open_data` know it."""

from functools import partial
from pathlib import Path

import numpy as np

from lifter.data import Dataset, Sequence, normalise
from lifter.data.files import Npz, existing, numbers
from lifter.data.registry import register_format
from lifter.skeleton import H36M

KEYPOINTS = ("input_2d_det", "input_2d_gt")  # what a detector would give, before the exact projection


@register_format(
    "windows", "windows of keypoints in pixels with image_size, as cmu_pairs_small.npz",
    sniff=lambda file: "image_size" in file.arrays and not file.arrays.isdisjoint(KEYPOINTS), suffix=".npz",
)  # fmt: skip
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
