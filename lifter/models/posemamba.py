"""PoseMamba: monocular 3D human pose estimation with bidirectional spatio-temporal state space models.

AAAI 2025, arXiv 2408.03540.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from lifter.layers import SkeletonBlock, SkeletonMixer

from ._register import register_model, register_official
from .mixste import Alternating

# The neighbour that each joint adds to itself in the "local" scan. Not the parent of every joint: 9 and 10 (neck, head)
# and the first joint of each arm are what the official table says. HumanEva's 15 joints use its start.
LIMBS = (0, 0, 1, 2, 3, 0, 4, 5, 6, 8, 11, 12, 13, 8, 14, 15, 16)


def limb_gather(directions, num_joints=17):
    """(K, 1, 2, J): frame-major directions read x[v] + x[LIMBS[v]], joint-major directions x[v]."""
    if num_joints not in (15, 17):
        raise ValueError(f"PoseMamba: num_joints is {num_joints}, expected 17 (Human3.6M) or 15 (HumanEva)")
    own, limbs, nothing = range(num_joints), LIMBS[:num_joints], [-1] * num_joints
    rows = [[[own, limbs if direction.startswith("T") else nothing]] for direction in directions]
    return torch.tensor(rows, dtype=torch.int32)


class SkeletonMamba(Alternating):
    """The network that PoseMamba and SasMamba share: (B, T, J, in_channels) -> (B, T, J, 3).

    "Spatial" and "temporal" blocks are the same block, which scans the whole (T, J) map; they differ in their weights
    and in the norm that follows. `mixer()` makes the mixer of one block.
    """

    def __init__(self, mixer, num_frames, num_joints, in_channels, dim, depth, mlp_ratio, drop, drop_path):
        block = lambda rate: SkeletonBlock(dim, mixer(), mlp_ratio, rate)
        super().__init__(block, block, num_frames, num_joints, in_channels, dim, depth, drop, drop_path)


class PoseMamba(SkeletonMamba):
    """PoseMamba: depthwise 3x3 convolution over (T, J), four scans, the frame-major pair with limb neighbours added.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames. This is the official code: both frame-major
    directions read x[v] + x[LIMBS[v]] (the paper's local scan), both joint-major ones the plain map, and the table is
    not the kinematic tree.

    Args:
        num_frames: longest clip; the length of the temporal position embedding.
        num_joints: 17, or 15 for HumanEva. in_channels: 2, or 3 with confidences.
        dim, depth, mlp_ratio: width, pairs of blocks, hidden width of the MLPs by dim.
        directions: subset of ("T-f", "S-f", "T-b", "S-b"), one group of scan weights each.
        drop, drop_path: dropout of the embedding; stochastic depth of the last block, growing linearly from 0.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 64,
        depth: int = 10,
        mlp_ratio: float = 2.0,
        directions: Sequence[str] = ("T-f", "S-f", "T-b", "S-b"),
        drop: float = 0.0,
        drop_path: float = 0.2,
    ):
        gather = limb_gather(directions, num_joints)
        mixer = partial(SkeletonMixer, dim, conv=depthwise_conv, directions=directions, gather=gather)
        super().__init__(mixer, num_frames, num_joints, in_channels, dim, depth, mlp_ratio, drop, drop_path)


def depthwise_conv(dim: int):
    return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


@register_model
def posemamba_s(**kwargs):
    """PoseMamba-S: 10 block pairs of width 64, 1.47 M parameters."""
    return PoseMamba(**{"dim": 64, "depth": 10} | kwargs)


@register_model
def posemamba_b(**kwargs):
    """PoseMamba-B: 10 block pairs of width 128, 4.74 M parameters."""
    return PoseMamba(**{"dim": 128, "depth": 10} | kwargs)


@register_model
def posemamba_l(**kwargs):
    """PoseMamba-L: 20 block pairs of width 128, 9.45 M parameters."""
    return PoseMamba(**{"dim": 128, "depth": 20} | kwargs)


@register_model
def posemamba_x(**kwargs):
    """PoseMamba-X: 20 block pairs of width 256, 33.32 M parameters."""
    return PoseMamba(**{"dim": 256, "depth": 20} | kwargs)


@register_official("lib.model.PoseMamba.PoseMamba", tolerance=1e-4)
def official_posemamba(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=256, depth=6, mlp_ratio=2.0, drop_rate=0.0,
    drop_path_rate=0.2,
):  # fmt: skip
    return PoseMamba(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, mlp_ratio, drop=drop_rate, drop_path=drop_path_rate
    )
