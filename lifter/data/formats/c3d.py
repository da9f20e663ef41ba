"""Motion capture in C3D files: markers, called as the joints of Human3.6M or as those around them are.

A file has a header, groups of parameters, and frames of points x, y, z, residual, with values of analog channels between
them, in blocks of 512 bytes. Numbers are of an Intel, a MIPS or a DEC processor; points are floats, or integers times a scale.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np

from lifter._io import whole

from ..files import existing, read_bytes
from ..markers import open_markers, unit_of
from ..mocap import known_rate, y_up, z_up
from ..registry import register_format, register_writer
from ..sequence import Dataset

BLOCK = 512
_ORDERS = {84: "<", 85: "<", 86: ">"}  # of bytes, by the processor
_KINDS = {-1: "S1", 1: "i1", 2: "i2", 4: "f4"}
LONGEST = 65535  # frames that the header can count


@dataclass(frozen=True, eq=False)
class C3d:
    """The points of a file as it has them, NaN where a point was not seen."""

    labels: tuple[str, ...]
    points: np.ndarray  # (T, N, 3)
    unit: str
    rate: float
    first: int  # the number of the first frame, from 1


def read(path) -> C3d:
    path = existing(path)
    data = read_bytes(path)
    try:
        return _parse(data, path)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a C3D file, or cut short ({error})") from None


def _parse(data, path):
    if len(data) < 2 * BLOCK or data[1] != 0x50:
        raise ValueError(f"{path}: not a C3D file, expected its header of {BLOCK} bytes")
    place = (data[0] - 1) * BLOCK
    processor = data[place + 3]
    if processor not in _ORDERS:
        raise ValueError(f"{path}: processor {processor}, expected {', '.join(map(str, _ORDERS))}")
    order, is_dec = _ORDERS[processor], processor == 85
    count, analog, first, last, _ = struct.unpack_from(f"{order}5H", data, 2)
    (start,) = struct.unpack_from(f"{order}H", data, 16)
    scale, rate = (float(_array(data, at, 1, "f4", order, is_dec)[0]) for at in (12, 20))
    parameters = _parameters(data, place, order, is_dec)
    point = parameters.get("POINT", {})
    one = lambda name, default: float(np.ravel(point[name])[0]) if np.size(point.get(name, ())) else default
    scale, rate, start = one("SCALE", scale), one("RATE", rate), int(one("DATA_START", start)) % 65536 or start
    labels = [label for key, value in point.items() if key.startswith("LABELS") for label in value][:count]
    unit = (point["UNITS"] or [""])[0] if "UNITS" in point else "mm"
    kind, width = ("f4", 4) if scale < 0 else ("i2", 2)
    row, begin = 4 * count + analog, (start - 1) * BLOCK
    if not count:
        raise ValueError(f"{path}: no points, but {analog} analog values in each frame: expected markers")
    if not (len(labels) == count and begin > 0 and scale and math.isfinite(scale)):
        raise ValueError(f"{path}: {count} points with {len(labels)} labels, scale {scale:g}, expected a label for each")
    there = (len(data) - begin) // (row * width)
    frames = last - first + 1 if last < LONGEST else _frames(parameters, there)
    if not 0 < frames <= there:
        raise ValueError(f"{path}: {frames} frames of {count} points, but {max(there, 0)} are there: cut short")
    values = _array(data, begin, frames * row, kind, order, is_dec).reshape(frames, row)[:, : 4 * count].astype(np.float64)
    values = values.reshape(frames, count, 4)
    points = values[..., :3] * (1.0 if scale < 0 else scale)
    points[values[..., 3] < 0] = np.nan
    return C3d(tuple(labels), points, unit, rate, first)


def _frames(parameters, there):
    """Count the frames of a file whose header cannot count them, `there` at most: the last block may not be full."""
    field = lambda name: np.ravel(parameters.get("TRIAL", {}).get(name, ())).astype(np.int64) % 65536
    first, last = field("ACTUAL_START_FIELD"), field("ACTUAL_END_FIELD")
    if len(first) == len(last) == 2:
        return min(int((last - first) @ (1, 65536)) + 1, there)
    told = np.ravel(parameters.get("POINT", {}).get("FRAMES", ())).astype(np.int64)
    count = int(told[0]) % 65536 if len(told) else 0
    return count if 0 < count < min(there + 1, LONGEST) else there


def _array(data, at, count, kind, order, is_dec):
    if is_dec and kind == "f4":  # the halves of a DEC's float are exchanged, and its exponent is 2 larger
        halves = np.frombuffer(data, "<u2", 2 * count, at).reshape(-1, 2)
        return halves[:, ::-1].copy().view("<f4")[:, 0] / 4
    return np.frombuffer(data, order + kind, count, at)


def _parameters(data, place, order, is_dec):
    """{group: {name: value}}: a list of texts, or an array."""
    end = place + BLOCK * data[place + 2]
    names, values, at = {}, [], place + 4
    while at < min(end, len(data) - 4):
        length, id = struct.unpack_from("<bb", data, at)
        if not length or not id:
            break
        name = data[at + 2 : at + 2 + abs(length)].decode("latin1").upper().strip()
        at += 2 + abs(length)
        (step,) = struct.unpack_from(f"{order}h", data, at)
        if id < 0:
            names[-id] = name
        else:
            values.append((id, name, _value(data, at + 2, order, is_dec)))
        if step <= 0:
            break
        at += step
    found = {name: {} for name in names.values()}
    for id, name, value in values:
        found.get(names.get(id), {})[name] = value
    return found


def _value(data, at, order, is_dec):
    kind, dimensions = struct.unpack_from("<bB", data, at)
    sizes = list(data[at + 2 : at + 2 + dimensions])
    count = math.prod(sizes)
    if kind not in _KINDS or count > len(data):
        return np.zeros(0)
    array = _array(data, at + 2 + dimensions, count, _KINDS[kind], order, is_dec)
    if kind != -1:
        return array
    text, width = array.tobytes().decode("latin1"), sizes[0] if sizes else 1
    return [text[i : i + width].strip(" \0") for i in range(0, len(text), width)] if width else []


@register_format("c3d", "motion capture: markers that are called as joints, .c3d", guess=lambda file: file.suffix == ".c3d")
def open_c3d(path) -> Dataset:
    """The motion as one sequence of Human3.6M's joints; see `lifter.data.markers` for the names that are known."""
    path = existing(path)
    file = read(path)
    fps = file.rate if 0 < file.rate < 1e5 else None
    known = {"unit": unit_of(file.unit), "fps": fps, "start": max(file.first - 1, 0)}
    return open_markers("c3d", path, file.labels, file.points, up="z", **known)


