"""Scene to draw: the poses of several models and the truth, upright in one room."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from lifter._notices import notice
from lifter.data.cameras import Camera
from lifter.metrics import mpjpe
from lifter.metrics.protocols import align_root
from lifter.skeleton import Skeleton
from lifter.video import Video

PLACELESS = 0.3  # metres: poses whose root is mostly nearer than that to the origin are relative to it
FLOOR = 0.3  # metres: the ground of a room (z = 0) is the floor if the lowest joint is that near to it
FPS = 30.0  # where no file tells
SIDES = ("middle", "left", "right")  # of bones
# Blue and orange stay apart with every kind of colour blindness, and by their lightness from the grey.
LIMBS = dict(zip(SIDES, ("#3c434d", "#1668b0", "#e0660a")))
TRUTH = "#a9afb9"


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip of T frames. Poses are (T, J, 3) float32 in metres: x right, y forward, z up, the floor at z = 0."""

    name: str
    skeleton: Skeleton
    fps: float
    start: int  # the number of the first frame in its source
    models: dict[str, np.ndarray]
    truth: np.ndarray | None
    errors: dict[str, np.ndarray]  # (T,) millimetres by model, NaN where the truth does not count; empty without truth
    keypoints: np.ndarray | None  # (T, J, 3) normalised, with confidences
    camera: Camera | None = None  # that filmed it, in the room
    video: Video | None = None  # of which the clip is, its frames numbered as `start` is

    def __len__(self):
        return len(next(iter(self.models.values())))

    @property
    def sides(self) -> list[int]:
        """Return the index in SIDES of every bone."""
        left, right = self.skeleton.left, self.skeleton.right
        return [1 if joint in left else 2 if joint in right else 0 for joint, _ in self.skeleton.bones]

    @property
    def bodies(self) -> list[slice]:
        """The joints of each person."""
        size = self.skeleton.num_joints // self.skeleton.parents.count(-1)
        return [slice(first, first + size) for first in range(0, self.skeleton.num_joints, size)]

    @property
    def points(self) -> np.ndarray:
        """(n, 3): all joints of all frames."""
        shown = [*self.models.values()] + ([] if self.truth is None else [self.truth])
        return np.concatenate([poses.reshape(-1, 3) for poses in shown])

    @property
    def seen(self) -> np.ndarray:
        """(n, 3): all joints of all frames, and the corners of the floor."""
        (x0, y0), (x1, y1), _ = self.floor
        return np.concatenate((self.points, np.array([[x, y, 0] for x in (x0, x1) for y in (y0, y1)], np.float32)))

    @property
    def floor(self):
        """((x, y), (x, y), step): opposite corners of the floor below all poses, whole squares of `step` metres."""
        ground = self.points[:, :2]
        low, high = ground.min(0), ground.max(0)
        step = 0.5 * 2 ** max(0, math.ceil(math.log2(max(high - low) / 8 + 1e-9)))
        return tuple(np.floor(low / step - 0.5) * step), tuple(np.ceil(high / step + 0.5) * step), step


def compose(sequences, truth=None, keypoints=None, fps=None, root_relative=False, video=None) -> Scene:
    """A scene of sequences with poses {model: Sequence}; see `lifter.render.render` for the arguments.

    Poses without a place (relative to their root) stand where the truth is, else where the first model with a place is. Which
    way is up is found out: of the axes that may be vertical, the one nearest to the bodies' mean direction from the ankles to
    the thorax.
    """
    if not sequences:
        raise ValueError("render: no sequences")
    given = ([("the truth", truth)] if truth is not None else []) + list(sequences.items())
    for name, sequence in given:
        if sequence.poses is None:
            raise ValueError(f"{sequence.source or name}: {sequence.name} has no poses")
    if keypoints is None:
        keypoints = next((sequence for _, sequence in given if sequence.keypoints is not None), None)
    elif keypoints.keypoints is None:
        raise ValueError(f"{keypoints.source or 'the keypoints'}: {keypoints.name} has no keypoints")
    _check_alike(given + ([("the keypoints", keypoints)] if keypoints is not None else []))

    first = given[0][1]
    leader = next((sequence for _, sequence in given if sequence.camera is not None), first)
    root = first.skeleton.parents.index(-1)
    poses = [sequence.rooted() if root_relative else sequence.poses for _, sequence in given]
    poses = [each @ upright(leader).T for each in _placed(poses, root)]
    lowest = min(each[..., 2].min() for each in (poses if truth is None else poses[:1]))
    in_room = not root_relative and _has_place(leader.poses, root)
    floor = _ground(leader, lowest) if in_room else lowest
    poses = [(each - [0, 0, floor]).astype(np.float32) for each in poses]
    fps = fps or next((sequence.fps for _, sequence in given if sequence.fps), None)
    if fps is None:
        notice(f"{first.source or first.name}: {first.name}: the frames per second are not known: shown as {FPS:g}")
    return Scene(
        name=first.name,
        skeleton=first.skeleton,
        fps=fps or FPS,
        start=first.start,
        models=dict(zip(sequences, poses[-len(sequences) :])),
        truth=None if truth is None else poses[0],
        errors={} if truth is None else {name: _errors(each, truth, root) for name, each in sequences.items()},
        keypoints=None if keypoints is None else _with_confidences(keypoints.keypoints),
        camera=_camera(leader, floor) if in_room and leader.camera is not None else None,
        video=video,
    )


