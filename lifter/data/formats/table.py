"""Keypoints or 3D poses in CSV files of others: of MediaPipe in many forms, DeepLabCut, FreeMoCap, ultralytics.

A row is a frame, with columns NOSE_x, NOSE_y, ... or x0, y0, z0, v0, x1, ...; or a joint of a frame, with columns for the
frame, the joint, x and y. Without a header a row is a frame of 17, 26 or 33 joints. Several rows of a frame are people.
"""

import csv
import io
import json
import re

from ..files import existing, read_text
from ..loose import open_loose
from ..parts import FRAME, ID, SCORES, TIME
from ..registry import register_format
from ..sequence import Dataset
from .tables import is_ours

_JOINT = (
    "landmark", "landmark_name", "keypoint", "keypoint_name", "joint", "joint_name", "bodypart", "body_part", "point",
    "marker", "name", "landmark_id", "landmark_index", "landmark_idx", "keypoint_id", "keypoint_index", "keypoint_idx",
    "joint_id", "joint_index", "joint_idx", "point_id", "index", "id",
)  # fmt: skip
_AXES = {"x": "x", "y": "y", "z": "z"} | dict.fromkeys(
    ("v", "c", "s", "p", "conf", "confidence", "visibility", "vis", "score", "likelihood", "prob"), "score"
)
_AXIS = "|".join(sorted(_AXES, key=len, reverse=True))
_AFTER = re.compile(rf"(.+?)[ _.\-]({_AXIS})(?:_(?:px|norm|pixel))?", re.IGNORECASE)
_BEFORE = re.compile(rf"({_AXIS})(?:[ _.\-\[]?(\d+)\]?|[ _.\-](.+))", re.IGNORECASE)
_COORDINATE = re.compile(r"(x|y|z)(_?(px|pixel|norm|coord|coordinate|mm|m))?", re.IGNORECASE)
_ROWS = {17 * 2: 2, 17 * 3: 3, 26 * 3: 3, 33 * 2: 2, 33 * 3: 3, 33 * 4: 4}  # numbers of a frame: of a joint


