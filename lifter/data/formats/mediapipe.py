"""MediaPipe's landmarks as JSON: a list with one entry per frame, or {"frames": such a list}, with x and y in 0..1.

A frame is null, a list of landmarks {x, y, visibility}, or a dict with it under "landmark", "landmarks", "pose_landmarks"
or "poseLandmarks"; or a list of such lists, one for each person, as the Tasks API has it. The dict may tell the frame's number
and its time. The dict of all may hold "fps", "width" and "height", which else must be given.
"""

from lifter._notices import Items

from ..detectors import Clip, detection, entries, frame_of, rate_of, rate_of_times, register_detector
from ..files import image_size, length, numbers, read_json, take

LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmark", "landmarks")
WORLD = ("pose_world_landmarks", "poseWorldLandmarks", "worldLandmarks", "world_landmarks")
OTHERS = ("lifter", "annotations", "instance_info", "people")  # keys of other formats, which may have "frames" too
TIMES = ("timestamp_ms", "timestamp", "time_ms", "time")


def _sniff(file):
    landmarks = isinstance(file.first, list) or not {*LANDMARKS, *WORLD, "x"}.isdisjoint(file.first_keys)
    frames = "frames" in file.keys and isinstance(file.json["frames"], list) and file.keys.isdisjoint(OTHERS)
    return frames or landmarks


@register_detector("mediapipe", "MediaPipe's 33 landmarks (JSON)", sniff=_sniff, shares=True)
def read(path):
    data = read_json(path)
    size = fps = None
    if isinstance(data, dict):
        if "width" in data and "height" in data:
            size = image_size(data["width"], data["height"], path)
        fps = rate_of(data)
        data = take(data, "frames", path)
    detections, times, items = [], {}, Items(path, "frames")
    for place in range(length(data, path)):
        with items.one():
            entry, frame = data[place], place
            if isinstance(entry, dict):
                frame = frame_of(entry, place, f"{path}: frame {place}")
                if (time := next((entry[key] for key in TIMES if type(entry.get(key)) in (int, float)), None)) is not None:
                    times[frame] = time
            for keypoints in _people(entry, f"{path}: frame {frame}"):
                detections.append(detection(frame, None, keypoints))
    items.end()
    return [Clip(detections, size=size, fps=fps or rate_of_times(list(times), list(times.values())))]


def _people(entry, where):
    """The keypoints of each person in a frame."""
    while isinstance(entry, dict):
        key = next((key for key in LANDMARKS if key in entry), None)
        if key is None and not set(WORLD).isdisjoint(entry):
            raise ValueError(f"{where}: only world landmarks, which are 3D poses; expected landmarks in the image")
        entry = entry.get(key)
    if not entry:
        return []
    people = entry if isinstance(entry, list) and isinstance(entry[0], list) else [entry]
    return [_keypoints(person, where) for person in people if person]


def _keypoints(person, where):
    values = [(take(p, "x", where), take(p, "y", where), p.get("visibility", 1.0)) for p in entries(person, where)]
    return numbers(values, (33, 3), f"{where}: landmarks")
