"""Poses in 3D as other programs write them: holes filled, the unit and the way up found out."""

import warnings

import numpy as np

from lifter._notices import notice
from lifter.skeleton import H36M

from .keypoints import LAYOUTS, layout_of, order_of, to_h36m
from .sequence import Sequence
from .tracking import PATIENCE

BODY = 1.6  # metres from an ankle along the bones to the head, about
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
UPS = {"-y": (0.0, -1.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}  # of poses: of a camera, OpenSim's, of a room
# Where joints are among the 22 of a body of SMPL's family, which 2 or more of the hands may follow.
SMPL = {
    "pelvis": 0, "left_hip": 1, "right_hip": 2, "left_knee": 4, "right_knee": 5, "spine": 6, "left_ankle": 7, "right_ankle": 8,
    "thorax": 12, "neck": 15, "left_shoulder": 16, "right_shoulder": 17, "left_elbow": 18, "right_elbow": 19,
    "left_wrist": 20, "right_wrist": 21,
}  # fmt: skip
_CHAIN = ("ankle", "knee", "hip")


def poses_of(name, points, where, *, layout=None, **known) -> Sequence:
    """A sequence of poses (T, J, 3) in the joints of a detector's `layout`, as `to_h36m` takes it; None: 17 joints are
    Human3.6M's, or COCO's if their bones are much shorter; 22 and 24 are SMPL's. The rest is as of `result_of`."""
    if layout is None and points.shape[1] in (22, 24):
        return result_of(name, _of_smpl(points), where, **known)
    if layout is None:
        layout = order_of(points, "h36m", where) if points.shape[1] == 17 else layout_of(points.shape[1], where)
    variant = "mmpose" if layout in LAYOUTS and "mmpose" in LAYOUTS[layout].variants else None
    return result_of(name, to_h36m(points, layout, variant, where), where, **known)


def _of_smpl(points):
    at = {joint: points[:, place] for joint, place in SMPL.items()}
    at["head"] = at["neck"] + 1.5 * (at["neck"] - at["thorax"])  # its crown, which SMPL has no joint for
    return np.stack([at[joint] for joint in H36M.joints], 1)


def result_of(name, points, where, *, skeleton=H36M, unit=None, up=None, **known) -> Sequence:
    """A sequence of poses (T, J, 3) of a skeleton's joints, NaN or (0, 0, 0) where a joint is missing.

    Missing joints are filled in time, and their frames do not count in an evaluation. Units and axes are checked for the
    joints of Human3.6M.

    Args:
        unit: in metres, as the file says. None, or if a body of that unit is no person's: of m, cm and mm the one in which it
            is nearest to `BODY`.
        up: of `UPS`, the axis that points upwards in such files; if the bodies contradict it, that is said. None: the axis
            nearest to the bodies' mean direction; "-y" if none is near.
        known: more fields of `Sequence`.
    """
    points, seen = _filled(np.asarray(points, np.float64), where, skeleton)
    known |= {} if seen.all() else {"valid": seen}
    if skeleton is not H36M:
        return Sequence(name, skeleton, poses=points * (unit or 1.0), up=up or "-y", **known)
    measured = _body(points)
    if not measured > 0:
        raise ValueError(f"{where}: all joints are in one place")
    nearest = min(UNITS, key=lambda unit: abs(np.log(UNITS[unit] * measured / BODY)))
    if unit is not None and not 0.3 < unit * measured / BODY < 2:
        notice(f"{where}: a body of {unit * measured:.3g} m if the file's unit is right; taken as {nearest}")
        unit = None
    if unit is None and not 0.5 < UNITS[nearest] * measured / BODY < 1.5:
        notice(f"{where}: a body of {measured:.3g} {nearest}: its scale is not known")
    unit = UNITS[nearest] if unit is None else unit
    return Sequence(name, poses=points * unit, up=up_of(points, up, where) or "-y", **known)


def up_of(points, told, where) -> str | None:
    """The axis of `UPS` that is told to point upwards, or else that of the bodies (T, 17, 3). A contradiction is said."""
    measured = way_up(points)
    if told and measured and measured != told:
        notice(f"{where}: {told} points upwards in such files, but the bodies are along {measured}")
    return told or measured


def without_gaps(by_number) -> list[dict]:
    """The parts of a person's poses by numbers of frames between which nobody is seen for more than `PATIENCE` frames."""
    parts, before = [], None
    for number in sorted(by_number):
        if before is None or number - before > PATIENCE:
            parts.append({})
        parts[-1][number] = by_number[number]
        before = number
    return parts


def in_frames(numbers, points):
    """(the first of the numbers, points (T, ...) in their frames, NaN in frames without)."""
    first = min(numbers)
    placed = np.full((max(numbers) - first + 1, *points.shape[1:]), np.nan)
    placed[np.array(numbers) - first] = points
    return first, placed


def way_up(points) -> str | None:
    """Return the axis of `UPS` nearest to the mean direction of bodies (T, 17, 3), from ankles to thorax; None if they do not
    stand."""
    ankles = [H36M.joints.index(f"{side}_ankle") for side in ("left", "right")]
    body = (points[:, H36M.joints.index("thorax")] - points[:, ankles].mean(1)).mean(0)
    up = max(UPS, key=lambda up: np.dot(UPS[up], body))
    return up if np.dot(UPS[up], body) > 0.7 * np.linalg.norm(body) else None


def _body(points):
    """The mean length from an ankle along the bones to the head."""
    at = lambda joint: points[:, H36M.joints.index(joint)]
    length = lambda *joints: sum(np.linalg.norm(at(one) - at(two), axis=-1).mean() for one, two in zip(joints, joints[1:]))
    legs = [length(*(f"{side}_{part}" for part in _CHAIN)) for side in ("left", "right")]
    return np.mean(legs) + length("pelvis", "thorax", "head")


def _filled(points, where, skeleton):
    """Points without holes, and (T,) whether all joints of a frame were there."""
    lost = ~np.isfinite(points).all(-1) | _at_nothing(points, skeleton.parents)
    if lost.all(0).any():
        never = ", ".join(joint for joint, gone in zip(skeleton.joints, lost.all(0)) if gone)
        raise ValueError(f"{where}: {never} in none of {len(points)} frames")
    return _interpolated(points, lost), ~lost.any(1)


def _at_nothing(points, parents):
    """Find where a joint is at (0, 0, 0) because it is missing: its bone has no length, or is much longer than usual."""
    zero = (points == 0).all(-1)
    beside = [parent if parent >= 0 else parents.index(joint) for joint, parent in enumerate(parents)]
    lengths = np.linalg.norm(points - points[:, beside], axis=-1)
    there = np.where(zero | zero[:, beside] | ~np.isfinite(lengths), np.nan, lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of joints that are always at nothing
        usual = np.nanmedian(there, 0)
    return zero & ~zero.all(0) & ~((lengths > 0) & (lengths < 1.5 * usual))


def _interpolated(points, lost):
    points, time = points.copy(), np.arange(len(points))
    for joint in np.flatnonzero(lost.any(0)):
        there = ~lost[:, joint]
        for axis in range(3):
            points[~there, joint, axis] = np.interp(time[~there], time[there], points[there, joint, axis])
    return points
