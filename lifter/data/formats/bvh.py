"""Motion capture in BVH files: reading, with forward kinematics, and writing.

A joint is at p = p_parent + R_parent (offset + its position channels) and turns by R = R_parent R1 R2 R3, its rotation
channels in their order.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from lifter._io import whole
from lifter.skeleton import H36M

from ..files import existing, parse_number
from ..mocap import rotation, y_up, z_up
from ..registry import register_format, register_writer
from ..sequence import Dataset, Sequence

_UNITS = (1.0, 0.01, 0.001, 0.0254, 0.0254 / 0.45)  # metre, centimetre, millimetre, inch, CMU's
# Names of joints in common BVH files, beside our own.
_SIDES = {"hip": ("UpLeg", "Thigh", "Hip"), "knee": ("Leg", "Shin", "Knee"), "ankle": ("Foot", "Ankle")}
_SIDES |= {"shoulder": ("Arm", "UpperArm", "Shoulder"), "elbow": ("ForeArm", "LowerArm", "Elbow"), "wrist": ("Hand", "Wrist")}
_MIDDLE = {
    "spine": ("Spine1", "Spine", "Chest"),
    "thorax": ("Neck", "Neck1"),
    "neck": ("Head",),
    "head": ("HeadEnd", "HeadTop"),
}


@dataclass(frozen=True, eq=False)
class Bvh:
    """A skeleton and its motion, in the file's units and axes, as in the file."""

    names: tuple[str, ...]  # end sites are called "<parent>_end"
    parents: tuple[int, ...]
    offsets: np.ndarray  # (J, 3)
    channels: tuple[tuple[str, ...], ...]  # of each joint, as "Xposition", "Zrotation"; () of an end site
    motion: np.ndarray  # (T, all channels), angles in degrees
    frame_time: float

    def positions(self):
        """(T, J, 3)."""
        places, turns, first = [], [], 0
        for parent, offset, channels in zip(self.parents, self.offsets, self.channels):
            values = self.motion[:, first : first + len(channels)]
            first += len(channels)
            place = np.tile(offset, (len(self.motion), 1))
            turning = [i for i, channel in enumerate(channels) if channel.endswith("rotation")]
            for i, channel in enumerate(channels):
                if channel.endswith("position"):
                    place[:, "XYZ".index(channel[0])] += values[:, i]
            order = [channels[i][0].lower() for i in reversed(turning)]
            turn = rotation(order, np.radians(values[:, turning[::-1]]))
            if parent >= 0:
                place = places[parent] + (turns[parent] @ place[..., None])[..., 0]
                turn = turns[parent] @ turn
            places.append(place)
            turns.append(turn)
        return np.stack(places, 1)

    def rest(self):
        """(J, 3) the joints with all channels at 0."""
        places = []
        for parent, offset in zip(self.parents, self.offsets):
            places.append(offset + (places[parent] if parent >= 0 else 0))
        return np.stack(places)


def read(path) -> Bvh:
    path = existing(path)
    words = _Words(path)
    words.expect("HIERARCHY")
    names, parents, offsets, channels = [], [], [], []
    words.expect("ROOT")
    stack, name = [], words.name()
    while True:
        names.append(name)
        parents.append(stack[-1] if stack else -1)
        stack.append(len(names) - 1)
        words.expect("{")
        words.expect("OFFSET")
        offsets.append([words.number() for _ in range(3)])
        channels.append(())
        if words.peek() == "CHANNELS":
            words.next()
            channels[-1] = tuple(words.next() for _ in range(words.count()))
            known = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
            if unknown := set(channels[-1]) - known:
                raise ValueError(
                    f"{path}: {name}: channels {', '.join(sorted(unknown))}, expected of {', '.join(sorted(known))}"
                )
        while words.peek() == "}":
            words.next()
            stack.pop()
            if not stack:
                break
        if not stack:
            break
        kind = words.next()
        if kind == "JOINT":
            name = words.name()
        elif kind == "End":
            words.expect("Site")
            name = f"{names[stack[-1]]}_end"
        else:
            raise ValueError(f"{path}: {kind!r} in {names[stack[-1]]}, expected JOINT, End Site or }}")
    words.expect("MOTION")
    words.expect("Frames:")
    frames = words.count()
    words.expect("Frame")
    words.expect("Time:")
    frame_time = words.number()
    width = sum(map(len, channels))
    values = words.rest()
    if frames == 0 or len(values) != frames * width:
        raise ValueError(f"{path}: {len(values)} values of motion, expected {frames} frames of {width} channels")
    if not frame_time > 0:
        raise ValueError(f"{path}: frame time {frame_time}, expected a positive number")
    motion = values.reshape(frames, width)
    return Bvh(tuple(names), tuple(parents), np.array(offsets), tuple(channels), motion, frame_time)


