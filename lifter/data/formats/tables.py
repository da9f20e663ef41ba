"""Sequences as text tables: CSV, OpenSim's marker files, TRC, and angles of joints. A file has one sequence, named after the
file.

A CSV file has a column "frame", a column "time" in seconds where the frames per second are known, and columns
"right_hip_x", "_y", "_z" of poses in metres, "right_hip_u", "_v", "_confidence" of normalised keypoints, in steps of 1e-7.
A TRC file has the poses alone, with y up, in millimetres, in steps of 1e-4.
"""

from functools import partial
from pathlib import Path

import numpy as np

from lifter._io import whole
from lifter._notices import Items, notice
from lifter.skeleton import H36M, SKELETONS

from ..angles import joint_angles
from ..detectors import rate_of_times
from ..files import existing, frame_rate, integer, read_text
from ..keys import plain
from ..markers import OPENSIM, open_markers, unit_of
from ..mocap import known_rate, y_up, z_up
from ..registry import register_format, register_writer
from ..results import in_frames, up_of
from ..sequence import Dataset, Sequence

_COLUMNS = {"poses": ("x", "y", "z"), "keypoints": ("u", "v", "confidence")}


@register_writer("csv")
def write_csv(path, sequence):
    """Write the poses and the keypoints of a sequence."""
    columns, formats, values = _numbered(sequence)
    for field, suffixes in _COLUMNS.items():
        array = getattr(sequence, field)
        if array is not None:
            columns += [f"{joint}_{suffix}" for joint in sequence.skeleton.joints for suffix in suffixes[: array.shape[2]]]
            formats += ["%.7f"] * array[0].size
            values += list(array.reshape(len(array), -1).T)
    if len(columns) <= 2:
        raise ValueError(f"{sequence.name}: neither poses nor keypoints to write")
    _write(path, [",".join(columns)], ",".join(formats), values)


@register_format(
    "csv",
    "lifter's CSV: poses and keypoints, a column per coordinate",
    guess=lambda file: file.suffix == ".csv" and is_ours(file.text),
    suffix=".csv",
)
def open_csv(path) -> Dataset:
    """Open a file of `write_csv`: frames in a row, of the joints of a known skeleton. The frames per second follow from the
    times, from nine digits."""
    path = existing(path)
    return Dataset("csv", path, {path.stem: partial(_read_csv, path)})


def is_ours(text) -> bool:
    """Return whether the first characters of a file are those of `write_csv`'s, if damaged ones."""
    columns = text.partition("\n")[0].strip().split(",")
    joints = tuple(dict.fromkeys(column.rpartition("_")[0] for column in columns if column not in ("frame", "time")))
    ours = any(joints == skeleton.joints for skeleton in SKELETONS.values())
    return columns == [""] or ours or any(column.endswith(("_u", "_v")) for column in columns)


def _read_csv(path) -> Sequence:
    head, *lines = _lines(path) or [""]
    columns = head.strip().split(",")
    where = {column: index for index, column in enumerate(columns)}
    joints = tuple(dict.fromkeys(column.rpartition("_")[0] for column in columns if column not in ("frame", "time")))
    skeleton = next((skeleton for skeleton in SKELETONS.values() if skeleton.joints == joints), None)
    fields, used = {}, where.keys() & {"frame", "time"}
    for field, suffixes in _COLUMNS.items():
        suffixes = [suffix for suffix in suffixes if f"{joints[0]}_{suffix}" in where] if joints else ()
        wanted = [f"{joint}_{suffix}" for joint in joints for suffix in suffixes]
        if wanted and where.keys() >= set(wanted):
            fields[field] = [where[column] for column in wanted]
            used |= set(wanted)
    if skeleton is None or not fields or used != where.keys():
        raise ValueError(
            f"{path}: columns {', '.join(columns[:8])[:200]}, ..., expected frame, time and those of all joints of one of "
            f"{', '.join(SKELETONS)}: JOINT_x, _y and _z of poses, or _u, _v and perhaps _confidence of keypoints"
        )
    values = _values(path, lines, 2, ",", len(columns))
    arrays = {field: values[:, wanted].reshape(len(values), len(joints), -1) for field, wanted in fields.items()}
    numbers = values[:, where["frame"]] if "frame" in where else np.arange(len(values))
    if (np.diff(numbers) != 1).any():
        raise ValueError(f"{path}: the numbers of frames are not in a row")
    fps = None
    if "time" in where and len(values) > 1:
        duration = values[-1, where["time"]] - values[0, where["time"]]
        fps = float(f"{(len(values) - 1) / duration:.9g}") if duration > 0 else None
    if skeleton is H36M and "keypoints" not in arrays:  # which tell that they are in a camera's axes
        arrays["up"] = up_of(arrays["poses"], None, path) or "z"
    return Sequence(path.stem, skeleton, **arrays, fps=fps, start=_start(numbers, path), source=str(path))


@register_writer("angles.csv")
def write_angles(path, sequence):
    """Write the angles of the joints of a sequence, in degrees: see `lifter.data.angles`."""
    angles = joint_angles(sequence)
    columns, formats, values = _numbered(sequence)
    _write(path, [",".join([*columns, *angles])], ",".join([*formats, *["%.3f"] * len(angles)]), [*values, *angles.values()])


def _numbered(sequence):
    """(names, formats, values) of the columns that number the frames."""
    numbers = sequence.start + np.arange(len(sequence))
    if not sequence.fps:
        return ["frame"], ["%d"], [numbers]
    return ["frame", "time"], ["%d", "%.9g"], [numbers, numbers / sequence.fps]


