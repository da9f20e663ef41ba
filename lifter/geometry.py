"""Poses in a mirror, in the image, and back: the geometry that training, lifting and diffusion share."""

import torch
from torch import Tensor

from lifter.skeleton import H36M, Skeleton


def mirror(poses: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Poses or keypoints (..., J, C) seen in a mirror: x is negated, left and right are swapped."""
    poses = poses[..., list(skeleton.flip), :]
    return torch.cat((-poses[..., :1], poses[..., 1:]), -1)


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Points in the camera (B, ..., 3) -> their places in the image (B, ..., 2), as Human3.6M's cameras form it.

    `camera`: (9,) or (B, 9), fx, fy, cx, cy, then radial k1, k2, k3 and tangential p1, p2 of the distortion. x / z and
    y / z beyond 1 are moved there, as in D3DP.
    """
    focal, center, radial, tangential = _parameters("project", camera, points)
    depth = points[..., 2:]
    plane = (points[..., :2] / torch.where(depth == 0, torch.finfo(depth.dtype).tiny, depth)).clamp(-1, 1)
    factor, shift = _distortion(plane, radial, tangential)
    return focal * (plane * factor + shift) + center


def recover_root(poses: Tensor, keypoints: Tensor, camera: Tensor, weights: Tensor | None = None) -> Tensor:
    """Recover the root by least squares: (B, ..., T, J, 3) poses relative to it, (B, T, J, 2) keypoints -> (B, ..., T, 3).

    With u the keypoint on the plane z = 1, free of distortion, every joint asks for x + root_x = u_x (z + root_z), and
    the same of y; of the three unknowns this is linear. Exact if pose and keypoints are. `weights`: (B, T, J), how much each
    joint counts; None: all the same.
    """
    check_poses("recover_root", poses, keypoints)
    weights = torch.ones_like(keypoints[..., 0]) if weights is None else weights
    share = beside(weights / weights.sum(-1, keepdim=True), poses.dim() - 1)[..., None]
    u = beside(_undistort(keypoints, camera), poses.dim())
    a = u * poses[..., 2:] - poses[..., :2]  # root_xy = a + u root_z, joint by joint
    mean_u, mean_a = ((share * x).sum(-2, keepdim=True) for x in (u, a))
    spread = (share * (u - mean_u).square()).sum((-2, -1)).clamp(min=torch.finfo(u.dtype).tiny)
    z = -(share * (u - mean_u) * (a - mean_a)).sum((-2, -1)) / spread
    xy = mean_a.squeeze(-2) + mean_u.squeeze(-2) * z[..., None]
    return torch.cat((xy, z[..., None]), -1)


def _undistort(keypoints, camera):
    """Places in the image (B, ..., 2) -> the plane z = 1: the fixed point of the distortion's inverse."""
    focal, center, radial, tangential = _parameters("recover_root", camera, keypoints)
    distorted = (keypoints - center) / focal
    plane = distorted
    for _ in range(20):  # each gains about a digit for the distortion of an ordinary lens
        factor, shift = _distortion(plane, radial, tangential)
        plane = ((distorted - shift) / factor).clamp(-1, 1)
    return plane


def _distortion(plane, radial, tangential):
    """The factor and shift by which the lens moves points of the plane z = 1."""
    r2 = plane.square().sum(-1, keepdim=True)
    factor = 1 + (radial * torch.cat((r2, r2**2, r2**3), -1)).sum(-1, keepdim=True)
    return factor + (tangential * plane).sum(-1, keepdim=True), tangential * r2


def _parameters(name, camera, like):
    """Focal lengths, centre, radial and tangential parameters, each of as many dimensions as `like`."""
    if camera.shape not in ((9,), (1, 9), (like.shape[0], 9)):
        raise ValueError(f"{name}: camera has shape {tuple(camera.shape)}, expected (9,) or ({like.shape[0]}, 9)")
    camera = beside(camera.to(like).expand(like.shape[0], 9), like.dim())
    return camera.split([2, 2, 3, 2], -1)


def beside(x, dims):
    """Give (B, ...) dimensions of size 1 after the first, to make it `dims`."""
    return x.reshape(x.shape[0], *[1] * (dims - x.dim()), *x.shape[1:])


def check_poses(name, poses, keypoints):
    B, T, J = poses.shape[0], *poses.shape[-3:-1]
    if poses.shape[-1] != 3:
        raise ValueError(f"{name}: poses have shape {tuple(poses.shape)}, expected (B, ..., T, J, 3)")
    if keypoints.shape != (B, T, J, 2):
        raise ValueError(f"{name}: keypoints have shape {tuple(keypoints.shape)}, expected {(B, T, J, 2)} as poses")
