"""Bodies inside lists, dicts and arrays that people save themselves.

What is what follows from shapes and from the names of keys (`keys`). A joint is {x, y, ...} or [x, y, ...]. A body is a list
of joints, a dict of them by names, {x: [...], y: [...]}, or a row of numbers. Around it are people and frames, as lists, or as
dicts by ids and numbers. Numbers of frames, times, ids and confidences are taken where they are named.
"""

import json
import re
from dataclasses import dataclass, field

import numpy as np

from .files import integer
from .keypoints import LAYOUTS
from .keys import (
    FRAME,
    FRAMES,
    ID,
    IDS,
    IMAGE,
    LANDMARKS,
    NAME,
    NUMBER,
    SCORES,
    TIME,
    TIMES,
    VIDEO,
    WORLD,
    are_joints,
    fields,
    first,
    plain,
)

NOWHERE = (None, None, None, None)  # x, y, z and confidence of a joint that was not found
COUNTS = (*(layout.joints for layout in LAYOUTS.values()), 23, 133, 136)  # of joints; the last three begin with the body
_SAID = (int, float, str)


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
    flat: bool = False  # of a row of numbers

    @property
    def depth(self):
        """The number of parts around the bodies."""
        return 0 if self.values is not None else 1 + max((part.depth for part in self.parts if part.full), default=0)

    @property
    def full(self):
        """Return whether there is a body."""
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
    if (body := _body(value)) is not None:
        return body
    if isinstance(value, dict):
        return _part_of_dict(value)
    array = array_of(value)
    if array is not None and array.ndim == 3 and (bodies := _bodies_of_rows(array)):
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
        found = fields(value)
        value = value.values() if _has_numbers(value) else [found[key] for key in (*IMAGE, *WORLD) if key in found]
    elif isinstance(value[0], (int, float, np.generic)):
        return None
    return next((body for inner in value if (body := first_body(inner)) is not None), None)


def _has_parts(value):
    is_array = isinstance(value, np.ndarray) and value.ndim > 0
    return (is_array or isinstance(value, (dict, list, tuple))) and len(value) > 0


def _has_numbers(mapping):
    """Return whether all keys have a number in them, as "12", "frame_12" and "person 2"."""
    return all(re.search(r"\d", str(key)) for key in mapping)


def _part_of_dict(value):
    """The bodies under the first key that has some, or under keys that are numbers."""
    found = fields(value)
    for key in (*IMAGE, *WORLD):
        part = part_of(found[key]) if key in found else Part()
        if part.full or key in LANDMARKS and key in found:
            part.listed = part.listed and part.values is None or key in (*LANDMARKS, *WORLD)
            _tell(part, found, key in WORLD)
            return part
    if not value or not _has_numbers(value):
        return Part(frame=_frame(found), time=first(found, TIME, _SAID))  # a frame without anybody
    parts = [part_of(inner) for inner in value.values()]
    are_times = all(re.fullmatch(r"\d+\.\d+", str(key)) for key in value)
    for part, key in zip(parts, value):
        part.time, part.key = (float(key), None) if are_times else (part.time, str(key))
    return Part(parts=parts)


def _tell(part, found, world):
    """Give a part and its bodies what the dict around it, as `fields`, says about them."""
    bodies = part.bodies()
    part.frame = _frame(found) if part.frame is None else part.frame
    part.time = first(found, TIME, _SAID) if part.time is None else part.time
    part.id = first(found, ID, _SAID) if part.id is None else part.id
    _tell_each(part.parts, found)
    for body in bodies:
        body.world |= world
    if len(bodies) == 1 and bodies[0].id is None:
        bodies[0].id = part.id
    _score(bodies, found)


def _frame(found):
    """The label of a frame that `fields` of a dict tell, with the video's name before it, if they tell that."""
    frame, video = first(found, FRAME, _SAID), first(found, VIDEO, (int, str))
    number = integer(frame)
    return frame if number is None or video is None else f"{video}/{number}"


def _tell_each(parts, found):
    """Give parts their numbers of frames, times and ids, if there is an array of these with one for each."""
    for name, keys in {"frame": FRAMES, "time": TIMES, "id": IDS}.items():
        for key in keys if parts else ():
            array = array_of(found.get(key))
            if array is not None and array.shape == (len(parts),):
                for part, value in zip(parts, array.tolist()):
                    setattr(part, name, value if getattr(part, name) is None else getattr(part, name))
                break


