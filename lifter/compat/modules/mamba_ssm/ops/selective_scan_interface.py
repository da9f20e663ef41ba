from lifter.compat.mamba import mamba_inner_fn, mamba_inner_ref
from lifter.kernels import selective_scan_fn, selective_scan_ref

__all__ = ["mamba_inner_fn", "mamba_inner_ref", "selective_scan_fn", "selective_scan_ref"]
