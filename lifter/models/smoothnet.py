"""SmoothNet: one MLP along the frames, the same for every coordinate of every joint, which takes out jitter.

ECCV 2022, arXiv 2112.13715.
"""

from torch import Tensor, nn

from lifter.layers import Linear

from ._inputs import check_poses
from ._register import register_model, register_official
from ._windows import mean_of_windows, windows


class ResidualBlock(nn.Module):
    """x + activated(linear2(activated(linear1(x)))), with dropout before either activation."""

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.activated = nn.Sequential(nn.Dropout(drop), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.activated(self.linear2(self.activated(self.linear1(x))))


class SmoothNet(nn.Module):
    """SmoothNet: smooths poses, (B, T, J, C) or (B, T, J * C) -> the same shape, of any estimator and in any form.

    A sequence of T > num_frames is smoothed in all its windows, one from each frame on; a frame is the mean over its windows.

    Args:
        num_frames: frames of a window. num_joints, in_channels: J, C; no weight depends on them.
        dim, hidden, depth: width, width within the residual blocks, residual blocks.
        out_frames: frames that a window gives, at most num_frames, None: as many. If fewer, T is num_frames.
        drop: dropout in the residual blocks.
    """

    def __init__(
        self,
        num_frames: int = 100,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 512,
        hidden: int = 128,
        depth: int = 5,
        *,
        out_frames: int | None = None,
        drop: float = 0.5,
    ):
        super().__init__()
        out_frames = num_frames if out_frames is None else out_frames
        if not 1 <= out_frames <= num_frames:
            raise ValueError(f"SmoothNet: out_frames is {out_frames}, expected 1 to num_frames={num_frames}")
        self.num_frames, self.num_joints, self.in_channels, self.out_frames = num_frames, num_joints, in_channels, out_frames
        self.encoder = nn.Sequential(Linear(num_frames, dim), nn.LeakyReLU(0.1))
        self.res_blocks = nn.Sequential(*(ResidualBlock(dim, hidden, drop) for _ in range(depth)))
        self.decoder = Linear(dim, out_frames)

    def forward(self, poses: Tensor) -> Tensor:
        check_poses("SmoothNet", poses, self.num_joints, self.in_channels)
        frames, window = poses.shape[1], self.num_frames
        if frames < window or (frames > window and self.out_frames < window):
            expected = f"num_frames={window}" if self.out_frames < window else f"at least num_frames={window}"
            raise ValueError(f"SmoothNet: poses have {frames} frames, expected {expected}")
        x = windows(poses.flatten(2).to(self.decoder.bias.dtype), window)
        x = self.smooth(x.mT).mT
        if frames > window:
            x = mean_of_windows(x.unflatten(0, (poses.shape[0], frames - window + 1)), 1, frames)
        return x.to(poses.dtype).reshape(*x.shape[:2], *poses.shape[2:])

    def smooth(self, x: Tensor):
        """Smooth coordinates: (..., num_frames) -> (..., out_frames)."""
        return self.decoder(self.res_blocks(self.encoder(x)))


@register_model
def smoothnet(**kwargs):
    """SmoothNet: smooths 100 frames of poses, 0.76 M parameters."""
    return SmoothNet(**kwargs)


@register_official("lib.models.smoothnet.SmoothNet", tolerance=1e-5, run=lambda model, poses: model.smooth(poses))
def official_smoothnet(window_size, output_size, hidden_size=512, res_hidden_size=256, num_blocks=3, dropout=0.5):
    """Its poses are flat, (B, J * C, T), of any number of coordinates."""
    sizes = {"dim": hidden_size, "hidden": res_hidden_size, "depth": num_blocks}
    return SmoothNet(window_size, **sizes, out_frames=output_size, drop=dropout)
