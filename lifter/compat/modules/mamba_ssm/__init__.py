"""mamba-ssm, version 1; see `lifter.compat`."""

from lifter.compat.mamba import no_mamba_inner_fn as mamba_inner_fn
from lifter.layers import Mamba

from .ops.selective_scan_interface import selective_scan_fn

__version__ = "1.2.2+lifter"
__all__ = ["Mamba", "mamba_inner_fn", "selective_scan_fn"]
