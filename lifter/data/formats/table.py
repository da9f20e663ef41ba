"""Keypoints or 3D poses in CSV files of others: of MediaPipe in many forms, DeepLabCut, FreeMoCap, ultralytics.

A row is a frame, with columns NOSE_x, NOSE_y, ... or x0, y0, z0, v0, x1, ...; or a joint of a frame, with columns for the
frame, the joint, x and y. Without a header a row is a frame of 17, 26 or 33 joints. Several rows of a frame are people. Cells
are apart by commas, semicolons or tabs; beside the last two a comma may be a decimal one. Lines before the header are passed
over.
"""

import csv
import io
import json
import re
from collections import Counter

from lifter._notices import Items

from ..files import existing, read_text
from ..keys import BESIDE, FRAME, ID, SCORES, TIME, VIDEO, plain
from ..loose import open_loose
from ..registry import register_format
from ..sequence import Dataset
from .tables import is_ours

# Names of columns of joints, as `keys.plain` gives them.
_JOINT = (
    "landmark", "landmarkname", "keypoint", "keypointname", "joint", "jointname", "bodypart", "point", "marker", "name",
    "landmarkid", "landmarkindex", "landmarkidx", "keypointid", "keypointindex", "keypointidx", "jointid", "jointindex",
    "jointidx", "pointid", "index", "id",
)  # fmt: skip
_AXES = {"x": "x", "y": "y", "z": "z"} | dict.fromkeys(
    ("v", "c", "s", "p", "conf", "confidence", "visibility", "vis", "score", "likelihood", "prob"), "score"
)
_AXIS = "|".join(sorted(_AXES, key=len, reverse=True))
_AFTER = re.compile(rf"(.+?)(?: ?[_.\- \[(])({_AXIS})[\])]?(?:_(?:px|norm|pixel))?", re.IGNORECASE)  # "nose_x", "nose (x)"
_BEFORE = re.compile(rf"({_AXIS})(?:[ _.\-\[]?(\d+)\]?|[ _.\-](.+))", re.IGNORECASE)  # "x0", "x_nose"
_CAMEL = re.compile(r"(.*[a-z\d])([XYZ])")  # "NoseX"
_COORDINATE = re.compile(r"(x|y|z)(_?(px|pixel|norm|coord|coordinate|mm|m))?", re.IGNORECASE)
_ROWS = (17 * 2, 17 * 3, 26 * 3, 33 * 2, 33 * 3, 33 * 4)  # numbers of a frame
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(e[-+]?\d+)?", re.IGNORECASE)


