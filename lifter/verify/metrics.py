"""Losses and metrics: `output/<code>/<function>`, each of one official function."""

from functools import partial

import torch

from lifter import metrics
from lifter.geometry import mirror
from lifter.inference.windows import overlap_average
from lifter.metrics import losses

METRICS = "losses and metrics of the official codes"


def checks(data):
    """[(unit, check)]; `check(dtype)` returns pairs (got, expected), both by the largest expected."""
    names = sorted(name.removeprefix("output/") for name in data if name.startswith("output/"))
    return [(name, partial(_check, data, name)) for name in names]


def _check(data, name, dtype):
    if name not in UNITS:
        raise NotImplementedError("lifter has no such loss or metric")
    if "pck" in name.lower():  # who is nearer than the threshold is no matter of rounding
        dtype = torch.promote_types(dtype, torch.float32)
    arrays = {key.removeprefix("input/"): value for key, value in data.items() if key.startswith("input/")}
    arrays = {key: x.to(dtype) if x.is_floating_point() else x for key, x in arrays.items()}
    expected = data[f"output/{name}"]
    size = expected.abs().max()  # the tolerance is for outputs of order 1
    return [(UNITS[name](**arrays) / size, expected / size)]


def _poses(function, **options):
    return lambda pred, target, **_: function(pred, target, **options)


def _of_pose(function, **options):
    return lambda pred, **_: function(pred, **options)


def _flat(function, **options):
    """Compute the metric as the official code calls it: all clips are one sequence."""
    return lambda pred, target, **_: function(pred.flatten(0, 1), target.flatten(0, 1), **options)


def _clip(function, **options):
    """Compute the metric of the first clip, masked."""
    return lambda pred, target, valid, **_: function(pred[0], target[0], valid[0], **options)


def _masked(function, **options):
    return lambda pred, target, valid, **_: function(pred, target, valid=valid, **options)


def _weighted(function):
    return lambda pred, target, w, **_: function(pred, target, w)


def _jhmdb(threshold):
    def check(jhmdb_pred, jhmdb_gt, jhmdb_bbox, jhmdb_imgshape, **_):
        return metrics.jhmdb_pck(jhmdb_pred, jhmdb_gt, jhmdb_bbox, jhmdb_imgshape[0].flip(0), threshold)

    return check


UNITS = {
    "mixste/mpjpe": _poses(losses.mpjpe),
    "mixste/weighted_mpjpe": _weighted(losses.weighted_mpjpe),
    "mixste/p_mpjpe": _poses(metrics.p_mpjpe),
    "mixste/n_mpjpe": _poses(losses.n_mpjpe),
    "mixste/mean_velocity_error_train_axis1": _poses(losses.loss_velocity),
    "mixste/mean_velocity_error_axis0_flat": _flat(metrics.mpjve),
    "mixste/sym_penalty": _of_pose(losses.sym_penalty),
    "mixste/bonelen_consistency_loss": _of_pose(losses.bonelen_consistency_loss),
    "mixste/tcloss_inline": lambda pred, w, **_: losses.tc_loss(pred, w) / 3,
    "mixste/loss_total_inline": _weighted(losses.mixste_loss),
    "poseretnet/mpjpe": _masked(metrics.mpjpe),
    "poseretnet/mpjpe_joints_mm": lambda pred, target, valid, **_: 1000 * metrics.mpjpe(pred, target, valid, "joint"),
    "poseretnet/weighted_mpjpe": lambda pred, target, w, valid, **_: losses.weighted_mpjpe(pred, target, w, valid),
    "poseretnet/TCLoss": lambda pred, w, valid, **_: losses.tc_loss(pred, w, valid),
    "poseretnet/mean_velocity_error_train": _masked(losses.loss_velocity),
    "poseretnet/loss_total_inline": lambda pred, target, w, valid, **_: losses.poseretnet_loss(pred, target, w, valid),
    "poseretnet/p_mpjpe_b0": _clip(metrics.p_mpjpe),
    "poseretnet/n_mpjpe_b0": _clip(metrics.n_mpjpe),
    "poseretnet/mean_velocity_error_b0": _clip(metrics.mpjve),
    "poseretnet/PCK150": _masked(metrics.pck),
    "poseretnet/AUC": _masked(metrics.auc),
    "motionbert/loss_mpjpe": _poses(losses.mpjpe),
    "motionbert/n_mpjpe": _poses(losses.n_mpjpe),
    "motionbert/loss_velocity": _poses(losses.loss_velocity),
    "motionbert/loss_limb_gt": _poses(losses.loss_limb_gt),
    "motionbert/loss_angle": _poses(losses.loss_angle),
    "motionbert/loss_angle_velocity": _poses(losses.loss_angle_velocity),
    "motionbert/loss_joint": _poses(losses.loss_joint),
    "motionbert/loss_limb_var": _of_pose(losses.loss_limb_var),
    "motionbert/get_limb_lens": _of_pose(losses.limb_lengths),
    "motionbert/get_angles": _of_pose(losses.limb_angles),
    "motionbert/weighted_mpjpe_batch": lambda pred, target, w_batch, **_: losses.weighted_mpjpe(pred, target, w_batch),
    "motionbert/mpjpe_per_frame": _flat(metrics.mpjpe, reduction="frame"),
    "motionbert/p_mpjpe_per_frame": _flat(metrics.p_mpjpe, reduction="frame"),
    "posemamba/weighted_mpjpe": _weighted(losses.weighted_mpjpe),
    "motionagformer/acc_error_b0": lambda pred, target, **_: metrics.accel(pred[0], target[0], reduction="frame"),
    "motionagformer/jpe": _flat(metrics.mpjpe, reduction="none"),
    "motionagformer/flip_data": _of_pose(mirror),
    "mixsynthformer/mpjpe": _flat(metrics.mpjpe, reduction="frame"),
    "mixsynthformer/pampjpe": _flat(metrics.p_mpjpe, reduction="frame"),
    "mixsynthformer/accel_b0": lambda pred, target, **_: metrics.accel(pred[0], target[0], reduction="frame"),
    "mixsynthformer/jhmdb_pck_0.05": _jhmdb(0.05),
    "mixsynthformer/jhmdb_pck_0.1": _jhmdb(0.1),
    "mixsynthformer/jhmdb_pck_0.2": _jhmdb(0.2),
    "mixsynthformer/slide_window_to_sequence_step5": lambda windows, **_: overlap_average(windows, 5),
    "d3dp/mpjpe": _poses(metrics.mpjpe),
    "d3dp/p_mpjpe": _poses(metrics.p_mpjpe),
}