@register_writer("trc")
def write_trc(path, sequence):
    """Write the poses of a sequence as markers, y up, for OpenSim: Human3.6M's joints with the names of `OPENSIM`, others with
    their own."""
    poses, joints = y_up(sequence) * 1000, OPENSIM if sequence.skeleton is H36M else sequence.skeleton.joints
    first, fps = sequence.start + 1, known_rate(sequence)
    times = np.arange(len(poses)) / fps  # since OrigDataStartFrame, as OpenSim has it
    numbers = [f"{fps:.9g}", f"{fps:.9g}", len(poses), len(joints), "mm", f"{fps:.9g}", first, len(poses)]
    head = [
        "PathFileType\t4\t(X/Y/Z)\t" + " ".join(Path(path).name.split()),
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        "\t".join(map(str, numbers)),
        "Frame#\tTime\t" + "\t\t\t".join(joints) + "\t\t",
        "\t\t" + "\t".join(f"{axis}{marker}" for marker in range(1, len(joints) + 1) for axis in "XYZ"),
        "",
    ]
    formats = "\t".join(["%d", "%.9g", *["%.4f"] * poses[0].size])
    _write(path, head, formats, [first + np.arange(len(poses)), times, *poses.reshape(len(poses), -1).T])


@register_format(
    "trc",
    "markers that are called as joints, as OpenSim, Pose2Sim and OpenCap have them, .trc",
    guess=lambda file: file.suffix == ".trc",
)
def open_trc(path) -> Dataset:
    """Markers as poses in the world, z up, in metres: `lifter.data.markers` has the names that are known, ours and those of
    Pose2Sim, Sports2D and OpenCap among them. A marker that is missing in a frame is filled in time."""
    path = existing(path)
    lines = _lines(path)
    if len(lines) < 6 or not lines[0].startswith("PathFileType"):
        raise ValueError(f"{path}: not a TRC file, expected PathFileType and four more lines before the frames")
    separator = "\t" if "\t" in lines[0] else ","
    if separator == "\t":  # beside which a comma is a decimal one
        lines[2:3] = [lines[2].replace(",", ".")]
        lines[5:] = [line.replace(",", ".") for line in lines[5:]]
    fps, unit, count = _trc_head(*(line.split(separator) for line in lines[1:3]), path)
    markers = [name.strip() for name in lines[3].split(separator)[2:] if name.strip()]
    rows, items = [], Items(path, "frames")
    for number, line in enumerate(lines[5:], 6):
        if line.strip(f" {separator}"):
            with items.one():
                rows.append(_values(path, [line], number, separator, 2 + 3 * len(markers), blank="nan"))
    items.end()
    if len(rows) != count:
        notice(f"{path}: {count} frames by its own words, but there are {len(rows)}, which are read")
    if not rows:
        raise ValueError(f"{path}: no frames")
    values = np.concatenate(rows)
    points = values[:, 2:].reshape(len(values), len(markers), 3)
    if points[..., :2].any() and not np.nan_to_num(points[..., 2]).any():
        raise ValueError(f"{path}: all z are 0: these are places in an image, expected poses in 3D")
    numbers = _numbers(values[:, 0], path)
    timed = rate_of_times(numbers, values[:, 1].tolist(), units=(1,))
    if timed and fps and not 0.9 < timed / fps < 1.1:
        notice(f"{path}: DataRate is {fps:g}, but the times are of {timed:g} frames per second, which are used")
        fps = timed
    first, points = in_frames(numbers, points)
    known = {"unit": unit, "fps": fps or timed, "start": max(first - 1, 0)}  # some count from 0
    return open_markers("trc", path, markers, points, up="y", turn=z_up, **known)


def _trc_head(names, values, path):
    """(frames per second, unit in metres, number of frames) of the second and the third line, None where they are not told."""
    head = {plain(name): value.strip() for name, value in zip(names, values)}
    unit, fps, count = unit_of(head.get("units", "")), frame_rate(head.get("datarate")), integer(head.get("numframes"))
    if count is None or fps is None or unit is None and head.get("units", "?"):
        expected = "DataRate, NumFrames, and Units of m, cm, mm, in"
        raise ValueError(f"{path}: line 3 is {' '.join(values)[:100]!r}, expected {expected}")
    return fps, unit, count


def _numbers(values, path) -> list[int]:
    """The numbers of frames; of a file in which they do not rise, they are counted."""
    first = _start(values, path)
    if (values % 1 != 0).any() or (np.diff(values) < 1).any() or values[-1] - first > 1000 + 100 * len(values):
        notice(f"{path}: the numbers of frames do not rise one by one: they are counted")
        return list(range(first, first + len(values)))
    return values.astype(int).tolist()


def _lines(path):
    try:
        return read_text(path).splitlines()
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error})") from None


def _write(path, head, formats, columns):
    rows = zip(*(column.tolist() for column in columns))
    lines = [*head, *(formats % row for row in rows)]
    with whole(path) as partly:
        partly.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _values(path, lines, first, separator, width, blank=""):
    """The numbers (T, width) of lines, the first of which has the number `first`; `blank`: what stands for an empty one."""
    rows = np.empty((len(lines), width))
    for index, line in enumerate(lines):
        words = [word.strip() or blank for word in line.rstrip("\r\n").split(separator)]
        while len(words) > width and words[-1] == blank:
            words.pop()
        where = f"{path}: line {first + index}"
        if len(words) != width:
            raise ValueError(f"{where}: {len(words)} columns, expected {width}")
        try:
            rows[index] = words
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if not lines:
        raise ValueError(f"{path}: no frames")
    return rows


def _start(numbers, path):
    if not (np.isfinite(numbers).all() and abs(numbers[0]) < 1e15):
        raise ValueError(f"{path}: numbers of frames that are none")
    return int(numbers[0])
