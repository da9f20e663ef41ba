"""causal-conv1d's extension; see `lifter.compat`."""

from lifter.compat.conv import causal_conv1d_bwd, causal_conv1d_fwd
from lifter.compat.conv import causal_conv1d_update_cuda as causal_conv1d_update

__all__ = ["causal_conv1d_bwd", "causal_conv1d_fwd", "causal_conv1d_update"]
