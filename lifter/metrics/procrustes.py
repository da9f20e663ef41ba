"""Batched Procrustes alignment: rotate, scale and shift each predicted pose optimally towards its target.

The rotation is Horn's (JOSA 1987): the unit quaternion of the largest eigenvalue of a 4 x 4 matrix. It is computed in closed
form on whole batches in float64 (Theobald, Acta Cryst. A 2005), and by SVD where two eigenvalues nearly coincide.
"""

import torch
from torch import Tensor

CHUNK = 4096  # poses at a time: on a CPU what they need stays in the cache
GPU_CHUNK = 1 << 18
NEWTON_STEPS = 20  # at most; five for poses that resemble each other
CONVERGED = 1e-8  # a step of Newton's method, whose error is the square of that
SEPARATE = 1e-3  # the least product of the largest eigenvalue's three gaps, that eigenvalue being at most 1


@torch.no_grad()
def procrustes(predictions: Tensor, targets: Tensor) -> Tensor:
    """Align predictions (..., J, 3) to targets of the same shape. The result has the wider of both dtypes, at least float32.
    Reflections are not used. A prediction whose joints all coincide is moved to the target's mean.

        Raises:
            ValueError for wrong shapes and, naming the frame, for values that are not finite; TypeError for wrong dtypes.
    """
    return _by_chunk(predictions, targets, _aligned)


