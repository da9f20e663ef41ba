"""What causal-conv1d's extension exports, and the functions around it, on `lifter.kernels.causal_conv1d_fn`."""

import torch

from lifter.kernels import causal_conv1d_fn, causal_conv1d_update
from lifter.kernels._op import no_autocast


def fwd_function(x, weight, bias, seq_idx, initial_states, final_states_out, silu_activation):
    """`causal_conv1d.cpp_functions.causal_conv1d_fwd_function`: out; `final_states_out` is written if given."""
    with torch.no_grad(), no_autocast(x):
        return _convolve(x, weight, bias, seq_idx, initial_states, final_states_out, silu_activation)[0]


def bwd_function(
    x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, return_dinitial_states, silu_activation
):
    """`causal_conv1d.cpp_functions.causal_conv1d_bwd_function`: dx, dweight, dbias, dinitial_states.

    The last two are None without bias, and unless `return_dinitial_states`. `dx` is written if given.
    """
    tensors = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias, initial_states)]
    with torch.enable_grad(), no_autocast(x):
        wants_states = dfinal_states is not None
        outs = _convolve(*tensors[:3], seq_idx, tensors[3], None, silu_activation, wants_states)
        present = [t for t in tensors if t is not None]
        cotangents = [dout, dfinal_states] if wants_states else [dout]
        grads = iter(torch.autograd.grad(outs, present, [g.to(x.dtype) for g in cotangents]))
    dx_new, dweight, dbias, dinitial = (None if t is None else next(grads) for t in tensors)
    return dx_new if dx is None else dx.copy_(dx_new), dweight, dbias, dinitial if return_dinitial_states else None


def update_function(x, conv_state, weight, bias, silu_activation, cache_seqlens, conv_state_indices):
    """`causal_conv1d.cpp_functions.causal_conv1d_update_function`: out; `conv_state` is updated."""
    with no_autocast(x):
        return causal_conv1d_update(
            x, conv_state, weight, bias, _activation(silu_activation), cache_seqlens, conv_state_indices
        )


def _convolve(x, weight, bias, seq_idx, initial_states, final_states_out, silu, return_final_states=False):
    """(out,) or (out, final states)."""
    states = return_final_states or final_states_out is not None
    outs = causal_conv1d_fn(x, weight, bias, seq_idx, initial_states, states, final_states_out, _activation(silu))
    return outs if states else (outs,)


def _activation(silu):
    return "silu" if silu else None


# ---- causal_conv1d_cuda ----------------------------------------------------------------------------------------------
# Up to version 1.4 of causal-conv1d these return what they compute, from 1.5 on they write it into arguments.


def causal_conv1d_fwd(x, weight, bias, seq_idx, initial_states, *rest):
    """(.., final_states_out, silu) -> out, or (.., out, final_states_out, silu) -> None."""
    *out, final_states_out, silu = rest
    result = fwd_function(x, weight, bias, seq_idx, initial_states, final_states_out, silu)
    return _written(out, [result]) if out else result


def causal_conv1d_bwd(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, *rest):
    """(.., dx or None, return_dinitial_states, silu) -> the gradients, or (.., dx, dweight, dbias, dinitial_states, silu),
    which are written -> None."""
    *given, last, silu = rest
    wanted = last is not None if given else last
    grads = bwd_function(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, wanted, silu)
    return _written([*given, last], grads[1:]) if given else grads


def causal_conv1d_update_cuda(x, conv_state, weight, bias, *rest):
    """(.., silu, cache_seqlens, conv_state_indices) -> out, or (.., out, silu, cache_seqlens, conv_state_indices) -> None."""
    *out, silu, cache_seqlens, conv_state_indices = rest
    result = update_function(x, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices)
    return _written(out, [result]) if out else result


def _written(places, results):
    for place, result in zip(places, results):
        if place is not None:
            place.copy_(result)
