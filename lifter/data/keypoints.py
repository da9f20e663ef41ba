"""2D keypoints of detectors: to the joints of Human3.6M, holes filled in time.

Conversions, by name:
- "mmpose": of the 17 COCO joints, pelvis and thorax in the middle of hips and shoulders, the spine in the middle of these,
  the head in the middle of the eyes, the neck at the nose (mmpose.apis.convert_keypoint_definition).
- "mhformer": of the same, with MHFormer's corrections towards Human3.6M (its demo, as HoT, TCPFormer and others took it over).
- "motionbert": of Halpe-26, which has a head, a neck and a pelvis of its own (MotionBERT's infer_wild).
Confidences go with the joints; that of a joint made of others is their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lifter._notices import notice
from lifter.skeleton import H36M, Skeleton

from . import names

COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
_HALPE = (*COCO, "head", "neck", "pelvis", *(f"foot_{i}" for i in range(6)))
# What joints in the middle are called, where files name them.
_MIDDLE = {
    "pelvis": ("pelvis", "root", "midhip", "hipcenter", "hips", "hip"),
    "spine": ("spine", "torso", "midspine", "belly", "abdomen"),
    "thorax": ("thorax",),
    "neck": ("nose", "neck", "neckbase", "upperneck", "headbottom"),  # Human3.6M's is at the nose
    "head": ("headtop", "tophead", "topofhead", "head"),
}
COCO_BONES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15),
    (12, 14), (14, 16),
)  # fmt: skip
_SIMPLE = (0, 12, 14, 16, 11, 13, 15, None, None, 0, None, 5, 7, 9, 6, 8, 10)  # of COCO, what Human3.6M has as it is


@dataclass(frozen=True)
class Layout:
    """A detector's joints: how many, where COCO's 17 are among them, and the conversions, the default one first."""

    joints: int
    coco: tuple[int, ...] | None
    variants: tuple[str, ...] = ("mmpose", "mhformer")


LAYOUTS = {
    "coco": Layout(17, tuple(range(17))),
    "halpe": Layout(26, tuple(range(17)), ("motionbert", "mmpose", "mhformer")),
    "body25": Layout(25, (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)),
    "body25b": Layout(25, tuple(range(17))),  # OpenPose's BODY_25B
    "coco18": Layout(18, (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)),  # OpenPose's order, with a neck
    "mediapipe": Layout(33, (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)),
    "h36m": Layout(17, None, ("as it is",)),
}


def order_of(points, usual, where) -> str:
    """Return the layout in which the bones of bodies (T, J, 2 or 3) are shorter, of two with as many joints, if it is clear;
    else `usual`."""
    lengths = bone_lengths(points[..., :2])
    shorter = min(lengths, key=lengths.get)
    clear = 0.9 if shorter == "coco" else 0.77  # of people, COCO's are 0.8 or less of Human3.6M's, or 1.3 to 2.4
    if shorter == usual or not lengths[shorter] < clear * lengths[usual]:
        return usual
    notice(f"{where}: the {points.shape[1]} joints are in the order of {shorter}, by the lengths of the bones")
    return shorter


def bone_lengths(points) -> dict[str, float]:
    """The mean length of the bones of bodies (T, J, C) in the order of each layout of as many joints."""
    return {name: _bones(points, layout) for name, layout in LAYOUTS.items() if layout.joints == points.shape[1]}


def _bones(points, layout):
    """The mean length of the bones of bodies in the order of a layout."""
    bones = H36M.bones if layout.coco is None else [(layout.coco[one], layout.coco[two]) for one, two in COCO_BONES]
    one, two = zip(*bones)
    with np.errstate(over="ignore", invalid="ignore"):  # of absurd coordinates, refused later
        lengths = np.linalg.norm(points[:, one] - points[:, two], axis=-1)
    return lengths[np.isfinite(lengths)].mean() if np.isfinite(lengths).any() else np.inf


def layout_of(joints: int, where) -> str:
    """The name of the detector's layout that has so many joints; of 17 it is COCO's, of 25 BODY_25."""
    for name, layout in LAYOUTS.items():
        if layout.joints == joints:
            return name
    known = ", ".join(f"{layout.joints} ({name})" for name, layout in LAYOUTS.items())
    raise ValueError(f"{where}: {joints} joints, expected {known}")


def layout_of_names(joints, where):
    """The layout of joints with these names: one of `LAYOUTS`, or the names as `to_h36m` takes them; None if they are no names
    of joints but numbers, or the like.

    Raises:
        ValueError if there are joints of Human3.6M that follow from none of them.
    """
    found = tuple(map(names.joint, names.without_prefix(joints)))
    for name, known in {"coco": COCO, "halpe": _HALPE, "h36m": H36M.joints}.items():
        if len(found) == len(known) and found[:17] == tuple(map(names.joint, known[:17])):
            return name
    sided = [names.find(found, side, part) for side in ("left", "right") for part in names.SIDED]
    if all(place is None for place in sided):
        return None
    _by_name(np.zeros((1, len(found), 2)), found, where)
    return found


def to_h36m(
    keypoints: np.ndarray, layout: str | Sequence[str] = "coco", variant: str | None = None, where: str = "keypoints"
) -> np.ndarray:
    """Keypoints of a detector in the joints of Human3.6M.

    Args:
        keypoints: (T, J, 2) or (T, J, 3) in pixels, with confidences; NaN where there are none.
        layout: of `LAYOUTS`, or the names that `layout_of_names` gives.
        variant: one of the conversions above; None is the first one of the layout.
        where: what messages call the keypoints.

    Returns:
        (T, 17, 2 or 3) float64; a joint made of others is NaN where one of them is.
    """
    if isinstance(layout, tuple):
        return _by_name(np.asarray(keypoints, np.float64), layout, where)
    if layout not in LAYOUTS:
        raise ValueError(f"{where}: layout is {layout!r}, expected {' or '.join(LAYOUTS)}")
    known = LAYOUTS[layout]
    variant = known.variants[0] if variant is None else variant
    if variant not in known.variants:
        raise ValueError(f"{where}: variant is {variant!r}, expected for {layout}: {' or '.join(known.variants)}")
    keypoints = np.asarray(keypoints, np.float64)
    if keypoints.ndim != 3 or keypoints.shape[1] != known.joints or keypoints.shape[2] not in (2, 3):
        raise ValueError(f"{where}: shape {keypoints.shape}, expected (T, {known.joints}, 2 or 3) of {layout}")
    if known.coco is None:
        return keypoints
    coco = keypoints[:, known.coco]
    out = coco[:, [0 if joint is None else joint for joint in _SIMPLE]]
    hips, shoulders = coco[:, 11:13].mean(1), coco[:, 5:7].mean(1)
    if variant == "motionbert":
        pelvis, neck = keypoints[:, _HALPE.index("pelvis")], keypoints[:, _HALPE.index("neck")]
        made = {"pelvis": pelvis, "spine": (pelvis + neck) / 2, "thorax": neck, "head": keypoints[:, _HALPE.index("head")]}
    elif variant == "mmpose":
        made = {"pelvis": hips, "spine": (hips + shoulders) / 2, "thorax": shoulders, "head": coco[:, 1:3].mean(1)}
    else:
        made = _mhformer(coco, hips, shoulders)
    for name, joint in made.items():
        out[:, H36M.joints.index(name)] = joint
    return out


def _by_name(keypoints, joints, where):
    """Keypoints (T, J, C) of joints that have names: those that Human3.6M has too, and others made of them."""
    if keypoints.ndim != 3 or keypoints.shape[1] != len(joints):
        raise ValueError(f"{where}: shape {keypoints.shape}, expected (T, {len(joints)}, 2 or 3) of joints with names")

    def at(side, part):
        place = names.find(joints, side, part)
        return None if place is None else keypoints[:, place]

    first = lambda *points: next((point for point in points if point is not None), None)
    mean = lambda *points: None if any(point is None for point in points) else sum(points) / len(points)
    middle = lambda part: mean(at("left", part), at("right", part))
    found = {f"{side}_{part}": at(side, part) for side in ("left", "right") for part in names.SIDED}
    found |= {part: at("", words) for part, words in _MIDDLE.items()}
    found["pelvis"] = first(found["pelvis"], middle("hip"))
    found["thorax"] = first(found["thorax"], middle("shoulder"))
    found["spine"] = first(found["spine"], mean(found["pelvis"], found["thorax"]))
    found["head"] = first(found["head"], middle("eye"), middle("ear"), found["neck"])
    found["neck"] = first(found["neck"], mean(found["thorax"], found["head"]))
    if lost := [part for part in H36M.joints if found[part] is None]:
        known = ", ".join(f"{side} {word}".strip() for side, word in joints)
        raise ValueError(f"{where}: no joint for {', '.join(lost)}; it has {known[:400]}")
    return np.stack([found[part] for part in H36M.joints], 1)


def _mhformer(coco, hips, shoulders):
    nose, eyes, head = coco[:, 0], coco[:, 1:3].mean(1), coco[:, 1:5].mean(1)
    thorax, spine, neck = shoulders.copy(), (hips + shoulders) / 2, nose.copy()
    thorax[:, :2] += (nose - shoulders)[:, :2] / 3
    spine[:, 0] += 2 * (spine - (hips + thorax) / 2)[:, 0]
    neck[:, :2] -= (nose - shoulders)[:, :2] / 4
    above = (eyes - nose)[:, 1]  # how far the eyes are from the nose, down the image
    thorax[:, 1] -= above * 2 / 3
    head[:, 1] = eyes[:, 1] + above
    return {"pelvis": hips, "spine": spine, "thorax": thorax, "neck": neck, "head": head}


def missing(keypoints):
    """(T, J) bool: where a joint is not finite, or its confidence is 0, as detectors write what they did not find."""
    lost = ~np.isfinite(keypoints).all(-1)
    return lost | (keypoints[..., 2] == 0) if keypoints.shape[-1] == 3 else lost


def nowhere(keypoints):
    """(...,) bool: where keypoints (..., 2 or 3) of an image have no place. That is what is not finite, (0, 0), and a negative
    whole number twice, as (-1, -1) and (-999, -999)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    with np.errstate(invalid="ignore"):
        return ~np.isfinite(x) | ~np.isfinite(y) | (x == y) & (x <= 0) & (x % 1 == 0)


