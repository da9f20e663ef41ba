"""Sequence of frames of one person, which every reader returns, and data sets of sequences, read one at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from lifter._io import StrPath
from lifter.skeleton import H36M, Skeleton

from .cameras import Camera, denormalise

FARTHEST = 100.0  # image widths or metres; larger coordinates indicate a wrong unit or a damaged file

_SHAPES = {"keypoints": (2, 3), "keypoints_true": (2, 3), "poses": (3,), "estimates": (3,), "image_poses": (3,)}
FRAMEWISE = (*_SHAPES, "factor", "valid")


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frames of one person. Arrays are float32; unknown fields are None.

    Attributes:
        name: unique in its set, "S9/Walking 1/54138969": subject/action/camera where there are such.
        skeleton: the joints J of all arrays.
        keypoints: (T, J, 2) normalised (`lifter.data.normalise`), or (T, J, 3) with confidences as the detector gives them.
        keypoints_true: the exact keypoints, where `keypoints` are those of a detector.
        poses: (T, J, 3) metres, in the axes of the camera if there is one, else as the file has them.
        estimates: (T, J, 3) poses of an estimator, to be refined.
        image_poses, factor: MotionBERT's 2.5D target (`lifter.data.cameras.image_poses`), (T, J, 3) and (T,).
        valid: (T,) bool, which frames count in an evaluation; None: all.
        up: the axis of `poses` that points upwards, "z", "y" or "-y", where neither a camera nor keypoints tell that they
            are in a camera's axes, y down.
        size: (width, height) of the image in pixels.
        start: the number of the first frame in its source.
        source: the file, for messages.

    Raises:
        ValueError for wrong shapes, for values that are not finite or absurdly large; it names source, frame and joint.
    """

    name: str
    skeleton: Skeleton = H36M
    keypoints: np.ndarray | None = None
    keypoints_true: np.ndarray | None = None
    poses: np.ndarray | None = None
    estimates: np.ndarray | None = None
    image_poses: np.ndarray | None = None
    factor: np.ndarray | None = None
    valid: np.ndarray | None = None
    fps: float | None = None
    camera: Camera | None = None
    size: tuple[float, float] | None = None
    subject: str = ""
    action: str = ""
    start: int = 0
    up: str = "z"
    source: str = ""

    def __post_init__(self):
        where = f"{self.source}: {self.name}" if self.source else self.name
        if self.size is None and self.camera is not None:
            object.__setattr__(self, "size", self.camera.size)
        if self.size is not None and not (len(self.size) == 2 and min(self.size) > 0 and np.isfinite(self.size).all()):
            raise ValueError(f"{where}: image size {self.size}, expected (width, height)")
        if self.fps is not None and not 0 < self.fps < 1e5:
            raise ValueError(f"{where}: {self.fps} frames per second, expected a positive number")
        if self.up not in ("z", "y", "-y"):
            raise ValueError(f"{where}: up is {self.up!r}, expected z, y or -y")
        given = {name: getattr(self, name) for name in FRAMEWISE if getattr(self, name) is not None}
        if not given:
            raise ValueError(f"{where}: neither keypoints nor poses")
        frames = len(next(iter(given.values())))
        for name, value in given.items():
            if name in _SHAPES:
                value = _checked(value, frames, self.skeleton, _SHAPES[name], f"{where}: {name}")
            elif np.shape(value) != (frames,):
                raise ValueError(f"{where}: {name} has shape {np.shape(value)}, expected ({frames},)")
            else:
                value = np.asarray(value, bool if name == "valid" else np.float32)
            object.__setattr__(self, name, value)

    def __len__(self):
        return next(len(getattr(self, name)) for name in FRAMEWISE if getattr(self, name) is not None)

    def take(self, frames: slice | np.ndarray) -> "Sequence":
        """Return the sequence of these frames, given as a slice or an array of frame numbers."""
        arrays = {name: getattr(self, name)[frames] for name in FRAMEWISE if getattr(self, name) is not None}
        first = np.arange(len(self))[frames][:1]
        return replace(self, **arrays, start=self.start + int(first[0]) if len(first) else self.start)

    def to(self, skeleton: Skeleton) -> "Sequence":
        """Return the sequence with the joints of another skeleton, matched by name."""
        missing = [joint for joint in skeleton.joints if joint not in self.skeleton.joints]
        if missing:
            raise ValueError(f"{self.name}: {self.skeleton.name} has no {', '.join(missing)}, which {skeleton.name} needs")
        order = [self.skeleton.joints.index(joint) for joint in skeleton.joints]
        arrays = {name: getattr(self, name)[:, order] for name in _SHAPES if getattr(self, name) is not None}
        return replace(self, **arrays, skeleton=skeleton)

    def pixels(self):
        """Return the keypoints (T, J, 2 or 3) in pixels."""
        if self.keypoints is None or self.size is None:
            raise ValueError(f"{self.name}: no {'keypoints' if self.keypoints is None else 'image size'}, so no pixels")
        return denormalise(self.keypoints, self.size)

    def rooted(self):
        """Return the poses relative to the skeleton's root."""
        if self.poses is None:
            raise ValueError(f"{self.name}: no poses")
        root = self.skeleton.parents.index(-1)
        return self.poses - self.poses[:, root : root + 1]


