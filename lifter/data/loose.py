"""Poses as people save them themselves: lists, dicts and arrays inside one another, of frames, people and joints.

What is what follows from shapes and from the names of keys. A joint is {x, y, ...} or [x, y, ...]. A body is a list of joints,
a dict of them by names, {x: [...], y: [...]}, or a row of numbers. Around it are people and frames, as lists, or as dicts by
ids and numbers. Numbers of frames, times, ids, confidences, the size of the image and the frames per second are taken where
they are named.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from lifter._notices import notice

from .detectors import Clip, detection, open_clips, rate_of_times
from .detectors import body as body_of
from .files import image_size
from .frames import frames_of, has_number
from .keypoints import LAYOUTS, layout_of_names, order_of
from .plausible import PIXELS, SHARES, are_poses
from .results import poses_of
from .sequence import Dataset

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
    "timestamp",
    "timestamp_ms",
    "timestampMs",
    "timestamp_s",
    "timestamp_sec",
    "time",
    "time_ms",
    "time_s",
    "time_sec",
    "t",
)
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
    "height",
    "image_height",
    "img_height",
    "frame_height",
    "video_height",
    "imageHeight",
    "videoHeight",
    "frameHeight",
    "h",
)
SIZE = ("resolution", "size", "image_size", "frame_size", "video_size", "img_size")
NAMES = ("keypoint_names", "joint_names", "landmark_names", "keypoints_names", "joints_names", "bodyparts", "names")
FPS = ("fps", "FPS", "frame_rate", "framerate", "frameRate", "video_fps")
SAME = 0.25  # bodies that are nearer than that, in their extents, are in one place


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
    if not isinstance(value, (dict, list, tuple, np.ndarray)) or len(value) == 0:
        return Part()
    body = _body(value)
    if body is not None:
        return body
    if isinstance(value, dict):
        return _of_dict(value)
    if (array := _array(value)) is not None and array.ndim == 3 and (bodies := _bodies_of_rows(array)):
        return Part(parts=bodies, listed=True)
    if isinstance(value[0], (int, float, np.generic)):
        return Part()
    return Part(parts=[part_of(inner) for inner in value], listed=array is not None)


def first_body(value) -> Part | None:
    """The first body in a value."""
    if isinstance(value, str):
        return next(iter(part_of(value).bodies()), None)
    if not isinstance(value, (dict, list, tuple, np.ndarray)) or len(value) == 0:
        return None
    if (body := _body(value)) is not None:
        return body
    if isinstance(value, dict):
        keyed = all(re.search(r"\d", str(key)) for key in value)
        value = value.values() if keyed else [value[key] for key in (*IMAGE, *WORLD) if key in value]
    elif isinstance(value[0], (int, float, np.generic)):
        return None
    return next((body for inner in value if (body := first_body(inner)) is not None), None)


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
        for part, key in zip(parts, value):
            part.key = str(key)
        return Part(parts=parts)
    return Part()


def _score(bodies, value):
    """Take the confidences that stand beside bodies."""
    for key in SCORES:
        scores = _array(value.get(key))
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
    body = _body_of_list(value) if isinstance(value[0], dict) else _body_of_rows(_array(value))
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
    x, y, z = (_array(value.get(axis)) for axis in "xyz")
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape or len(x) < 10:
        return None
    others = (_array(value.get(key)) for key in SCORES)
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


NOWHERE = (None, None, None, None)


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


def _array(value):
    """`value` as an array of numbers, with None in it as NaN; None if it is none."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return None
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind in "Oiuf" else None
    except (ValueError, TypeError, OverflowError):  # ragged, or text
        return None
    return array if array is not None and array.ndim else None


# ---- frames ----------------------------------------------------------------------------------------------------------