def _score(bodies, found):
    """Give bodies the confidences that stand beside them."""
    count = sum(len(body.values) for body in bodies)
    for key in SCORES:
        scores = array_of(found.get(key), "Obiuf")
        if scores is None or not bodies or scores.size != count:
            continue
        ends = np.cumsum([len(body.values) for body in bodies])[:-1]
        for body, rows in zip(bodies, np.split(scores.reshape(-1), ends)):
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
    """A body of a row of numbers, or of a row for each joint."""
    if array is None or array.ndim > 2:
        return None
    if array.ndim == 2:
        return Part(array) if array.shape[1] in (2, 3, 4, 5) and len(array) > 5 else None
    fits = (columns for columns in (3, 2, 4) if array.size % columns == 0 and array.size // columns in COUNTS)
    columns = next(fits, None)
    return None if columns is None else Part(array.reshape(-1, columns), flat=True)


def _bodies_of_rows(array):
    """The bodies of an array (T, J, 2 to 5)."""
    fits = array.shape[2] in (2, 3, 4, 5) and array.shape[1] > 5
    return [Part(values, listed=True) for values in array] if fits else []


def _body_of_columns(value):
    """A body of {x: [...], y: [...]}."""
    x, y, z = (array_of(value.get(axis)) for axis in "xyz")
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape or len(x) < 10:
        return None
    found = fields(value)
    others = (array_of(found.get(key)) for key in SCORES)
    scores = next((other for other in others if other is not None and other.shape == x.shape), None)
    empty = np.full(len(x), np.nan)
    z = empty if z is None or z.shape != x.shape else z
    return Part(np.stack((x, y, z, empty if scores is None else scores), 1), True)


def _body_of_names(value):
    """A body of joints by their names, or by their numbers."""
    rows = {str(key): row for key, inner in value.items() if (row := _row(inner)) is not None}
    known = are_joints(tuple(rows))
    if not known and not (len(rows) in COUNTS and all(key.isdigit() for key in rows)):
        return None
    names = tuple(rows) if known else ()
    joints = _joints(rows.values() if known else [rows[key] for key in sorted(rows, key=int)])
    return None if joints is None else Part(joints, True, names)


def _body_of_list(value):
    """A body of a list of dicts, a joint each, which may have names or numbers."""
    if not all(inner is None or isinstance(inner, dict) for inner in value):
        return None
    known = {plain(key): key for key in reversed(value[0])}
    key_of = lambda table: next((known[name] for name in table if name in known), None)
    said = lambda key: [] if key is None else [inner and inner.get(key) for inner in value]
    score = key_of(SCORES)
    rows = [NOWHERE if inner is None else _row(inner, score) for inner in value]
    joints = None if None in rows else _joints(rows)
    if joints is None:
        return None
    names, numbers = tuple(map(str, said(key_of(NAME)))), said(key_of(NUMBER))
    if names and are_joints(names):
        return Part(joints, True, names)
    if numbers and all(type(number) is int and 0 <= number < 33 for number in numbers) and len(set(numbers)) == len(numbers):
        return _body_of_numbers(joints, numbers)
    return Part(joints, True) if len(joints) >= 10 else None


def _body_of_numbers(joints, numbers):
    """A body of joints that are numbered as those of COCO or MediaPipe, of which some may not be there."""
    count = next(count for count in (len(joints), 17, 33) if count > max(numbers) and count in COUNTS)
    values = np.full((count, 4), np.nan)
    values[numbers] = joints
    return Part(values, True)


def _row(value, score=None):
    """x, y, z and confidence of a joint, None where there is none; None if it is no joint.

    Args:
        score: the key of the confidence, None if it is not known.
    """
    if isinstance(value, dict):
        return _row_of_dict(value, score)
    if isinstance(value, (list, tuple)) and 2 <= len(value) <= 4:
        return value if len(value) == 4 else (value[0], value[1], None, value[2] if len(value) == 3 else None)
    return NOWHERE if isinstance(value, (list, tuple)) and not value else None


def _row_of_dict(value, score):
    if "x" not in value:
        value = fields(value)
    place = value.get("position")
    if isinstance(place, dict):
        value = {**value, **place}
    elif isinstance(place, (list, tuple)) and len(place) in (2, 3):
        value = {**value, **dict(zip("xyz", place))}
    if "x" not in value or "y" not in value:
        return None
    if score not in value:
        score = next((name for name in SCORES if name in value), None)
    return value["x"], value["y"], value.get("z"), value.get(score)


def _joints(rows):
    """The array (J, 4) of joints' rows; None if something in them is no number."""
    try:
        return np.array(list(rows), np.float64).reshape(-1, 4)
    except (TypeError, ValueError, OverflowError):
        return None


def array_of(value, kinds="Oiuf"):
    """`value` as an array of numbers, with None in it as NaN; None if it is none of these kinds of numpy's."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return None
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind in kinds else None
    except (ValueError, TypeError, OverflowError):  # ragged, or text
        return None
    return array if array is not None and array.ndim else None
