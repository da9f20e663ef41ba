"""Pose errors as functions and accumulating classes, training losses, and the evaluation protocols of papers."""

from .errors import (
    AUC,
    MPJPE,
    MPJVE,
    NMPJPE,
    PCK,
    PMPJPE,
    Accel,
    Metric,
    accel,
    auc,
    jhmdb_pck,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    pck,
)

__all__ = [
    "AUC", "MPJPE", "MPJVE", "NMPJPE", "PCK", "PMPJPE", "Accel", "Metric", "accel", "auc", "jhmdb_pck", "mpjpe", "mpjve",
    "n_mpjpe", "p_mpjpe", "pck",
]  # fmt: skip
