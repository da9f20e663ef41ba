"""Windows within models, above all those that give the pose of one frame of a window.

Such models take clips of any T >= num_frames, (B, T, J, C), and give the poses of all frames but `margins`, a number at the
front and one at the end: (B, T - num_frames + 1, J, 3), a pose for each window that the clip has. What a model does frame by
frame it does once for all windows that share the frame.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._inputs import check_keypoints


def margins_around_centre(num_frames: int):
    """The frames before the one in the centre of a window, and those after it."""
    before = (num_frames - 1) // 2
    return before, num_frames - 1 - before


def widths_of(name, num_frames, widths):
    """Return `widths` as a tuple, by default as many threes as a window of `num_frames` needs; ValueError, naming the model,
    unless they are odd and their product is `num_frames`, where that is given."""
    if widths is None:
        num_frames = 243 if num_frames is None else num_frames
        widths = (3,) * max(1, round(math.log(num_frames, 3)))
    if not widths or any(width < 1 or width % 2 == 0 for width in widths):
        raise ValueError(f"{name}: widths is {widths}, expected odd numbers")
    if num_frames not in (None, math.prod(widths)):
        expected = f"{math.prod(widths)}, the product of widths={tuple(widths)}"
        raise ValueError(f"{name}: num_frames is {num_frames}, expected {expected}")
    return tuple(widths)


def check_clip(model, keypoints):
    """`check_keypoints` for a clip with at least one window of `model`."""
    name = type(model).__name__
    check_keypoints(name, keypoints, None, model.num_joints, model.in_channels, least=model.num_frames)


def windows(x: Tensor, num_frames: int):
    """(B, T, ...) -> (B * N, num_frames, ...): the N = T - num_frames + 1 windows of every clip, one from each frame on."""
    return x.unfold(1, num_frames, 1).movedim(-1, 2).flatten(0, 1)


def poses_of_windows(model, poses, keypoints):
    """(B * N, 1, ...) -> (B, N, ...), one pose of each window that `model` has of `keypoints`."""
    return poses.reshape(keypoints.shape[0], keypoints.shape[1] - model.num_frames + 1, *poses.shape[2:])


def mean_of_windows(windows, stride, frames):
    """(B, N, window, P) -> (B, frames, P), each frame the mean over its windows, in float32 at least.

    Windows begin at every multiple of `stride`; if those do not reach the end, the last one ends there.
    """
    windows = windows.to(torch.promote_types(windows.dtype, torch.float32))
    times = _sum_of_windows(windows.new_ones(1, *windows.shape[1:3], 1), stride, frames)
    return _sum_of_windows(windows, stride, frames) / times


def _sum_of_windows(windows, stride, frames):
    window = windows.shape[2]
    regular = (frames - window) // stride + 1
    covered = (regular - 1) * stride + window
    columns = windows[:, :regular].permute(0, 3, 2, 1).flatten(1, 2)
    total = F.fold(columns, (covered, 1), (window, 1), stride=(stride, 1))[..., 0].mT
    if covered == frames:
        return total
    last = F.pad(windows[:, -1], (0, 0, frames - window, 0))
    return F.pad(total, (0, 0, 0, frames - covered)) + last
