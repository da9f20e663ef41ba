"""causal-conv1d; see `lifter.compat`."""

from .causal_conv1d_interface import causal_conv1d_fn, causal_conv1d_update

__version__ = "1.5.0+lifter"
__all__ = ["causal_conv1d_fn", "causal_conv1d_update"]