def _frames(root, where):
    """[(label or None, time or None, bodies)] of the frames in a part."""
    while root.depth > 2 and len(root.parts) == 1:
        root = root.parts[0]
    if root.depth > 2:
        raise ValueError(f"{where}: lists of lists of lists of people, expected frames of people")
    if root.depth == 0:
        return [(root.frame, root.time, [root])]
    if root.depth == 2:
        if _inner_is_time(root):
            names = lambda part, number: part.key if part.key is not None else number
            found = {}
            for who, part in enumerate(root.parts):
                for number, body in enumerate(part.bodies()):
                    body.id = names(part, who)
                    found.setdefault(names(body, number), []).append(body)
            return [(frame, None, bodies) for frame, bodies in found.items()]
        for body in root.bodies():
            body.id = body.key if body.id is None else body.id
        return [(_label(part), part.time, part.bodies()) for part in root.parts]
    labelled = any(_label(part) is not None or part.time is not None for part in root.parts)
    if labelled or root.listed or any(part.listed or not part.full for part in root.parts):
        return [(_label(part), part.time, part.bodies()) for part in root.parts]
    return [(None, None, bodies) for bodies in _images(root.parts, where)]


def _label(part):
    return part.key if part.frame is None else part.frame


def _inner_is_time(root):
    """Whether the outer parts are people, whose bodies stay in one place from one to the next."""
    keyed = all(part.key is not None for part in root.parts) and all(
        b.key is not None for part in root.parts for b in part.parts
    )
    if not (root.listed or keyed):
        return False
    steps = [_apart(one, two) for part in root.parts for one, two in zip(part.bodies(), part.bodies()[1:])]
    return bool(steps) and np.median(steps) < SAME


def _images(bodies, where):
    """Bodies in a row, without numbers of frames, by frames: one in the place of another is in the next frame."""
    images = [[]]
    for body in bodies:
        ids = [other.id for other in images[-1]]
        if body.id is not None and body.id in ids or any(_apart(body, other) < SAME for other in images[-1]):
            images.append([])
        images[-1].append(body)
    if len(images) > 1 and where:
        notice(f"{where}: {len(bodies)} people without numbers of frames: read as {len(images)} frames in a row")
    return images


def _apart(one, two):
    """How far apart two bodies are, in their extents."""
    if one.values.shape != two.values.shape:
        return np.inf
    one, two = (np.where((body.values[:, :2] == 0).all(1, keepdims=True), np.nan, body.values[:, :2]) for body in (one, two))
    both = np.isfinite(one + two).all(1)
    if not both.any():
        return np.inf
    extent = max(np.ptp(one[both], axis=0).max(), np.ptp(two[both], axis=0).max())
    return np.linalg.norm(one[both] - two[both], axis=1).mean() / extent if extent > 0 else np.inf


def _numbered(frames, where):
    """[(video, number, bodies)] of frames, and the frames per second that their times say."""
    labels, times = [label for label, _, _ in frames], [time for _, time, _ in frames]
    by_time = _by_time(times)
    if all(label is not None and has_number(str(label)) for label in labels):
        told = frames_of([int(label) if isinstance(label, float) else label for label in labels], where)
    else:
        told = [("", number) for number in (range(len(frames)) if by_time is None else by_time)]
    timed = [(number, time) for (_, number), time in zip(told, times) if isinstance(time, (int, float))]
    fps = rate_of_times(*zip(*timed)) if len(timed) > 1 else None
    return [(*place, bodies) for place, (_, _, bodies) in zip(told, frames)], fps


def _by_time(times):
    """The numbers of frames that lie evenly in time, None if these do not."""
    if len(times) < 2 or not all(isinstance(time, (int, float)) for time in times):
        return None
    times = np.array(times, np.float64)
    steps = np.diff(times)
    if not (np.isfinite(times).all() and (steps > 0).all()):
        return None
    numbers = np.rint((times - times[0]) / np.median(steps)).astype(int)
    return numbers.tolist() if (np.diff(numbers) > 0).all() and numbers[-1] < 100 * len(times) else None


def is_a_frame(data) -> bool:
    """Whether there are people of one image in a value, and no numbers of frames."""
    root = part_of(data)
    frames = _frames(root, "") if root.full and root.depth <= 2 else []
    return len(frames) == 1 and frames[0][0] is None


# ---- what the numbers are --------------------------------------------------------------------------------------------


