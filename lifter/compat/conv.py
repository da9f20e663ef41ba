"""Functions of causal-conv1d and of its extension, on `lifter.kernels.causal_conv1d_fn`."""

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


def varlen_states(x, cu_seqlens, state_len):
    """`causal_conv1d.causal_conv1d_varlen.causal_conv1d_varlen_states`: the last steps of every sequence of a packed row,
    with zeros before its first.

    Args:
        x: (steps, D). cu_seqlens: (B + 1,), where the sequences begin, and the end of the last.

    Returns:
        (B, D, state_len).
    """
    steps = cu_seqlens[1:, None] + torch.arange(-state_len, 0, device=x.device)
    own = steps >= cu_seqlens[:-1, None]
    return x[steps.clamp(min=0)].where(own[..., None], 0).transpose(1, 2)


# ---- causal_conv1d_cuda ----------------------------------------------------------------------------------------------
# Versions are told by the number of arguments. Up to 1.5.0 of causal-conv1d the functions return what they compute, later
# they write it into arguments; the short calls of 1.0 and 1.1 stand in public forks of Mamba.


def causal_conv1d_fwd(x, weight, bias, *rest):
    """(.., silu), (.., seq_idx, silu) or (.., seq_idx, initial_states, final_states_out, silu) -> out;
    (.., seq_idx, initial_states, out, final_states_out, silu) -> None."""
    *rest, silu = rest
    out = [rest.pop(2)] if len(rest) == 4 else []
    seq_idx, initial_states, final_states_out = (*rest, None, None, None)[:3]
    result = fwd_function(x, weight, bias, seq_idx, initial_states, final_states_out, silu)
    return _written(out, [result]) if out else result


def causal_conv1d_bwd(x, weight, bias, dout, *rest):
    """(.., dx or None, silu), (.., seq_idx, dx, silu) or (.., seq_idx, initial_states, dfinal_states, dx,
    return_dinitial_states, silu) -> the gradients, the short calls three of them;
    (.., seq_idx, initial_states, dfinal_states, dx, dweight, dbias, dinitial_states, silu), which are written -> None."""
    *rest, silu = rest
    if len(rest) < 3:
        *seq_idx, dx = rest
        seq_idx = seq_idx[0] if seq_idx else None
        return bwd_function(x, weight, bias, dout, seq_idx, None, None, dx, False, silu)[:3]
    seq_idx, initial_states, dfinal_states, dx, *given, last = rest
    wanted = last is not None if given else last
    grads = bwd_function(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, wanted, silu)
    return _written([*given, last], grads[1:]) if given else grads


def causal_conv1d_update_cuda(x, conv_state, weight, bias, *rest):
    """(.., silu), (.., silu, cache_seqlens) or (.., silu, cache_seqlens, conv_state_indices) -> out;
    (.., out, silu, cache_seqlens, conv_state_indices) -> None."""
    out, rest = (rest[:1], rest[1:]) if len(rest) == 4 else ((), rest)
    silu, cache_seqlens, conv_state_indices = (*rest, None, None)[:3]
    result = update_function(x, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices)
    return _written(out, [result]) if out else result


def _written(places, results):
    for place, result in zip(places, results):
        if place is not None:
            place.copy_(result)
