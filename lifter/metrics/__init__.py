"""Errors of poses, one by one and accumulating, losses of training, and protocols of published figures."""

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