@register_format(
    "table",
    "keypoints or poses of others as CSV: MediaPipe, DeepLabCut, FreeMoCap",
    guess=lambda file: file.suffix == ".csv" and not is_ours(file.text),
    suffix=".csv",
)
def open_table(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    rows = _rows(path)
    return open_loose("table", path, {"frames": _frames(rows, path)}, size, fps, layout, variant)


def _rows(path):
    text = read_text(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no rows")
    return [[cell.strip() for cell in row] for row in rows]


def _frames(rows, path):
    """Frames as `lifter.data.parts` has them."""
    head = rows[0]
    if head[0] == "scorer":
        return _deeplabcut(rows, path)
    if all(_number(cell) is not None for cell in head[1:]):
        return _bare(rows, path)
    lower = [cell.lower() for cell in head]
    place = lambda names: next((lower.index(name.lower()) for name in names if name.lower() in lower), None)
    records = [dict(zip(range(len(head)), map(_value, row))) for row in rows[1:]]
    told = {"frame": place(FRAME), "timestamp": place(TIME)}
    coordinates = {found[1].lower(): number for number, name in enumerate(lower) if (found := _COORDINATE.fullmatch(name))}
    joint = place(_JOINT)
    if joint is not None and coordinates.keys() >= {"x", "y"}:
        who = place([name for name in ID if name != head[joint]])
        coordinates |= {"score": number} if (number := place(SCORES)) is not None else {}
        models = [str(record.get(lower.index("model"))) for record in records] if "model" in lower else []
        if any("body" in model for model in models):  # FreeMoCap's, beside hands and a face
            records = [record for record, model in zip(records, models) if "body" in model]
        return _long(records, joint, coordinates, who, told)
    whole = [number for number, name in enumerate(lower) if name == "keypoints"]
    if whole:
        return _with_told(records, told, place(ID), lambda record: record.get(whole[0]))
    groups = _groups(head)
    if not groups:
        raise ValueError(
            f"{path}: columns {', '.join(head[:8])[:200]}, ..., expected x and y of joints: NOSE_x, NOSE_y, ..., or x0, y0, "
            "..., or a column for the joint's name"
        )
    body = lambda record: [{axis: record.get(number) for axis, number in axes.items()} for axes in groups.values()]
    if not all(name.isdigit() for name in groups):
        body = lambda record: {name: {a: record.get(number) for a, number in axes.items()} for name, axes in groups.items()}
    return _with_told(records, told, place([name for name in ID if name != "id"]), body)


def _with_told(records, told, who, body):
    """A person for each record, with what else the columns tell."""
    frames, counted = [], who is None and all(number is None for number in told.values())
    for row, record in enumerate(records):
        entry = {"frame": row} if counted else {key: record.get(number) for key, number in told.items() if number is not None}
        if who is not None and record.get(who) is not None:
            entry["track_id"] = record[who]
        frames.append({**entry, "keypoints": body(record)})
    return frames


def _long(records, joint, coordinates, who, told):
    """People by their rows, one for each joint: these are of one frame and one id."""
    frames, seen = {}, {}
    for record in records:
        key = next((record.get(number) for number in told.values() if number is not None), None), record.get(who)
        name = str(record.get(joint))
        if told == {"frame": None, "timestamp": None}:  # joints begin anew
            seen[name] = seen.get(name, -1) + 1
            key = seen[name], record.get(who)
        entry = {name: record.get(number) for name, number in told.items() if number is not None}
        if who is not None:
            entry["track_id"] = record.get(who)
        frame = frames.setdefault(key, {**entry, "keypoints": {}})
        frame["keypoints"][name] = {axis: record.get(number) for axis, number in coordinates.items()}
    return list(frames.values())


def _groups(head):
    """{joint: {axis: column}} of a header, in order."""
    found = {}
    for number, name in enumerate(head):
        if match := _AFTER.fullmatch(name):
            joint, axis = match[1], match[2]
        elif match := _BEFORE.fullmatch(name):
            axis, joint = match[1], match[2] or match[3]
        else:
            continue
        joint = re.sub(r"\D*(\d+)", r"\1", joint) if re.fullmatch(r"\D*\d+", joint) else joint
        found.setdefault(joint, {}).setdefault(_AXES[axis.lower()], number)
    found = {joint: axes for joint, axes in found.items() if axes.keys() >= {"x", "y"}}
    for prefix in ("body_", "pose_"):
        if some := {joint[len(prefix) :]: axes for joint, axes in found.items() if joint.lower().startswith(prefix)}:
            return some
    return found


def _bare(rows, path):
    """Rows of numbers, before which may stand the frame's number or a name."""
    for before in range(3):
        count = len(rows[0]) - before
        if count in _ROWS:
            values = [[_number(cell) for cell in row[before:]] for row in rows]
            bodies = [[row[i : i + _ROWS[count]] for i in range(0, count, _ROWS[count])] for row in values]
            numbers = [_number(row[0]) for row in rows] if before else []
            if numbers and all(number is not None and number % 1 == 0 for number in numbers) and len(set(numbers)) > 1:
                return [{"frame": int(number), "keypoints": [body]} for number, body in zip(numbers, bodies)]
            return [{"keypoints": [body], "frame": number} for number, body in enumerate(bodies)]
    raise ValueError(f"{path}: {len(rows[0])} columns without names, expected {', '.join(map(str, _ROWS))} numbers")


def _deeplabcut(rows, path):
    """Rows of names above the columns: scorer, perhaps individuals, bodyparts, coords."""
    above = {row[0]: row for row in rows[:4] if row[0] in ("scorer", "individuals", "bodyparts", "coords")}
    if not {"bodyparts", "coords"} <= above.keys():
        raise ValueError(f"{path}: a row 'scorer' without 'bodyparts' and 'coords', as DeepLabCut has them")
    who = above.get("individuals", above["scorer"])
    columns = {}
    for number, (person, part, axis) in enumerate(zip(who, above["bodyparts"], above["coords"])):
        if number and axis in _AXES:
            columns.setdefault(person, {}).setdefault(part, {})[_AXES[axis]] = number
    frames = []
    for row in rows[len(above) :]:
        values = dict(enumerate(map(_number, row)))
        people = [
            {
                "track_id": person,
                "keypoints": {part: {a: values.get(n) for a, n in axes.items()} for part, axes in parts.items()},
            }
            for person, parts in columns.items()
        ]
        frames.append({"frame": row[0], "people": people})
    return frames


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return None


def _value(cell):
    """A number, a text, None of an empty cell; what ultralytics writes as text of a dict."""
    if cell == "" or cell.lower() in ("nan", "none", "null"):
        return None
    if cell[0] in "{[":
        try:
            return json.loads(cell.replace("'", '"'))
        except (ValueError, RecursionError):
            return cell
    number = _number(cell)
    return cell if number is None else int(number) if number % 1 == 0 and abs(number) < 1e15 else number
