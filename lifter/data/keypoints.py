"""Conversion of detectors' 2D keypoints to Human3.6M's joints, and interpolation of missing joints.

Conversions, by name:
- "mmpose": of the 17 COCO joints, pelvis and thorax in the middle of hips and shoulders, the spine in the middle of these,
  the head in the middle of the eyes, the neck at the nose (mmpose.apis.convert_keypoint_definition).
- "mhformer": of the same, with MHFormer's corrections towards Human3.6M (its demo, as HoT, TCPFormer and others took it over).
- "motionbert": of Halpe-26, which has a head, a neck and a pelvis of its own (MotionBERT's infer_wild).
Confidences are kept; a joint computed from others gets their mean.
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
# Names of the joints of the trunk in files.
_MIDDLE = {
    "pelvis": ("pelvis", "root", "midhip", "hipcenter", "hips", "hip"),
    "spine": ("spine", "torso", "midspine", "belly", "abdomen"),
    "thorax": ("thorax",),
    "neck": ("nose", "neck", "neckbase", "upperneck", "headbottom"),  # Human3.6M's neck is at the nose
    "head": ("headtop", "tophead", "topofhead", "head"),
}
COCO_BONES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15),
    (12, 14), (14, 16),
)  # fmt: skip
_SIMPLE = (
    0,
    12,
    14,
    16,
    11,
    13,
    15,
    None,
    None,
    0,
    None,
    5,
    7,
    9,
    6,
    8,
    10,
)  # indices of Human3.6M's joints that COCO has too


@dataclass(frozen=True)
class Layout:
    """Joints of a detector: their number, the indices of COCO's 17 joints, and the conversions, the default one first."""

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
    """Return which of two layouts with the same number of joints gives bodies (T, J, 2 or 3) clearly shorter bones; otherwise
    `usual`."""
    lengths = bone_lengths(points[..., :2])
    shorter = min(lengths, key=lengths.get)
    clear = 0.9 if shorter == "coco" else 0.77  # for people, the ratio of COCO's to Human3.6M's is below 0.8, or 1.3 to 2.4
    if shorter == usual or not lengths[shorter] < clear * lengths[usual]:
        return usual
    notice(f"{where}: the {points.shape[1]} joints are in the order of {shorter}, by the lengths of the bones")
    return shorter


def bone_lengths(points) -> dict[str, float]:
    """Return the mean bone length of bodies (T, J, C) for each layout with this number of joints."""
    return {name: _bones(points, layout) for name, layout in LAYOUTS.items() if layout.joints == points.shape[1]}


def _bones(points, layout):
    """Return the mean bone length of bodies for a layout."""
    bones = H36M.bones if layout.coco is None else [(layout.coco[one], layout.coco[two]) for one, two in COCO_BONES]
    one, two = zip(*bones)
    with np.errstate(over="ignore", invalid="ignore"):  # from absurd coordinates, which are refused later
        lengths = np.linalg.norm(points[:, one] - points[:, two], axis=-1)
    return lengths[np.isfinite(lengths)].mean() if np.isfinite(lengths).any() else np.inf


def layout_of(joints: int, where) -> str:
    """Return the layout with this number of joints; 17 is COCO, 25 is BODY_25."""
    for name, layout in LAYOUTS.items():
        if layout.joints == joints:
            return name
    known = ", ".join(f"{layout.joints} ({name})" for name, layout in LAYOUTS.items())
    raise ValueError(f"{where}: {joints} joints, expected {known}")


def layout_of_names(joints, where):
    """Return the layout of joints with these names: one of `LAYOUTS`, or the names themselves in the form that `to_h36m`
    accepts; None if they are not names of joints.

    Raises:
        ValueError if a joint of Human3.6M cannot be derived from them.
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
    """Convert a detector's keypoints to Human3.6M's joints.

    Args:
        keypoints: (T, J, 2) or (T, J, 3) in pixels, with confidences; NaN where there are none.
        layout: a key of `LAYOUTS`, or names returned by `layout_of_names`. variant: one of the conversions above. Default: the
        layout's first.
        where: name of the keypoints in messages.

    Returns:
        (T, 17, 2 or 3) float64; a joint computed from others is NaN where one of them is.
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
    """Convert keypoints (T, J, C) of named joints: take Human3.6M's joints by name and compute the others."""
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
    above = (eyes - nose)[:, 1]  # distance of the eyes from the nose, down the image
    thorax[:, 1] -= above * 2 / 3
    head[:, 1] = eyes[:, 1] + above
    return {"pelvis": hips, "spine": spine, "thorax": thorax, "neck": neck, "head": head}


def missing(keypoints):
    """Return (T, J) bool: True where a joint is missing, that is not finite or with confidence 0."""
    lost = ~np.isfinite(keypoints).all(-1)
    return lost | (keypoints[..., 2] == 0) if keypoints.shape[-1] == 3 else lost


def nowhere(keypoints):
    """Return (...,) bool: True where keypoints (..., 2 or 3) in an image have no position: not finite, (0, 0), or the same
    negative integer twice, such as (-1, -1) and (-999, -999)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    with np.errstate(invalid="ignore"):
        return ~np.isfinite(x) | ~np.isfinite(y) | (x == y) & (x <= 0) & (x % 1 == 0)


def seen(keypoints, image=True):
    """Set joints that the detector did not find to NaN in keypoints (..., 2 or 3): those with confidence 0 or below and, if
    they are positions in an `image`, those without a position (`nowhere`)."""
    keypoints = np.asarray(keypoints, np.float64)
    lost = ~np.isfinite(keypoints).all(-1)
    if image:
        lost |= nowhere(keypoints)
    if keypoints.shape[-1] == 3:
        lost |= keypoints[..., 2] <= 0
    return np.where(lost[..., None], np.nan, keypoints)


def fill(keypoints: np.ndarray, where: str = "keypoints", skeleton: Skeleton = H36M) -> np.ndarray:
    """Fill missing joints in keypoints (T, J, 2 or 3): interpolate linearly between the frames where a joint is present, and
    hold its first and last position. A joint that is never present takes the position of the nearest present joint along the
    skeleton. Filled joints get confidence 0.
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
