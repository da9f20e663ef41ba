"""Bodies inside lists, dicts and arrays that people save themselves.

What is what follows from shapes and from the names of keys. A joint is {x, y, ...} or [x, y, ...]. A body is a list of joints,
a dict of them by names, {x: [...], y: [...]}, or a row of numbers. Around it are people and frames, as lists, or as dicts by
ids and numbers. Numbers of frames, times, ids, confidences, the size of the image and the frames per second are taken where
they are named.
"""

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from .files import image_size
from .keypoints import LAYOUTS, layout_of_names

NOWHERE = (None, None, None, None)  # x, y, z and confidence of a joint that was not found
COUNTS = (*(layout.joints for layout in LAYOUTS.values()), 133, 136)  # of joints; the last two begin with the body
# Under which keys a dict has bodies: the first of them that has any. MediaPipe finds the first four once a frame.
LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark")
IMAGE = (
    *LANDMARKS, "people", "persons", "instances", "poses", "skeletons", "bodies", "detections", "objects", "tracked_points",
    "keypoints", "keypoints_2d", "keypoints2d", "kpts", "kps", "joints", "joints_2d", "pose", "body", "skeleton", "frames",
    "data_by_frame", "frame_data", "results", "predictions", "sequence", "pose_data", "keypoints_data", "data",
)  # fmt: skip
WORLD = (
    "pose_world_landmarks", "poseWorldLandmarks", "world_landmarks", "worldLandmarks", "keypoints3D", "keypoints_3d",
    "keypoints3d", "joints_3d", "joints3d", "pose_3d", "pose3d", "poses_3d", "points_3d",
)  # fmt: skip
FRAME = (
    "frame", "frame_id", "frame_idx", "frame_index", "frameIndex", "frameId", "frame_number", "frameNumber", "frame_num",
    "frame_no", "image_id", "image", "image_path", "frame_path", "file_name", "filename",
)  # fmt: skip
TIME = (
    "timestamp", "timestamp_ms", "timestampMs", "timestamp_s", "timestamp_sec", "time", "time_ms", "time_s", "time_sec", "t",
)  # fmt: skip
ID = ("track_id", "trackId", "tracking_id", "person_id", "personId", "player_id", "idx", "id")
SCORES = (
    "keypoint_scores", "keypoints_scores", "keypoint_confidence", "keypoints_conf", "keypoints_confidence", "scores",
    "confidences", "confidence", "conf", "visibility", "visible", "likelihood", "score", "c", "v",
)  # fmt: skip
NUMBER = ("id", "index", "idx", "landmark_id")  # of a joint
NAME = ("name", "part", "joint", "keypoint", "label")
META = ("metadata", "meta", "info", "meta_info", "video_info", "video_metadata", "videoInfo", "video", "config")
WIDTH = ("width", "image_width", "img_width", "frame_width", "video_width", "imageWidth", "videoWidth", "frameWidth", "w")
HEIGHT = (
    "height", "image_height", "img_height", "frame_height", "video_height", "imageHeight", "videoHeight", "frameHeight", "h",
)  # fmt: skip
SIZE = ("resolution", "size", "image_size", "frame_size", "video_size", "img_size")
NAMES = ("keypoint_names", "joint_names", "landmark_names", "keypoints_names", "joints_names", "bodyparts", "names")
FPS = ("fps", "FPS", "frame_rate", "framerate", "frameRate", "video_fps")


@dataclass
class Part:
    """A body, or parts with bodies in them, and what is said about these."""

    values: np.ndarray | None = None  # (J, 4): x, y, z and confidence, NaN where there is none; or as the file has it
    named: bool = False  # the columns of `values`, by keys
    joints: tuple[str, ...] = ()  # names
    scored: bool = False  # the confidences stand apart
    world: bool = False  # no image, by the key
    parts: list["Part"] = field(default_factory=list)
    frame: object = None
    time: object = None
    id: object = None
    key: object = None  # in a dict by numbers
    listed: bool = False  # in a list that means frames

    @property
    def depth(self):
        """How many parts are around the bodies."""
        return 0 if self.values is not None else 1 + max((part.depth for part in self.parts if part.full), default=0)

    @property
    def full(self):
        return self.values is not None or any(part.full for part in self.parts)

    def bodies(self):
        return [self] if self.values is not None else [body for part in self.parts for body in part.bodies()]


