"""The upper body of one clip on the legs of another."""

import torch

from lifter.skeleton import H36M

_PELVIS, _THORAX, _LEFT, _RIGHT = (H36M.joints.index(name) for name in ("pelvis", "thorax", "left_hip", "right_hip"))
_UPPER = [joint for joint, name in enumerate(H36M.joints) if name.rpartition("_")[2] not in ("pelvis", "hip", "knee", "ankle")]
UPRIGHT = 0.8  # the cosine of the angle from the vertical up to which a trunk may be on other legs


def mixed(draw, world, share):
    """Clips (B, T, 17, 3) in the world, of which a share has the trunk, arms and head of the clip before it in the batch,
    turned as the hips are. Both stay upright, else nothing is changed."""
    other = world.roll(1, 0)
    stands = _upright(world)
    chosen = draw.chance(share) & stands & stands.roll(1, 0)
    angle = _heading(world) - _heading(other)
    sin, cos = angle.sin()[..., None], angle.cos()[..., None]
    x, y, z = (other[:, :, _UPPER] - other[:, :, [_PELVIS]]).unbind(-1)
    upper = world[:, :, [_PELVIS]] + torch.stack((cos * x - sin * y, sin * x + cos * y, z), -1)
    world = world.clone()
    world[:, :, _UPPER] = torch.where(chosen.view(-1, 1, 1, 1), upper, world[:, :, _UPPER])
    return world


def _upright(world):
    """(B,) bool."""
    trunk = world[:, :, _THORAX] - world[:, :, _PELVIS]
    return (trunk[..., 2] > UPRIGHT * trunk.norm(dim=-1)).all(1)


def _heading(world):
    """(B, T): where the hips look, as an angle about the vertical."""
    across = world[:, :, _LEFT] - world[:, :, _RIGHT]
    return torch.atan2(across[..., 1], across[..., 0])
