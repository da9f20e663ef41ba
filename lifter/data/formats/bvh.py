"""Motion capture in BVH files: reading, with forward kinematics, and writing.

A joint is at p = p_parent + R_parent offset, where its position channels replace its offset, and turns by R = R_parent R1 R2
R3, its rotation channels in their order. Which joints are Human3.6M's is in `rigs`.
"""

import re
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np

from lifter._io import whole
from lifter._notices import notice

from ..bones import motion_of
from ..files import decoded, existing, parse_number, read_bytes
from ..mocap import rotation, upright
from ..registry import register_format, register_writer
from ..rigs import h36m, length, up_axis
from ..sequence import Dataset, Sequence

_UNITS = (1.0, 0.01, 0.001, 0.0254, 0.0254 / 0.45)  # metre, centimetre, millimetre, inch, CMU's
_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))(?:#|//).*$")
BODY = 1.6  # metres from the ankles to the top of the head, along the bones
PEOPLE = (1.2, 2.1)  # and of whom there is no doubt about the unit
LONGEST = 1.0  # seconds from frame to frame; more is another unit
_CHANNELS = [f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ"]


@dataclass(frozen=True, eq=False)
class Bvh:
    """A skeleton and its motion, in the file's units and axes, as in the file."""

    names: tuple[str, ...]  # end sites are called "<parent>_end"
    parents: tuple[int, ...]  # -1 of a root
    offsets: np.ndarray  # (J, 3)
    channels: tuple[tuple[str, ...], ...]  # of each joint, as "Xposition", "Zrotation"; () of an end site
    motion: np.ndarray  # (T, all channels), angles in degrees
    frame_time: float  # 0 if the file does not tell it

    def positions(self, joints=None):
        """(T, J, 3) of all joints, or of these."""
        joints = range(len(self.names)) if joints is None else joints
        wanted = set(joints)
        for joint in reversed(range(len(self.names))):  # parents come before their children
            if joint in wanted:
                wanted.add(self.parents[joint])
        places, turns = {}, {}
        for joint, first in enumerate(self._first()):
            if joint not in wanted:
                continue
            parent, channels = self.parents[joint], self.channels[joint]
            values = self.motion[:, first : first + len(channels)]
            place = self._places(joint, values)
            turning = [i for i, channel in enumerate(channels) if channel.endswith("rotation")]
            order = [channels[i][0].lower() for i in reversed(turning)]
            turn = rotation(order, np.radians(values[:, turning[::-1]]))
            if parent >= 0:
                place = places[parent] + (turns[parent] @ place[..., None])[..., 0]
                turn = turns[parent] @ turn
            places[joint], turns[joint] = place, turn
        return np.stack([places[joint] for joint in joints], 1)

    def rest(self):
        """(J, 3) the joints with all rotations at 0, the roots at their offsets."""
        places = []
        for joint, (parent, first) in enumerate(zip(self.parents, self._first())):
            values = self.motion[:1, first : first + len(self.channels[joint])]
            places.append(self.offsets[joint] if parent < 0 else places[parent] + self._places(joint, values)[0])
        return np.stack(places)

    def _first(self):
        return np.cumsum([0, *map(len, self.channels)])[:-1].tolist()

    def _places(self, joint, values):
        """(T, 3) where a joint is from its parent."""
        place = np.tile(self.offsets[joint], (len(values), 1))
        for i, channel in enumerate(self.channels[joint]):
            if channel.endswith("position"):
                place[:, "XYZ".index(channel[0])] = values[:, i]
        return place


def read(path) -> Bvh:
    """Read a file.

    Raises:
        ValueError for what is no BVH file, or is cut short.
    """
    head, rest = _split(existing(path))
    words = _Words(path, head)
    words.expect("HIERARCHY")
    words.expect("ROOT")
    names, parents, offsets, channels, stack, name = [], [], [], [], [], words.name()
    while name is not None:
        names.append(name)
        parents.append(stack[-1] if stack else -1)
        stack.append(len(names) - 1)
        words.expect("{")
        before = words.channels(name)
        words.expect("OFFSET")
        offsets.append([words.number() for _ in range(3)])
        channels.append(before or words.channels(name))
        while stack and words.peek() == "}":
            words.next()
            stack.pop()
        kind = words.next().upper()
        if kind == ("JOINT" if stack else "ROOT"):
            name = words.name()
        elif stack and kind in ("END", "ENDSITE"):
            if kind == "END":
                words.expect("SITE")
            while words.peek() not in ("{", ""):  # some give it a name
                words.next()
            name = f"{names[stack[-1]]}_end"
        elif not stack and kind == "MOTION":
            name = None
        else:
            expected = "JOINT, End Site or }" if stack else "MOTION"
            raise ValueError(
                f"{path}: {words.last!r} in {names[stack[-1]] if stack else 'the hierarchy'}, expected {expected}"
            )
    words.expect("FRAMES:")
    frames = words.count()
    words.expect("FRAME")
    words.expect("TIME:")
    frame_time = words.number()
    motion = _motion(path, rest, frames, sum(map(len, channels)))
    if frame_time < 0:
        raise ValueError(f"{path}: frame time {frame_time}, expected a positive number")
    if frame_time == 0 or frame_time > LONGEST:
        notice(f"{path}: frame time {frame_time:g}: the frames per second are not known; --fps tells them")
        frame_time = 0.0
    _check_angles(motion, channels, path)
    bvh = Bvh(tuple(names), tuple(parents), np.array(offsets), tuple(channels), motion, frame_time)
    return _without_empty_positions(bvh, path)


def _split(path):
    """The text up to the frame time, without comments, and the rest, which is numbers."""
    text = decoded(read_bytes(path), "replace")
    time = re.search(r"frame\s+time\s*:\s*\S+", text, re.IGNORECASE)
    end = time.end() if time else len(text)
    head = _COMMENT.sub("", text[:end])
    return re.sub(r"(?i)\b(frames|time)\s*:", r"\1: ", head), text[end:]


def _motion(path, text, frames, width):
    """(T, width) values."""
    if "#" in text or "//" in text:
        text = _COMMENT.sub("", text)
    if "," in text:  # a decimal comma
        text = text.replace(",", ".")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # which numpy calls a text that is no number
            values = np.fromstring(text, np.float64, sep=" ") if text.strip() else np.zeros(0)
    except (DeprecationWarning, ValueError):
        try:
            values = np.array(text.split(), np.float64)
        except ValueError as error:
            raise ValueError(f"{path}: motion: {error}") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: motion has values that are not finite")
    if not values.size:
        raise ValueError(f"{path}: 0 values of motion: a skeleton without a frame")
    if not width or values.size % width:
        each = f", but {values.size // frames} are in each" if frames and values.size % frames == 0 else ""
        raise ValueError(f"{path}: {values.size} values of motion, expected {frames} frames of {width} channels{each}")
    if values.size != frames * width:
        notice(f"{path}: {frames} frames by its own words, but there are {values.size // width}, which are read")
    return values.reshape(-1, width)


def _check_angles(motion, channels, path):
    """Say that all angles are so small that they may be radians."""
    turning = [channel.endswith("rotation") for joint in channels for channel in joint]
    largest = np.abs(motion[:, turning]).max(initial=0)
    if 0.1 < largest <= 2 * np.pi and len(motion) > 1:
        notice(f"{path}: angles up to {largest:.3g}: read as degrees; are they radians?")


def _without_empty_positions(bvh, path):
    """Without the position channels of joints that are 0 in all frames though these have an offset: no bone has no length."""
    channels, kept, empty = list(bvh.channels), np.ones(bvh.motion.shape[1], bool), []
    for joint, first in enumerate(bvh._first()):
        moving = [first + i for i, channel in enumerate(channels[joint]) if channel.endswith("position")]
        if bvh.parents[joint] >= 0 and moving and bvh.offsets[joint].any() and not bvh.motion[:, moving].any():
            kept[moving] = False
            channels[joint] = tuple(channel for channel in channels[joint] if channel.endswith("rotation"))
            empty.append(bvh.names[joint])
    if not empty:
        return bvh
    notice(f"{path}: position channels of {len(empty)} joints are all 0, as {empty[0]}'s: their offsets are used")
    return Bvh(bvh.names, bvh.parents, bvh.offsets, tuple(channels), bvh.motion[:, kept], bvh.frame_time)


class _Words:
    """The words of a text, one after another."""

    def __init__(self, path, text):
        self.path, self.at, self.last, self.words = path, 0, "", text.split()

    def peek(self):
        return self.words[self.at] if self.at < len(self.words) else ""

    def next(self):
        self.last = self.peek()
        if not self.last:
            raise ValueError(f"{self.path}: ends in the middle")
        self.at += 1
        return self.last

    def expect(self, wanted):
        if (word := self.next()).upper() != wanted:
            raise ValueError(f"{self.path}: {word[:40]!r}, expected {wanted}")

    def name(self):
        parts = [self.next()]
        while self.peek() not in ("{", ""):
            parts.append(self.next())
        return " ".join(parts)

    def number(self):
        return parse_number(self.next().replace(",", "."), self.path)

    def count(self):
        value = self.number()
        if value < 0 or value != int(value):
            raise ValueError(f"{self.path}: {value}, expected a count")
        return int(value)

    def channels(self, name):
        if self.peek().upper() != "CHANNELS":
            return ()
        self.next()
        found = [self.next() for _ in range(self.count())]
        channels = tuple(channel.capitalize() for channel in found)
        if unknown := [word for word, channel in zip(found, channels) if channel not in _CHANNELS]:
            known = ", ".join(_CHANNELS)
            raise ValueError(f"{self.path}: {name}: channels {', '.join(sorted(set(unknown)))}, expected of {known}")
        return channels


@register_format("bvh", "motion capture, .bvh", guess=lambda file: file.suffix == ".bvh")
def open_bvh(path, unit=None, fps=None) -> Dataset:
    """The motion as one sequence of Human3.6M's joints in the world, z up, in metres; of each root, if there are several.

    Args:
        unit: how many metres the file's unit is. None: of metre, centimetre, millimetre, inch and CMU's unit the one in which
            the body is nearest to `BODY`.
        fps: frames per second, where the file does not tell them.
    """
    path = existing(path)
    roots = len(re.findall(r"(?im)^\s*ROOT\b", _split(path)[0]))
    if roots < 2:
        return Dataset("bvh", path, {path.stem: partial(_sequence, path.stem, path, 0, unit, fps)})
    names = [f"{path.stem}/{root}" for root in range(roots)]
    return Dataset("bvh", path, {name: partial(_sequence, name, path, root, unit, fps) for root, name in enumerate(names)})


def _sequence(name, path, root, unit, fps) -> Sequence:
    bvh = read(path)
    roots = [joint for joint, parent in enumerate(bvh.parents) if parent < 0]
    part = range(roots[root], [*roots, len(bvh.names)][root + 1])
    rest = bvh.rest()[part]
    names = [bvh.names[joint] for joint in part]
    parents = [bvh.parents[joint] - part.start if bvh.parents[joint] >= 0 else -1 for joint in part]
    used, combine = h36m(names, parents, rest, path)
    standing, poses = combine(rest[None, used])[0], combine(bvh.positions([part.start + joint for joint in used]))
    unit = _unit(standing, path) if unit is None else unit
    poses = upright(poses, up_axis(standing, poses, path)) * unit
    fps = 1 / bvh.frame_time if bvh.frame_time else fps
    return Sequence(name, poses=poses, fps=fps, source=str(path))


def _unit(standing, path):
    """Return the unit of a skeleton (17, 3) in metres."""
    height = length(standing)
    if not height > 0:
        raise ValueError(f"{path}: all joints are in one place")
    unit = min(_UNITS, key=lambda unit: abs(np.log(unit * height / BODY)))
    if not PEOPLE[0] <= unit * height <= PEOPLE[1]:
        notice(f"{path}: a body of {height:.4g} units is read as one of {unit * height:.2f} m; --unit tells what a unit is")
    return unit


def write(path, bvh: Bvh):
    """Write a BVH file, which appears when it is whole."""
    children = {i: [j for j, parent in enumerate(bvh.parents) if parent == i] for i in range(-1, len(bvh.names))}
    lines = ["HIERARCHY"]

    def joint(index, indent):
        site = not bvh.channels[index]
        kind = "End Site" if site else f"{'JOINT' if indent else 'ROOT'} {bvh.names[index]}"
        lines.append(f"{indent}{kind}")
        lines.append(f"{indent}{{")
        lines.append(f"{indent}\tOFFSET {' '.join(f'{x:.8g}' for x in bvh.offsets[index])}")
        if not site:
            lines.append(f"{indent}\tCHANNELS {len(bvh.channels[index])} {' '.join(bvh.channels[index])}")
        for child in children[index]:
            joint(child, indent + "\t")
        lines.append(f"{indent}}}")

    joint(0, "")
    lines += ["MOTION", f"Frames: {len(bvh.motion)}", f"Frame Time: {bvh.frame_time:.9g}"]
    lines += [" ".join(f"{value:.9g}" for value in row) for row in bvh.motion]
    with whole(path) as partly:
        partly.write_text("\n".join(lines) + "\n")


@register_writer("bvh")
def write_sequence(path, sequence, rig="h36m"):
    """Write a sequence's poses with the joints of a rig of `lifter.data.bones.RIGS`: see `of_sequence`."""
    write(path, of_sequence(sequence, rig))


def of_sequence(sequence: Sequence, rig="h36m") -> Bvh:
    """A sequence's poses as a BVH motion (`lifter.data.bones.motion_of`) in centimetres, y up, at rest in a T-pose.

    The root has positions and turns about z, x and y, other joints have the turns alone, the last ones an End Site.
    """
    motion = motion_of(sequence, rig)
    names, parents, offsets, channels = [], [], [], []

    def joint(index, parent):
        number = len(names)
        names.append(motion.names[index])
        parents.append(parent)
        offsets.append(motion.offsets[index])
        channels.append(_TURNS)
        order.append(index)
        for child in motion.children(index):
            joint(child, number)
        if index in motion.ends:
            names.append(f"{motion.names[index]}_end")
            parents.append(number)
            offsets.append(motion.ends[index])
            channels.append(())

    order = []  # in which the file has the joints: each is followed by those below it
    joint(0, -1)
    channels[0] = ("Xposition", "Yposition", "Zposition", *_TURNS)
    values = np.concatenate([100 * motion.places, *(_euler(motion.turns[:, index]) for index in order)], -1)
    return Bvh(tuple(names), tuple(parents), 100 * np.stack(offsets), tuple(channels), values, 1 / motion.fps)


_TURNS = ("Zrotation", "Xrotation", "Yrotation")


def _euler(turn):
    """Angles in degrees (T, 3) with turn = Rz Rx Ry, without jumps by a whole turn."""
    x = np.arcsin(np.clip(turn[:, 2, 1], -1, 1))
    z = np.arctan2(-turn[:, 0, 1], turn[:, 1, 1])
    y = np.arctan2(-turn[:, 2, 0], turn[:, 2, 2])
    return np.degrees(np.stack((np.unwrap(z), x, np.unwrap(y)), -1))
