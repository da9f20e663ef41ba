"""The same motion by another body."""

from dataclasses import dataclass

import torch

from lifter.skeleton import H36M

from .checks import check_numbers

_JOINT, _PARENT = (list(side) for side in zip(*H36M.bones))
_MIRRORED = [_JOINT.index(H36M.flip[joint]) for joint in _JOINT]
_LEGS = [_JOINT.index(H36M.joints.index(f"{side}_{part}")) for side in ("left", "right") for part in ("knee", "ankle")]


def _ways():
    """(17, 17): a joint is where the root is and the bones on the way to it lead; 1 for each of these."""
    ways = torch.zeros(H36M.num_joints, H36M.num_joints)
    for joint, parent in enumerate(H36M.parents):
        ways[joint] = ways[parent] if parent >= 0 else 0
        ways[joint, joint] = 1
    return ways


_WAYS = _ways()


@dataclass(frozen=True)
class Bodies:
    """Bodies as those of the motions, between them, and around them; left as right.

    Args:
        mixed: how far from a motion's own body to that of another one, at most; a quarter of it beyond either, too.
        each: spread of the lengths of single bones. size: of the whole body; both of the logarithm.
    """

    mixed: float = 1.0
    each: float = 0.05
    size: float = 0.08

    def __post_init__(self):
        check_numbers("Bodies", 0, mixed=self.mixed, each=self.each, size=self.size)

    def __call__(self, draw, world, others):
        """World poses (B, T, 17, 3) by other bodies, the lowest joint of a clip as high as before.

        Args:
            others: (K, 16) lengths of the bones of all bodies that there are.
        """
        bones = world[:, :, _JOINT] - world[:, :, _PARENT]
        own = bones.norm(dim=-1).mean(1).clamp(min=1e-3)
        symmetrical = lambda bones: (bones + bones[:, _MIRRORED]) / 2
        other = others[(draw.share() * len(others)).long()]
        toward = self.mixed * draw.uniform(-0.25, 1.25, 1)
        lengths = own.log() + toward * (other.log() - own.log()) + self.each * draw.normal(len(_JOINT))
        factors = (symmetrical(lengths) + self.size * draw.normal(1) - own.log()).exp()
        legs = factors[:, _LEGS].mean(1, keepdim=True)  # steps are as long as the legs
        factors = torch.cat((legs, factors), 1)[:, None, :, None]
        bones = torch.cat((world[:, :, :1], bones), 2) * factors
        poses = torch.einsum("ij,btjc->btic", _WAYS, bones)
        lowest = lambda poses: poses[..., 2].flatten(1).amin(1)
        poses[..., 2] += (lowest(world) - lowest(poses))[:, None, None]
        return poses
