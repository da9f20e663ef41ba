"""P-MPJPE as the NumPy code of the papers computes it, written from its description, to measure ours against."""

import numpy as np


def p_mpjpe(predictions, targets):
    """(N, J, 3), twice -> (N,): both centred and of norm 1, the SVD of target by prediction, its last singular vector and
    value with the sign that makes a rotation."""
    mean, other_mean = targets.mean(1, keepdims=True), predictions.mean(1, keepdims=True)
    target, pose = targets - mean, predictions - other_mean
    norm, other_norm = (np.sqrt((x**2).sum((1, 2), keepdims=True)) for x in (target, pose))
    target, pose = target / norm, pose / other_norm
    u, s, vh = np.linalg.svd(target.transpose(0, 2, 1) @ pose)
    v = vh.transpose(0, 2, 1)
    sign = np.sign(np.linalg.det(v @ u.transpose(0, 2, 1)))
    v[:, :, -1] *= sign[:, None]
    s[:, -1] *= sign
    turn = v @ u.transpose(0, 2, 1)
    scale = s.sum(1)[:, None, None] * norm / other_norm
    aligned = scale * (predictions @ turn) + mean - scale * (other_mean @ turn)
    return np.linalg.norm(aligned - targets, axis=-1).mean(-1)