@torch.no_grad()
def procrustes_errors(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the distances (..., J) of the aligned predictions to the targets. Arguments and errors are those of
    `procrustes`."""
    return _by_chunk(predictions, targets, _distances)


def check_poses(name: str, predictions: Tensor, targets: Tensor):
    """Raise ValueError or TypeError, naming function and argument, unless both are poses (..., J, C)."""
    for argument, poses in (("predictions", predictions), ("targets", targets)):
        if not poses.is_floating_point():
            raise TypeError(f"{name}: {argument} have dtype {poses.dtype}, expected a floating-point dtype")
    if predictions.shape != targets.shape or predictions.dim() < 2 or 0 in predictions.shape[-2:]:
        got = f"predictions have shape {tuple(predictions.shape)}, targets {tuple(targets.shape)}"
        raise ValueError(f"{name}: {got}, expected the same (..., J, C)")


def check_finite(name: str, result: Tensor, predictions: Tensor, targets: Tensor):
    """Raise ValueError if `result` is not finite, naming the first frame where predictions or targets are not."""
    if result.isfinite().all():
        return
    for argument, poses in (("predictions", predictions), ("targets", targets)):
        bad = (~poses.isfinite().flatten(-2).all(-1)).nonzero()
        if len(bad):
            frame = ", ".join(map(str, bad[0].tolist()))
            raise ValueError(f"{name}: {argument} are not finite in frame {frame or 0}")
    raise ValueError(f"{name}: coordinates are too large, expected metres or millimetres")


def _by_chunk(predictions, targets, make):
    """`make(pose, target, turn, centre, work)` of all poses: planes (J, N) or (3, J, N), here as (..., J) or (..., J, 3)."""
    check_poses("procrustes", predictions, targets)
    if predictions.shape[-1] != 3:
        raise ValueError(f"procrustes: predictions have shape {tuple(predictions.shape)}, expected (..., J, 3)")
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    (J, C), lead = predictions.shape[-2:], predictions.shape[:-2]
    flat = [poses.reshape(-1, J, C) for poses in (predictions, targets)]
    coordinates = (C,) if make is _aligned else ()
    planes = torch.empty(*coordinates, J, len(flat[0]), dtype=dtype, device=predictions.device)
    size = max(1, min(CHUNK if predictions.device.type == "cpu" else GPU_CHUNK, len(flat[0])))
    buffers = torch.empty(3, 3, J, size, dtype=torch.float64, device=predictions.device)  # new ones for each cost much more
    for begin in range(0, len(flat[0]), size):
        centred = buffers[:2, ..., : len(flat[0]) - begin]
        (pose, target), work = centred, buffers[2, ..., : len(flat[0]) - begin]
        pose.copy_(flat[0][begin : begin + size].permute(2, 1, 0))
        target.copy_(flat[1][begin : begin + size].permute(2, 1, 0))
        centres = centred.mean(2, keepdim=True)
        centred -= centres
        covariance = torch.stack([torch.mul(plane, target, out=work).sum(1) for plane in pose])
        sizes = [torch.mul(x, x, out=work).sum((0, 1)) for x in (pose, target)]
        check_finite("procrustes", sizes[0] + sizes[1], predictions, targets)
        planes[..., begin : begin + size] = make(pose, target, _similarity(covariance, *sizes), centres[1], work)
    return planes.permute(*range(planes.dim())[::-1]).reshape(*lead, J, *coordinates)


def _aligned(pose, target, turn, centre, work):
    for out, row in zip(work, turn):
        torch.mul(row[0], pose[0], out=out).addcmul_(row[1], pose[1]).addcmul_(row[2], pose[2])
    return work.add_(centre)


def _distances(pose, target, turn, centre, work):
    offset, squares, _ = work
    squares.zero_()
    for row, aim in zip(turn, target):
        torch.addcmul(aim, row[0], pose[0], value=-1, out=offset)
        offset.addcmul_(row[1], pose[1], value=-1).addcmul_(row[2], pose[2], value=-1)
        squares.addcmul_(offset, offset)
    return squares.sqrt_()


def _similarity(covariance, pose_size, target_size):
    """Rotations times scales (3, 3, N) that bring centred poses to centred targets: by their covariances (3, 3, N) and sums
    of squares (N,)."""
    pose_norm, target_norm = (size.sqrt().where(size > 0, 1) for size in (pose_size, target_size))
    covariance = covariance / (pose_norm * target_norm)
    turn, fit, sure = _horn(covariance)
    if not sure.all():
        rest = (~sure).nonzero()[:, 0]
        turn[:, :, rest], fit[rest] = _kabsch(covariance[:, :, rest])
    return turn * (fit * target_norm / pose_norm)


def _horn(s):
    """Compute from covariances (3, 3, N), pose by target, of norm at most 1: rotations (3, 3, N), the traces (N,) of
    covariances that were so turned, and which of them are exact (N,)."""
    root, separate = _largest_root(s)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = s
    # Horn's matrix less its eigenvalue, symmetric; rows and columns are w, x, y, z of the quaternion
    same, other = xx + yy, xx - yy
    m00, m01, m02, m03 = same + zz - root, yz - zy, zx - xz, xy - yx
    m11, m12, m13 = other - zz - root, xy + yx, zx + xz
    m22, m23, m33 = -other - zz - root, yz + zy, zz - same - root
    # its adjugate, by the minors of the first two rows and of the last two
    s0, s1, s2 = _minor(m00, m01, m01, m11), _minor(m00, m02, m01, m12), _minor(m00, m03, m01, m13)
    s3, s4, s5 = _minor(m01, m02, m11, m12), _minor(m01, m03, m11, m13), _minor(m02, m03, m12, m13)
    c1, c2 = _minor(m02, m03, m22, m23), _minor(m02, m03, m23, m33)
    c3, c4, c5 = _minor(m12, m13, m22, m23), _minor(m12, m13, m23, m33), _minor(m22, m23, m23, m33)
    ww, wx = _minor(m11, m12, c4, c5).addcmul_(m13, c3), _minor(m02, m01, c5, c4).addcmul_(m03, c3, value=-1)
    wy, wz = _minor(m13, m23, s4, s5).addcmul_(m33, s3), _minor(m22, m12, s5, s4).addcmul_(m23, s3, value=-1)
    qxx, qxy = _minor(m00, m02, c2, c5).addcmul_(m03, c1), _minor(m23, m03, s5, s2).addcmul_(m33, s1, value=-1)
    qxz, qyy = _minor(m02, m22, s2, s5).addcmul_(m23, s1), _minor(m03, m13, s2, s4).addcmul_(m33, s0)
    qyz, qzz = _minor(m12, m02, s4, s2).addcmul_(m23, s0, value=-1), _minor(m02, m12, s1, s3).addcmul_(m22, s0)
    # which is the outer product of the quaternion with itself, times a number
    turn = torch.stack((ww + qxx, qxy - wz, qxz + wy, qxy + wz, ww + qyy, qyz - wx, qxz - wy, qyz + wx, ww + qzz))
    turn *= 2 / (turn[0] + qyy + qzz)
    turn[::4] -= 1
    return turn.view_as(s), root, separate


def _largest_root(s):
    """The largest eigenvalue (N,) of Horn's matrix, at most 1, and whether it is far from the others, by Newton's method from
    above on the characteristic polynomial."""
    rows = ((s[1], s[2]), (s[2], s[0]), (s[0], s[1]))
    cofactors = [_minor(a[i - 2], a[i - 1], b[i - 2], b[i - 1]) for a, b in rows for i in range(3)]
    determinant = cofactors[0] * s[0, 0] + cofactors[1] * s[0, 1] + cofactors[2] * s[0, 2]
    square = s.square().sum((0, 1))
    c2, c1 = -2 * square, -8 * determinant
    c0 = square.square_().sub_(torch.stack(cofactors).square_().sum(0), alpha=4)
    root = torch.ones_like(c0)
    for _ in range(NEWTON_STEPS):
        squared = root.square()
        quadratic = squared + c2
        cubic = torch.addcmul(c1, quadratic, root)
        slope = torch.addcmul(cubic, quadratic.add_(squared, alpha=2), root)
        step = torch.addcmul(c0, cubic, root) / slope
        root = root - step
        if step.abs().max() < CONVERGED:  # False for NaN
            break
    return root, (step.abs() < CONVERGED) & (slope > SEPARATE)


def _minor(a, b, c, d):
    return torch.addcmul(a * d, b, c, value=-1)


def _kabsch(covariance):
    """Compute what `_horn` gives by singular values, for any covariance."""
    u, s, vh = torch.linalg.svd(covariance.permute(2, 0, 1))
    sign = torch.linalg.det(u @ vh).sign()
    u = torch.cat((u[..., :2], u[..., 2:] * sign[:, None, None]), -1)
    return (u @ vh).permute(2, 1, 0), s[:, 0] + s[:, 1] + sign * s[:, 2]
