"""Cameras: transformation from world to camera, projection to the image, and normalisation of pixels."""

import math
from dataclasses import dataclass, field, replace

import numpy as np


def normalise(pixels: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Normalise pixels (..., 2 or more) in an image of `size` (width, height) to x / w * 2 - 1, y / w * 2 - h / w. Further
    channels are kept."""
    width, height = size
    pixels = _real(pixels)
    scale = np.array([2 / width, 2 / width], pixels.dtype)
    xy = pixels[..., :2] * scale - np.array([1, height / width], pixels.dtype)
    return np.concatenate((xy, pixels[..., 2:]), -1)


def denormalise(keypoints: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Convert normalised keypoints to pixels, the inverse of `normalise`."""
    width, height = size
    keypoints = _real(keypoints)
    xy = (keypoints[..., :2] + np.array([1, height / width], keypoints.dtype)) * np.array(width / 2, keypoints.dtype)
    return np.concatenate((xy, keypoints[..., 2:]), -1)


def _real(numbers):
    """Convert integers to floating point."""
    return numbers if numbers.dtype.kind == "f" else numbers.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera with axes x right, y down, z forward: x_camera = rotation @ x_world + translation in metres. Other values are
    in pixels.

    `distortion`: k1, k2, k3 radial, then two tangential, along x and along y, as `lifter.diffusion.project` has them.
    """

    width: float
    height: float
    fx: float
    fy: float
    cx: float
    cy: float
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))  # (3, 3)
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,)
    distortion: tuple[float, ...] = (0.0,) * 5
    id: str = ""

    def __post_init__(self):
        for name, shape in (("rotation", (3, 3)), ("translation", (3,)), ("distortion", (5,))):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"camera {self.id}: {name} has shape {value.shape}, expected finite numbers {shape}")
            object.__setattr__(self, name, value)
        sizes = (self.width, self.height, self.fx, self.fy)
        if not (np.isfinite((*sizes, self.cx, self.cy)).all() and min(sizes) > 0):
            raise ValueError(f"camera {self.id}: width, height, fx, fy are {sizes}, expected positive numbers")
        if not np.allclose(self.rotation @ self.rotation.T, np.eye(3), atol=1e-4):
            raise ValueError(f"camera {self.id}: rotation is no rotation matrix")

    @property
    def size(self):
        return self.width, self.height

    @property
    def position(self):
        return -self.rotation.T @ self.translation

    @property
    def normalised(self) -> np.ndarray:
        """Parameters (9,) for `lifter.diffusion.project`: focal lengths, centre and distortion for normalised keypoints."""
        focal = (self.fx / self.width * 2, self.fy / self.width * 2)
        return np.array([*focal, *normalise(np.array([self.cx, self.cy]), self.size), *self.distortion])

    def to_camera(self, world: np.ndarray) -> np.ndarray:
        """Transform points (..., 3) from world to camera."""
        return world @ self.rotation.T + self.translation

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3) from camera to world."""
        return (points - self.translation) @ self.rotation

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points (..., 3) in front of the camera to pixels (..., 2)."""
        depth = points[..., 2:]
        if not (depth > 0).all():
            raise ValueError(f"camera {self.id}: a point has depth {depth.min():.3g} m, expected points before the camera")
        plane = points[..., :2] / depth
        k, p = self.distortion[:3], self.distortion[3:]
        r2 = np.square(plane).sum(-1, keepdims=True)
        factor = 1 + k[0] * r2 + k[1] * r2**2 + k[2] * r2**3 + (plane * p).sum(-1, keepdims=True)
        return (plane * factor + p * r2) * (self.fx, self.fy) + (self.cx, self.cy)

    def as_dict(self):
        """Return plain lists and numbers, as `Camera.of_dict` reads them."""
        return {
            "id": self.id, "width": self.width, "height": self.height, "fx": self.fx, "fy": self.fy, "cx": self.cx,
            "cy": self.cy, "R": self.rotation.tolist(), "t": self.translation.tolist(),
            "distortion": [float(k) for k in self.distortion],
        }  # fmt: skip

    @classmethod
    def of_dict(cls, values, where):
        """Make a camera of a dict as in cmu_cameras.json: id, width, height, fx, fy, cx, cy, R, t, and perhaps distortion."""
        try:
            plain = {name: float(values[name]) for name in ("width", "height", "fx", "fy", "cx", "cy")}
            pose = {"rotation": values["R"], "translation": values["t"], "distortion": values.get("distortion", (0.0,) * 5)}
            return cls(**plain, **pose, id=str(values.get("id", "")))
        except KeyError as error:
            raise KeyError(f"{where}: a camera without {error.args[0]}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where}: not a camera ({error})") from None


def look_at(position, target, size=(1000, 1002), focal=1145.0, id=""):
    """Make an upright camera at `position` that looks at `target`, in a world whose z axis points up."""
    forward = np.asarray(target, np.float64) - position
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if not np.linalg.norm(right) > 1e-9 * np.linalg.norm(forward):
        raise ValueError(f"look_at: the camera at {position} is straight above or below {target}, or in it")
    rotation = np.stack([axis / np.linalg.norm(axis) for axis in (right, np.cross(forward, right), forward)])
    width, height = size
    center = {"cx": width / 2, "cy": height / 2}
    return Camera(width, height, focal, focal, **center, rotation=rotation, translation=-rotation @ position, id=id)


def around(
    world, yaws=(44.0, 136.5, 223.0, 317.0), distances=(5.0, 5.4, 4.7, 5.2), heights=(1.52, 1.58, 1.46, 1.6), pitch=None,
    roll=0.0,
):  # fmt: skip
    """Virtual cameras around a motion, as in ../shared/data: one for each yaw (degrees), at these distances and heights
    (metres), all of which look at the mean joint position of `world` (T, J, 3). With `pitch` (degrees) they are not at these
    heights but look down by so much; `roll` turns them about where they look."""
    middle = world.reshape(-1, 3).mean(0, dtype=np.float64)
    sin, cos = math.sin(math.radians(roll)), math.cos(math.radians(roll))
    rolled = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    cameras = []
    for number, (yaw, distance, height) in enumerate(zip(yaws, distances, heights, strict=True)):
        turn = math.radians(yaw)
        height = height if pitch is None else middle[2] + distance * math.tan(math.radians(pitch))
        position = np.array([middle[0] + distance * math.cos(turn), middle[1] + distance * math.sin(turn), height])
        camera = look_at(position, middle, id=str(number))
        if roll:
            camera = replace(camera, rotation=rolled @ camera.rotation, translation=rolled @ camera.translation)
        cameras.append(camera)
    return cameras


def image_poses(points, camera):
    """2.5D, MotionBERT's target: poses (T, J, 3) in the camera -> ((T, J, 3), (T,)).

    The first is x and y of the keypoints, normalised, and the depth from the root in the same unit at the root's depth; the
    second is how many metres that unit is there.
    """
    metres = points[:, 0, 2] / camera.fx * camera.width / 2
    depth = (points[..., 2] - points[:, :1, 2]) / metres[:, None]
    xy = normalise(camera.project(points), camera.size)
    return np.concatenate((xy, depth[..., None]), -1), metres
