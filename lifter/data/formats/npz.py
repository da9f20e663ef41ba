"""Keypoints or 3D poses in an npz: `keypoints`, and perhaps `scores`, `size`, `fps`; and those of two programs.

VideoPose3D's inference has boxes, segments and keypoints of each frame, as Detectron did, and metadata with the size.
MHFormer's demo, and those that have it from there, have `reconstruction`: 2D keypoints, or 3D poses, of Human3.6M's joints.
"""

import numpy as np

from ..files import Npz, numbers
from ..keypoints import order_of
from ..keys import SCORES, plain
from ..loose import open_loose
from ..registry import register_format
from ..sequence import Dataset

# Plain names (`keys.plain`) of arrays, the first that is there is meant.
_KEYPOINTS = (
    "keypoints", "kpts", "kps", "kp", "keypoints2d", "poses2d", "pose2d", "joints2d", "landmarks", "poselandmarks", "xy",
    "data", "arr0",
)  # fmt: skip
_POSES = (
    "keypoints3d", "poses3d", "pose3d", "joints3d", "positions3d", "pred3d", "poses",
)  # fmt: skip


def _names(archive):
    """The keys of the arrays that may be keypoints or poses, by their plain names."""
    known = {plain(key): key for key in archive.keys}
    return {name: known[name] for name in (*_KEYPOINTS, *_POSES) if name in known}


@register_format(
    "npz",
    "keypoints (T, J, 2 or 3), perhaps scores, size, fps",
    guess=lambda file: file.npz is not None and bool(_names(file.npz)),
    suffix=".npz",
)
def open_npz(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    archive = Npz(path)
    found = _names(archive)
    if not found:
        raise KeyError(f"{path}: no key {' or '.join(_KEYPOINTS)}, it has {', '.join(archive.keys[:20]) or 'none'}")
    name, key = next(iter(found.items()))
    beside = [other for other in archive.keys if len(archive.shape(other)) < 2 or plain(other) in SCORES]
    data = {other: _single(archive[other]) for other in beside if other not in found.values()}
    data["keypoints_3d" if name in _POSES else "keypoints"] = archive[key]
    return open_loose("npz", archive.path, data, size, fps, layout, variant)


def _single(value):
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


@register_format(
    "vp3d-infer",
    "VideoPose3D's keypoints of a video, as Detectron's (npz)",
    sniff=lambda file: {"boxes", "segments", "keypoints"} <= file.arrays,
    suffix=".npz",
)
def open_inferred(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """Open a list of frames, each the people's x, y, logit and confidence (N, 4, 17); options are of `open_clips`."""
    archive = Npz(path)
    metadata = archive["metadata"] if "metadata" in archive else None
    told = {key: metadata[key] for key in ("w", "h") if isinstance(metadata, dict) and key in metadata}
    classes = archive.shape("keypoints")[1:]
    people = archive["keypoints"]
    if len(classes) != 1 or len(people) % classes[0]:
        raise ValueError(
            f"{path}: keypoints: shape {archive.shape('keypoints')}, expected (T, 2), a list of people for each class"
        )
    frames = []
    for number in range(0, len(people), classes[0]):
        found = people[number + classes[0] - 1]  # the last class are people
        where = f"{path}: keypoints: frame {number // classes[0]}"
        found = numbers(found, (None, 4, None), where) if len(found) else np.zeros((0, 4, 17))
        frames.append([pose[[0, 1, 3]].T for pose in found])
    return open_loose("vp3d-infer", archive.path, {"frames": frames, **told}, size, fps, layout, variant)


@register_format(
    "mhformer",
    "MHFormer's keypoints or 3D poses (npz)",
    sniff=lambda file: "reconstruction" in file.arrays,
    suffix=".npz",
)
def open_reconstruction(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """Arrays (T, 17, 2 or 3), or (people, T, 17, 2 or 3); the other options are of `open_clips`."""
    archive = Npz(path)
    points = numbers(archive["reconstruction"], None, f"{path}: reconstruction")
    if points.ndim not in (3, 4) or points.shape[-2] != 17 or points.shape[-1] not in (2, 3):
        raise ValueError(f"{path}: reconstruction: shape {points.shape}, expected (people, T, 17, 2 or 3)")
    key = "keypoints" if points.shape[-1] == 2 else "keypoints_3d"
    if layout is None:
        layout = order_of(points.reshape(-1, *points.shape[-2:]), "h36m", path) if key == "keypoints" else "h36m"
    return open_loose("mhformer", archive.path, {key: points}, size, fps, layout, variant)
