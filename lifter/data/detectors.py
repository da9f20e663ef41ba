"""What 2D detectors write, as sequences of Human3.6M joints: one for each person.

A frame's number is the last number in its image's or file's name, where there is one. See `keypoints` for how joints are
converted, people followed and holes filled.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from .cameras import normalise
from .files import Npz, existing, image_size, keypoints_array, length, numbers, read_json, read_npy, take
from .keypoints import LAYOUTS, fill, layout_of, to_h36m, tracks
from .sequence import Dataset, Sequence

_WHOLE_BODY = {133: 17, 136: 26}  # COCO's and Halpe's, which begin with the body


class SizeUnknown(ValueError):
    """Neither the file tells the size of the image, nor the caller."""


def open_keypoints(path, format, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """Detections of a file, or of a folder with a file per frame.

    Args:
        format: of `READERS`, as `lifter.data.detect` tells. size: (width, height) of the image, where the file does not tell
            it. fps: frames per second, None if not known. layout: of `LAYOUTS`, None by the number of joints (17: COCO).
            variant: of the conversion, None the layout's first.

    Raises:
        FileNotFoundError, KeyError, ValueError; all name the file, and the entry or frame.
    """
    path = existing(path)
    detections, told = READERS[format](path)
    size = told or size and image_size(*size, path)
    if size is None:
        raise SizeUnknown(f"{path}: {format} does not tell the size of the image: pass size=(width, height), or --size WxH")
    if format == "mediapipe":  # as shares of the image
        detections = [(*rest, keypoints * (*size, 1)) for *rest, keypoints in detections]
    people = tracks(detections, path)
    items = {}
    for person, (start, keypoints) in people.items():
        name = path.stem if len(people) == 1 else f"{path.stem}/{person}"
        items[name] = partial(sequence_of, name, keypoints, layout, variant, size, path, fps=fps, start=start)
    return Dataset(format, path, items)


def sequence_of(name, keypoints, layout, variant, size, source, **known) -> Sequence:
    """A sequence of a detector's keypoints (T, J, 2 or 3) in pixels, with NaN where there are none."""
    where = f"{source}: {name}"
    keypoints = keypoints_array(keypoints, where)
    layout = layout_of(keypoints.shape[1], where) if layout is None else layout
    converted = fill(to_h36m(keypoints, layout, variant, where), where)
    return Sequence(name, keypoints=normalise(converted, size), size=size, source=str(source), **known)


def frame_number(name, where) -> int:
    """The last number in the name of an image or a file."""
    found = re.findall(r"\d+", Path(str(name)).stem)
    if not found or len(found[-1]) > 15:
        raise ValueError(f"{where}: no number of a frame in {name!r}")
    return int(found[-1])


def _flat(values, where):
    """x, y, confidence, x, y, ... -> (J, 3)."""
    flat = numbers(values, (None,), where)
    if len(flat) == 0 or len(flat) % 3:
        raise ValueError(f"{where}: {len(flat)} numbers, expected x, y and confidence of each joint")
    return _body(flat.reshape(-1, 3))


def _body(keypoints):
    return keypoints[: _WHOLE_BODY.get(len(keypoints))]


def _detection(frame, person, keypoints):
    if isinstance(person, list):  # OpenPose writes [-1]
        person = person[0] if len(person) == 1 else str(person)
    if isinstance(person, float) and person.is_integer():
        person = int(person)
    if isinstance(person, int):
        person = None if person < 0 else person
    elif person is not None:
        person = str(person)
    score = float(np.nansum(keypoints[:, 2]))
    return frame, person, score, keypoints


def _entries(data, where):
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise ValueError(f"{where}: expected a list of dicts")
    return data


def _whole(entry, key, default, where) -> int:
    """A whole number of a dict; of default None it must be there."""
    value = take(entry, key, where) if default is None else entry.get(key, default)
    if not isinstance(value, int):
        raise ValueError(f"{where}: {key} is {value!r}, expected a whole number")
    return value


def _alphapose(path):
    """AlphaPose's results, and COCO's: a list of image_id, keypoints, perhaps idx."""
    detections = []
    for number, entry in enumerate(_entries(read_json(path), path)):
        where = f"{path}: entry {number}"
        image = take(entry, "image_id", where)
        where = f"{where} (image_id {image!r})"
        keypoints = _flat(take(entry, "keypoints", where), f"{where}: keypoints")
        person = entry.get("idx", entry.get("track_id"))
        detections.append(_detection(frame_number(image, where), person, keypoints))
    return detections, None


def _coco(path):
    """COCO's annotations: images in order of frame_id, or of id, and keypoints with v = 0, 1 or 2."""
    data = read_json(path)
    images = _entries(take(data, "images", path), f"{path}: images")
    ids = [(_whole(image, "frame_id", 0, path), _whole(image, "id", None, path)) for image in images]
    order = {id: number for number, (_, id) in enumerate(sorted(ids))}
    sizes = [[image.get("width"), image.get("height")] for image in images]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"{path}: images of different sizes, expected the frames of one video")
    detections = []
    for number, entry in enumerate(_entries(take(data, "annotations", path), f"{path}: annotations")):
        where = f"{path}: annotation {number}"
        keypoints = _flat(take(entry, "keypoints", where), f"{where}: keypoints")
        keypoints[:, 2] = keypoints[:, 2] > 0
        frame = take(order, _whole(entry, "image_id", None, where), f"{where}: images")
        detections.append(_detection(frame, entry.get("track_id"), keypoints))
    return detections, None if not sizes or None in sizes[0] else image_size(*sizes[0], path)


