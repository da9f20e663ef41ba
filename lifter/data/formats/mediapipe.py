"""MediaPipe's 33 landmarks as JSON that people save themselves: see `lifter.data.parts`.

A line may be a frame (.jsonl). MediaPipe's x and y are shares of the image, if they are not said or seen to be pixels; its z
is never a confidence, and its world landmarks are 3D poses.
"""

from ..files import existing, read_json
from ..keys import LANDMARKS, plain
from ..loose import open_loose
from ..parts import first_body
from ..registry import register_format
from ..sequence import Dataset

_KEYS = {*LANDMARKS, "poseworldlandmarks", "worldlandmarks"}  # by plain names
OTHERS = ("lifter", "annotations", "instance_info")  # keys of other formats


def first_of(file):
    return first_body(file.json) if file.is_json and file.keys.isdisjoint(OTHERS) else None


def is_mediapipe(file):
    first = first_of(file)
    return first is not None and (len(first.values) == 33 or not _KEYS.isdisjoint(map(plain, file.first_keys)))


@register_format("mediapipe", "MediaPipe's 33 landmarks (JSON)", guess=is_mediapipe, suffix=".json")
def open_mediapipe(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    return open_loose("mediapipe", path, read_json(path), size, fps, layout, variant, shares=True)
