"""Losses of pose sequences: functions of predictions and targets (..., T, J, 3) in metres that return a scalar.

All accept any floating-point dtypes, also mixed ones, and compute in at least float32. `valid`, bool (..., T, J), excludes
joints: their values, even NaN, have no influence. Without valid joints the loss is 0. Inputs are not checked for NaN.

Sources: the official codes of MixSTE (arXiv 2203.00859), PoseRetNet, MotionBERT (arXiv 2210.06551; MotionAGFormer's are
the same), MixSynthFormer; SasMamba and MASC-Pose by their papers.
"""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from lifter.skeleton import H36M, Skeleton

# Joint weights of MixSTE and PoseRetNet: the ends of the limbs count more. `3dhp-univ` is MPI-INF-3DHP's order of the test set
# (17 joints, head top first), `3dhp-annot` that of 14 joints from left ankle to head.
JOINT_WEIGHTS = {
    "h36m": (1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4),
    "3dhp-univ": (1.5, 1.5, 1, 2.5, 4, 1, 2.5, 4, 1, 2.5, 4, 1, 2.5, 4, 1, 1, 1.5),
    "3dhp-annot": (4, 2.5, 1, 1, 2.5, 4, 4, 2.5, 1, 1, 2.5, 4, 1.5, 1.5),
}

# MotionBERT's angles: pairs of bones, which are numbered as in H36M.bones.
H36M_ANGLES = (
    (0, 3), (0, 6), (3, 6), (0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 10), (7, 13), (8, 13), (10, 13), (7, 8), (8, 9),
    (10, 11), (11, 12), (13, 14), (14, 15),
)  # fmt: skip


# ---- one term -----------------------------------------------------------------------------------------------------------