@register_writer("c3d")
def write(path, sequence):
    """Write the poses of a sequence as markers that are called as the joints: millimetres, z up."""
    poses = z_up(y_up(sequence)) * 1000
    frames, joints = poses.shape[:2]
    first, rate = sequence.start + 1, known_rate(sequence)
    if first > LONGEST or frames > LONGEST:
        raise ValueError(f"{sequence.name}: frames {first} to {first + frames - 1}, expected at most {LONGEST} in a C3D file")
    last = min(first + frames - 1, LONGEST)
    width = max(map(len, sequence.skeleton.joints))
    groups = {
        "POINT": {
            "USED": joints,
            "FRAMES": np.uint16(frames).astype(np.int16),
            "SCALE": -1.0,
            "RATE": float(rate),
            "DATA_START": 0,  # known when the parameters are written
            "UNITS": ["mm"],
            "LABELS": [joint.ljust(width) for joint in sequence.skeleton.joints],
        },
        "ANALOG": {"USED": 0, "GEN_SCALE": 1.0, "RATE": 0.0},
    }
    blocks = math.ceil((4 + len(_packed(groups))) / BLOCK)
    groups["POINT"]["DATA_START"] = start = 2 + blocks
    header = struct.pack("<BBHHHHHfHHf", 2, 0x50, joints, 0, first, last, 0, -1.0, start, 0, rate)
    values = np.zeros((frames, joints, 4), "<f4")
    values[..., :3] = poses
    with whole(path) as partly, partly.open("wb") as file:
        file.write(header.ljust(BLOCK, b"\0"))
        file.write((bytes((1, 0x50, blocks, 84)) + _packed(groups)).ljust(blocks * BLOCK, b"\0"))
        file.write(values.tobytes().ljust(math.ceil(values.nbytes / BLOCK) * BLOCK, b"\0"))


def _packed(groups):
    parts = []
    for id, (group, parameters) in enumerate(groups.items(), 1):
        parts.append(struct.pack("<bb", len(group), -id) + group.encode() + struct.pack("<hB", 3, 0))
        for name, value in parameters.items():
            if isinstance(value, list):
                content = struct.pack("<bBBB", -1, 2, len(value[0]), len(value)) + "".join(value).encode()
            else:
                content = struct.pack("<bBf", 4, 0, value) if isinstance(value, float) else struct.pack("<bBh", 2, 0, value)
            parts.append(
                struct.pack("<bb", len(name), id) + name.encode() + struct.pack("<h", 3 + len(content)) + content + b"\0"
            )
    return b"".join(parts)