def _checked(value, frames, skeleton, channels, where):
    value = np.asarray(value)
    expected = f"({frames}, {skeleton.num_joints}, {' or '.join(map(str, channels))})"
    wrong_kind = value.dtype.kind not in "fiu"
    if wrong_kind or value.ndim != 3 or value.shape[:2] != (frames, skeleton.num_joints) or value.shape[2] not in channels:
        raise ValueError(f"{where} has shape {value.shape} of {value.dtype}, expected numbers {expected}")
    if frames == 0:
        raise ValueError(f"{where} has no frames")
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(value) <= FARTHEST)
    if bad.any():
        frame, joint, _ = np.argwhere(bad)[0]
        got = value[frame, joint].tolist()
        expected = f"finite numbers of at most {FARTHEST:g} (metres, or image widths)"
        raise ValueError(f"{where}: frame {frame}, joint {joint} ({skeleton.joints[joint]}) is {got}, expected {expected}")
    return value.astype(np.float32, copy=False)


class Dataset:
    """Sequences by name, which are read on demand: iterating keeps one in memory at a time.

    `items` maps names to functions that read. Data sets that are a single pickled object (VideoPose3D's npz, MotionBERT's
    pickle) are in memory from the start; `lifter data convert` converts them to a format that is not.
    """

    def __init__(self, format: str, path: StrPath, items: dict[str, Callable[[], Sequence]]):
        self.format, self.path, self.items = format, str(path), items
        if not items:
            raise ValueError(f"{path}: {format} without any sequence")

    @property
    def names(self) -> list[str]:
        return list(self.items)

    def __len__(self):
        return len(self.items)

    def __iter__(self) -> Iterator[Sequence]:
        return (read() for read in self.items.values())

    def __getitem__(self, name: str) -> Sequence:
        if name not in self.items:
            raise KeyError(f"{self.path}: no sequence {name!r}, it has {', '.join(self.names[:20])}")
        return self.items[name]()

    def select(self, *patterns: str) -> "Dataset":
        """Select the sequences whose names match any of these patterns, such as "S9/*" or "*/Walking*/*". Brackets are either
        a set of characters, as in "S[19]/*", or literal, as in "clip [1]/*"."""
        wanted = [*patterns, *(pattern.replace("[", "[[]") for pattern in patterns)]
        items = {name: read for name, read in self.items.items() if any(fnmatchcase(name, p) for p in wanted)}
        if not items:
            raise KeyError(f"{self.path}: no sequence matches {' or '.join(patterns)}, it has {', '.join(self.names[:20])}")
        return Dataset(self.format, self.path, items)


class Window(NamedTuple):
    """Part of a sequence. The frames `fresh` are new: neither in the previous window nor padding."""

    sequence: Sequence
    fresh: slice


def windows(sequence: Sequence, length: int, stride: int | None = None) -> Iterator[Window]:
    """Yield windows of `length` frames, one every `stride` (default: `length`), that together cover every frame.

    The last window ends with the sequence, so its first frames may also be in the previous window; `fresh` covers every frame
    exactly once over all windows. A sequence shorter than a window is padded with its last frame.
    """
    stride = length if stride is None else stride
    if not 0 < stride <= length:
        raise ValueError(f"windows: length {length} and stride {stride}, expected 1 <= stride <= length")
    frames, done = len(sequence), 0
    for start in range(0, max(frames - length, 0) + stride, stride):
        start = min(start, max(frames - length, 0))
        stop = min(start + length, frames)
        numbers = np.minimum(np.arange(start, start + length), frames - 1)
        window = sequence.take(slice(start, stop) if stop == start + length else numbers)
        yield Window(window, slice(done - start, stop - start))
        done = stop
        if stop == frames:
            return
