"""OpenPose's JSON: a folder with a file per frame, or one file of a frame; also AlphaPose's files of that form."""

import re
from functools import partial

from lifter._notices import Items

from ..detectors import clips_of, entries, flat, person_of, register_detector
from ..files import decoded, read_bytes, read_json, take, visible
from ..frames import has_number, split_name
from ..keys import told_in

_BODY = ("pose_keypoints_2d", "pose_keypoints")  # the second one of OpenPose before 1.2
_FRAME = re.compile(r'\s*\{\s*("\w+"\s*:\s*("[^"]*"|[^",\[\]{}]+),\s*)*"(people|bodies)"\s*:')  # how a frame's file begins
_PERSON = re.compile(r'\[\s*\]|"(pose_keypoints_2d|pose_keypoints|joints)"')  # and goes on, with nobody or somebody


def _sniff(file):
    if file.is_folder:
        return _is_of_frames(file.path)
    frames = [file.json, *file.json.values()] if isinstance(file.json, dict) else []
    return any(map(has_people, frames))


def has_people(frame):
    """Return whether a frame has a list of people, empty or of OpenPose's form."""
    people = frame.get("people", frame.get("bodies")) if isinstance(frame, dict) else None
    if people is None or isinstance(people, dict):
        return False
    first = people[0] if isinstance(people, list) and people else None
    return not isinstance(first, dict) or not first.keys().isdisjoint((*_BODY, "joints"))


def _is_of_frames(folder):
    """Return whether a folder's files are called as OpenPose's, or those with a number begin as OpenPose's do."""
    files = visible(folder, ".json", ".json.gz")
    if any(path.name.removesuffix(".gz").endswith("_keypoints.json") for path in files):
        return True
    files = [path for path in files if has_number(path.name.removesuffix(".gz"))]
    return bool(files) and all(map(_is_frame, files[:3] + files[-3:]))


def _is_frame(path):
    text = decoded(read_bytes(path, 4096), "replace")
    begin = _FRAME.match(text)
    return begin is not None and _PERSON.search(text, begin.end()) is not None


@register_detector(
    "openpose",
    "OpenPose's JSON files, BODY_25 or COCO-18, a folder or one",
    sniff=_sniff,
    folder=lambda file: bool(visible(file.path, ".json", ".json.gz")),
)
def read(path):
    frames, names, found, sizes = _frames(path), [], [], set()
    items, people = Items(path, "frames"), Items(path, "people")
    for name, where, load in frames:
        with items.one():
            frame = load()
            sizes.add(told_in(frame, where)[0])
            if len(frames) > 1:
                split_name(name, where)
            bodies = isinstance(frame, dict) and "bodies" in frame
            for person in entries(take(frame, "bodies" if bodies else "people", where), f"{where}: people"):
                with people.one():
                    key = next((key for key in _BODY if key in person), _BODY[0])
                    values = take(person, "joints" if bodies else key, where)
                    if values:  # an empty list is a person without a body, of whom a hand or a face was found
                        found.append((person_of(person), flat(values, f"{where}: pose_keypoints_2d")))
                        names.append(name if len(frames) > 1 else 0)
    items.end()
    people.end()
    if len(sizes - {None}) > 1:
        raise ValueError(f"{path}: images of different sizes, expected the frames of one video")
    return clips_of(names, found, path, size=next(iter(sizes - {None}), None))


def _frames(path):
    """[(name, where, function that reads it)]."""
    if path.is_dir():
        files = visible(path, ".json", ".json.gz")
        if not files:
            raise FileNotFoundError(f"{path}: no .json file in this folder")
        name = lambda file: file.name.removesuffix(".gz").removesuffix(".json").removesuffix("_keypoints")
        return [(name(file), f"{file}", partial(read_json, file)) for file in files]
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a dict with people")
    if "people" in data or "bodies" in data:
        return [("", f"{path}: frame 0", lambda: data)]
    return [(name, f"{path}: frame {name}", partial(data.get, name)) for name in data]