def mpjpe(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the mean distance of the joints."""
    return _mean(joint_errors(predictions, targets, valid), valid)


def weighted_mpjpe(
    predictions: Tensor, targets: Tensor, weights: Tensor | Sequence[float], valid: Tensor | None = None
) -> Tensor:
    """Compute the weighted MPJPE. `weights` broadcast with (..., T, J), for example `JOINT_WEIGHTS["h36m"]`; the sum is
    divided by the number of joints, not by the sum of the weights."""
    errors = joint_errors(predictions, targets, valid)
    return _mean(_weights(weights, errors) * errors, valid)


def n_mpjpe(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the MPJPE after the optimal scaling of each predicted frame (arXiv 1804.01110). Predictions of zeros are not
    scaled."""
    return mpjpe(rescale(predictions, targets, valid), targets, valid)


def loss_velocity(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the mean distance of the velocities per frame; 0 for one frame."""
    pair = _pair(valid, predictions)
    return _mean(joint_errors(velocity(predictions), velocity(targets), pair), pair, predictions)


def tc_loss(predictions: Tensor, weights: Tensor | Sequence[float] | float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Compute the temporal consistency loss (TCLoss): the weighted mean squared velocity of the joints; 0 for one frame. Like
    PoseRetNet's, it is a mean over joints; MixSTE's is over coordinates, a third of this.
    """
    pair = _pair(valid, predictions)
    steps = velocity(predictions)
    steps = steps if pair is None else steps.where(pair[..., None], 0)
    speed = steps.square().sum(-1)
    return _mean(_weights(weights, speed) * speed, pair, predictions)


def loss_joint(predictions: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean absolute difference of the coordinates."""
    return F.l1_loss(*_same(predictions, targets))


def loss_acceleration(predictions: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean absolute difference of the accelerations' coordinates per frame; 0 for fewer than three frames."""
    predictions, targets = _same(predictions, targets)
    if predictions.shape[-3] < 3:
        return _zero(predictions)
    return F.l1_loss(velocity(velocity(predictions)), velocity(velocity(targets)))


def loss_limb_var(predictions: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Compute the variance of the bone lengths over time, averaged over bones; 0 for one frame."""
    if predictions.shape[-3] < 2:
        return _zero(predictions)
    return limb_lengths(predictions, skeleton).var(-2).mean()


def loss_limb_gt(predictions: Tensor, targets: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Compute the mean difference of the bone lengths."""
    predictions, targets = _same(predictions, targets)
    return F.l1_loss(limb_lengths(predictions, skeleton), limb_lengths(targets, skeleton))


def loss_angle(
    predictions: Tensor, targets: Tensor, skeleton: Skeleton = H36M, angles: Sequence[tuple[int, int]] = H36M_ANGLES
) -> Tensor:
    """Compute the mean difference of the angles between bones, in radians."""
    predictions, targets = _same(predictions, targets)
    return F.l1_loss(limb_angles(predictions, skeleton, angles), limb_angles(targets, skeleton, angles))


def loss_angle_velocity(
    predictions: Tensor, targets: Tensor, skeleton: Skeleton = H36M, angles: Sequence[tuple[int, int]] = H36M_ANGLES
) -> Tensor:
    """Compute the mean difference of the angular velocities; 0 for one frame."""
    predictions, targets = _same(predictions, targets)
    if predictions.shape[-3] < 2:
        return _zero(predictions)
    predicted, true = (limb_angles(x, skeleton, angles).diff(dim=-2) for x in (predictions, targets))
    return F.l1_loss(predicted, true)


def sym_penalty(predictions: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Compute MixSTE's symmetry penalty: a hundredth of the summed length differences of left and right limbs."""
    lengths = dict(zip((joint for joint, _ in skeleton.bones), limb_lengths(predictions, skeleton).unbind(-1)))
    return 0.01 * reduce(torch.add, [F.l1_loss(lengths[left], lengths[right]) for left, right in skeleton.flip_pairs])


def bonelen_consistency_loss(predictions: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Compute MixSTE's bone consistency penalty: a hundredth of the summed mean velocities of the bones; 0 for one frame."""
    if predictions.shape[-3] < 2:
        return _zero(predictions)
    steps = velocity(_bones(_exact(predictions), skeleton))
    return 0.01 * torch.linalg.vector_norm(steps, dim=-1).mean(tuple(range(steps.dim() - 2))).sum()


# ---- losses of the architectures --------------------------------------------------------------------------------
# MixSTE and PoseRetNet call backward with the loss itself as the gradient: `(loss * loss.detach()).backward()` is theirs.


def mixste_loss(predictions: Tensor, targets: Tensor, weights: Tensor | Sequence[float] = JOINT_WEIGHTS["h36m"]) -> Tensor:
    """MixSTE: weighted MPJPE + 0.5 TCLoss over coordinates + 2 velocity."""
    position = weighted_mpjpe(predictions, targets, weights)
    return position + 0.5 / 3 * tc_loss(predictions, weights) + 2 * loss_velocity(predictions, targets)


def poseretnet_loss(
    predictions: Tensor,
    targets: Tensor,
    weights: Tensor | Sequence[float] = JOINT_WEIGHTS["h36m"],
    valid: Tensor | None = None,
) -> Tensor:
    """PoseRetNet: weighted MPJPE + 0.5 TCLoss + 2 velocity, of the valid joints."""
    position = weighted_mpjpe(predictions, targets, weights, valid)
    return position + 0.5 * tc_loss(predictions, weights, valid) + 2 * loss_velocity(predictions, targets, valid)


def sasmamba_loss(predictions: Tensor, targets: Tensor, weights: Tensor | Sequence[float] = JOINT_WEIGHTS["h36m"]) -> Tensor:
    """SasMamba, eq. 17: weighted MPJPE + 0.5 TCLoss + 20 velocity; weights and TCLoss as in MixSTE, which it cites."""
    position = weighted_mpjpe(predictions, targets, weights)
    return position + 0.5 / 3 * tc_loss(predictions, weights) + 20 * loss_velocity(predictions, targets)


def motionagformer_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """MotionAGFormer and MotionBERT, as configured: MPJPE + 0.5 N-MPJPE + 20 velocity (the limbs' and angles' terms have
    weight 0 there)."""
    position = mpjpe(predictions, targets) + 0.5 * n_mpjpe(predictions, targets)
    return position + 20 * loss_velocity(predictions, targets)


def masc_pose_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """MASC-Pose, eq. 11: MotionAGFormer's + 0.5 TCLoss, which the paper does not define: MixSTE's, all joints alike."""
    return motionagformer_loss(predictions, targets) + 0.5 / 3 * tc_loss(predictions)


def htp_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """HTP and D3DP: MPJPE of the clean pose."""
    return mpjpe(predictions, targets)


def mixsynthformer_loss(predictions: Tensor, targets: Tensor, history: int = 0) -> Tensor:
    """MixSynthFormer. For recovery of a whole window, the mean absolute difference, eq. 16; with `history`, for prediction of
    the frames after the first `history`, their MPJPE, eq. 17."""
    if not 0 <= history < predictions.shape[-3]:
        raise ValueError(f"mixsynthformer_loss: history is {history}, expected 0 to {predictions.shape[-3] - 1}")
    if history == 0:
        return loss_joint(predictions, targets)
    return mpjpe(predictions[..., history:, :, :], targets[..., history:, :, :])


def deciwatch_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """DeciWatch for Human3.6M: mean absolute difference of the recovered and of the denoised poses."""
    return loss_joint(predictions, targets)


def smoothnet_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """SmoothNet, with the weights of its configurations."""
    return loss_joint(predictions, targets) + 0.1 * loss_acceleration(predictions, targets)


# ---- helpers, also used by lifter.metrics ---------------------------------------------------------------------------


def joint_errors(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the distances (..., J) of the joints, 0 where not valid."""
    predictions, targets = _same(predictions, targets)
    offset = predictions - targets
    if valid is not None:
        check_valid(valid, offset)
        offset = offset.where(valid[..., None], 0)
    return torch.linalg.vector_norm(offset, dim=-1)


def rescale(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Scale the prediction of each frame optimally towards its target; 0 where not valid."""
    predictions, targets = _same(predictions, targets)
    if valid is not None:
        check_valid(valid, predictions)
        predictions, targets = (x.where(valid[..., None], 0) for x in (predictions, targets))
    size = predictions.square().sum((-2, -1), keepdim=True)
    return predictions * ((predictions * targets).sum((-2, -1), keepdim=True) / size.where(size != 0, 1))


def velocity(poses: Tensor) -> Tensor:
    """Return the velocities (..., T - 1, J, C) of (..., T, J, C), in at least float32."""
    if poses.dim() < 3:
        raise ValueError(f"poses have shape {tuple(poses.shape)}, expected (..., T, J, C)")
    return _exact(poses).diff(dim=-3)


def both(valid: Tensor | None) -> Tensor:
    """Return a mask (..., T - 1, J) of joints that are valid in a frame and in the next."""
    return valid[..., 1:, :] & valid[..., :-1, :]


def limb_lengths(poses: Tensor, skeleton: Skeleton = H36M) -> Tensor:
    """Return the lengths (..., T, J - 1) of `skeleton.bones`."""
    return torch.linalg.vector_norm(_bones(_exact(poses), skeleton), dim=-1)


def limb_angles(poses: Tensor, skeleton: Skeleton = H36M, angles: Sequence[tuple[int, int]] = H36M_ANGLES) -> Tensor:
    """Return the angles (..., T, len(angles)) between bones in radians. Cosines are clamped 1e-7 from +-1, where the gradient
    would be infinite."""
    bones = _bones(_exact(poses), skeleton)
    first, second = (bones[..., list(side), :] for side in zip(*angles))
    return torch.acos(F.cosine_similarity(first, second, dim=-1).clamp(-1 + 1e-7, 1 - 1e-7))


def _bones(poses, skeleton):
    if poses.dim() < 3 or poses.shape[-2] != skeleton.num_joints:
        expected = f"(..., T, {skeleton.num_joints}, 3) as {skeleton.name}"
        raise ValueError(f"poses have shape {tuple(poses.shape)}, expected {expected}")
    joints, parents = zip(*skeleton.bones)
    return poses[..., list(joints), :] - poses[..., list(parents), :]


def _exact(x):
    if not x.is_floating_point():
        raise TypeError(f"poses have dtype {x.dtype}, expected a floating-point dtype")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _same(predictions, targets):
    """Convert both to the wider of their dtypes."""
    if predictions.shape != targets.shape or predictions.dim() < 2:
        got = f"predictions have shape {tuple(predictions.shape)}, targets {tuple(targets.shape)}"
        raise ValueError(f"{got}, expected the same (..., J, C)")
    predictions, targets = _exact(predictions), _exact(targets)
    dtype = torch.promote_types(predictions.dtype, targets.dtype)
    return predictions.to(dtype), targets.to(dtype)


def check_valid(valid: Tensor | None, poses: Tensor):
    if valid.shape != poses.shape[:-1] or valid.dtype != torch.bool:
        got = f"valid has shape {tuple(valid.shape)} and dtype {valid.dtype}"
        raise ValueError(f"{got}, expected {tuple(poses.shape[:-1])} and torch.bool")


def _pair(valid, poses):
    """Return a mask of the differences of two frames that are valid; None if all are."""
    if valid is None:
        return None
    check_valid(valid, poses)
    return both(valid)


def _weights(weights, like):
    weights = torch.as_tensor(weights, dtype=like.dtype, device=like.device)
    try:
        return weights.expand_as(like)
    except RuntimeError:
        expected = f"one that broadcasts with {tuple(like.shape)}"
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected {expected}") from None


def _zero(poses):
    """Return 0 with a zero gradient."""
    if poses.numel() == 0:
        raise ValueError(f"poses have shape {tuple(poses.shape)}, expected at least one frame")
    return _exact(poses).sum() * 0


def _mean(errors, valid, poses=None):
    """Return the mean over valid entries; 0 if there are none."""
    if errors.numel() == 0:
        return _zero(errors if poses is None else poses)
    return errors.mean() if valid is None else errors.sum() / valid.sum().clamp(min=1)
