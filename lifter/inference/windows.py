"""Lifting of whole sequences with a model that sees one window at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.geometry import mirror
from lifter.skeleton import H36M, Skeleton

from .diffusion import Sampler
from .facing import faced


@torch.no_grad()
def lift_sequence(
    model: nn.Module,
    keypoints: Tensor | np.ndarray,
    window: int | None = None,
    stride: int | None = None,
    flip: Skeleton | None = H36M,
    batch: int = 8,
    fade: bool = False,
    camera: Any = None,
) -> Tensor:
    """Lift a sequence of any length, window by window.

    If the stride is the window's length, each frame is lifted once; the last window ends with the sequence and contributes
    only the frames that no other window has. With a smaller stride, a frame is the mean of all windows that see it; `fade`
    gives frames near the ends of a window less weight, so that poses do not jump between windows. A sequence shorter than the
    window is padded with its last frame.

    A model with `margins`, the numbers of frames at the start and the end of a clip that it gives no poses for, lifts one
    frame of each window. Every frame then gets its own window, padded with the first and the last frame of the sequence.
    Consecutive windows are passed to the model as one clip, so that it can share work between them.

    Args:
        model: in evaluation mode, (B, window, J, C) -> (B, window, J, 3); with `margins`, (B, T, J, C) ->
            (B, T - window + 1, J, 3) for any T >= window. A denoiser is sampled with one hypothesis and one step.
        keypoints: (T, J, C) floating-point tensor or array, moved to the model's device and dtype in parts. Confidences are
            dropped if the model does not read them, and set to 1 if it does but there are none. If the model has `centred`
            set, every window is centred by `centre`.
        window: frames that the model sees at once. Default: its `num_frames`. stride: frames between the starts of two
            windows. Default: `window`, or 1 for a model with `margins`, which allows no other.
        flip: average each window with the mirrored poses of the mirrored window, using this skeleton. None: do not.
        batch: windows per call; with `flip`, twice as many clips. This bounds the memory. `window_poses` of a model with
            `margins` is the number of poses that it lifts in the memory of one window.
        camera: the sequence's `lifter.data.Camera`, known or estimated, with which the poses of a model with `centred` set
            are turned to the direction of the person (`lifter.inference.facing`). None: do not.

    Returns:
        Poses (T, J, 3) as predicted by the network, on its device and in its dtype; the root is not changed.

    Raises:
        ValueError for wrong shapes and sizes and, naming the frame, for values that are not finite; TypeError for wrong
        dtypes.
    """
    one = [(None, keypoints)]
    return next(lift_sequences(model, one, window, stride, flip, batch, fade, camera_of=lambda key: camera))[1]


@torch.no_grad()
def lift_sequences(
    model: nn.Module,
    sequences: Iterable,
    window: int | None = None,
    stride: int | None = None,
    flip: Skeleton | None = H36M,
    batch: int = 8,
    fade: bool = False,
    step: Callable[[int], object] = lambda frames: None,
    camera_of: Callable[[Any], Any] = lambda key: None,
) -> Iterator[tuple]:
    """Lift many sequences, whose windows share calls: yield (key, poses) for an iterable of (key, keypoints), in order.

    Other arguments are those of `lift_sequence`. At most the sequences of `batch` windows and the next one are in memory.
    `step` is called after every model call with the number of new frames; `camera_of` returns the camera of a key, or None.
    """
    if hasattr(model, "denoise"):
        model, flip = Sampler(model, flip=flip), None
    window = getattr(model, "num_frames", None) if window is None else window
    before, after = margins = margins_of(model)
    stride = (1 if any(margins) else window) if stride is None else stride
    _check_options(model, window, stride, batch)  # before any work starts
    if any(margins):
        fade = False
        if not getattr(model, "centred", False):  # otherwise every window is centred separately
            window, batch = window - 1 + batch * getattr(model, "window_poses", 1), 1
        stride = window - before - after
    once = stride == window - before - after  # windows lift each frame once
    waiting, clips = deque(), []  # unfinished sequences; windows for the next call
    for key, keypoints in sequences:
        keypoints = _checked(keypoints, flip)
        keypoints = with_channels(keypoints, getattr(model, "in_channels", keypoints.shape[-1]))
        waiting.append(_Lifted(key, keypoints, next(model.parameters(), keypoints), fade, camera_of(key)))
        length = min(window, before + len(keypoints) + after) if any(margins) else window
        if len(keypoints):
            short = max(0, length - before - len(keypoints) - after)
            edges = keypoints[:1].expand(before, -1, -1), keypoints[-1:].expand(after + short, -1, -1)
            keypoints = torch.cat((edges[0], keypoints, edges[1]))
        for start in window_starts(len(keypoints), length, stride) if len(keypoints) else ():
            clip = keypoints[start : start + length]  # pyright: ignore[reportOperatorIssue]
            if len(clips) == batch or clips and clips[0][2].shape != clip.shape:
                step(_lift_clips(model, clips, flip, margins, once))
            waiting[-1].left += 1
            clips.append((waiting[-1], start, clip))
        while waiting and not waiting[0].left:
            yield waiting.popleft().result()
    if clips:
        step(_lift_clips(model, clips, flip, margins, once))
    yield from (sequence.result() for sequence in waiting)


class _Lifted:
    """A sequence with `left` windows still to be lifted."""

    def __init__(self, key, keypoints, like, fade, camera):
        self.key, self.frames, self.left, self.fade, self.camera = key, len(keypoints), 0, fade, camera
        empty = (0, keypoints.shape[1], 3)
        self.mean: Any = None if self.frames else torch.empty(empty, dtype=like.dtype, device=like.device)

    def add(self, start, clip, skip):
        """Return the number of frames that no earlier window has seen."""
        if self.mean is None:
            self.mean = _Overlap(max(self.frames, len(clip)), clip[None], self.fade)
        before = self.mean.seen
        self.mean.add(start, clip, skip)
        self.left -= 1
        return min(self.mean.seen, self.frames) - before

    def result(self):
        return self.key, self.mean.result()[: self.frames] if self.frames else self.mean


def _lift_clips(model, clips, flip, margins, skip):
    windows = torch.stack([clip for _, _, clip in clips])
    poses = _lift(model, centred(model, windows).to(next(model.parameters(), windows)), flip, margins)
    if getattr(model, "centred", False):
        known = [sequence.camera for sequence, _, _ in clips]
        poses = [x if camera is None else faced(x, clip, camera) for x, clip, camera in zip(poses, windows, known)]
    fresh = sum(sequence.add(start, clip, skip) for (sequence, start, _), clip in zip(clips, poses))
    clips.clear()
    return fresh


def margins_of(model):
    """Return the numbers of frames at the start and the end of a clip that get no poses: the model's `margins`, or (0, 0)."""
    return getattr(model, "margins", (0, 0))


