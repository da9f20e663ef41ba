"""Human3.6M as MotionBERT stores it: one pickle of all frames, or a folder of clips cut from it."""

from functools import partial
from pathlib import Path

import numpy as np

from ..cameras import normalise
from ..files import existing, keypoints_array, length, numbers, read_pickle, take
from ..registry import register_format
from ..sequence import Dataset, Sequence
from .h36m import FPS, SIZES


@register_format(
    "motionbert", "Human3.6M as MotionBERT stores it (pickle)", guess=lambda file: file.suffix == ".pkl", suffix=".pkl"
)
def open_pickle(path) -> Dataset:
    """h36m_sh_conf_cam_source_final.pkl and its like: sequences "test/s_09_act_02_subact_01_ca_01".

    Of each the keypoints with confidence (1 where the file has none), the 2.5D target `image_poses`, its `factor` in metres,
    and `poses`: the file's joints_2.5d_image, in metres, or else factor times image_poses. Both are right relative to the
    root only.
    """
    data = read_pickle(existing(path))
    items = {}
    for split in ("train", "test"):
        if not isinstance(data, dict) or split not in data:
            continue
        where = f"{path}: {split}"
        part = data[split]
        columns = {key: take(part, key, where) for key in ("source", "joint_2d", "joint3d_image", "camera_name")}
        length(columns["source"], f"{where}: source")
        source = [str(name) for name in columns["source"]]
        optional = ("confidence", "2.5d_factor", "joints_2.5d_image", "action")
        columns |= {key: part[key] for key in optional if key in part}
        for key, column in columns.items():
            count = length(column, f"{where}: {key}")
            if count != len(source):
                raise ValueError(f"{where}: {key} has {count} frames, expected {len(source)} as source")
        starts = [i for i in range(len(source)) if i == 0 or source[i] != source[i - 1]]
        for first, last in zip(starts, [*starts[1:], len(source)]):
            name = f"{split}/{source[first]}"
            name = f"{name}/{first}" if name in items else name
            items[name] = partial(_frames, name, columns, slice(first, last), path)
    if not items:
        raise KeyError(f"{path}: no frames of train or test")
    return Dataset("motionbert", path, items)


def _frames(name, columns, frames, path) -> Sequence:
    part = {key: column[frames] for key, column in columns.items()}
    where = f"{path}: {name}"
    cameras = {str(camera) for camera in part["camera_name"]}
    if len(cameras) != 1 or not cameras <= SIZES.keys():
        raise ValueError(f"{where}: camera_name is {', '.join(sorted(cameras))}, expected one of {', '.join(SIZES)}")
    size = SIZES[cameras.pop()]
    count = len(part["source"])
    joints = lambda key: keypoints_array(numbers(part[key], (count, 17, None), f"{where}: {key}"), f"{where}: {key}")
    keypoints, target = joints("joint_2d")[..., :2], joints("joint3d_image")
    confidence = np.ones((count, 17))
    if "confidence" in part:
        confidence = numbers(part["confidence"], None, f"{where}: confidence")
        confidence = numbers(confidence.reshape(count, -1), (count, 17), f"{where}: confidence")
    target = np.concatenate((normalise(target[..., :2], size), target[..., 2:] / size[0] * 2), -1)
    known = {"image_poses": target, "action": str(part["action"][0]) if "action" in part else ""}
    if "2.5d_factor" in part:  # millimetres per pixel
        known["factor"] = numbers(part["2.5d_factor"], (count,), f"{where}: 2.5d_factor") / 1000 * size[0] / 2
        known["poses"] = known["factor"][:, None, None] * target
    if "joints_2.5d_image" in part:
        known["poses"] = joints("joints_2.5d_image") / 1000
    keypoints = normalise(np.concatenate((keypoints, confidence[..., None]), -1), size)
    return Sequence(name, keypoints=keypoints, size=size, fps=FPS, source=str(path), **known)


def _sniff_clips(file):
    return file.suffix == ".pkl" and (b"data_label" in file.start or b"data_input" in file.start)


def _guess_clips(file):
    return file.is_folder and any(file.path.rglob("*.pkl"))


@register_format(
    "motionbert-clips", "a folder of MotionBERT's clips (pickles)", sniff=_sniff_clips, guess=_guess_clips, suffix=".pkl"
)
def open_clips(path) -> Dataset:
    """Clips, as MB3D_f243s81/H36M-SH/train/00000000.pkl: data_input and data_label, both normalised already.

    `path`: one of them, their folder, or one above it; a clip is read when it is asked for.
    """
    path = existing(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.pkl"))
    if not files:
        raise FileNotFoundError(f"{path}: no .pkl file in this folder")
    folder = path.parent if path.is_file() else path
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    return Dataset("motionbert-clips", path, {name: partial(_clip, name, file) for name, file in zip(names, files)})


def _clip(name, file: Path) -> Sequence:
    data = read_pickle(file)
    target = take(data, "data_label", file)
    target = numbers(target, (None, 17, 3), f"{file}: data_label")
    known = {"image_poses": target}
    if take(data, "data_input", file) is not None:
        known["keypoints"] = keypoints_array(data["data_input"], f"{file}: data_input")
    return Sequence(name, source=str(file), **known)
