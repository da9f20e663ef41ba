"""OpenPose's JSON: a folder with a file per frame, or one file of a frame; also AlphaPose's files of that form."""

import re
from functools import partial

from lifter._notices import Items

from ..detectors import clips_of, entries, flat, person_of, register_detector
from ..files import read_json, take
from ..frames import split_name
from ..registry import FORMATS

_FRAME = re.compile(rb'\s*\{\s*("\w+"\s*:\s*("[^"]*"|[^",\[\]{}]+),\s*)*"(people|bodies)"\s*:')  # how a frame's file begins


def _sniff(file):
    if file.is_folder:
        return _is_of_frames(file.path)
    frames = [file.json, *file.json.values()] if isinstance(file.json, dict) else []
    return any(isinstance(frame, dict) and not {"people", "bodies"}.isdisjoint(frame) for frame in frames)


def _is_of_frames(folder):
    """Whether a folder's files are called as OpenPose's, or all that may hold keypoints begin as those do."""
    known = tuple(format.suffix for format in FORMATS.values() if format.suffix)
    files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(known) and path.is_file())
    if any(path.name.endswith("_keypoints.json") for path in files):
        return True
    return bool(files) and all(path.suffix == ".json" for path in files) and all(map(_is_frame, files[:3] + files[-3:]))


def _is_frame(path):
    with path.open("rb") as file:
        return _FRAME.match(file.read(4096).removeprefix(b"\xef\xbb\xbf")) is not None


@register_detector(
    "openpose",
    "OpenPose's JSON files, BODY_25 or COCO-18, a folder or one",
    sniff=_sniff,
    folder=lambda file: any(file.path.glob("*.json")),
)
def read(path):
    frames, names, found = _frames(path), [], []
    items, people = Items(path, "frames"), Items(path, "people")
    for name, where, load in frames:
        with items.one():
            frame = load()
            if len(frames) > 1:
                split_name(name, where)
            bodies = isinstance(frame, dict) and "bodies" in frame
            for person in entries(take(frame, "bodies" if bodies else "people", where), f"{where}: people"):
                with people.one():
                    values = take(person, "joints" if bodies else "pose_keypoints_2d", where)
                    if values:  # an empty list is a person without a body, of whom a hand or a face was found
                        found.append((person_of(person), flat(values, f"{where}: pose_keypoints_2d")))
                        names.append(name if len(frames) > 1 else 0)
    items.end()
    people.end()
    return clips_of(names, found, path)


def _frames(path):
    """[(name, where, function that reads it)]."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(f"{path}: no .json file in this folder")
        return [(file.stem.removesuffix("_keypoints"), f"{file}", partial(read_json, file)) for file in files]
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a dict with people")
    if "people" in data or "bodies" in data:
        return [("", f"{path}: frame 0", lambda: data)]
    return [(name, f"{path}: frame {name}", partial(data.get, name)) for name in data]
