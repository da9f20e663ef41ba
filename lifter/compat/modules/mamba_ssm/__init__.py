"""mamba-ssm, versions 1 and 2; see `lifter.compat`."""

from lifter.compat.mamba import nothing_fused as mamba_inner_fn
from lifter.compat.mamba import nothing_fused as mamba_split_conv1d_scan_combined
from lifter.layers import Mamba, Mamba2

from .ops.selective_scan_interface import selective_scan_fn

__version__ = "2.2.2+lifter"
__all__ = ["Mamba", "Mamba2", "mamba_inner_fn", "mamba_split_conv1d_scan_combined", "selective_scan_fn"]