def seen(keypoints, image=True):
    """Keypoints (..., 2 or 3) with NaN where the detector did not find a joint: where the confidence is 0 or negative, and
    with `image`, of places in an image, at no place (`nowhere`), whatever the confidence."""
    keypoints = np.asarray(keypoints, np.float64)
    lost = ~np.isfinite(keypoints).all(-1)
    if image:
        lost |= nowhere(keypoints)
    if keypoints.shape[-1] == 3:
        lost |= keypoints[..., 2] <= 0
    return np.where(lost[..., None], np.nan, keypoints)


def fill(keypoints: np.ndarray, where: str = "keypoints", skeleton: Skeleton = H36M) -> np.ndarray:
    """Keypoints (T, J, 2 or 3) without holes.

    A joint that is missing lies on the line between the frames before and after in which it is there; before the first
    and after the last of these it stays where it was. A joint that is never there takes the place of the nearest one along
    the skeleton that is. The confidence of what was filled is 0.
    """
    lost = missing(keypoints)
    if lost.all():
        raise ValueError(f"{where}: no joint in any of {len(keypoints)} frames")
    if not lost.any():
        return keypoints
    out, time = keypoints.copy(), np.arange(len(keypoints))
    for joint in np.flatnonzero(lost.any(0) & ~lost.all(0)):
        there = ~lost[:, joint]
        for axis in range(2):
            out[~there, joint, axis] = np.interp(time[~there], time[there], keypoints[there, joint, axis])
    never = lost.all(0)
    for joint in np.flatnonzero(never):
        out[:, joint] = out[:, next(other for other in skeleton.nearest[joint] if not never[other])]
    out[..., 2:][lost] = 0
    return out
