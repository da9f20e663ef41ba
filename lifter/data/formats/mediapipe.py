"""MediaPipe's landmarks as JSON: a list with one entry per frame, or {"frames": such a list}, with x and y in 0..1.

A frame is null, a list of landmarks {x, y, visibility}, or a dict with it under "landmark", "landmarks", "pose_landmarks"
or "poseLandmarks"; or a list of such lists, one for each person, as the Tasks API has it. The dict may hold "width" and
"height", which else must be given.
"""

from ..detectors import detection, entries, register_detector
from ..files import image_size, length, numbers, read_json, take

LANDMARKS = ("landmark", "landmarks", "pose_landmarks", "poseLandmarks")
OTHERS = ("lifter", "annotations", "instance_info", "people")  # keys of other formats, which may have "frames" too


def _sniff(file):
    landmarks = isinstance(file.first, list) or not {*LANDMARKS, "x"}.isdisjoint(file.first_keys)
    frames = "frames" in file.keys and isinstance(file.json["frames"], list) and file.keys.isdisjoint(OTHERS)
    return frames or landmarks


@register_detector("mediapipe", "MediaPipe's 33 landmarks (JSON)", sniff=_sniff, shares=True)
def read(path):
    data = read_json(path)
    size = None
    if isinstance(data, dict):
        if "width" in data and "height" in data:
            size = image_size(data["width"], data["height"], path)
        data = take(data, "frames", path)
    detections = []
    for frame in range(length(data, path)):
        where, entry = f"{path}: frame {frame}", data[frame]
        while isinstance(entry, dict):
            entry = next((entry[key] for key in LANDMARKS if key in entry), None)
        if entry is None or entry == []:
            continue
        people = entry if isinstance(entry, list) and isinstance(entry[0], list) else [entry]
        for person in people:
            values = [(take(p, "x", where), take(p, "y", where), p.get("visibility", 1.0)) for p in entries(person, where)]
            keypoints = numbers(values, (33, 3), f"{where}: landmarks")
            detections.append(detection(frame, None, keypoints))
    return detections, size
