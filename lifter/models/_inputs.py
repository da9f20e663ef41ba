"""Checks of the arguments of models."""

from torch import Tensor

from lifter.skeleton import H36M


def check_keypoints(name, keypoints, num_frames, num_joints, in_channels, least=1):
    """ValueError or TypeError, naming the model, unless `keypoints` are what it takes.

    They have `least` to `num_frames` frames; `num_frames` None: any number from `least` on.
    """
    if not keypoints.is_floating_point():
        raise TypeError(f"{name}: keypoints have dtype {keypoints.dtype}, expected a floating-point dtype")
    if keypoints.dim() != 4 or keypoints.shape[2:] != (num_joints, in_channels):
        shape = tuple(keypoints.shape)
        raise ValueError(f"{name}: keypoints have shape {shape}, expected (B, T, {num_joints}, {in_channels})")
    frames = keypoints.shape[1]
    if frames < least or (num_frames is not None and frames > num_frames):
        expected = f"at least {least}" if num_frames is None else f"{least} to num_frames={num_frames}"
        raise ValueError(f"{name}: keypoints have {frames} frames, expected {expected}")


def check_poses(name: str, poses: Tensor, num_joints: int, in_channels: int):
    """ValueError or TypeError, naming the model, unless `poses` are (B, T, J, C) or flat, (B, T, J * C)."""
    if not poses.is_floating_point():
        raise TypeError(f"{name}: poses have dtype {poses.dtype}, expected a floating-point dtype")
    J, C = num_joints, in_channels
    if poses.shape[2:] not in ((J, C), (J * C,)):
        shape = tuple(poses.shape)
        raise ValueError(f"{name}: poses have shape {shape}, expected (B, T, {J}, {C}) or (B, T, {J * C})")


def bones_or_default(name, bones, num_joints):
    """`bones`, pairs of joints; None: those of Human3.6M. ValueError, naming the model, if it has other joints."""
    if bones is None and num_joints != H36M.num_joints:
        raise ValueError(f"{name}: bones is None with {num_joints} joints, expected the pairs of joints to connect")
    return H36M.bones if bones is None else bones
