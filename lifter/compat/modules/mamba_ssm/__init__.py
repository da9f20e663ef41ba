"""mamba-ssm, version 1; see `lifter.compat`."""

from lifter.layers import Mamba

from .ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn

__version__ = "1.2.2+lifter"
__all__ = ["Mamba", "mamba_inner_fn", "selective_scan_fn"]
