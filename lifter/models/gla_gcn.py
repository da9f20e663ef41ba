"""GLA-GCN: adaptive graph convolutions along the joints and convolutions along the frames, which stride to one frame.

ICCV 2023, arXiv 2307.05853. The regression is the official code's, one layer for all joints, not the paper's for each.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lifter.layers.block import check_rate

from ._inputs import bones_or_default
from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, widths_of, windows

# HumanEva's 15 joints as the official code connects them, (from, to).
HUMANEVA = (
    (14, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 0), (0, 11), (11, 12), (12, 13), (0, 8), (8, 9), (9, 10),
)  # fmt: skip


def graphs(num_joints, bones):
    """(3, J, J): every joint itself, along the bones, and against them; what a joint sends adds up to 1."""
    along = torch.zeros(num_joints, num_joints)
    for source, target in bones:
        along[target, source] = 1
    return torch.stack([x / x.sum(0).clamp(min=1) for x in (torch.eye(num_joints), along, along.mT)])


class AdaptiveGraphConv(nn.Module):
    """Graph convolution over three graphs, each the known one, a learned one, and one by how alike the joints are.

    (B, C_in, T, J) -> (B, C_out, T, J). How alike two joints are is one number for the whole window.
    """

    def __init__(self, in_channels, out_channels, known, drop=0.1):
        super().__init__()
        conv = lambda channels: nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for _ in known)
        inner = out_channels // 4 or 3
        self.register_buffer("known", known, persistent=False)  # a constant of the architecture, not a weight
        self.PA = nn.Parameter(torch.full_like(known, 1e-6))
        self.conv_a, self.conv_b, self.conv_d = conv(inner), conv(inner), conv(out_channels)
        if in_channels != out_channels:
            self.down = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))
        self.bn = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout(drop)
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x):
        y = 0
        for i, (graph, a, b, d) in enumerate(zip(self.known + self.PA, self.conv_a, self.conv_b, self.conv_d, strict=True)):
            queries, keys = a(x).flatten(1, 2), b(x).flatten(1, 2)
            alike = (queries.mT @ keys / queries.shape[1]).softmax(-2)
            y = y + d((self.sent(x, i).flatten(1, 2) @ (graph + alike)).unflatten(1, x.shape[1:3]))
        return F.relu(self.drop(self.bn(y)) + (self.down(x) if hasattr(self, "down") else x))

    def sent(self, x, graph):
        """Compute what the joints send over one of the graphs."""
        return x


class FrameConv(nn.Module):
    """Convolution along the frames and a batch norm: (B, C_in, T, J) -> (B, C_out, T / stride, J)."""

    def __init__(self, in_channels, out_channels, width=9, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, (width, 1), (stride, 1), (width // 2, 0))
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return self.bn(self.conv(x))


class Unit(nn.Module):
    """Graph convolution, then convolution along the frames; beside them a residual, unless it strides."""

    def __init__(self, in_channels, out_channels, known, stride=None):
        super().__init__()
        self.gcn1 = AdaptiveGraphConv(in_channels, out_channels, known)
        self.tcn1 = FrameConv(out_channels, out_channels, stride=stride or 1)
        self.strided = stride is not None
        self.residual = None if self.strided or in_channels == out_channels else FrameConv(in_channels, out_channels, 1)

    def forward(self, x):
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

    def __init__(self, num_frames=None, num_joints=17, in_channels=2, channels=96, *, widths=None, bones=None, drop=0.25):
        super().__init__()
        widths = widths_of("GLAGCN", num_frames, widths)
        check_rate("GLAGCN", "drop", drop)
        bones = bones_or_default("GLAGCN", bones, num_joints)
        self.num_frames, self.num_joints, self.in_channels = math.prod(widths), num_joints, in_channels
        self.margins, self.widths = margins_around_centre(self.num_frames), widths
        known = graphs(num_joints, bones)
        self.data_bn = nn.BatchNorm1d(num_joints * in_channels)
        self.expand_gcn = Unit(in_channels, channels, known)
        strides = [stride for width in widths for stride in (None, width)]
        self.layers_tcngcn = nn.ModuleList(Unit(channels, channels, known, stride) for stride in strides)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Conv1d(channels, 3, 1)

    def forward(self, keypoints):
        check_clip(self, keypoints)
        return poses_of_windows(self, self.lift_window(windows(keypoints, self.num_frames)), keypoints)

    def lift_window(self, keypoints):
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
