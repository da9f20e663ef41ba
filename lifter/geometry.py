"""Geometry shared by training, lifting and diffusion: mirroring, projection and its inverse."""

import torch
from torch import Tensor

from lifter.skeleton import H36M, Skeleton


def mirror(poses: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Mirror poses or keypoints (..., J, C): negate x and swap left and right joints."""
    poses = poses[..., list(skeleton.flip), :]
    return torch.cat((-poses[..., :1], poses[..., 1:]), -1)


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Project points in camera space (B, ..., 3) to the image (B, ..., 2), with Human3.6M's camera model.

    `camera`: (9,) or (B, 9): fx, fy, cx, cy, radial distortion k1, k2, k3, tangential distortion p1, p2. x / z and y / z are
    clamped to [-1, 1], as in D3DP.
    """
    focal, center, radial, tangential = _parameters("project", camera, points)
    depth = points[..., 2:]
    plane = (points[..., :2] / torch.where(depth == 0, torch.finfo(depth.dtype).tiny, depth)).clamp(-1, 1)
    factor, shift = _distortion(plane, radial, tangential)
    return focal * (plane * factor + shift) + center


def recover_root(poses: Tensor, keypoints: Tensor, camera: Tensor, weights: Tensor | None = None) -> Tensor:
    """Recover the root (B, ..., T, 3) by least squares from root-relative poses (B, ..., T, J, 3) and keypoints (B, T, J, 2).

    With u the undistorted keypoint on the plane z = 1, every joint gives the equations x + root_x = u_x (z + root_z) and the
    same for y, which are linear in the three unknowns. The result is exact if poses and keypoints are. `weights`: (B, T, J),
    weight of each joint; None: equal weights.
    """
    check_poses("recover_root", poses, keypoints)
    weights = torch.ones_like(keypoints[..., 0]) if weights is None else weights
    share = beside(weights / weights.sum(-1, keepdim=True), poses.dim() - 1)[..., None]
    u = beside(undistort(keypoints, camera), poses.dim())
    a = u * poses[..., 2:] - poses[..., :2]  # root_xy = a + u root_z for each joint
    mean_u, mean_a = ((share * x).sum(-2, keepdim=True) for x in (u, a))
    variance = (share * (u - mean_u).square()).sum((-2, -1)).clamp(min=torch.finfo(u.dtype).tiny)
    z = -(share * (u - mean_u) * (a - mean_a)).sum((-2, -1)) / variance
    xy = mean_a.squeeze(-2) + mean_u.squeeze(-2) * z[..., None]
    return torch.cat((xy, z[..., None]), -1)


def towards(directions: Tensor) -> Tensor:
    """Return rotations (..., 3, 3) that turn the optical axis, z, to directions (..., 3) in front of the camera."""
    x, y, z = (directions / directions.norm(dim=-1, keepdim=True)).unbind(-1)
    share = 1 / (1 + z)
    rows = (1 - x * x * share, -x * y * share, x), (-x * y * share, 1 - y * y * share, y), (-x, -y, z)
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def undistort(keypoints: Tensor, camera: Tensor) -> Tensor:
    """Map image points (B, ..., 2) to the plane z = 1 by a fixed-point iteration of the inverse distortion."""
    focal, center, radial, tangential = _parameters("recover_root", camera, keypoints)
    distorted = (keypoints - center) / focal
    plane = distorted
    for _ in range(20):  # each step gains about one digit for an ordinary lens
        factor, shift = _distortion(plane, radial, tangential)
        plane = ((distorted - shift) / factor).clamp(-1, 1)
    return plane


def _distortion(plane, radial, tangential):
    """Return the factor and shift by which the lens distorts points of the plane z = 1."""
    r2 = plane.square().sum(-1, keepdim=True)
    factor = 1 + (radial * torch.cat((r2, r2**2, r2**3), -1)).sum(-1, keepdim=True)
    return factor + (tangential * plane).sum(-1, keepdim=True), tangential * r2


def _parameters(name, camera, like):
    """Return focal lengths, centre, radial and tangential parameters, each with as many dimensions as `like`."""
    if camera.shape not in ((9,), (1, 9), (like.shape[0], 9)):
        raise ValueError(f"{name}: camera has shape {tuple(camera.shape)}, expected (9,) or ({like.shape[0]}, 9)")
    camera = beside(camera.to(like).expand(like.shape[0], 9), like.dim())
    return camera.split([2, 2, 3, 2], -1)


def beside(x, dims):
    """Insert dimensions of size 1 after the first, so that (B, ...) has `dims` dimensions."""
    return x.reshape(x.shape[0], *[1] * (dims - x.dim()), *x.shape[1:])


def check_poses(name, poses, keypoints):
    B, T, J = poses.shape[0], *poses.shape[-3:-1]
    if poses.shape[-1] != 3:
        raise ValueError(f"{name}: poses have shape {tuple(poses.shape)}, expected (B, ..., T, J, 3)")
    if keypoints.shape != (B, T, J, 2):
        raise ValueError(f"{name}: keypoints have shape {tuple(keypoints.shape)}, expected {(B, T, J, 2)} as poses")
