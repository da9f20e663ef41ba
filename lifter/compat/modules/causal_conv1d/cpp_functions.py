from lifter.compat.conv import bwd_function as causal_conv1d_bwd_function
from lifter.compat.conv import fwd_function as causal_conv1d_fwd_function
from lifter.compat.conv import update_function as causal_conv1d_update_function

__all__ = ["causal_conv1d_bwd_function", "causal_conv1d_fwd_function", "causal_conv1d_update_function"]
