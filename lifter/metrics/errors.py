"""Errors of predicted poses: functions, and classes that accumulate over batches.

Poses are (..., T, J, 3), of any floating-point dtype and on any device; results have their unit. The root is not changed (see
`lifter.protocols`). `valid`, bool (..., T, J), excludes joints from the mean; their values are ignored, except in `p_mpjpe`,
which aligns all joints. Values that are not finite raise ValueError, which names the frame.

The classes have torchmetrics' methods (update, compute, reset, merge_state) but do not need torchmetrics.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import losses
from .procrustes import check_finite, check_poses, procrustes_errors

REDUCTIONS = ("none", "frame", "joint", "mean")


def mpjpe(predictions: Tensor, targets: Tensor, valid: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute the mean per-joint position error (protocol 1).

    Args:
        reduction: "none": (..., T, J); "frame": mean over joints (..., T); "joint": mean over frames (J,); "mean": a scalar.
            Without valid joints the mean is 0.
    """
    return _result("mpjpe", losses.joint_errors, predictions, targets, valid, reduction)


def p_mpjpe(predictions: Tensor, targets: Tensor, valid: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute the MPJPE after Procrustes alignment of each frame (protocol 2), in float64 and without gradient."""
    return _result("p_mpjpe", _procrustes_errors, predictions, targets, valid, reduction)


def n_mpjpe(predictions: Tensor, targets: Tensor, valid: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute the MPJPE after the optimal scaling of each frame (protocol 3)."""
    return _result("n_mpjpe", _rescaled_errors, predictions, targets, valid, reduction)


def mpjve(predictions: Tensor, targets: Tensor, valid: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute the mean per-joint velocity error per frame, from T - 1 differences of valid frames."""
    return _result("mpjve", _difference_errors(1), predictions, targets, valid, reduction)


def accel(predictions: Tensor, targets: Tensor, valid: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute the acceleration error per frame squared, from T - 2 second differences of valid frames."""
    return _result("accel", _difference_errors(2), predictions, targets, valid, reduction)


def pck(
    predictions: Tensor, targets: Tensor, valid: Tensor | None = None, threshold: float = 0.15, reduction: str = "mean"
) -> Tensor:
    """Compute the share of joints whose error is below `threshold`; the default is PCK@150 in metres."""
    return _result("pck", losses.joint_errors, predictions, targets, valid, reduction, lambda x: (x < threshold).to(x))


def auc(
    predictions: Tensor,
    targets: Tensor,
    valid: Tensor | None = None,
    threshold: float = 0.15,
    steps: int = 31,
    reduction: str = "mean",
) -> Tensor:
    """Compute the area under the PCK curve: the mean PCK at `steps` thresholds from 0 to `threshold`. The default is
    MPI-INF-3DHP's 0:5:150 mm, in metres."""

    def above(errors):
        thresholds = torch.linspace(0, threshold, steps, dtype=errors.dtype, device=errors.device)
        return 1 - torch.searchsorted(thresholds, errors.detach(), right=True).to(errors) / steps

    return _result("auc", losses.joint_errors, predictions, targets, valid, reduction, above)


def jhmdb_pck(
    predictions: Tensor, targets: Tensor, boxes: Tensor, image_size: tuple[float, float], threshold: float = 0.2
) -> Tensor:
    """Compute the share of correct keypoints (J,) on Sub-JHMDB, for keypoints (N, J, 2) in units of the image size. A keypoint
    is correct if its error is at most `threshold` times the longer side of the person's box.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels. image_size: (width, height).
    """
    check_poses("jhmdb_pck", predictions, targets)
    scale = torch.as_tensor(image_size, dtype=torch.float32, device=predictions.device)
    errors = losses.joint_errors(predictions * scale, targets * scale)
    check_finite("jhmdb_pck", errors, predictions, targets)
    side = torch.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return (errors <= (side * threshold)[:, None]).float().mean(0)


# ---- over batches --------------------------------------------------------------------------------------------------------


class Metric:
    """Mean of an error over all valid joints passed to `update`, in float64.

        metric = MPJPE()
        metric.update(predictions, targets)
        metric.compute()

    Args:
        joints: indices of the joints to include; alignment and scaling always use all joints. None: all. options: arguments of
        the function, for example `threshold`.
    """

    function = None

    def __init__(self, joints: Sequence[int] | None = None, **options):
        self.joints, self.options = joints, options
        self.reset()

    def reset(self) -> None:
        """Reset the metric."""
        self.total, self.count = 0.0, 0

    def update(self, predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch. Differences in time are taken within the batch."""
        errors = type(self).function(predictions, targets, valid, reduction="none", **self.options)
        counted = torch.ones_like(errors, dtype=torch.bool) if valid is None else in_a_row(valid, errors)
        if self.joints is not None:
            errors, counted = (x[..., list(self.joints)] for x in (errors, counted))
        self.total = self.total + errors.where(counted, 0).sum(dtype=torch.float64)
        self.count = self.count + counted.sum()

    def merge_state(self, other: "Metric") -> None:
        """Merge the state of another instance."""
        if type(other) is not type(self) or (other.joints, other.options) != (self.joints, self.options):
            raise ValueError(f"merge_state: other is a {type(other).__name__} of other options, expected one like this")
        self.total, self.count = self.total + other.total, self.count + other.count

    def compute(self) -> Tensor:
        """Return a scalar tensor; raise ValueError if there were no valid joints."""
        if self.count == 0:
            raise ValueError(f"{type(self).__name__}: there was no valid frame to compute it of")
        return torch.as_tensor(self.total) / self.count


class MPJPE(Metric):
    function = staticmethod(mpjpe)


class PMPJPE(Metric):
    function = staticmethod(p_mpjpe)


class NMPJPE(Metric):
    function = staticmethod(n_mpjpe)


class MPJVE(Metric):
    function = staticmethod(mpjve)


class Accel(Metric):
    function = staticmethod(accel)


class PCK(Metric):
    function = staticmethod(pck)


class AUC(Metric):
    function = staticmethod(auc)


# ---- how all are computed ------------------------------------------------------------------------------------------------


def in_a_row(valid: Tensor, errors: Tensor) -> Tensor:
    """Reduce `valid` (..., T, J) to the frames of `errors`: a difference in time is valid if all its frames are."""
    while valid.dim() > 1 and valid.shape[-2] > errors.shape[-2]:
        valid = losses.both(valid)
    return valid


def _result(name, errors_of, predictions, targets, valid, reduction, score=lambda errors: errors):
    """Return the reduced `score(errors)` of `errors_of(predictions, targets, valid)`."""
    check_poses(name, predictions, targets)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction is {reduction!r}, expected one of {REDUCTIONS}")
    if valid is not None:
        losses.check_valid(valid, predictions)
    errors = errors_of(predictions, targets, valid)
    check_finite(name, errors, predictions, targets)
    errors = score(errors)
    if reduction == "none":
        return errors
    dims = -1 if reduction == "frame" else tuple(range(errors.dim() - (reduction == "joint")))
    if reduction != "frame" and errors.numel() == 0:
        raise ValueError(f"{name}: predictions have shape {tuple(predictions.shape)}, of which there is no mean")
    if valid is None:
        return errors.mean(dims)
    counted = in_a_row(valid, errors)
    return errors.where(counted, 0).sum(dims) / counted.sum(dims).clamp(min=1)


def _procrustes_errors(predictions, targets, valid):
    return procrustes_errors(predictions, targets)


def _rescaled_errors(predictions, targets, valid):
    return losses.joint_errors(losses.rescale(predictions, targets, valid), targets, valid)


def _difference_errors(order):
    def errors(predictions, targets, valid):
        for _ in range(order):
            predictions, targets = losses.velocity(predictions), losses.velocity(targets)
            valid = None if valid is None else losses.both(valid)
        return losses.joint_errors(predictions, targets, valid)

    return errors
