"""The joints of Human3.6M in a rig: by their names, and where rigs differ by their places at rest."""

import numpy as np

from lifter._notices import notice
from lifter.skeleton import H36M

from . import names

SIDES = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
_HEAD, _NECK = ("head",), ("neck", "neck1", "neck01", "necklower", "lowerneck", "neckbase")
_TOP = ("headtopend", "headtop", "headend", "headnub", "headsite", "headtip")


def h36m(joints, parents, rest, where):
    """(indices of joints, function that makes (T, 17, 3) of their places).

    Joints are called as ours, or as in Mixamo, Biovision, Blender, Unity, VRM, Daz, 3ds Max, SMPL, CMU and others. Of those
    between hips and neck the spine is the one in the middle. Where nothing is above the head, its top is as far from
    it as the neck.

    Args:
        joints: their names. parents: -1 of the root. rest: (J, 3) places at rest.

    Raises:
        ValueError for joints that are not found.
    """
    joints = names.without_prefix(joints)
    plain = [name.rpartition(":")[2].replace("_", "").replace(" ", "").lower() for name in joints]
    ours = [joint.replace("_", "") for joint in H36M.joints]
    if set(ours) <= set(plain):
        return [plain.index(joint) for joint in ours], lambda points: points
    known = [names.joint(name) for name in joints]
    found = {f"{side}_{part}": names.find(known, side, part) for side in ("left", "right") for part in SIDES}
    found |= {"neck": names.find(known, "", _HEAD), "thorax": names.find(known, "", _NECK)}
    missing = [joint for joint, place in found.items() if place is None and joint != "thorax"]
    if missing:
        expected = names.SIDED.get(missing[0].partition("_")[2], _HEAD)
        raise ValueError(
            f"{where}: no joint for {', '.join(missing)}, expected one called {' or '.join(expected)}; it has "
            f"{', '.join(joints)[:1000]}"
        )
    shoulders = [found["right_shoulder"], found["left_shoulder"]]
    thorax = rest[shoulders].mean(0) if found["thorax"] is None else rest[found["thorax"]]
    found["spine"] = _spine(found, parents, rest)
    found["head"] = _top(known, parents, rest, found["neck"], rest[found["neck"]] - thorax)
    if found["head"] is None:
        notice(f"{where}: nothing is above {joints[found['neck']]}: the top of the head is as far from it as the neck")
    used = sorted({place for place in found.values() if place is not None})

    def combine(points):
        at = {joint: points[:, used.index(place)] for joint, place in found.items() if place is not None}
        middle = lambda part: (at[f"right_{part}"] + at[f"left_{part}"]) / 2
        at["pelvis"] = middle("hip")
        at.setdefault("thorax", middle("shoulder"))
        at.setdefault("spine", (at["pelvis"] + at["thorax"]) / 2)
        at.setdefault("head", 2 * at["neck"] - at["thorax"])
        return np.stack([at[joint] for joint in H36M.joints], 1)

    return used, combine


def _above(joint, parents):
    """The joints from a joint's parent up to the root."""
    while (joint := parents[joint]) >= 0:
        yield joint


def _spine(found, parents, rest):
    """Return the joint in the middle between the hips and the neck, along the bones."""
    below = {found["left_hip"], *_above(found["left_hip"], parents)}
    neck = found["left_shoulder"] if found["thorax"] is None else found["thorax"]
    between = [joint for joint in _above(neck, parents) if joint not in below]
    along = lambda joint: np.linalg.norm(rest[joint] - rest[parents[joint]])
    heights, height = {}, 0.0
    for joint in (*reversed(between), neck):
        height += along(joint)
        heights[joint] = height
    return min(between, key=lambda joint: abs(heights[joint] - height / 2), default=None)


def _top(known, parents, rest, head, up):
    """The top of the head: of the joints that hang on the head, and are called so if any is, the farthest from the neck."""
    hanging = [joint for joint in range(len(parents)) if head in _above(joint, parents)]
    named = [joint for joint in hanging if known[joint] in [("", word) for word in _TOP]]
    height = lambda joint: (rest[joint] - rest[head]) @ up
    return max((joint for joint in named or hanging if height(joint) > 0), key=height, default=None)


def length(rest) -> float:
    """From the ankles to the top of the head along the bones, of a pose at rest (17, 3)."""
    at = dict(zip(H36M.joints, rest))
    along = lambda *joints: sum(np.linalg.norm(at[one] - at[other]) for one, other in zip(joints, joints[1:]))
    legs = [along(f"{side}_hip", f"{side}_knee", f"{side}_ankle") for side in ("right", "left")]
    return float(along("pelvis", "spine", "thorax", "neck", "head") + sum(legs) / 2)


def up_axis(rest, poses, where) -> str:
    """The axis that is up, as "y" or "-z": from the hips to the head of the pose at rest (17, 3), if that one stands; else
    from the feet to the head in the poses (T, 17, 3)."""
    head, feet = H36M.joints.index("head"), [H36M.joints.index(f"{side}_ankle") for side in ("right", "left")]
    up, down = rest[head] - rest[0], rest[feet].mean(0) - rest[0]
    axis = int(np.argmax(np.abs(up)))
    if abs(up[axis]) < 0.8 * np.linalg.norm(up) or up[axis] * down[axis] >= 0:
        up = np.median(poses[:, head] - poses[:, feet].mean(1), axis=0)
        axis = int(np.argmax(np.abs(up)))
        notice(f"{where}: the skeleton does not stand at rest: {'-' * bool(up[axis] < 0)}{'xyz'[axis]} is up in most frames")
    return "-" * bool(up[axis] < 0) + "xyz"[axis]