def part_of(value) -> Part:
    """The bodies in a value, in whatever form; a text may be JSON, as of ultralytics' `to_json`."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Part()
    if not _has_parts(value):
        return Part()
    body = _body(value)
    if body is not None:
        return body
    if isinstance(value, dict):
        return _of_dict(value)
    if (array := array_of(value)) is not None and array.ndim == 3 and (bodies := _bodies_of_rows(array)):
        return Part(parts=bodies, listed=True)
    if isinstance(value[0], (int, float, np.generic)):
        return Part()
    return Part(parts=[part_of(inner) for inner in value], listed=array is not None)


def first_body(value) -> Part | None:
    """The first body in a value."""
    if isinstance(value, str):
        return next(iter(part_of(value).bodies()), None)
    if not _has_parts(value):
        return None
    if (body := _body(value)) is not None:
        return body
    if isinstance(value, dict):
        keyed = all(re.search(r"\d", str(key)) for key in value)
        value = value.values() if keyed else [value[key] for key in (*IMAGE, *WORLD) if key in value]
    elif isinstance(value[0], (int, float, np.generic)):
        return None
    return next((body for inner in value if (body := first_body(inner)) is not None), None)


def _has_parts(value):
    is_array = isinstance(value, np.ndarray) and value.ndim > 0
    return (is_array or isinstance(value, (dict, list, tuple))) and len(value) > 0


def _of_dict(value):
    for key in (*IMAGE, *WORLD):
        part = part_of(value[key]) if key in value else Part()
        if part.full or key in LANDMARKS and key in value:
            part.listed = part.listed and part.values is None or key in (*LANDMARKS, *WORLD)
            said = lambda keys: next((value[key] for key in keys if isinstance(value.get(key), (int, float, str))), None)
            part.frame, part.time = (
                said(keys) if now is None else now for keys, now in ((FRAME, part.frame), (TIME, part.time))
            )
            bodies = part.bodies()
            for body in bodies:
                body.world |= key in WORLD
            if len(bodies) == 1 and bodies[0].id is None:
                bodies[0].id = said(ID)
            _score(bodies, value)
            return part
    if value and all(re.search(r"\d", str(key)) for key in value):
        parts = [part_of(inner) for inner in value.values()]
        timed = all(re.fullmatch(r"\d+\.\d+", str(key)) for key in value)
        for part, key in zip(parts, value):
            part.time, part.key = (float(key), None) if timed else (part.time, str(key))
        return Part(parts=parts)
    return Part()


def _score(bodies, value):
    """Take the confidences that stand beside bodies."""
    for key in SCORES:
        scores = array_of(value.get(key))
        if scores is not None and bodies and scores.size == sum(len(body.values) for body in bodies):
            for body, rows in zip(bodies, np.split(scores.reshape(-1), np.cumsum([len(body.values) for body in bodies])[:-1])):
                xyz = body.values[:, :3]
                empty = np.full((len(xyz), 3 - xyz.shape[1]), np.nan)
                body.values, body.named, body.scored = np.concatenate((xyz, empty, rows[:, None]), 1), True, True
            return


# ---- bodies ----------------------------------------------------------------------------------------------------------


def _body(value):
    """The body that a value is, None if it is none."""
    if isinstance(value, dict):
        return _body_of_columns(value) or _body_of_names(value)
    body = _body_of_list(value) if isinstance(value[0], dict) else _body_of_rows(array_of(value))
    if body is not None:
        body.listed = True
    return body


def _body_of_rows(array):
    if array is None or array.ndim > 2:
        return None
    if array.ndim == 2:
        return Part(array) if array.shape[1] in (2, 3, 4, 5) and len(array) > 5 else None
    fits = (columns for columns in (3, 2, 4) if array.size % columns == 0 and array.size // columns in COUNTS)
    columns = next(fits, None)
    return None if columns is None else Part(array.reshape(-1, columns))


def _bodies_of_rows(array):
    fits = array.shape[2] in (2, 3, 4, 5) and array.shape[1] > 5
    return [Part(values, listed=True) for values in array] if fits else []


def _body_of_columns(value):
    x, y, z = (array_of(value.get(axis)) for axis in "xyz")
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape or len(x) < 10:
        return None
    others = (array_of(value.get(key)) for key in SCORES)
    scores = next((other for other in others if other is not None and other.shape == x.shape), None)
    empty = np.full(len(x), np.nan)
    z = empty if z is None or z.shape != x.shape else z
    return Part(np.stack((x, y, z, empty if scores is None else scores), 1), True)


def _body_of_names(value):
    rows = {str(key): row for key, inner in value.items() if (row := _row(inner)) is not None}
    known = _are_known(tuple(rows))
    if not known and not (len(rows) in COUNTS and all(key.isdigit() for key in rows)):
        return None
    names = tuple(rows) if known else ()
    joints = _joints(rows.values() if known else [rows[key] for key in sorted(rows, key=int)])
    return None if joints is None else Part(joints, True, names)


def _body_of_list(value):
    if not all(inner is None or isinstance(inner, dict) for inner in value):
        return None
    key = next((key for key in SCORES if key in value[0]), None)
    rows = [NOWHERE if inner is None else _row(inner, key) for inner in value]
    joints = None if None in rows else _joints(rows)
    if joints is None:
        return None
    said = lambda keys: next(([inner and inner.get(key) for inner in value] for key in keys if key in value[0]), [])
    names, numbers = tuple(map(str, said(NAME))), said(NUMBER)
    if names and _are_known(names):
        return Part(joints, True, names)
    if numbers and all(type(number) is int and 0 <= number < 33 for number in numbers) and len(set(numbers)) == len(numbers):
        count = next(count for count in (len(joints), 17, 33) if count > max(numbers) and count in COUNTS)
        values = np.full((count, 4), np.nan)
        values[numbers] = joints
        return Part(values, True)
    return Part(joints, True) if len(joints) >= 10 else None


def _row(value, key=None):
    """x, y, z and confidence of a joint, None where there is none; None if it is no joint. `key`: of the confidence."""
    if isinstance(value, dict):
        value = {**value, **value["position"]} if isinstance(value.get("position"), dict) else value
        if "x" not in value or "y" not in value:
            return None
        key = next((key for key in SCORES if key in value), None) if key is None else key
        return value["x"], value["y"], value.get("z"), value.get(key)
    if isinstance(value, (list, tuple)) and 2 <= len(value) <= 4:
        return value if len(value) == 4 else (value[0], value[1], None, value[2] if len(value) == 3 else None)
    return None


def _joints(rows):
    """The array (J, 4) of joints' rows; None if something in them is no number."""
    try:
        return np.array(list(rows), np.float64).reshape(-1, 4)
    except (TypeError, ValueError, OverflowError):
        return None