def _mmpose(path):
    """mmpose's predictions: instance_info, or the list in it; of a video frame_id and instances, of an image the instances."""
    data = read_json(path)
    entries = _entries(take(data, "instance_info", path) if isinstance(data, dict) else data, path)
    detections = []
    for number, entry in enumerate(entries):
        frame, instances = 0, [entry]
        if "instances" in entry:
            frame = _whole(entry, "frame_id", number, f"{path}: entry {number}")
            instances = _entries(entry["instances"], f"{path}: instances of frame {frame}")
        for instance in instances:
            where = f"{path}: frame {frame}"
            xy = numbers(take(instance, "keypoints", where), (None, 2), f"{where}: keypoints")
            scores = take(instance, "keypoint_scores", where)
            scores = numbers(scores, (len(xy),), f"{where}: keypoint_scores")
            keypoints = _body(np.concatenate((xy, scores[:, None]), -1))
            detections.append(_detection(frame, instance.get("track_id"), keypoints))
    return detections, None


def _openpose(path):
    """OpenPose's JSON: a folder with a file per frame, or one file of a frame; also AlphaPose's files of that form."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(f"{path}: no .json file in this folder")
        frames = [(frame_number(file.stem.removesuffix("_keypoints"), file), file, read_json(file)) for file in files]
    else:
        data = read_json(path)
        whole = isinstance(data, dict) and ("people" in data or "bodies" in data)
        pairs = {path.stem.removesuffix("_keypoints"): data} if whole else data
        if not isinstance(pairs, dict):
            raise ValueError(f"{path}: expected a dict with people")
        numbered = len(pairs) > 1
        frames = [(frame_number(name, path) if numbered else 0, path, frame) for name, frame in pairs.items()]
    detections = []
    for frame, file, data in frames:
        where = f"{file}: frame {frame}"
        bodies = isinstance(data, dict) and "bodies" in data
        for person in _entries(take(data, "bodies" if bodies else "people", where), f"{where}: people"):
            values = take(person, "joints" if bodies else "pose_keypoints_2d", where)
            if values:  # an empty list is a person without a body, of whom a hand or a face was found
                keypoints = _flat(values, f"{where}: pose_keypoints_2d")
                detections.append(_detection(frame, person.get("person_id"), keypoints))
    return detections, None


def _mediapipe(path):
    """MediaPipe's landmarks as JSON: a list with one entry per frame, or {"frames": such a list}, with x and y in 0..1.

    A frame is null, a list of landmarks {x, y, visibility}, or a dict with it under "landmark", "landmarks", "pose_landmarks"
    or "poseLandmarks"; or a list of such lists, one for each person, as the Tasks API has it. The dict may hold "width" and
    "height", which else must be given.
    """
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
            values = [(take(p, "x", where), take(p, "y", where), p.get("visibility", 1.0)) for p in _entries(person, where)]
            keypoints = numbers(values, (33, 3), f"{where}: landmarks")
            detections.append(_detection(frame, None, keypoints))
    return detections, size


LANDMARKS = ("landmark", "landmarks", "pose_landmarks", "poseLandmarks")


def _array(path):
    """An npy file of (T, J, 2 or 3) keypoints in pixels."""
    keypoints = keypoints_array(read_npy(path), path)
    if keypoints.shape[2] == 2:
        keypoints = np.concatenate((keypoints, np.ones((*keypoints.shape[:2], 1))), -1)
    return [(frame, 0, 0.0, pose) for frame, pose in enumerate(keypoints)], None


READERS = {
    "alphapose": _alphapose,
    "coco": _coco,
    "mmpose": _mmpose,
    "openpose": _openpose,
    "mediapipe": _mediapipe,
    "npy": _array,
}


def open_custom(path, fps=None, layout=None, variant=None) -> Dataset:
    """VideoPose3D's data_2d_custom_*.npz: positions_2d[video]["custom"][camera], with the sizes of the videos."""
    archive = Npz(path)
    metadata, videos = archive["metadata"], archive["positions_2d"]
    layout = layout or metadata_layout(metadata, path)
    sizes = take(metadata, "video_metadata", f"{path}: metadata")
    if not isinstance(videos, dict):
        raise ValueError(f"{path}: positions_2d is a {type(videos).__name__}, expected a dict of videos")
    items = {}
    for video, actions in videos.items():
        where = f"{path}: {video}"
        info = take(sizes, video, f"{path}: metadata: video_metadata")
        size = image_size(take(info, "w", where), take(info, "h", where), where)
        if not isinstance(actions, dict):
            raise ValueError(f"{where}: a {type(actions).__name__}, expected a dict of actions")
        for action, cameras in actions.items():
            plain = len(actions) == 1 and length(cameras, f"{where}: {action}") == 1
            for number, keypoints in enumerate(cameras):
                name = str(video) if plain else f"{video}/{action}/{number}"
                items[name] = partial(sequence_of, name, keypoints, layout, variant, size, path, fps=fps)
    return Dataset("vp3d-custom", path, items)


def metadata_layout(metadata, path):
    """The layout that VideoPose3D's metadata name; without a name it is that of the poses, Human3.6M's."""
    layout = metadata.get("layout_name", "h36m") if isinstance(metadata, dict) else "h36m"
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"{path}: metadata: layout_name is {layout!r}, expected {' or '.join(LAYOUTS)}")
    return layout
