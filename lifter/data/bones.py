"""Poses as turns of the bones of a rig, as BVH and glTF have them. It rests in a T-pose, y up, and looks along z."""

from dataclasses import dataclass

import numpy as np

from lifter.skeleton import H36M

from .mocap import known_rate, y_up
from .sequence import Sequence

STRAIGHT = 0.2  # sine of the bend at which an elbow or a knee begins to tell how the bone above it is turned about itself
HAND, FOOT, CROWN = (0.08, 0.0, 0.0), (0.0, -0.06, 0.14), (0.0, 0.05, 0.0)  # metres from a last joint to the end of its bone
SIDES = (("left", 1), ("right", -1))

_AT = {name: number for number, name in enumerate(H36M.joints)}
_ACROSS = {"pelvis": ("hip",), "spine": ("hip", "shoulder"), "thorax": ("shoulder",)}  # what tells how the trunk is turned
_BELOW = {"hip": ("hip", "knee", "ankle"), "shoulder": ("shoulder", "elbow", "wrist")}  # joints that bend about one axis


@dataclass(frozen=True)
class Rig:
    """Joints in a tree: (name, parent's name, from, to, share of the way), each at a joint of Human3.6M or between two. One
    that has no share of its way is at the beginning of the bone that it turns, beside its parent's own."""

    joints: tuple[tuple[str, str, str, str, float], ...]

    @property
    def names(self):
        return tuple(name for name, *_ in self.joints)

    @property
    def parents(self):
        return tuple(self.names.index(parent) if parent else -1 for _, parent, *_ in self.joints)

    def next(self, joint) -> int | None:
        """The joint to which the bone of a joint goes; None of the last ones."""
        beside = [begin != end and not share for _, _, begin, end, share in self.joints]
        return next((each for each, parent in enumerate(self.parents) if parent == joint and not beside[each]), None)

    def places(self, points):
        """The joints (..., J, 3) of Human3.6M's (..., 17, 3)."""
        begin, end = (np.array([_AT[joint[place]] for joint in self.joints]) for place in (2, 3))
        share = np.array([joint[4] for joint in self.joints])[:, None]
        return (1 - share) * points[..., begin, :] + share * points[..., end, :]


def _h36m():
    joints = []
    for name, parent in zip(H36M.joints, H36M.parents):
        parent = "" if parent < 0 else H36M.joints[parent]
        side, _, part = name.partition("_")
        if part in _BELOW:
            base = f"{side}_{'pelvis' if part == 'hip' else 'clavicle'}"
            joints.append((base, parent, parent, name, 0.0))
            parent = base
        joints.append((name, parent, name, name, 0.0))
    return Rig(tuple(joints))


def _mixamo():
    joints = [("Hips", "", "pelvis", "pelvis", 0.0), ("Spine", "Hips", "spine", "spine", 0.0)]
    joints += [(f"Spine{i}", f"Spine{i - 1 or ''}", "spine", "thorax", i / 3) for i in (1, 2)]
    joints += [("Neck", "Spine2", "thorax", "thorax", 0.0), ("Head", "Neck", "neck", "neck", 0.0)]
    joints += [("HeadTop_End", "Head", "head", "head", 0.0)]
    arm = (("Shoulder", "thorax"), ("Arm", "shoulder"), ("ForeArm", "elbow"), ("Hand", "wrist"))
    leg = (("Hip", "pelvis"), ("UpLeg", "hip"), ("Leg", "knee"), ("Foot", "ankle"))
    for side, _ in SIDES:
        for chain, parent in ((leg, "Hips"), (arm, "Spine2")):
            (base, middle), *rest = [(f"{side.title()}{name}", joint) for name, joint in chain]
            joints.append((base, parent, middle, f"{side}_{rest[0][1]}", 0.0))
            parent = base
            for name, joint in rest:
                joints.append((name, parent, f"{side}_{joint}", f"{side}_{joint}", 0.0))
                parent = name
    prefix = lambda name: name and f"mixamorig:{name}"
    return Rig(tuple((prefix(name), prefix(parent), *place) for name, parent, *place in joints))


RIGS = {"h36m": _h36m(), "mixamo": _mixamo()}


@dataclass(frozen=True, eq=False)
class Motion:
    """Motion of a rig, in metres, with y up. The last joints of the limbs and of the head have an end."""

    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 of the root; parents come before their children
    offsets: np.ndarray  # (J, 3) from the parent, at rest; 0 of the root
    ends: dict[int, np.ndarray]  # of joints without children, from there to the end of the bone
    places: np.ndarray  # (T, 3) of the root
    turns: np.ndarray  # (T, J, 3, 3) of the bones below each joint, relative to the parent's
    fps: float

    def children(self, joint):
        return [child for child, parent in enumerate(self.parents) if parent == joint]

    def rest(self):
        """(J, 3) the joints at rest, the root at 0."""
        places = np.zeros_like(self.offsets)
        for joint, parent in enumerate(self.parents[1:], 1):
            places[joint] = places[parent] + self.offsets[joint]
        return places