def with_channels(keypoints, channels):
    """Convert keypoints (..., 2 or 3) to the channels that a model reads: drop confidences, or append confidences of 1."""
    if keypoints.shape[-1] == channels:
        return keypoints
    return F.pad(keypoints, (0, channels - keypoints.shape[-1]), value=1.0)


def centre(keypoints, root=0, seen=None):
    """Normalize keypoints (..., T, J, C) by position and size of the person: relative to the mean position of the root, in
    units of the body's size (the largest distance from the root in a frame, averaged over the clip). Confidences are kept.

    Args:
        seen: (..., T) bool, frames that show the position of the person. Others are excluded from the means, unless all are.
    """
    xy = keypoints[..., :2]
    own = xy[..., root : root + 1, :]
    size = torch.linalg.vector_norm(xy - own, dim=-1).amax(-1)
    if seen is None:
        size, place = size.mean(-1), own.mean(-3, keepdim=True)
    else:
        share = (seen | ~seen.any(-1, keepdim=True)).to(xy.dtype)
        share = share / share.sum(-1, keepdim=True)
        size, place = (size * share).sum(-1), (own * share[..., None, None]).sum(-3, keepdim=True)
    return torch.cat(((xy - place) / size.clamp(min=1e-6)[..., None, None, None], keypoints[..., 2:]), -1)


def centred(model, keypoints, seen=None):
    """Prepare clips (..., T, J, C) for `model`: `centre` them if it was trained on centred clips."""
    return centre(keypoints, seen=seen) if getattr(model, "centred", False) else keypoints