def _ground(leader, lowest):
    """The height of the floor in upright axes: the ground of the room that the sequence tells, if the lowest joint is near it,
    else the lowest joint."""
    up = upright(leader)[2]
    if leader.camera is not None:
        ground = up @ leader.camera.translation if np.allclose(up, leader.camera.rotation[:, 2]) else lowest
    else:
        ground = 0.0 if up.max() > 0.5 else lowest  # the camera's own axes, y down, know no ground
    return ground if abs(ground - lowest) < FLOOR else lowest


def _camera(leader, floor):
    """The camera of a sequence whose poses have a place in its axes, in the room."""
    turn = upright(leader).T
    return replace(leader.camera, rotation=turn, translation=turn @ (0, 0, floor))


def _check_alike(given):
    (first_name, first), *others = given
    for name, sequence in others:
        if len(sequence) != len(first):
            raise ValueError(f"render: {name} has {len(sequence)} frames, expected {len(first)} as {first_name}")
        if sequence.skeleton != first.skeleton:
            got = f"{name} has the joints of {sequence.skeleton.name}"
            raise ValueError(f"render: {got}, expected those of {first.skeleton.name} as {first_name}")


def _placed(poses, root):
    """Poses without a place are moved to that of the first that have one."""
    roots = [each[:, root, None] for each in poses]
    has_place = [_has_place(each, root) for each in poses]
    if not any(has_place):
        return poses
    place = roots[has_place.index(True)]
    return [each if placed else each - own + place for each, own, placed in zip(poses, roots, has_place)]


def _has_place(poses, root):
    return np.median(np.linalg.norm(poses[:, root], axis=-1)) > PLACELESS


def upright(sequence) -> np.ndarray:
    """(3, 3) from the axes of a sequence's poses to x right, y forward, z up."""
    joints = sequence.skeleton.joints
    ankles = [joints.index("left_ankle"), joints.index("right_ankle")]
    body = (sequence.poses[:, joints.index("thorax")] - sequence.poses[:, ankles].mean(1)).mean(0)
    camera = np.array([0.0, -1.0, 0.0])
    if sequence.camera is not None:
        candidates = (camera, sequence.camera.rotation[:, 2])
    else:
        candidates = (camera, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    up = max(candidates, key=lambda axis: axis @ body)
    forward = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    forward = forward - (forward @ up) * up
    forward /= np.linalg.norm(forward)
    return np.stack((np.cross(forward, up), forward, up))


def _errors(sequence, truth, root):
    poses = (torch.tensor(each.poses, dtype=torch.float64) for each in (sequence, truth))
    errors = mpjpe(*align_root(*poses, "shifted", root), reduction="frame").numpy() * 1000
    return errors if truth.valid is None else np.where(truth.valid, errors, np.nan)


def _with_confidences(keypoints):
    return np.concatenate((keypoints, np.ones_like(keypoints[..., :1])), -1)[..., :3]


def grid(low, high, step):
    """The lines (n, 2, 3) of a floor."""
    (x0, y0), (x1, y1) = low, high
    along = [[(x, y0, 0), (x, y1, 0)] for x in np.arange(x0, x1 + step / 2, step)]
    return np.array(along + [[(x0, y, 0), (x1, y, 0)] for y in np.arange(y0, y1 + step / 2, step)])


class View:
    """A camera that stands still, (..., 3) in the room -> (..., 2) in pixels, so that all of `points` (n, 3) is in `box`
    (left, top, width, height). The HTML viewer begins with the same view."""

    YAW, PITCH, DISTANCE = 25.0, 12.0, 3.0  # degrees; in radii of what is seen

    def __init__(self, points, box):
        yaw, pitch = np.radians((self.YAW, self.PITCH))
        right = np.array([np.cos(yaw), -np.sin(yaw), 0])
        forward = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
        self.turn = np.stack((right, -np.cross(right, forward), forward)).astype(np.float32)
        self.centre = ((points.min(0) + points.max(0)) / 2).astype(np.float32)
        self.distance = self.DISTANCE * max(0.5, np.linalg.norm(points - self.centre, axis=1).max())
        self.fit = Fit(self._plane(points)[0], box)

    def _plane(self, points):
        seen = (points - self.centre) @ self.turn.T
        depth = seen[..., 2:] + self.distance
        return seen[..., :2] * self.distance / depth, depth[..., 0]

    def __call__(self, points):
        """Pixels (..., 2) and depths (...) of points; nothing may be behind the camera."""
        plane, depth = self._plane(points)
        return self.fit(plane), depth


class Fit:
    """Scales and moves `points` (n, 2), x right and y down, into the middle of `box`, the same in x and y."""

    def __init__(self, points, box):
        left, top, width, height = box
        low, high = points.min(0), points.max(0)
        self.scale = min(np.array([width, height]) / np.maximum(high - low, 0.1))
        self.offset = np.array([left + width / 2, top + height / 2]) - (low + high) / 2 * self.scale

    def __call__(self, points):
        return points * self.scale + self.offset
