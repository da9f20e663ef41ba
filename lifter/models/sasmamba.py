"""SasMamba: a lightweight structure-aware stride state space model for 3D human pose estimation.

Equation and table numbers are those of the SasMamba paper.
"""

from collections.abc import Sequence
from functools import partial

import torch

from lifter.layers import DeformConv, SkeletonMixer, StructureConv

from ._register import register_model, register_official
from .posemamba import SkeletonMamba, limb_gather


def stride_gather(strides, directions, num_joints=17):
    """(K, 1, M, J), the official code: frame-major directions read the sum of x[s * (v // s)] over the M strides s,
    joint-major directions x[v]."""
    rows = [_preceding(s, num_joints) for s in strides]
    own = [_preceding(1, num_joints)] + [[-1] * num_joints] * (len(strides) - 1)
    return torch.tensor([[rows if d.startswith("T") else own] for d in directions], dtype=torch.int32)


def stride_groups_gather(strides, directions, num_joints=17):
    """(K, G, 1, J), equations 13 and 14: in every direction channel group g reads x[s * (v // s)], s = strides[g]."""
    groups = [[_preceding(s, num_joints)] for s in strides]
    return torch.tensor([groups for _ in directions], dtype=torch.int32)


def stride_groups(strides, dim):
    """Channels per stride, equation 12: C/2, C/4, C/4 for three strides; every stride half of what is left."""
    sizes = [dim >> i for i in range(1, len(strides))]
    return [*sizes, dim - sum(sizes)]


def _preceding(stride, num_joints):
    """Equation 13: the last joint at or before v whose index is a multiple of the stride."""
    return [stride * (v // stride) for v in range(num_joints)]


class SasMamba(SkeletonMamba):
    """SasMamba: structure-aware convolution, stride sampling of the joints, four selective scans (section 3.2).

    (B, T, J, in_channels) -> (B, T, J, 3) for any T <= num_frames.

    Paper and official code differ in three places. `variant="official"`, the default, is the code, because released
    weights use it and the paper's parameters are counted on it; `variant="paper"` is the text:
      * Convolution. Paper (eqs. 7-11): one offset per frame and joint, dense CxC taps, an ordinary 3x3 convolution
        added. Code: an offset per tap, a depthwise deformable convolution, nothing added.
      * Strides. Paper (eqs. 12-14): channels split C/2, C/4, C/4, each part read at its own stride, then
        concatenated. Code: all channels read x[v] + x[2(v // 2)] + x[3(v // 3)].
      * Directions. Paper (eq. 15): all four scan that map. Code: only the frame-major pair does, the joint-major pair
        scans the plain map.
    Both have the code's LayerNorm after every block, which equation 16 lacks. "L = 10 blocks" are depth = 5 pairs.

    Args:
        num_frames: longest clip; the length of the temporal position embedding.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, mlp_ratio: width, pairs of blocks, hidden width of the MLPs by dim.
        kernel_size: 1, 3, 5 or 7 (table 5); 1 removes the convolution.
        strides: strides of the joint sampling (table 4); (1,) scans the plain map.
        scan: "stride", or "local_global" for PoseMamba's limb table, the other scan of table 4.
        directions: subset of ("T-f", "S-f", "T-b", "S-b") (table 6), one group of scan weights each.
        drop, drop_path: dropout of the embedding; stochastic depth of the last block, growing linearly from 0.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 64,
        depth: int = 5,
        mlp_ratio: float = 2.0,
        kernel_size: int = 3,
        strides: Sequence[int] = (1, 2, 3),
        scan: str = "stride",
        directions: Sequence[str] = ("T-f", "S-f", "T-b", "S-b"),
        variant: str = "official",
        drop: float = 0.0,
        drop_path: float = 0.2,
    ):
        for name, value, allowed in (
            ("variant", variant, ("official", "paper")),
            ("kernel_size", kernel_size, (1, 3, 5, 7)),
            ("scan", scan, ("stride", "local_global")),
        ):
            if value not in allowed:
                raise ValueError(f"SasMamba: {name} is {value!r}, expected one of {allowed}")
        if not strides or min(strides) < 1:
            raise ValueError(f"SasMamba: strides is {strides!r}, expected one or more positive integers")

        mixer = partial(SkeletonMixer, dim, directions=directions)
        if kernel_size > 1:
            conv = DeformConv if variant == "official" else StructureConv
            mixer = partial(mixer, conv=partial(conv, kernel_size=kernel_size))
        if scan == "local_global":
            mixer = partial(mixer, gather=limb_gather(directions, num_joints))
        elif variant == "official":
            mixer = partial(mixer, gather=stride_gather(strides, directions, num_joints))
        else:
            gather = stride_groups_gather(strides, directions, num_joints)
            mixer = partial(mixer, gather=gather, channel_groups=stride_groups(strides, 2 * dim))
        super().__init__(mixer, num_frames, num_joints, in_channels, dim, depth, mlp_ratio, drop, drop_path)


@register_model
def sasmamba(**kwargs):
    """SasMamba: 5 block pairs of width 64, 0.95 M parameters (0.64 M as the paper counts)."""
    return SasMamba(**{"dim": 64, "depth": 5} | kwargs)


@register_model
def sasmamba_large(**kwargs):
    """SasMamba-L: 10 block pairs of width 128, 5.57 M parameters (4.1 M as the paper counts)."""
    return SasMamba(**{"dim": 128, "depth": 10} | kwargs)


@register_official("model.SasMamba.SasPoseMamba", tolerance=1e-4)
def official_sasmamba(
    num_frame=9, num_joints=17, in_chans=2, ssm_conv=3, embed_dim_ratio=256, depth=6, mlp_ratio=2.0, drop_rate=0.0,
    drop_path_rate=0.2,
):  # fmt: skip
    return SasMamba(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, mlp_ratio, kernel_size=ssm_conv, drop=drop_rate,
        drop_path=drop_path_rate,
    )  # fmt: skip