def window_starts(length, window, stride):
    """Return the first frames of windows over `length` frames: one every `stride` frames, and one that ends with the
    sequence."""
    last = max(0, length - window)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def overlap_average(windows, stride):
    """Average overlapping windows (W, T, ...), `stride` frames apart, to a sequence ((W - 1) * stride + T, ...), as DeciWatch
    and MixSynthFormer do."""
    if windows.dim() < 2 or 0 in windows.shape[:2] or not 1 <= stride <= windows.shape[1]:
        got = f"windows have shape {tuple(windows.shape)}, stride is {stride}"
        raise ValueError(f"overlap_average: {got}, expected (W, T, ...) and a stride of 1 to T")
    mean = _Overlap((len(windows) - 1) * stride + windows.shape[1], windows)
    for i, clip in enumerate(windows):
        mean.add(i * stride, clip)
    return mean.result()


class _Overlap:
    """Mean of overlapping windows over `length` frames, summed in at least float32. With `fade`, frames are weighted by a
    squared sine: 0 at the ends of a window, 1 in its middle."""

    def __init__(self, length, windows, fade=False):
        self.dtype, self.seen = windows.dtype, 0
        exact = torch.promote_types(windows.dtype, torch.float32)
        self.total = torch.zeros(length, *windows.shape[2:], dtype=exact, device=windows.device)
        self.count = torch.zeros(length, dtype=exact, device=windows.device)
        up = torch.arange(1, windows.shape[1] + 1, dtype=exact, device=windows.device) / (windows.shape[1] + 1)
        self.weights = torch.sin(torch.pi * up).square() if fade else torch.ones_like(up)

    def add(self, start, window, skip=False):
        """Add a window. `skip`: leave out frames that an earlier window has."""
        first = max(start, self.seen) if skip else start
        self.seen = start + len(window)
        weights = self.weights[first - start :]
        self.total[first : self.seen] += window[first - start :] * weights.view(-1, *[1] * (window.dim() - 1))
        self.count[first : self.seen] += weights

    def result(self):
        return (self.total / self.count.view(-1, *[1] * (self.total.dim() - 1))).to(self.dtype)


def _lift(model, keypoints, flip, margins):
    """Run one call, averaging with the mirrored input if requested."""
    poses = model(keypoints if flip is None else torch.cat((keypoints, mirror(keypoints, flip))))
    frames, joints = keypoints.shape[1] - sum(margins), keypoints.shape[2]
    expected = (len(keypoints) * (1 if flip is None else 2), frames, joints, 3)
    if poses.shape != expected:
        raise ValueError(f"lift_sequence: model gives shape {tuple(poses.shape)}, expected {expected}")
    if flip is None:
        return poses
    straight, mirrored = poses.chunk(2)
    return (straight + mirror(mirrored, flip)) / 2


def _check_options(model, window, stride, batch):
    if model.training:
        raise ValueError("lift_sequence: model is in training mode, expected model.eval()")
    for name, number, most in (("window", window, None), ("stride", stride, window), ("batch", batch, None)):
        if not isinstance(number, int) or number < 1 or (most is not None and number > most):
            expected = "a positive integer" if most is None else f"1 to window={most}"
            raise ValueError(f"lift_sequence: {name} is {number!r}, expected {expected}")
    if any(margins := margins_of(model)) and (window, stride) != (sum(margins) + 1, 1):
        got = f"window is {window} and stride {stride}"
        raise ValueError(f"lift_sequence: {got}, expected {sum(margins) + 1} and 1 for a model of one frame of a window")


def _checked(keypoints, flip):
    if isinstance(keypoints, np.ndarray):
        keypoints = torch.from_numpy(np.require(keypoints, requirements="W"))
    if not keypoints.is_floating_point():
        raise TypeError(f"lift_sequence: keypoints have dtype {keypoints.dtype}, expected a floating-point dtype")
    if keypoints.dim() != 3 or (flip is not None and keypoints.shape[1] != flip.num_joints):
        joints = "J" if flip is None else f"{flip.num_joints} as flip={flip.name}"
        raise ValueError(f"lift_sequence: keypoints have shape {tuple(keypoints.shape)}, expected (T, {joints}, C)")
    bad = (~keypoints.isfinite().flatten(1).all(1)).nonzero()
    if len(bad):
        raise ValueError(f"lift_sequence: keypoints are not finite in frame {bad[0].item()}")
    return keypoints
