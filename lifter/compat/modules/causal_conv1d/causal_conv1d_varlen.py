from lifter.compat.conv import varlen_states as causal_conv1d_varlen_states

causal_conv1d_varlen_states_ref = causal_conv1d_varlen_states
__all__ = ["causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref"]
