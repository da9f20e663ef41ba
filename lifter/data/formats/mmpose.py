"""mmpose's predictions: instance_info, or the list in it; of a video frame_id and instances, of an image the instances."""

import numpy as np

from ..detectors import body, detection, entries, register_detector, whole_number
from ..files import numbers, read_json, take


def _sniff(file):
    return "instance_info" in file.keys or not {"instances", "keypoint_scores"}.isdisjoint(file.first_keys)


@register_detector("mmpose", "mmpose's predictions (JSON)", sniff=_sniff)
def read(path):
    data = read_json(path)
    told = entries(take(data, "instance_info", path) if isinstance(data, dict) else data, path)
    detections = []
    for number, entry in enumerate(told):
        frame, instances = 0, [entry]
        if "instances" in entry:
            frame = whole_number(entry, "frame_id", number, f"{path}: entry {number}")
            instances = entries(entry["instances"], f"{path}: instances of frame {frame}")
        for instance in instances:
            where = f"{path}: frame {frame}"
            xy = numbers(take(instance, "keypoints", where), (None, 2), f"{where}: keypoints")
            scores = take(instance, "keypoint_scores", where)
            scores = numbers(scores, (len(xy),), f"{where}: keypoint_scores")
            keypoints = body(np.concatenate((xy, scores[:, None]), -1))
            detections.append(detection(frame, instance.get("track_id"), keypoints))
    return detections, None
