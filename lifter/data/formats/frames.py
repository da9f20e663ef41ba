"""Frames of people as JSON that people save themselves: see `lifter.data.parts`. A line may be a frame (.jsonl); and a folder
may have a file for each frame, of JSON or of an array (J, 2 or 3)."""

from lifter._notices import Items

from ..files import existing, read_json, read_npy, visible
from ..frames import has_number
from ..loose import open_loose
from ..registry import register_format
from ..sequence import Dataset
from ..timeline import is_a_frame
from .mediapipe import OTHERS, first_of, is_mediapipe
from .openpose import has_people

_SUFFIXES = (".json", ".json.gz", ".npy")
LARGEST = 2**20  # bytes of a file that may be one frame's


def _is_frames(file):
    return first_of(file) is not None and not is_mediapipe(file)


@register_format("frames", "frames of people, as ultralytics, MoveNet and others (JSON)", guess=_is_frames, suffix=".json")
def open_frames(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    return open_loose("frames", path, read_json(path), size, fps, layout, variant)


def _files(folder):
    """The files that may hold a frame each: those with a number in their name."""
    return [path for path in visible(folder, *_SUFFIXES) if has_number(path.name.removesuffix(".gz"))]


def _is_folder(file):
    """Return whether a folder has files for one frame each, by the first and the last three; OpenPose's are not meant."""
    if not file.is_folder:
        return False
    paths = _files(file.path)
    if any("_keypoints.json" in path.name for path in paths):  # as OpenPose calls them
        return False
    found = [_has_one_frame(path) for path in dict.fromkeys(paths[:3] + paths[-3:])]
    return len(paths) > 1 and True in found and False not in found


def _has_one_frame(path):
    """Return whether there is one frame in a file; None if it is broken, or there is nobody in it."""
    if path.stat().st_size > LARGEST:
        return False
    try:
        data = _read(path)
    except ValueError:
        return None
    if data is None or len(data) == 0:
        return None
    if isinstance(data, dict) and data.get("people") == []:
        return None
    return not (isinstance(data, dict) and (has_people(data) or not set(OTHERS).isdisjoint(data))) and is_a_frame(data)


@register_format("frames-folder", "a folder with a JSON file for each frame", sniff=_is_folder, folder=_is_folder)
def open_folder(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    files, data, items = _files(path), [], Items(path, "files")
    if not files:
        raise FileNotFoundError(f"{path}: no {', '.join(_SUFFIXES)} file with a number in its name in this folder")
    for file in files:
        with items.one():
            value = _read(file)
            value = value if isinstance(value, dict) else {"data": value}
            data.append({"file_name": file.name.removesuffix(".gz"), **value})
    items.end()
    return open_loose("frames-folder", path, data, size, fps, layout, variant)


def _read(path):
    if path.name.endswith(".npy"):
        return read_npy(path)
    data = read_json(path)
    if not isinstance(data, (dict, list, type(None))):
        raise ValueError(f"{path}: a {type(data).__name__}, expected people")
    return data
