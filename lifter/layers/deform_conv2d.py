"""Deformable convolutions over the (frame, joint) grid: SasMamba's structure-aware convolution, as in its code and as in its
paper."""

import math

import torch
from torch import Tensor, nn

from lifter.kernels import deform_conv2d


class DeformConv2d(nn.Module):
    """Replacement of torchvision.ops.DeformConv2d with the same arguments, parameters and initial values."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"DeformConv2d: groups is {groups}, expected a divisor of in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        kernel_size, self.stride, self.padding, self.dilation = map(_pair, (kernel_size, stride, padding, dilation))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self):
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def extra_repr(self):
        out_channels, channels_per_group, *kernel_size = self.weight.shape
        return f"{out_channels}, channels_per_group={channels_per_group}, kernel_size={tuple(kernel_size)}"


class DeformConv(nn.Module):
    """SasMamba's convolution as in its official code: a depthwise convolution with an offset for every tap.

    (B, C, T, J) -> (B, C, T, J), fastest for the channels-last view of a (B, T, J, C) map. `offset_conv`, a dense convolution,
    computes (dy, dx) per tap, shared by all channels.
    """

    def __init__(self, dim: int, kernel_size: int = 3):
        super().__init__()
        padding = kernel_size // 2
        self.offset_conv = nn.Conv2d(dim, 2 * kernel_size**2, kernel_size, padding=padding)
        self.dcn = DeformConv2d(dim, dim, kernel_size, padding=padding, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dcn(x, self.offset_conv(x))


class StructureConv(nn.Module):
    """SasMamba's convolution as in its paper, equations 7 to 11: X_struct = Conv2d(X) + sum over K*K taps of W_k X'_k.

    (B, C, T, J) -> (B, C, T, J). `offset_conv` computes one (dy, dx) per frame and joint, which shifts all K*K taps together.
    The weights W_k of the taps are dense (C, C). `conv` is the ordinary 3x3 convolution that is added.
    """

    def __init__(self, dim: int, kernel_size: int = 3):
        super().__init__()
        padding = kernel_size // 2
        self.taps = kernel_size**2
        self.offset_conv = nn.Conv2d(dim, 2, kernel_size, padding=padding)
        self.dcn = DeformConv2d(dim, dim, kernel_size, padding=padding, bias=False)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        offset = self.offset_conv(x).permute(0, 2, 3, 1).repeat(1, 1, 1, self.taps)
        return self.conv(x) + self.dcn(x, offset.permute(0, 3, 1, 2))


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
