"""The face, which detectors find and motion capture has not."""

import torch

from lifter.skeleton import H36M

POINTS = (*H36M.joints, "nose", "left_eye", "right_eye", "left_ear", "right_ear", "crown")
FLIP = (*H36M.flip, 17, 19, 18, 21, 20, 22)  # of these points
# Share of the way from the base of the neck to the top of the head, metres forward, metres to the right.
_PLACES = torch.tensor(
    [(0.45, 0.1, 0.0), (0.62, 0.085, -0.032), (0.62, 0.085, 0.032), (0.5, 0.0, -0.072), (0.5, 0.0, 0.072), (2.0, 0.0, 0.0)]
)
_NECK, _HEAD, _LEFT, _RIGHT = (H36M.joints.index(name) for name in ("neck", "head", "left_shoulder", "right_shoulder"))


def with_face(draw, world, turned=25.0):
    """Poses (B, T, 17, 3) in the world -> (B, T, 23, 3) with the face, `POINTS`. It looks where the shoulders do, but turned
    by some degrees, slowly: the joints do not tell."""
    up = world[:, :, _HEAD] - world[:, :, _NECK]
    unit = up / up.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    forward = torch.linalg.cross(unit, world[:, :, _RIGHT] - world[:, :, _LEFT])
    forward = forward / forward.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    right = torch.linalg.cross(forward, unit)
    angle = (turned * draw.slow(world.shape[1], 25)).clamp(-70, 70).deg2rad()[..., None]
    forward, right = (
        angle.cos() * forward + angle.sin() * right, angle.cos() * right - angle.sin() * forward,
    )  # fmt: skip
    along, ahead, aside = (_PLACES[:, i, None] for i in range(3))
    face = world[:, :, _NECK, None] + along * up[:, :, None] + ahead * forward[:, :, None] + aside * right[:, :, None]
    return torch.cat((world, face), 2)