def open_loose(format, path, data, size=None, fps=None, layout=None, variant=None, shares=False, joints=None) -> Dataset:
    """The people in `data`, as keypoints or as 3D poses.

    Args:
        joints: their names, where the file tells them apart from the bodies.
        size, fps, layout, variant, shares: of `lifter.data.detectors.open_clips`.

    Raises:
        ValueError if there is no body that is understood.
    """
    data = _of_movenet(_with_head(data, path), path)
    told_size, told_fps, told_joints = told_in(data, path)
    root = part_of(data)
    frames, rate = _numbered(_frames(root, path), path)
    found = [(video, number, body) for video, number, bodies in frames for body in bodies]
    if not found:
        known = "expected x and y of 17 joints, or as many as a layout has"
        raise ValueError(f"{path}: no person in any frame, as far as it is understood; {known}")
    found, named = _alike(found, path)
    values, in_room = _columns([body for _, _, body in found])
    joints = joints or named or (told_joints if told_joints and len(told_joints) == values.shape[1] else None)
    told_fps = told_fps or rate
    if in_room:
        return _results(format, path, found, values, joints, told_fps or fps, layout)
    if values.shape[1] == 17 and not (layout or joints):
        layout = order_of(values[..., :2], "coco", path)
    clips = {}
    for (video, number, body), keypoints in zip(found, values):
        clips.setdefault(video, []).append(detection(number, _who(body), body_of(keypoints)))
    sure = root.depth == 1 and root.listed and all(body.id is None for *_, body in found)  # an array, a row for each frame
    clips = [Clip(each, video, told_size, told_fps, joints, sure) for video, each in clips.items()]
    return open_clips(format, path, clips, size, fps, layout, variant, shares)


def _with_head(data, where):
    """A list whose first entry tells of the video, and has nobody, as a dict."""
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, dict) and any(told_in(first, where)) and not part_of(first).full:
        return {**first, "frames": data[1:]}
    return data


def _of_movenet(data, where):
    """The outputs (1, 1, 17, 3) of MoveNet have y before x."""
    array = _array(data)
    if array is None or array.ndim not in (4, 5) or array.shape[-4:] != (1, 1, 17, 3):
        return data
    notice(f"{where}: outputs of shape (1, 1, 17, 3), as MoveNet's, in which y comes before x")
    return array.reshape(-1, 17, 3)[..., [1, 0, 2]]


def _who(body):
    who = body.id
    if isinstance(who, str) and who.isdigit():
        return int(who)
    return None if isinstance(who, (int, float)) and who < 0 else who


def told_in(data, where):
    """The size of the image, the frames per second and the joints' names that a dict tells, or a dict in it."""
    places = [data] if isinstance(data, dict) else []
    places += [data[key] for place in places for key in META if isinstance(place.get(key), dict)]
    number = lambda value: value if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None
    first = lambda keys: next((found for place in places for key in keys if (found := number(place.get(key)))), None)
    width, height, fps = first(WIDTH), first(HEIGHT), first(FPS)
    if width is None or height is None:
        for value in (place[key] for place in places for key in SIZE if key in place):
            pair = re.findall(r"\d+", value) if isinstance(value, str) else _array(value)
            if pair is not None and len(pair) == 2:
                width, height = float(pair[0]), float(pair[1])
    lists = [place[key] for place in places for key in NAMES if isinstance(place.get(key), (list, np.ndarray))]
    names = next((tuple(map(str, names)) for names in lists if _are_known(tuple(map(str, names)))), None)
    return image_size(width, height, where) if width and height else None, float(fps) if fps else None, names


def _alike(found, where):
    """Those with as many joints as most have, and the joints' names; a joint that is named in others only is NaN."""
    names = tuple(dict.fromkeys(name for *_, body in found for name in body.joints))
    if names:
        found = [each for each in found if each[-1].joints]
        for *_, body in found:
            values = np.full((len(names), body.values.shape[1]), np.nan)
            values[[names.index(name) for name in body.joints]] = body.values
            body.values = values
        return found, names
    (shape, _), *_ = Counter(body.values.shape for *_, body in found).most_common(1)
    kept = [each for each in found if each[-1].values.shape == shape]
    if len(kept) < len(found):
        notice(f"{where}: {len(found) - len(kept)} people have not {shape[0]} joints, and are left out")
    return kept, None


