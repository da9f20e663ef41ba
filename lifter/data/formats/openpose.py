"""OpenPose's JSON: a folder with a file per frame, or one file of a frame; also AlphaPose's files of that form."""

from ..detectors import detection, entries, flat, frame_number, register_detector
from ..files import read_json, take
from ..registry import Candidate


def _sniff(file):
    if file.is_folder:
        if named := sorted(file.path.glob("*_keypoints.json")):
            return _sniff(Candidate(named[0]))
        return any(_is_frame(path) for path in sorted(file.path.glob("*.json"))[:1])
    frames = [file.json, *file.json.values()] if isinstance(file.json, dict) else []
    return any(isinstance(frame, dict) and not {"people", "bodies"}.isdisjoint(frame) for frame in frames)


def _is_frame(path):
    """A file of any other name may belong to something else, and is not read to its end if it is no JSON."""
    try:
        return _sniff(Candidate(path))
    except ValueError:
        return False


def _folder(names, named):
    return any(name.endswith(".json" if named else "_keypoints.json") for name in names)


@register_detector("openpose", "OpenPose's JSON files, BODY_25 or COCO-18, a folder or one", sniff=_sniff, folder=_folder)
def read(path):
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(f"{path}: no .json file in this folder")
        frames = [(frame_number(file.stem.removesuffix("_keypoints"), file), file, read_json(file)) for file in files]
    else:
        data = read_json(path)
        is_frame = isinstance(data, dict) and ("people" in data or "bodies" in data)
        pairs = {path.stem.removesuffix("_keypoints"): data} if is_frame else data
        if not isinstance(pairs, dict):
            raise ValueError(f"{path}: expected a dict with people")
        numbered = len(pairs) > 1
        frames = [(frame_number(name, path) if numbered else 0, path, frame) for name, frame in pairs.items()]
    detections = []
    for frame, file, data in frames:
        where = f"{file}: frame {frame}"
        bodies = isinstance(data, dict) and "bodies" in data
        for person in entries(take(data, "bodies" if bodies else "people", where), f"{where}: people"):
            values = take(person, "joints" if bodies else "pose_keypoints_2d", where)
            if values:  # an empty list is a person without a body, of whom a hand or a face was found
                keypoints = flat(values, f"{where}: pose_keypoints_2d")
                detections.append(detection(frame, person.get("person_id"), keypoints))
    return detections, None
