"""The names under which files of others say things: numbers of frames, times, ids, confidences, sizes, rates.

Names are compared without their case, spaces and marks: "frameNumber", "frame_number" and "Frame number" are one.
"""

import re
from functools import lru_cache

import numpy as np

from .files import frame_rate, image_size
from .keypoints import layout_of_names

# Under which a dict has bodies: the first of them that has any. MediaPipe finds the first three once a frame.
LANDMARKS = ("poselandmarks", "landmarks", "landmark")
IMAGE = (
    *LANDMARKS, "people", "persons", "humans", "instances", "poses", "poseresults", "skeletons", "bodies", "detections",
    "objects", "trackedpoints", "tracks", "keypoints", "keypoints2d", "kpts", "kps", "joints", "joints2d", "pose", "body",
    "skeleton", "frames", "databyframe", "framedata", "results", "predictions", "sequence", "posedata", "keypointsdata",
    "data", "xy", "points",
)  # fmt: skip
WORLD = (
    "poseworldlandmarks", "worldlandmarks", "keypoints3d", "joints3d", "pose3d", "poses3d", "points3d",
)  # fmt: skip
FRAME = (
    "frame", "frameid", "frameidx", "frameindex", "framenumber", "framenum", "frameno", "framenr", "fnum", "imageid", "image",
    "imagepath", "imagename", "imagefile", "imgname", "framepath", "framename", "filename",
)  # fmt: skip
VIDEO = ("video", "videoid", "videoname", "camera", "cameraid", "cam", "view", "clip")  # of a frame
_UNITS = ("", "s", "sec", "secs", "seconds", "ms", "msec", "milliseconds", "us", "usec", "microseconds", "ns", "nanoseconds")
TIME = tuple(f"{name}{unit}" for name in ("timestamp", "time", "t", "pts") for unit in _UNITS)
ID = (
    "trackid", "trackingid", "personid", "playerid", "subjectid", "instanceid", "objectid", "idx", "id", "track", "person",
    "player", "subject", "individual",
)  # fmt: skip
SCORES = (
    "keypointscores", "keypointsscores", "keypointconfidence", "keypointsconf", "keypointsconfidence", "keypointsvisible",
    "scores", "confidences", "confidence", "conf", "visibility", "visible", "valid", "likelihood", "score", "c", "v",
)  # fmt: skip
# Names of arrays that stand beside the bodies, with an entry for each of them.
FRAMES = ("frameids", "frameid", "frames", "frameidx", "frameindices", "framenumbers")
TIMES = ("timestamps", "timestampsms", "times", "timestamp", "time")
IDS = ("trackids", "trackid", "ids", "personids", "personid")
NUMBER = ("id", "index", "idx", "landmarkid")  # of a joint
NAME = ("name", "part", "joint", "keypoint", "label")
NAMES = (
    "keypointnames", "jointnames", "landmarknames", "keypointsnames", "jointsnames", "bodyparts", "names", "joints", "labels",
)  # fmt: skip
WHO = re.compile(r"person|people|player|subject|actor|human|individual|track|skeleton", re.IGNORECASE)  # in keys of people
_META = ("metadata", "meta", "info", "metainfo", "videoinfo", "videometadata", "video", "config")
_WIDTH, _HEIGHT = (
    (*(f"{of}{side}" for of in ("", "image", "img", "frame", "video", "canvas")), side[0]) for side in ("width", "height")
)
_SIZE = ("resolution", "size", "imagesize", "framesize", "videosize", "imgsize", "dimensions")
_SHAPE = ("imageshape", "imgshape", "frameshape", "origshape", "orishape")  # of an array: height, width, perhaps channels
_RATE = ("fps", "framerate", "videofps")
BESIDE = (*_WIDTH, *_HEIGHT, *_RATE)  # what may be told of each frame


@lru_cache(4096)
def plain(name) -> str:
    """A name without case, spaces and marks."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def fields(value) -> dict:
    """The items of a dict by the plain names of their keys."""
    found = {}
    for key, inner in value.items():
        found.setdefault(plain(key), inner)
    return found


def first(found, names, kinds=object):
    """The first value of these kinds that `fields` has under one of the names, None if there is none."""
    return next((found[name] for name in names if name in found and isinstance(found[name], kinds)), None)


def told_in(data, where):
    """The size of the image, the frames per second and the joints' names that a value tells, in itself, in its metadata, or
    in each of its frames.

    Raises:
        ValueError if frames have different sizes.
    """
    outer = fields(data) if isinstance(data, dict) else {}
    places = [outer, *(fields(outer[key]) for key in _META if isinstance(outer.get(key), dict))]
    rates = (frame_rate(place.get(key)) for place in places for key in _RATE)
    size = next((size for place in places if (size := _size(place, where))), None)
    fps = next((found for found in rates if found), None)
    frames = data if isinstance(data, list) else first(outer, IMAGE, list) or []
    if frames and isinstance(frames[0], dict):
        inner = fields(frames[0])
        fps = fps or next((found for key in _RATE if (found := frame_rate(inner.get(key)))), None)
        if size is None and _size(inner, where):
            size = _only({_size(fields(frame), where) for frame in frames if isinstance(frame, dict)} - {None}, where)
    return size, fps, next((names for place in places for key in NAMES if (names := _joints(place.get(key)))), None)


def _only(sizes, where):
    if len(sizes) > 1:
        raise ValueError(f"{where}: images of {len(sizes)} different sizes, expected the frames of one video")
    return next(iter(sizes))


def _size(place, where):
    """(width, height) that `fields` of a dict tell, None if they do not."""
    width, height = (next((n for name in names if (n := _positive(place.get(name)))), None) for names in (_WIDTH, _HEIGHT))
    if width is None or height is None:
        pairs = [(_pair(place.get(name)), 1) for name in _SIZE] + [(_pair(place.get(name)), -1) for name in _SHAPE]
        width, height = next((pair[::step] for pair, step in pairs if pair), (None, None))
    return image_size(width, height, where) if width and height else None


def _pair(value):
    """Two sizes of a text as "1280x720", of a list, an array, or a dict of width and height; None if it is none of these."""
    if isinstance(value, dict):
        found = fields(value)
        value = [next((found[name] for name in names if name in found), None) for names in (_WIDTH, _HEIGHT)]
    elif isinstance(value, str):
        value = re.findall(r"\d+", value)
    elif isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
        return None
    sizes = tuple(_positive(part) for part in value[:2])
    return sizes if all(sizes) else None


def _positive(value):
    try:
        value = float(value) if isinstance(value, (int, float, str, np.generic)) and not isinstance(value, bool) else 0.0
    except ValueError:
        return None
    return value if 0 < value < np.inf else None


def _joints(value):
    names = tuple(map(str, value)) if isinstance(value, (list, tuple, np.ndarray)) and len(np.shape(value)) == 1 else ()
    return names if names and are_joints(names) else None


@lru_cache(256)
def are_joints(names) -> bool:
    """Return whether these are the names of the joints of a body, enough for those of Human3.6M."""
    try:
        return layout_of_names(names, "") is not None
    except ValueError:
        return False
