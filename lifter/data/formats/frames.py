"""Frames of people as JSON that people save themselves: see `lifter.data.parts`. A line may be a frame (.jsonl)."""

from ..files import existing, read_json
from ..frames import has_number
from ..loose import open_loose
from ..registry import register_format
from ..sequence import Dataset
from ..timeline import is_a_frame
from .mediapipe import OTHERS, first_of, is_mediapipe

LARGEST = 2**20  # bytes of a file that may be one frame's


def _is_frames(file):
    return first_of(file) is not None and not is_mediapipe(file)


@register_format("frames", "frames of people, as ultralytics, MoveNet and others (JSON)", guess=_is_frames, suffix=".json")
def open_frames(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    return open_loose("frames", path, read_json(path), size, fps, layout, variant)


def _is_folder(file):
    """Of files for one frame each, by the first two; OpenPose's are not meant."""
    if not file.is_folder:
        return False
    paths = sorted(path for path in file.path.glob("*.json") if has_number(path.name))[:2]
    return len(paths) == 2 and all(_has_one_frame(path) for path in paths)


def _has_one_frame(path):
    if path.stat().st_size > LARGEST:
        return False
    try:
        data = read_json(path)
    except ValueError:
        return False
    others = isinstance(data, dict) and not {*OTHERS, "people"}.isdisjoint(data)
    return not others and is_a_frame(data)


@register_format("frames-folder", "a folder with a JSON file for each frame", sniff=_is_folder, folder=_is_folder)
def open_folder(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    data = {file.name: read_json(file) for file in sorted(path.glob("*.json")) if has_number(file.name)}
    if not data:
        raise FileNotFoundError(f"{path}: no .json file with a number in its name in this folder")
    return open_loose("frames-folder", path, data, size, fps, layout, variant)
