"""mmpose's predictions: instance_info, or the list in it; of a video frame_id and instances, of an image the instances.

meta_info may name the joints.
"""

import numpy as np

from lifter._notices import Items, notice

from ..detectors import Clip, body, detection, entries, person_of, register_detector, whole_number
from ..files import numbers, read_json, take, with_nan
from ..loose import open_loose
from ..parts import first_body


def _sniff(file):
    return "instance_info" in file.keys or not {"instances", "keypoint_scores"}.isdisjoint(file.first_keys)


@register_detector("mmpose", "mmpose's predictions (JSON)", sniff=_sniff)
def read(path):
    data = read_json(path)
    told = entries(take(data, "instance_info", path) if isinstance(data, dict) else data, path)
    if _are_poses(told):
        return open_loose("mmpose", path, told, joints=_joints(data))
    detections, frames, people = [], Items(path, "frames"), Items(path, "instances")
    numbers = _numbers(told, path)
    for number, entry in enumerate(told):
        frame, instances = 0, [entry]
        with frames.one():
            if not isinstance(entry, dict):
                raise ValueError(f"{path}: entry {number}: a {type(entry).__name__}, expected a dict")
            if "instances" in entry:
                frame = numbers[number] if numbers else whole_number(entry, "frame_id", number, f"{path}: entry {number}")
                instances = entries(entry["instances"], f"{path}: instances of frame {frame}")
            for instance in instances:
                with people.one():
                    keypoints = _keypoints(instance, f"{path}: frame {frame}")
                    detections.append(detection(frame, person_of(instance), keypoints))
    frames.end()
    people.end()
    return [Clip(detections, joints=_joints(data))]


def _are_poses(told):
    """Return whether the first instance has three coordinates, and its confidences apart."""
    frames = (entry.get("instances", [entry]) for entry in told if isinstance(entry, dict))
    instances = (instance for frame in frames if isinstance(frame, list) for instance in frame if isinstance(instance, dict))
    instance = next((instance for instance in instances if "keypoints" in instance), {})
    first = first_body(instance.get("keypoints"))
    return first is not None and first.values.shape[1] == 3 and "keypoint_scores" in instance


def _numbers(told, path):
    """The places of entries, if they say that several are of one frame; else None."""
    frames = [entry.get("frame_id") for entry in told if isinstance(entry, dict) and "instances" in entry]
    if None in frames or len({str(frame) for frame in frames}) == len(frames):
        return None
    notice(f"{path}: the same frame_id in several entries: frames are counted")
    return range(len(told))


def _keypoints(instance, where):
    keypoints = numbers(with_nan(take(instance, "keypoints", where)), (None, None), f"{where}: keypoints")
    scores = instance.get("keypoint_scores", instance.get("keypoints_visible"))
    if keypoints.shape[1] == 2 and scores is not None:
        scores = numbers(with_nan(scores), (len(keypoints),), f"{where}: keypoint_scores")
        keypoints = np.concatenate((keypoints, scores[:, None]), -1)
    if keypoints.shape[1] not in (2, 3):
        raise ValueError(f"{where}: keypoints: shape {keypoints.shape}, expected (J, 2 or 3)")
    return body(keypoints)


def _joints(data):
    """The names in meta_info: keypoint_id2name, {"0": "nose", ...}."""
    known = data.get("meta_info") if isinstance(data, dict) else None
    known = known.get("keypoint_id2name") if isinstance(known, dict) else None
    if not isinstance(known, dict) or not all(str(number) in known for number in range(len(known))):
        return None
    return tuple(str(known[str(number)]) for number in range(len(known)))