def motion_of(sequence: Sequence, rig="h36m") -> Motion:
    """A sequence's poses as the motion of a rig of `RIGS`.

    Bones have the mean length that they have in the sequence: where that is constant (`lifter.inference.finish`), joints are
    where the poses have them, to a micrometre. Each bone has a joint of its own, that of a hip or a shoulder in the middle. It
    points from where it is to where the next joint is, so that lengths that change are not summed up.

    Poses do not tell how a bone is turned about itself. Upper arms and thighs are turned so that elbow and knee bend about the
    axis that they have at rest, the trunk as hips and shoulders are, other bones as little as possible; hands and feet go on
    as the bone before.
    """
    if sequence.poses is None or sequence.skeleton is not H36M:
        raise ValueError(f"{sequence.name}: expected poses of Human3.6M's joints")
    if rig not in RIGS:
        raise ValueError(f"rig is {rig!r}, expected {' or '.join(RIGS)}")
    fps, poses, rig = known_rate(sequence), y_up(sequence), RIGS[rig]
    names, parents, targets, rest = rig.names, rig.parents, rig.places(poses), rig.places(_rest(poses))
    offsets = rest - rest[[max(parent, 0) for parent in parents]]
    places, turns, ends = [], [], {}
    for joint, (_, _, begin, end, share) in enumerate(rig.joints):
        parent = parents[joint]
        base = turns[parent] if joint else np.broadcast_to(np.eye(3), (len(poses), 3, 3))
        places.append(places[parent] + base @ offsets[joint] if joint else targets[:, 0])
        below = rig.next(joint)
        if below is not None:
            near = None if begin != end and not share else begin if share < 0.5 else end
            turns.append(_pointing(base, offsets[below], targets[:, below] - places[joint], *_axis(near, poses, base)))
        else:
            turns.append(base)
            tip = HAND if begin.endswith("wrist") else FOOT if begin.endswith("ankle") else CROWN
            ends[joint] = np.array(tip) * (-1 if begin == "right_wrist" else 1)
    local = [turn if parent < 0 else turns[parent].swapaxes(-1, -2) @ turn for turn, parent in zip(turns, parents)]
    return Motion(names, parents, offsets, ends, places[0], np.stack(local, 1), fps)


def _rest(poses):
    """(17, 3) at rest, of poses (T, 17, 3): trunk, arms and legs straight; hips, shoulders and head on the trunk as in the
    mean."""
    bones = poses - poses[:, [max(parent, 0) for parent in H36M.parents]]
    lengths = np.linalg.norm(bones, axis=-1).mean(0)
    offsets = np.zeros((17, 3))
    offsets[[_AT["spine"], _AT["thorax"]]] = 0, 1, 0
    for side, sign in SIDES:
        offsets[[_AT[f"{side}_{joint}"] for joint in ("elbow", "wrist")]] = sign, 0, 0
        offsets[[_AT[f"{side}_{joint}"] for joint in ("knee", "ankle")]] = 0, -1, 0
    turn = np.broadcast_to(np.eye(3), (len(poses), 3, 3))
    trunk = (
        ("pelvis", "spine", ("left_hip", "right_hip")),
        ("thorax", "thorax", ("left_shoulder", "right_shoulder", "neck", "head")),
    )
    for joint, bone, hanging in trunk:
        turn = _pointing(turn, offsets[_AT[bone]], bones[:, _AT[bone]], *_axis(joint, poses, turn))
        for name in hanging:
            mean = np.einsum("tji,tj->i", turn, bones[:, _AT[name]])
            offsets[_AT[name]] = mean / max(np.linalg.norm(mean), 1e-9)
    places = np.zeros((17, 3))
    for joint, parent in H36M.bones:
        places[joint] = places[parent] + offsets[joint] * lengths[joint]
    return places


def _axis(joint, poses, base):
    """(axis at rest, where it points in the poses (T, 3), the longer the surer) about which the bone below a joint bends, or
    that of the trunk from right to left; (None, None) where nothing tells."""
    if joint in _ACROSS:
        across = [poses[:, _AT[f"left_{part}"]] - poses[:, _AT[f"right_{part}"]] for part in _ACROSS[joint]]
        return (1, 0, 0), sum(across) / np.maximum(np.linalg.norm(across, axis=-1).sum(0), 1e-9)[:, None] / STRAIGHT
    for side, sign in SIDES:
        for chain, axis in ((_BELOW["hip"], (1, 0, 0)), (_BELOW["shoulder"], (0, -sign, 0))):
            one, two, three = (f"{side}_{part}" for part in chain)
            if joint == one:
                upper, lower = (poses[:, _AT[b]] - poses[:, _AT[a]] for a, b in ((one, two), (two, three)))
                lengths = np.linalg.norm(upper, axis=-1) * np.linalg.norm(lower, axis=-1)
                return axis, np.cross(upper, lower) / np.maximum(lengths, 1e-9)[:, None] / STRAIGHT
            if joint == two:
                return axis, base @ np.array(axis, float)
    return None, None


def _pointing(base, offset, bone, axis, wanted):
    """The turns (T, 3, 3) that bring an offset (3,) onto a bone (T, 3), and nearest to `base` those that bring `axis` nearest
    to `wanted`, as far as that is long beside 1."""
    turn = _turned(base, offset[None], bone[:, None])
    if axis is None:
        return turn
    across = lambda x, y: x - y * ((x * y).sum(-1, keepdims=True) / np.maximum((y * y).sum(-1, keepdims=True), 1e-12))
    as_long = lambda x, y: (
        x * (np.linalg.norm(y, axis=-1, keepdims=True) / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9))
    )
    axis = across(np.array(axis, float), offset)
    wanted = across(turn @ axis + wanted, bone)
    return _turned(turn, np.stack((offset, as_long(axis, offset))), np.stack((bone, as_long(wanted, bone)), 1))


def _turned(base, offsets, bones):
    """The turns (T, 3, 3) that bring the offsets (n, 3) nearest to the bones (T, n, 3); what these leave open is as in
    `base`, the parent's turn."""
    along = np.einsum("tni,nj->tij", bones, offsets)
    scale = np.linalg.norm(along, axis=(-1, -2))[:, None, None]
    u, _, v = np.linalg.svd(along / np.maximum(scale, 1e-12) + 1e-6 * base)
    sign = np.ones((len(bones), 3))
    sign[:, 2] = np.linalg.det(u @ v)
    return u * sign[:, None] @ v
