"""FTCM: half of the channels filtered by their frequencies along the frames, half gated by their neighbours in time.

IEEE TCSVT 2023, "FTCM: Frequency-Temporal Collaborative Module for Efficient 3D Human Pose Estimation in Video".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import linear
from lifter.layers import Linear

from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, windows
from .pstmo import from_official, to_official


class NormedLinear(Linear):
    """A linear layer whose weight is a direction for each output, `weight_v`, and its length, `weight_g`."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        direction = self.weight.detach()
        del self.weight
        self.weight_v = nn.Parameter(direction)
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(direction, dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(self.weight_v, dim=1, keepdim=True)
        return linear(x, self.weight_v * (self.weight_g / length), self.bias)


class FrequencyFilter(nn.Module):
    """A complex matrix, shared by the channels, on the frequencies along the frames: (B, T, C) -> (B, T, C).

    Of an even number of frames the highest frequency is read, and there is none in the output.
    """

    def __init__(self, frames: int):
        super().__init__()
        self.lfilter = nn.Parameter(torch.randn((frames + 1) // 2, frames // 2 + 1, 2) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x  # MKL's transform fails on an empty batch
        exact = torch.promote_types(x.dtype, torch.float32)  # there is no Fourier transform of less
        spectrum = torch.fft.rfft(x.to(exact), dim=1, norm="ortho")
        spectrum = torch.view_as_complex(self.lfilter.to(exact)) @ spectrum
        return torch.fft.irfft(spectrum, x.shape[1], dim=1, norm="ortho").to(x.dtype)


class NeighbourGate(nn.Module):
    """Channels times the sigmoid of what two convolutions make of them and their neighbours in time: (B, T, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv1d(dim, dim // 2, 3, padding=1, groups=2, bias=False)
        self.conv2 = nn.Conv1d(dim // 2, dim, 3, padding=1, groups=2, bias=False)
        self.ln1, self.ln2 = nn.LayerNorm(dim // 2), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.gelu(self.ln1(self.conv1(x.mT).mT))
        return x * self.ln2(self.conv2(gate.mT).mT).sigmoid()


class Collaboration(nn.Module):
    """Both, each on its half of the channels: (B, T, C) -> (B, T, C)."""

    def __init__(self, frames: int, dim: int):
        super().__init__()
        self.ecl, self.gfp = NeighbourGate(dim // 2), FrequencyFilter(frames)

    def forward(self, x: Tensor) -> Tensor:
        filtered, gated = x.chunk(2, -1)
        return torch.cat((self.gfp(filtered), self.ecl(gated)), -1)


class ChannelMlp(nn.Module):
    """The later half of the channels by themselves, then all: (..., C) -> (..., C)."""

    def __init__(self, dim: int, drop: float):
        super().__init__()
        square = lambda size: Linear(size, size)
        self.ln_1024, self.ln_512 = square(dim), square(dim // 2)
        # Checkpoints have these, and nothing runs them.
        self.ln_256, self.ln_128 = (square(dim // n).requires_grad_(False) for n in (4, 8))
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        early, late = x.chunk(2, -1)
        return F.gelu(self.ln_1024(self.drop(torch.cat((early, F.gelu(self.ln_512(late))), -1))))


class Residual(nn.Module):
    """Block number i: x + MLP(collaboration(GELU(linear(norm(x))))). (B, T, C) -> (B, T, C)."""

    def __init__(self, i, frames, dim, drop):
        super().__init__()
        layers = {f"ln1_{i}": nn.LayerNorm(dim), f"fc1_{i}": Linear(dim, dim), f"gelu_{i}": nn.GELU()}
        self.fn = nn.Sequential()
        for name, layer in (layers | {f"SG{i}": Collaboration(frames, dim), f"fc2_{i}": ChannelMlp(dim, drop)}).items():
            self.fn.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class FTCM(nn.Module):
    """FTCM: frames embedded, blocks in frequency and time, and the mean over the frames lifted.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames: the poses in the centres of all windows.
    A frame is embedded once for all windows that have it.

    Args:
        num_frames: frames of a window. num_joints, in_channels: J, channels of a keypoint.
        dim, depth: width, a multiple of 8, and blocks.
        drop: dropout within the MLPs.
    """

    def __init__(
        self,
        num_frames: int = 351,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 6,
        *,
        drop: float = 0.1,
    ):
        super().__init__()
        if dim % 8:
            raise ValueError(f"FTCM: dim is {dim}, expected a multiple of 8")
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.margins = margins_around_centre(num_frames)
        self.pose_emb = NormedLinear(num_joints * in_channels, dim)
        self.mlpmixer = nn.ModuleDict({"gmlp": nn.Sequential(*(Residual(i, num_frames, dim, drop) for i in range(depth)))})
        self.pose_lift = NormedLinear(dim, 3 * num_joints)

    def forward(self, keypoints: Tensor) -> Tensor:
        check_clip(self, keypoints)
        x = F.gelu(self.pose_emb(keypoints.flatten(2).to(self.pose_lift.bias.dtype)))
        x = self.mlpmixer["gmlp"](windows(x, self.num_frames)).mean(1, keepdim=True)
        poses = poses_of_windows(self, self.pose_lift(x), keypoints)
        return poses.unflatten(-1, (self.num_joints, 3)).to(keypoints.dtype)


@register_model
def ftcm(**kwargs):
    """FTCM: 6 blocks in frequency and time on 351 frames, one pose, 4.69 M parameters."""
    return FTCM(**kwargs)


@register_official(
    "model.my_ftcm_drop.Model", tolerance=1e-5, run=lambda model, keypoints: to_official(model(from_official(keypoints)))
)
def official_ftcm(layers=6, channel=256, d_hid=512, frames=351, n_joints=17, out_joints=17):
    """The official code has 6 blocks whatever `layers` is, a width of `d_hid`, and as many joints out as in."""
    return FTCM(frames, n_joints, 2, d_hid, layers)
