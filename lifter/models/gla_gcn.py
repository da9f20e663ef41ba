"""GLA-GCN: adaptive graph convolutions along the joints and convolutions along the frames, which stride to one frame.

ICCV 2023, arXiv 2307.05853. The regression is the official code's, one layer for all joints, not the paper's for each.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import AdaptiveGraphConv, bone_graphs
from lifter.layers.block import check_rate

from ._inputs import bones_or_default
from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, widths_of, windows

# HumanEva's 15 joints as the official code connects them, (from, to).
HUMANEVA = (
    (14, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 0), (0, 11), (11, 12), (12, 13), (0, 8), (8, 9), (9, 10),
)  # fmt: skip


class FrameConv(nn.Module):
    """Convolution along the frames and a batch norm: (B, C_in, T, J) -> (B, C_out, T / stride, J)."""

    def __init__(self, in_channels: int, out_channels: int, width: int = 9, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, (width, 1), (stride, 1), (width // 2, 0))
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Unit(nn.Module):
    """Graph convolution, then convolution along the frames; beside them a residual, unless it strides."""

    def __init__(self, in_channels, out_channels, known, stride=None):
        super().__init__()
        self.gcn1 = AdaptiveGraphConv(in_channels, out_channels, known)
        self.tcn1 = FrameConv(out_channels, out_channels, stride=stride or 1)
        self.strided = stride is not None
        self.residual = None if self.strided or in_channels == out_channels else FrameConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn1(self.gcn1(x))
        return F.relu(y if self.strided else y + (x if self.residual is None else self.residual(x)))


class GLAGCN(nn.Module):
    """GLA-GCN: a unit on all frames, then pairs of units, of which the second strides; the frame that is left is lifted.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames: the poses in the centres of all windows.

    Args:
        num_frames: frames of a window, the product of `widths`. num_joints, in_channels: J, channels of a keypoint.
        channels: width. widths: strides of the pairs, odd numbers; None: as many threes as num_frames needs.
        bones: (from, to), the joints that are connected; None: those of Human3.6M, from each joint to its parent.
        drop: dropout after every unit of a pair.
    """

    def __init__(
        self,
        num_frames: int | None = None,
        num_joints: int = 17,
        in_channels: int = 2,
        channels: int = 96,
        *,
        widths: Sequence[int] | None = None,
        bones: Sequence[tuple[int, int]] | None = None,
        drop: float = 0.25,
    ):
        super().__init__()
        widths = widths_of("GLAGCN", num_frames, widths)
        check_rate("GLAGCN", "drop", drop)
        bones = bones_or_default("GLAGCN", bones, num_joints)
        self.num_frames, self.num_joints, self.in_channels = math.prod(widths), num_joints, in_channels
        self.margins, self.widths = margins_around_centre(self.num_frames), widths
        known = bone_graphs(num_joints, bones)
        self.data_bn = nn.BatchNorm1d(num_joints * in_channels)
        self.expand_gcn = Unit(in_channels, channels, known)
        strides = [stride for width in widths for stride in (None, width)]
        self.layers_tcngcn = nn.ModuleList(Unit(channels, channels, known, stride) for stride in strides)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Conv1d(channels, 3, 1)

    def forward(self, keypoints: Tensor) -> Tensor:
        check_clip(self, keypoints)
        return poses_of_windows(self, self.lift_window(windows(keypoints, self.num_frames)), keypoints)

    def lift_window(self, keypoints: Tensor):
        """Lift one frame of each window: (B, n * num_frames, J, C) -> (B, 1, J, 3); of the n frames left it is the mean."""
        x = self.data_bn(keypoints.flatten(2).mT.to(self.fc.bias.dtype))
        x = self.expand_gcn(x.unflatten(1, keypoints.shape[2:]).permute(0, 2, 3, 1))
        for width, unit, strided in zip(self.widths, self.layers_tcngcn[::2], self.layers_tcngcn[1::2], strict=True):
            x = x[:, :, width // 2 :: width] + self.drop(strided(self.drop(unit(x))))
        return self.fc(x.mean(2)).mT[:, None].to(keypoints.dtype)


@register_model
def gla_gcn(**kwargs):
    """GLA-GCN: adaptive graph convolutions on 243 frames, which stride to one, one pose, 1.35 M parameters."""
    return GLAGCN(**kwargs)


@register_official("common.s_agcn.S_AGCN", tolerance=1e-5, run=lambda model, keypoints: model.lift_window(keypoints))
def official_gla_gcn(
    num_joints_in, in_features, num_joints_out, filter_widths, causal=False, dropout=0.25, channels=96, dataset="h36m"
):
    """The official class fails if it is to be causal, and has as many joints out as in."""
    if causal:
        raise ValueError("S_AGCN: causal is True, expected False, with which the official class fails")
    bones = HUMANEVA if dataset == "humaneva15" else None
    return GLAGCN(None, num_joints_in, in_features, channels, widths=filter_widths, bones=bones, drop=dropout)