class _Words:
    """The words of a file, one after another."""

    def __init__(self, path):
        self.path, self.at = path, 0
        self.words = path.read_text(encoding="latin1").split()

    def peek(self):
        return self.words[self.at] if self.at < len(self.words) else ""

    def next(self):
        word = self.peek()
        if not word:
            raise ValueError(f"{self.path}: ends in the middle")
        self.at += 1
        return word

    def expect(self, wanted):
        if (word := self.next()) != wanted:
            raise ValueError(f"{self.path}: {word[:40]!r}, expected {wanted}")

    def name(self):
        parts = [self.next()]
        while self.peek() not in ("{", ""):
            parts.append(self.next())
        return " ".join(parts)

    def number(self):
        return parse_number(self.next(), self.path)

    def count(self):
        value = self.number()
        if value < 0 or value != int(value):
            raise ValueError(f"{self.path}: {value}, expected a count")
        return int(value)

    def rest(self):
        try:
            values = np.array(self.words[self.at :], np.float64)
        except ValueError as error:
            raise ValueError(f"{self.path}: motion: {error}") from None
        if not np.isfinite(values).all():
            raise ValueError(f"{self.path}: motion has values that are not finite")
        return values


@register_format("bvh", "motion capture, .bvh", guess=lambda file: file.suffix == ".bvh")
def open_bvh(path, unit=None) -> Dataset:
    """The motion as one sequence of Human3.6M's joints in the world, z up, in metres.

    `unit`: how many metres the file's unit is. None: of metre, centimetre, millimetre, inch and CMU's unit the one in which
    the skeleton at rest is nearest to 1.7 m from end to end.
    """
    path = existing(path)
    return Dataset("bvh", path, {path.stem: partial(_sequence, path, unit)})


def _sequence(path, unit) -> Sequence:
    bvh = read(path)
    positions = bvh.positions()
    height = np.ptp(bvh.rest(), axis=0).max()
    if not height > 0:
        raise ValueError(f"{path}: all joints are in one place")
    unit = min(_UNITS, key=lambda unit: abs(np.log(unit * height / 1.7))) if unit is None else unit
    poses = z_up(_h36m(bvh, positions, path)) * unit
    return Sequence(path.stem, poses=poses, fps=1 / bvh.frame_time, source=str(path))


def _h36m(bvh, positions, path):
    """(T, 17, 3) of joints that are called as ours, or else as in most BVH files."""
    plain = [name.rpartition(":")[2].replace("_", "").replace(" ", "").lower() for name in bvh.names]
    ours = [joint.replace("_", "") for joint in H36M.joints]
    if set(ours) <= set(plain):
        return positions[:, [plain.index(joint) for joint in ours]]

    def find(joint, names):
        for name in names:
            if name.lower() in plain:
                return positions[:, plain.index(name.lower())]
        raise ValueError(f"{path}: no joint for {joint}, expected {' or '.join(names)}; it has {', '.join(bvh.names)}")

    joints = {joint: find(joint, names) for joint, names in _MIDDLE.items()}
    for side in ("right", "left"):
        joints |= {
            f"{side}_{joint}": find(f"{side}_{joint}", [side + name for name in names]) for joint, names in _SIDES.items()
        }
    joints["pelvis"] = (joints["right_hip"] + joints["left_hip"]) / 2
    return np.stack([joints[joint] for joint in H36M.joints], 1)


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
def write_sequence(path, sequence):
    """Write a sequence's poses: see `of_sequence`."""
    write(path, of_sequence(sequence))


