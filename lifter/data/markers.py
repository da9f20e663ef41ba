"""Markers and joints in space by their names, as motion capture has them: the joints of Human3.6M that follow from these.

Known are joints as `names` finds them ("LShoulder", "left_shoulder", "Shoulder.L") and the markers of Plug-in Gait and others
("LSHO", "LASI", "RHJC_study"). A joint that has none is put where those around it say: the pelvis and the thorax in the middle
of hips and shoulders, hips by the markers of the pelvis, the head above the thorax.
"""

import re
from dataclasses import replace
from functools import partial

import numpy as np

from lifter._notices import notice
from lifter.skeleton import H36M, SKELETONS

from .names import SIDED, joint, without_prefix
from .results import result_of, without_gaps
from .sequence import Dataset, Sequence
from .tracking import PATIENCE

# Markers of a side by their letters after "L" or "R", the joint's centre first.
_MARKERS = {
    "shoulder": ("sjc", "sho", "acromion", "acromium"),
    "elbow": ("ejc", "elb"),
    "wrist": ("wjc", "wri"),
    "hip": ("hjc",),
    "knee": ("kjc", "kne"),
    "ankle": ("ajc", "ank"),
    "asis": ("asis", "asi"),
    "psis": ("psis", "psi"),
    "wrist_a": ("wra",),
    "wrist_b": ("wrb",),
    "head_front": ("fhd",),
    "head_back": ("bhd",),
    **{f"{part}_{short}": (f"{part}{short}",) for part in ("elbow", "wrist", "knee", "ankle") for short in ("lat", "med")},
}
_MIDDLE = {
    "nose": ("nose",),
    "pelvis": ("pelvis", "midhip", "hip", "hips", "chip", "hipcenter", "root", "bodycenter"),
    "spine": ("spine", "spinemid", "midspine", "torso"),
    "thorax": ("thorax", "neck", "headbottom", "spineshoulder", "c7"),
    "head": ("headtop", "head", "tophead", "headcenter"),
    "clavicle": ("clav",),
    "sacrum": ("sacr", "sacrum", "sacral", "vsacral"),
}
# The joints of Human3.6M as Pose2Sim's models for OpenSim call them; "Spine" is ours, which they leave out.
OPENSIM = ("Hip", "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Spine", "Neck", "Nose", "Head",
           "LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist")  # fmt: skip
_UNITS = {  # in metres, by words
    0.001: ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    0.01: ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    0.1: ("dm",),
    1.0: ("m", "meter", "meters", "metre", "metres"),
    0.0254: ("in", "inch", "inches"),
}
_CENTRES = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def unit_of(text) -> float | None:
    """The unit in metres that a word means, None if it is not known."""
    word = text.strip().lower()
    return next((metres for metres, words in _UNITS.items() if word in words), None)


def open_markers(format, path, labels, points, *, start=0, **known) -> Dataset:
    """The sequences of the points (T, N, 3) in a file: one, or several if no point was seen for more than `PATIENCE` frames.
    The other arguments are of `_sequence`."""
    there = np.flatnonzero(np.isfinite(points).any((1, 2)))
    if not len(there):
        raise ValueError(f"{path}: no marker in any frame")
    parts = without_gaps({int(frame): None for frame in there})
    if len(parts) > 1:
        notice(f"{path}: no marker for more than {PATIENCE} frames: read as {len(parts)} sequences")
    items = {}
    for number, part in enumerate(parts):
        first, last = min(part), max(part)
        name = path.stem if len(parts) == 1 else f"{path.stem}/{number}"
        items[name] = partial(_sequence, name, labels, points[first : last + 1], path, start=start + first, **known)
    return Dataset(format, path, items)


def _sequence(name, labels, points, where, *, unit=None, up=None, turn=None, **known) -> Sequence:
    """A sequence of the points (T, N, 3) that are called `labels`, NaN where one was not seen.

    Args:
        unit: in metres, as the file says, None if it does not.
        up: of `lifter.data.results.UPS`, which axis points upwards in such files that we wrote. In others it is measured.
        turn: what makes z point up of points with `up`; None: nothing has to be done.
        known: more fields of `Sequence`.
    """
    labels = without_prefix(labels)
    if sorted(labels) == sorted(OPENSIM):
        labels = [H36M.joints[OPENSIM.index(label)] for label in labels]
    ours = sorted(SKELETONS.values(), key=lambda skeleton: skeleton.joints != tuple(labels))  # some differ in order only
    skeleton = next((each for each in ours if sorted(each.joints) == sorted(labels)), None)
    if skeleton is not None:
        poses = points[:, [labels.index(joint) for joint in skeleton.joints]]
        known |= {"skeleton": skeleton, "up": up or "z"}
    else:
        poses = named_poses(labels, points, where)
    sequence = result_of(name, poses, where, unit=unit, source=str(where), **known)
    return replace(sequence, poses=turn(sequence.poses), up="z") if turn and sequence.up == up else sequence