@lru_cache(256)
def _are_known(names):
    try:
        return layout_of_names(names, "") is not None
    except ValueError:
        return False


def array_of(value):
    """`value` as an array of numbers, with None in it as NaN; None if it is none."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return None
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind in "Oiuf" else None
    except (ValueError, TypeError, OverflowError):  # ragged, or text
        return None
    return array if array is not None and array.ndim else None


def told_in(data, where):
    """The size of the image, the frames per second and the joints' names that a dict tells, or a dict in it."""
    places = [data] if isinstance(data, dict) else []
    places += [data[key] for place in places for key in META if isinstance(place.get(key), dict)]
    number = lambda value: value if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None
    first = lambda keys: next((found for place in places for key in keys if (found := number(place.get(key)))), None)
    width, height, fps = first(WIDTH), first(HEIGHT), first(FPS)
    if width is None or height is None:
        for value in (place[key] for place in places for key in SIZE if key in place):
            pair = np.array(re.findall(r"\d+", value), np.float64) if isinstance(value, str) else array_of(value)
            if pair is not None and pair.shape == (2,):
                width, height = float(pair[0]), float(pair[1])
    lists = [place[key] for place in places for key in NAMES if isinstance(place.get(key), (list, np.ndarray))]
    names = next((tuple(map(str, names)) for names in lists if _are_known(tuple(map(str, names)))), None)
    return image_size(width, height, where) if width and height else None, float(fps) if fps else None, names