def _columns(bodies):
    """(keypoints (N, J, 2 or 3), False), or (poses (N, J, 3), True)."""
    values = np.stack([body.values for body in bodies])
    named, width = bodies[0].named, values.shape[2]
    if not named and width == 2:
        return values, False
    if not named and width == 3:
        if bodies[0].world or _in_room(values):
            return values, True
        z = _in_image(values) and ((values[..., 2] < 0) & (values[..., 2] != -1)).any()
        return (values[..., :2] if z else values), False
    z, scores = values[..., 2], values[..., 3]
    has_z, has_scores = np.isfinite(z).any() and not _is_flat(values), np.isfinite(scores).any()
    image = _in_image(values)
    apart = bodies[0].scored and not (image and values.shape[1] == 33) or not has_scores and not image  # MediaPipe's have a z
    placed = np.isfinite(z).any() and bodies[0].world or has_z and (apart or _centred(values))
    if placed:
        return values[..., :3], True
    return (values[..., [0, 1, 3]] if has_scores else values[..., :2]), False


def _in_room(values):
    """Whether x, y and a third value are places in a room."""
    if _in_image(values):
        return False
    given = values[np.isfinite(values).all(-1)]
    small = len(given) > 0 and np.abs(given[:, :2]).max() <= PIXELS
    far = len(given) > 0 and given[:, 2].min() < -30  # what no logit is
    return far or small and ((given[:, 2] < 0) & (given[:, 2] != -1)).any() or are_poses(values)


def _in_image(values):
    """Whether x and y are shares of an image: nearly all of them in 0..1."""
    xy = values[..., :2][np.isfinite(values[..., :2]).all(-1)]
    return len(xy) > 0 and np.abs(xy).max() <= 2 * SHARES and ((xy >= -0.02) & (xy <= 1.02)).mean() > 0.8


def _is_flat(values):
    """Whether z is in another unit than x and y, as MediaPipe's beside pixels."""
    spread = lambda axis: np.nanmax(values[..., axis]) - np.nanmin(values[..., axis])
    return spread(2) < 0.02 * max(spread(0), spread(1))


def _centred(values):
    """Whether bodies are in metres about the middle of their hips, as MediaPipe's in the world."""
    xy = values[..., :2][np.isfinite(values[..., :2]).all(-1)]
    return len(xy) > 0 and np.abs(xy).max() <= 2 * SHARES and ((xy < 0).mean(0) > 0.1).all()


def _results(format, path, found, poses, joints, fps, layout):
    """Poses in 3D, a sequence for each person by ids, or by their order in a frame."""
    people = {}
    seen = Counter()
    for (video, number, body), pose in zip(found, poses):
        who = _who(body)
        if who is None:
            who = seen[video, number]
            seen[video, number] += 1
        people.setdefault((video, who), {}).setdefault(number, pose)
    items = {}
    for (video, who), by_number in people.items():
        name = "/".join([path.stem, *([video] if video else []), *([str(who)] if len(people) > 1 else [])])
        items[name] = partial(_result, name, by_number, joints, layout, fps, path)
    return Dataset(format, path, items)


def _result(name, by_number, joints, layout, fps, path):
    where = f"{path}: {name}"
    first = min(by_number)
    points = np.full((max(by_number) - first + 1, *next(iter(by_number.values())).shape), np.nan)
    if len(points) > 1000 + 100 * len(by_number):
        raise ValueError(f"{where}: seen in {len(by_number)} of {len(points)} frames; are these the numbers of frames?")
    for number, pose in by_number.items():
        points[number - first] = pose
    points = points[:, : len(body_of(points[0]))]
    layout = layout_of_names(joints, where) if joints else layout
    return poses_of(name, points, where, layout=layout, fps=fps, start=first, source=str(path))