def joints_of(labels) -> dict[str, int]:
    """Find each joint or marker in `labels`; of several that may be meant the first in the tables above."""
    found = {}
    for place, label in enumerate(labels):
        part, rank = _part(str(label))
        if part is not None and (part not in found or rank < found[part][0]):
            found[part] = rank, place
    return {part: place for part, (_, place) in found.items()}


def _part(label):
    side, word = joint(label)
    if side:
        for part, words in SIDED.items():
            if word in words:
                return f"{side}_{part}", words.index(word)
    plain = re.sub("[^a-z0-9]|study", "", label.rpartition(":")[2].lower())
    for part, words in _MARKERS.items():
        if plain[1:] in words and plain[0] in "lr":
            return f"{'left' if plain[0] == 'l' else 'right'}_{part}", 20 + words.index(plain[1:])
    for part, words in _MIDDLE.items():
        if plain in words:
            return part, words.index(plain)
    return None, 0


def named_poses(labels, points, where):
    """(T, 17, 3) in the joints of Human3.6M.

    Raises:
        ValueError if there are no hips, knees, ankles, shoulders, elbows or wrists among the labels; it lists them.
    """
    at = {part: points[:, place] for part, place in joints_of(labels).items()}
    middle = lambda *parts: np.mean([at[part] for part in parts], 0) if at.keys() >= set(parts) else None
    both = lambda part: middle(f"left_{part}", f"right_{part}")
    first = lambda *places: next((place for place in places if place is not None), None)
    for side in ("left", "right"):
        at.setdefault(f"{side}_wrist", middle(f"{side}_wrist_a", f"{side}_wrist_b"))
        for part in ("elbow", "wrist", "knee", "ankle"):
            if at.get(f"{side}_{part}") is None:
                at[f"{side}_{part}"] = middle(f"{side}_{part}_lat", f"{side}_{part}_med")
    back = first(both("psis"), at.get("sacrum"))
    if both("asis") is not None and back is not None:
        left, right = _hips(at["left_asis"], at["right_asis"], back)
        at = {"left_hip": left, "right_hip": right} | at
    lost = [f"{side} {part}" for part in _CENTRES for side in ("left", "right") if at.get(f"{side}_{part}") is None]
    if lost:
        raise ValueError(f"{where}: no {', '.join(lost)} among the names {', '.join(map(str, labels[:40]))}")
    pelvis = first(at.get("pelvis"), both("hip"))
    thorax = first(middle("thorax", "clavicle"), at.get("thorax"), both("shoulder"))
    spine = first(at.get("spine"), (pelvis + thorax) / 2)
    around = middle("left_head_front", "right_head_front", "left_head_back", "right_head_back")
    head = first(at.get("head"), around, both("eye"), both("ear"), at.get("nose"))
    if head is None:
        head = thorax + 0.45 * (thorax - pelvis)
        notice(f"{where}: no name for the head: it is put above the thorax")
    neck = first(at.get("nose") if at.get("nose") is not head else None, (thorax + head) / 2)
    at |= {"pelvis": pelvis, "thorax": thorax, "spine": spine, "head": head, "neck": neck}
    return np.stack([at[joint] for joint in H36M.joints], 1)


def _hips(left_front, right_front, back):
    """The centres of the hips, by the pelvis's width (Bell et al. 1990)."""
    front = (left_front + right_front) / 2
    right = right_front - left_front
    width = np.linalg.norm(right, axis=-1, keepdims=True)
    right = right / width
    ahead = front - back
    ahead = ahead - (ahead * right).sum(-1, keepdims=True) * right
    ahead = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    centre = front - width * (0.30 * np.cross(right, ahead) + 0.22 * ahead)
    return centre - 0.36 * width * right, centre + 0.36 * width * right
