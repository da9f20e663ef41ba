"""Cameras anywhere around a clip."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .checks import check_numbers, check_ranges

NEAREST = 0.3  # metres before the camera: what is nearer is moved there
IMAGES = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)  # width by height


class Shots(NamedTuple):
    """Cameras of a batch, for each frame: x right, y down, z forward."""

    rotation: torch.Tensor  # (B, T, 3, 3)
    position: torch.Tensor  # (B, T, 3) metres in the world
    half_width: torch.Tensor  # (B,) of the image on the plane z = 1
    height: torch.Tensor  # (B,) of the image by its width
    distortion: torch.Tensor  # (B, 2) radial k1, k2

    def to_camera(self, world):
        """(B, T, P, 3) in the world -> in the cameras."""
        return torch.einsum("btij,btpj->btpi", self.rotation, world - self.position[:, :, None])

    def project(self, points):
        """(B, T, P, 3) in the cameras -> normalised keypoints (B, T, P, 2)."""
        plane = points[..., :2] / points[..., 2:].clamp(min=NEAREST)
        r2 = plane.square().sum(-1, keepdim=True).clamp(max=2)
        k1, k2 = (self.distortion[:, i].view(-1, 1, 1, 1) for i in (0, 1))
        return plane * (1 + k1 * r2 + k2 * r2.square()) / self.half_width.view(-1, 1, 1, 1)

    def inside(self, keypoints):
        """(B, T, P) bool: which keypoints are in the image."""
        x, y = keypoints[..., 0].abs(), keypoints[..., 1].abs()
        return (x <= 1) & (y <= self.height.view(-1, 1, 1))


@dataclass(frozen=True)
class Cameras:
    """Ranges of the positions, directions and lenses of cameras that clips are drawn from. Angles are in degrees.

    Args:
        height: metres above the floor. distance: metres from the middle of the clip.
        elevation: of the camera, seen from the person. pitch: the most that it looks up (negative) and down.
        roll: spread and the most. fov: of view, along the width of the image.
        distortion: spread of the first radial coefficient.
        following: share of the cameras that turn after the person; `moving`: of those that go along; `shaking`: of those held
            in hands.
    """

    height: tuple[float, float] = (0.3, 4.3)
    distance: tuple[float, float] = (1.5, 12.0)
    elevation: tuple[float, float] = (-25.0, 42.0)
    pitch: tuple[float, float] = (-30.0, 42.0)
    roll: tuple[float, float] = (12.0, 35.0)
    fov: tuple[float, float] = (35.0, 100.0)
    distortion: float = 0.04
    following: float = 0.15
    moving: float = 0.1
    shaking: float = 0.15

    def __post_init__(self):
        check_ranges("Cameras", 0.1, height=self.height, distance=self.distance)
        check_ranges("Cameras", -89, 89, elevation=self.elevation, pitch=self.pitch)
        check_ranges("Cameras", 0, 180, roll=self.roll)
        check_ranges("Cameras", 1, 170, fov=self.fov)
        check_numbers("Cameras", 0, 1, distortion=self.distortion, following=self.following, moving=self.moving)
        check_numbers("Cameras", 0, 1, shaking=self.shaking)

    def __call__(self, draw, world) -> Shots:
        """Cameras for clips (B, T, 17, 3) in the world. A person that fits into the image is in it, but not in its middle."""
        T = world.shape[1]
        root = world[:, :, 0]
        middle = world.mean((1, 2))
        floor = world[..., 2].flatten(1).amin(1) - 0.05
        goes = (root - middle[:, None])[..., :2].norm(dim=-1).amax(1)
        along = draw.chance(self.moving)
        distance = self.distance[0] + (self.distance[1] - self.distance[0]) * draw.share().square()
        distance = torch.where(along, distance, distance.maximum(goes + self.distance[0]))

        yaw, elevation = draw.uniform(-torch.pi, torch.pi), draw.uniform(*self.elevation).deg2rad()
        up = (middle[:, 2] + distance * elevation.sin()).maximum(floor + self.height[0]).minimum(floor + self.height[1])
        flat = (distance.square() - (up - middle[:, 2]).square()).clamp(min=0.25).sqrt()
        position = torch.stack((middle[:, 0] - flat * yaw.cos(), middle[:, 1] - flat * yaw.sin(), up), -1)
        position = position[:, None] + along[:, None, None] * (root - root.mean(1, keepdim=True))

        target = middle[:, None] + (draw.chance(self.following) | along)[:, None, None] * _smooth(root - middle[:, None])
        ahead = target - position
        half_width = (draw.uniform(*self.fov).deg2rad() / 2).tan()
        height = 1 / torch.tensor(IMAGES)[(draw.share() * len(IMAGES)).long()]
        away = draw.share(2) + draw.share(2) - 1  # of the way to the edge
        aside = away[:, 0] * (half_width.atan() - (0.6 / distance).atan()).clamp(min=0)
        above = away[:, 1] * ((half_width * height).atan() - (1.0 / distance).atan()).clamp(min=0)
        shaken = draw.chance(self.shaking).view(-1, 1, 1) * 0.02 * draw.slow(T, 8, 3)
        heading = torch.atan2(ahead[..., 1], ahead[..., 0]) + aside[:, None] + shaken[..., 0]
        pitch = torch.atan2(-ahead[..., 2], ahead[..., :2].norm(dim=-1)) + above[:, None]
        pitch = pitch.rad2deg().clamp(*self.pitch).deg2rad() + shaken[..., 1]
        roll = (self.roll[0] * draw.normal()).clamp(-self.roll[1], self.roll[1]).deg2rad()[:, None] + shaken[..., 2]
        k1 = self.distortion * draw.normal().clamp(-2, 2)
        return Shots(_rotation(heading, pitch, roll), position, half_width, height, torch.stack((k1, -k1 / 4), -1))


def _smooth(path, over=9):
    """(B, T, 3) as somebody follows it who holds a camera: the mean of so many frames."""
    padded = torch.cat((path[:, :1].expand(-1, over // 2, -1), path, path[:, -1:].expand(-1, over // 2, -1)), 1)
    return padded.unfold(1, over, 1).mean(-1)


def _rotation(yaw, pitch, roll):
    """(..., 3, 3): of cameras that look along `yaw` and down by `pitch`, turned about where they look by `roll`."""
    (sy, cy), (sp, cp), (sr, cr) = ((angle.sin(), angle.cos()) for angle in (yaw, pitch, roll))
    zero = torch.zeros_like(yaw)
    forward = torch.stack((cp * cy, cp * sy, -sp), -1)
    right = torch.stack((sy, -cy, zero), -1)
    down = torch.linalg.cross(forward, right)
    sr, cr = sr[..., None], cr[..., None]
    return torch.stack((cr * right + sr * down, cr * down - sr * right, forward), -2)
