"""VideoPose3D: convolutions along the frames, whose holes grow until one pose has seen 243 frames.

CVPR 2019, arXiv 1811.11742.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import linear
from lifter.layers.block import check_rate

from ._register import register_model, register_official
from ._windows import check_clip, widths_of


class VideoPose3D(nn.Module):
    """VideoPose3D: a temporal convolution, then residual blocks of one with holes and one of width 1.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames, the product of `widths`: the poses
    in the centres of all windows, or of a causal model at their ends. A long clip computes every frame once. One window takes
    steps instead of holes, and so computes nothing but what its one pose needs. The weights are the same.

    Args:
        num_frames: the frames that a pose depends on, a power of 3, or what `widths` say.
        num_joints, in_channels: J, channels of a keypoint.
        channels: of the convolutions.
        widths: of the first convolution and of each block's, odd numbers; None: as many threes as num_frames needs.
        causal: a pose depends on its frame and those before it, not after.
        dense: without holes, for the papers' ablation: each convolution sees all frames that it spans.
        drop: dropout after every convolution.
        num_joints_out: joints of the poses; None: J.
    """

    def __init__(
        self,
        num_frames: int | None = None,
        num_joints: int = 17,
        in_channels: int = 2,
        channels: int = 1024,
        *,
        widths: Sequence[int] | None = None,
        causal: bool = False,
        dense: bool = False,
        drop: float = 0.25,
        num_joints_out: int | None = None,
    ):
        super().__init__()
        widths = widths_of("VideoPose3D", num_frames, widths)
        check_rate("VideoPose3D", "drop", drop)
        self.num_frames, self.num_joints, self.in_channels = math.prod(widths), num_joints, in_channels
        self.widths, self.causal, self.dense = widths, causal, dense
        self.margins = (self.num_frames - 1, 0) if causal else (self.num_frames // 2, self.num_frames // 2)
        self.window_poses = self.num_frames  # no frame is computed twice: a pose takes no more memory than a frame
        self.dilations = [math.prod(widths[:i]) for i in range(len(widths))]
        spans = [(width - 1) * dilation + 1 if dense else width for width, dilation in zip(widths, self.dilations)]
        self.expand_conv = FrameConv(num_joints * in_channels, channels, spans[0], bias=False)
        self.expand_bn = nn.BatchNorm1d(channels, momentum=0.1)
        sizes = [size for span in spans[1:] for size in (span, 1)]
        self.layers_conv = nn.ModuleList(FrameConv(channels, channels, size, bias=False) for size in sizes)
        self.layers_bn = nn.ModuleList(nn.BatchNorm1d(channels, momentum=0.1) for _ in sizes)
        self.drop = nn.Dropout(drop)
        self.shrink = nn.Conv1d(channels, (num_joints_out or num_joints) * 3, 1)

    def forward(self, keypoints: Tensor) -> Tensor:
        check_clip(self, keypoints)
        stepping = keypoints.shape[1] == self.num_frames and not self.dense
        x = keypoints.flatten(2).mT.to(self.shrink.bias.dtype)
        x = self._layer(x, self.expand_conv, self.expand_bn, stepping)
        blocks = list(zip(self.layers_conv, self.layers_bn))
        for width, dilation, wide, narrow in zip(self.widths[1:], self.dilations[1:], blocks[::2], blocks[1::2]):
            stride, dilation = (width, 1) if stepping else (1, dilation)
            seen = (width - 1) * dilation  # frames that a window of this block has besides its own
            first = seen if self.causal else seen // 2
            residual = x[:, :, first : x.shape[2] - seen + first : stride]
            x = self._layer(x, *wide, stepping, 1 if self.dense else dilation)
            x = residual + self._layer(x, *narrow, stepping)
        return self.shrink(x).mT.unflatten(2, (-1, 3)).to(keypoints.dtype)

    def _layer(self, x, conv, norm, *how):
        return self.drop(F.relu(norm(conv(x, *how))))


class FrameConv(nn.Conv1d):
    """A convolution along the frames, with holes, or stepping over as many frames as it sees, which is a plain product."""

    def forward(self, x: Tensor, stepping: bool, dilation: int = 1) -> Tensor:
        if not stepping:
            return F.conv1d(x, self.weight, dilation=dilation)
        taps = x.unflatten(2, (-1, self.kernel_size[0])).transpose(1, 2).flatten(2)
        return linear(taps, self.weight.flatten(1)).mT


@register_model
def videopose3d(**kwargs):
    """VideoPose3D: a temporal convolutional network, one pose of 243 frames, 16.95 M parameters."""
    return VideoPose3D(**kwargs)


@register_official("common.model.TemporalModel", tolerance=1e-5)
def official_videopose3d(
    num_joints_in, in_features, num_joints_out, filter_widths, causal=False, dropout=0.25, channels=1024, dense=False
):
    sizes = {"widths": filter_widths, "causal": causal, "dense": dense, "drop": dropout, "num_joints_out": num_joints_out}
    return VideoPose3D(None, num_joints_in, in_features, channels, **sizes)


@register_official("common.model.TemporalModelOptimized1f", tolerance=1e-5)
def official_videopose3d_of_one_frame(*sizes, **kwargs):
    return official_videopose3d(*sizes, **kwargs)
