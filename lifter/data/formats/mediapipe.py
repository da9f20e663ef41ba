"""Keypoints as JSON that people save themselves, of MediaPipe's 33 landmarks and of other detectors: see `lifter.data.parts`.

A line may be a frame (.jsonl). MediaPipe's x and y are shares of the image, if they are not said or seen to be pixels; its z
is never a confidence, and its world landmarks are 3D poses.
"""

from ..files import existing, read_json
from ..frames import has_number
from ..loose import is_a_frame, open_loose
from ..parts import LANDMARKS, WORLD, first_body
from ..registry import register_format
from ..sequence import Dataset

_OTHERS = ("lifter", "annotations", "instance_info")  # keys of other formats
LARGEST = 2**20  # bytes of a file that may be one frame's


def _first(file):
    return first_body(file.json) if file.is_json and file.keys.isdisjoint(_OTHERS) else None


def _is_mediapipe(file):
    first = _first(file)
    return first is not None and (len(first.values) == 33 or not {*LANDMARKS, *WORLD}.isdisjoint(file.first_keys))


def _is_frames(file):
    return _first(file) is not None and not _is_mediapipe(file)


@register_format("mediapipe", "MediaPipe's 33 landmarks (JSON)", guess=_is_mediapipe, suffix=".json")
def open_mediapipe(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    return open_loose("mediapipe", path, read_json(path), size, fps, layout, variant, shares=True)


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
    others = isinstance(data, dict) and not {*_OTHERS, "people"}.isdisjoint(data)
    return not others and is_a_frame(data)


@register_format("frames-folder", "a folder with a JSON file for each frame", sniff=_is_folder, folder=_is_folder)
def open_folder(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    data = {file.name: read_json(file) for file in sorted(path.glob("*.json")) if has_number(file.name)}
    if not data:
        raise FileNotFoundError(f"{path}: no .json file with a number in its name in this folder")
    return open_loose("frames-folder", path, data, size, fps, layout, variant)
