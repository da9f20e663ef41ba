"""Angles of joints, in degrees, by the conventions of Sports2D, in space instead of in the image.

| angle | 0 | positive |
|---|---|---|
| knee_flexion, elbow_flexion | the limb is straight | bent, up to 180; the angle has no sign |
| hip_flexion | the thigh goes on as the trunk | the thigh is ahead of the trunk, -180 to 180 |
| shoulder_flexion | the arm hangs along the trunk | ahead and up, 180 is overhead |
| hip_abduction, shoulder_abduction | in the plane that halves the body | out to its own side, -90 to 90 |

The trunk goes from the pelvis to the thorax. Left and right are as the hips are, for shoulders as the shoulders are. Flexion
is seen from the side: of a limb that points out to the side (abduction near 90) it says little. Sports2D measures the same in
a video from the side, but for abduction. Ankles have no angle: Human3.6M's skeleton has no feet.
"""

import numpy as np

from lifter.skeleton import H36M

from .mocap import y_up
from .sequence import Sequence

LIMBS = (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))


def joint_angles(sequence: Sequence) -> dict[str, np.ndarray]:
    """The angles (T,) of a sequence's poses by their names, as "right_knee_flexion"."""
    if sequence.poses is None or sequence.skeleton is not H36M:
        raise ValueError(f"{sequence.name}: expected poses of Human3.6M's joints")
    at = dict(zip(H36M.joints, np.moveaxis(y_up(sequence), 1, 0)))
    up, angles = _unit(at["thorax"] - at["pelvis"]), {}
    for side, out in (("right", -1), ("left", 1)):
        for first, middle, last in LIMBS:
            left = at[f"left_{first}"] - at[f"right_{first}"]
            left = _unit(left - _dot(left, up)[:, None] * up)
            upper, lower = (_unit(at[f"{side}_{b}"] - at[f"{side}_{a}"]) for a, b in ((first, middle), (middle, last)))
            angles[f"{side}_{first}_flexion"] = np.arctan2(_dot(upper, np.cross(left, up)), -_dot(upper, up))
            angles[f"{side}_{first}_abduction"] = np.arcsin(np.clip(out * _dot(upper, left), -1, 1))
            angles[f"{side}_{middle}_flexion"] = np.arctan2(
                np.linalg.norm(np.cross(upper, lower), axis=-1), _dot(upper, lower)
            )
    return {name: np.degrees(angle) for name, angle in angles.items()}


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _dot(one, other):
    return (one * other).sum(-1)
