from lifter.kernels import mamba_chunk_scan_combined
from lifter.layers import mamba_split_conv1d_scan_combined

__all__ = ["mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"]