@register_format(
    "table",
    "keypoints or poses of others as CSV: MediaPipe, DeepLabCut, FreeMoCap",
    guess=lambda file: file.suffix in (".csv", ".tsv") and not is_ours(file.text),
    suffix=".csv",
)
def open_table(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    rows = _rows(path)
    return open_loose("table", path, {"frames": _frames(rows, path)}, size, fps, layout, variant)


# ---- rows and columns ------------------------------------------------------------------------------------------------


def _rows(path):
    """The cells of each row, the header first if there is one. Rows that are shorter than the first are left out."""
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    if lines and lines[0].lower().startswith("sep="):  # for Excel
        lines = lines[1:]
    delimiter = next((mark for mark in ";\t" if lines and mark in lines[-1]), ",")
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError(f"{path}: no rows")
    ((usual, _),) = Counter(map(_width, rows)).most_common(1)
    while len(rows) > 2 and _width(rows[0]) < usual / 2:  # a title
        rows.pop(0)
    clean = (lambda cell: cell.strip()) if delimiter == "," else _with_point
    kept, items = [], Items(path, "rows")
    for number, row in enumerate(rows):
        with items.one():
            if len(row) < len(rows[0]) - rows[0].count(""):
                raise ValueError(f"{path}: row {number}: {len(row)} columns, expected {len(rows[0])}")
            kept.append([clean(cell) for cell in row])
    items.end()
    return kept


def _width(row):
    """Count the columns of a row up to the last one with something in it."""
    return max((number for number, cell in enumerate(row, 1) if cell.strip()), default=0)


def _with_point(cell):
    cell = cell.strip()
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell


def _frames(rows, path):
    """Frames as `lifter.data.parts` has them."""
    head = rows[0]
    if head[0] == "scorer":
        return _deeplabcut(rows, path)
    if all(_number(cell) is not None for cell in head[1:]):
        return _bare(rows, path)
    names = [plain(cell) for cell in head]
    place = lambda table: next((names.index(name) for name in table if name in names), None)
    records = [dict(zip(range(len(head)), map(_value, row))) for row in rows[1:]]
    told = {"frame": place(FRAME), "timestamp": place(TIME), "video": place(VIDEO)}
    told |= {name: number for number, name in enumerate(names) if name in BESIDE}
    joint, coordinates = place(_JOINT), _coordinates(head)
    if joint is not None and coordinates.keys() >= {"x", "y"}:
        who = place([name for name in ID if name != names[joint]])
        coordinates |= {"score": number} if (number := place(SCORES)) is not None else {}
        return _long(_of_bodies(records, names), joint, coordinates, who, told)
    if "keypoints" in names:
        whole = names.index("keypoints")
        return _with_told(records, told, place(ID), lambda record: record.get(whole))
    groups = _groups(head)
    if not groups:
        raise ValueError(
            f"{path}: columns {', '.join(head[:8])[:200]}, ..., expected x and y of joints: NOSE_x, NOSE_y, ..., or x0, y0, "
            "..., or a column for the joint's name"
        )
    return _with_told(records, told, place([name for name in ID if name != "id"]), _body_of(groups))


def _coordinates(head):
    """{axis: column} of columns for x, y and z of one joint."""
    matches = ((number, _COORDINATE.fullmatch(name)) for number, name in enumerate(head))
    return {match[1].lower(): number for number, match in matches if match}


def _of_bodies(records, names):
    """Those of FreeMoCap's bodies, beside which are hands and a face."""
    models = [str(record.get(names.index("model"))) for record in records] if "model" in names else []
    if not any("body" in model for model in models):
        return records
    return [record for record, model in zip(records, models) if "body" in model]


# ---- a person in each row --------------------------------------------------------------------------------------------


def _groups(head):
    """{joint: {axis: column}} of a header, in order; joints that are numbered by their numbers."""
    found = {}
    for number, name in enumerate(head):
        if match := _AFTER.fullmatch(name) or _CAMEL.fullmatch(name):
            joint, axis = match[1], match[2]
        elif match := _BEFORE.fullmatch(name):
            axis, joint = match[1], match[2] or match[3]
        else:
            continue
        joint = re.sub(r"\D*(\d+)", r"\1", joint) if re.fullmatch(r"\D*\d+", joint) else joint
        found.setdefault(joint, {}).setdefault(_AXES[axis.lower()], number)
    found = {joint: axes for joint, axes in found.items() if axes.keys() >= {"x", "y"}}
    if all(joint.isdigit() for joint in found):
        found = {joint: found[joint] for joint in sorted(found, key=int)}
    for prefix in ("body_", "pose_"):
        if some := {joint[len(prefix) :]: axes for joint, axes in found.items() if joint.lower().startswith(prefix)}:
            return some
    return found


def _body_of(groups):
    """The function that makes a body of a record: a list of joints if they are numbered, else a dict by their names."""
    joint = lambda record, axes: {axis: record.get(number) for axis, number in axes.items()}
    if all(name.isdigit() for name in groups):
        return lambda record: [joint(record, axes) for axes in groups.values()]
    return lambda record: {name: joint(record, axes) for name, axes in groups.items()}


def _with_told(records, told, who, body):
    """A person for each record, with what else the columns tell."""
    told = {key: number for key, number in told.items() if number is not None}
    counted = who is None and told.keys().isdisjoint(("frame", "timestamp"))
    frames = []
    for row, record in enumerate(records):
        entry = {key: record.get(number) for key, number in told.items()} | ({"frame": row} if counted else {})
        if who is not None and record.get(who) is not None:
            entry["track_id"] = record[who]
        frames.append({**entry, "keypoints": body(record)})
    return frames


# ---- a joint in each row ---------------------------------------------------------------------------------------------


def _long(records, joint, coordinates, who, told):
    """People by their rows, one for each joint: these are of one frame and one id, and of several people if a joint is there
    again. Without numbers of frames and times the joint that is there again is of the next frame."""
    told = {key: number for key, number in told.items() if number is not None}
    counted = told.keys().isdisjoint(("frame", "timestamp"))
    frames, seen = {}, Counter()
    for record in records:
        name = str(record.get(joint))
        key = (*(record.get(told.get(of)) for of in ("video", "frame", "timestamp")), record.get(who))
        again = seen[key, name]
        seen[key, name] += 1
        entry = {of: record.get(number) for of, number in told.items()} | ({"frame": again} if counted else {})
        if who is not None:
            entry["track_id"] = record.get(who)
        frame = frames.setdefault((key, again), {**entry, "keypoints": {}})
        frame["keypoints"][name] = {axis: record.get(number) for axis, number in coordinates.items()}
    return list(frames.values())


# ---- without a header, and with several -----------------------------------------------------------------------------


def _bare(rows, path):
    """Rows of numbers, before which may stand the frame's number or a name."""
    for before in range(3):
        count = len(rows[0]) - before
        if count in _ROWS:
            bodies = [[_number(cell) for cell in row[before:]] for row in rows]
            numbers = [_number(row[0]) for row in rows] if before else []
            if numbers and all(number is not None and number % 1 == 0 for number in numbers) and len(set(numbers)) > 1:
                return [{"frame": int(number), "keypoints": body} for number, body in zip(numbers, bodies)]
            return [{"frame": number, "keypoints": body} for number, body in enumerate(bodies)]
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
