"""Keypoints or 3D poses in an npz: `keypoints`, and perhaps `scores`, `size`, `fps`; and those of two programs.

VideoPose3D's inference has boxes, segments and keypoints of each frame, as Detectron did, and metadata with the size.
MHFormer's demo, and those that have it from there, have `reconstruction`: 2D keypoints, or 3D poses, of Human3.6M's joints.
"""

import numpy as np

from ..files import Npz, numbers
from ..keypoints import order_of
from ..loose import open_loose
from ..parts import FPS, HEIGHT, NAMES, SCORES, SIZE, WIDTH
from ..registry import register_format
from ..sequence import Dataset

_KEYPOINTS = (
    "keypoints", "kpts", "keypoints_2d", "keypoints2d", "poses_2d", "pose_2d", "joints_2d", "landmarks", "pose_landmarks",
    "xy", "data", "arr_0",
)  # fmt: skip
_POSES = (
    "keypoints_3d", "keypoints3d", "poses_3d", "pose_3d", "poses3d", "pose3d", "joints_3d", "joints3d", "positions_3d",
    "pred_3d", "poses",
)  # fmt: skip

_ROWS = {  # of a person in a frame
    "frame": ("frame_ids", "frame_id", "frames", "frame_idx", "frame_indices", "frame_numbers"),
    "track_id": ("track_ids", "track_id", "ids", "person_ids"),
}


def _names(file):
    return [key for key in (*_KEYPOINTS, *_POSES) if key in file.arrays]


@register_format(
    "npz", "keypoints (T, J, 2 or 3), perhaps scores, size, fps", guess=lambda file: bool(_names(file)), suffix=".npz"
)
def open_npz(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    archive = Npz(path)
    key = next((key for key in (*_KEYPOINTS, *_POSES) if key in archive), None)
    if key is None:
        raise KeyError(f"{path}: no key {' or '.join(_KEYPOINTS)}, it has {', '.join(archive.keys[:20]) or 'none'}")
    data = {"keypoints_3d" if key in _POSES else "keypoints": archive[key]}
    for keys in (SCORES, WIDTH, HEIGHT, SIZE, FPS, NAMES):
        if told := next((key for key in keys if key in archive), None):
            data[told] = _plain(archive[told])
    return open_loose("npz", archive.path, _by_frames(data, archive), size, fps, layout, variant)


def _by_frames(data, archive):
    """The same with people by frames, if there are an array of their frames, and perhaps one of their ids."""
    keypoints = data.get("keypoints")
    rows = {name: next((archive[key] for key in keys if key in archive), None) for name, keys in _ROWS.items()}
    fits = lambda values: isinstance(values, np.ndarray) and values.shape == keypoints.shape[:1]
    rows = {name: values for name, values in rows.items() if isinstance(keypoints, np.ndarray) and fits(values)}
    if "frame" not in rows:
        return data
    scores = next((values for key, values in data.items() if key in SCORES and isinstance(values, np.ndarray)), None)
    rows |= {"keypoints": keypoints} | ({} if scores is None or scores.ndim != 2 else {"scores": scores})
    frames = [dict(zip(rows, row)) for row in zip(*(values.tolist() for values in rows.values()))]
    return {key: value for key, value in data.items() if key != "keypoints" and value is not scores} | {"frames": frames}


def _plain(value):
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


@register_format(
    "vp3d-infer",
    "VideoPose3D's keypoints of a video, as Detectron's (npz)",
    sniff=lambda file: {"boxes", "segments", "keypoints"} <= file.arrays,
    suffix=".npz",
)
def open_inferred(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """Of each frame the people's x, y, logit and confidence (N, 4, 17); the other options are of `open_clips`."""
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
