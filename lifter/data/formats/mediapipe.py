"""Keypoints as JSON that people save themselves, of MediaPipe's 33 landmarks and of other detectors: see `lifter.data.loose`.

A line may be a frame (.jsonl). MediaPipe's x and y are shares of the image, if they are not said or seen to be pixels; its z
is never a confidence, and its world landmarks are 3D poses.
"""

from ..files import existing, read_json
from ..loose import LANDMARKS, WORLD, first_body, open_loose
from ..registry import register_format
from ..sequence import Dataset

_OTHERS = ("lifter", "annotations", "instance_info")  # keys of other formats


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