def of_sequence(sequence: Sequence) -> Bvh:
    """A sequence's poses as a BVH motion in centimetres, y up (`lifter.data.mocap.y_up`).

    Bones keep the mean length that they have in the sequence, and each joint turns so that the bones below it point as they
    do in the poses, as nearly as one turn can (Kabsch): joints are off by as much as the lengths of bones change.
    """
    if sequence.poses is None or sequence.skeleton is not H36M:
        raise ValueError(f"{sequence.name}: expected poses of Human3.6M's joints")
    poses = y_up(sequence) * 100
    names, parents = list(H36M.joints), list(H36M.parents)
    bones = poses - np.stack([poses[:, max(parent, 0)] for parent in parents], 1)  # (T, J, 3), the pelvis has none
    offsets = _rest(bones)
    turns = []  # in the world, (T, 3, 3)
    for joint, parent in enumerate(parents):
        below = [child for child, above in enumerate(parents) if above == joint]
        base = turns[parent] if parent >= 0 else np.broadcast_to(np.eye(3), (len(poses), 3, 3))
        for _ in range(4 if len(below) > 1 else 1):  # the angles between bones are the mean ones, too
            turn = _turned(base, offsets[below], bones[:, below]) if below else base
            offsets[below] = np.einsum("tji,tnj->ni", turn, bones[:, below]) / len(poses)
        turns.append(turn)
    local = [turn if parent < 0 else turns[parent].swapaxes(-1, -2) @ turn for turn, parent in zip(turns, parents)]
    motion = np.concatenate([poses[:, 0], *map(_euler, local)], -1)
    channels = [("Zrotation", "Xrotation", "Yrotation")] * len(names)
    channels[0] = ("Xposition", "Yposition", "Zposition", *channels[0])
    return Bvh(tuple(names), tuple(parents), offsets, tuple(channels), motion, 1 / (sequence.fps or 30.0))


_DOWN, _UP, _LEFT = np.array([0.0, -1, 0]), np.array([0.0, 1, 0]), np.array([1.0, 0, 0])


def _rest(bones):
    """(J, 3): a person who stands with the arms out, of the bones' mean lengths."""
    lengths = np.linalg.norm(bones, axis=-1).mean(0)
    offsets = np.zeros((len(lengths), 3))
    for joint, name in enumerate(H36M.joints):
        side = -1.0 if name.startswith("right") else 1.0
        out = name.endswith(("hip", "shoulder", "elbow", "wrist"))
        direction = side * _LEFT if out else _DOWN if name.endswith(("knee", "ankle")) else _UP
        offsets[joint] = lengths[joint] * direction
    return offsets


def _turned(base, offsets, bones):
    """The turns (T, 3, 3) that bring the offsets (n, 3) nearest to the bones (T, n, 3); what these leave open is as in
    `base`, the parent's turn."""
    along = np.einsum("tni,nj->tij", bones, offsets)
    scale = np.linalg.norm(along, axis=(-1, -2))[:, None, None]
    u, _, v = np.linalg.svd(along / np.maximum(scale, 1e-12) + 1e-6 * base)
    sign = np.ones((len(bones), 3))
    sign[:, 2] = np.linalg.det(u @ v)
    return u * sign[:, None] @ v


def _euler(turn):
    """Angles in degrees (T, 3) with turn = Rz Rx Ry."""
    x = np.arcsin(np.clip(turn[:, 2, 1], -1, 1))
    z = np.arctan2(-turn[:, 0, 1], turn[:, 1, 1])
    y = np.arctan2(-turn[:, 2, 0], turn[:, 2, 2])
    return np.degrees(np.stack((z, x, y), -1))
