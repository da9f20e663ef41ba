"""Short causal depthwise convolution along time, as it precedes a scan: y_l = sum over j of w_j x_(l-W+1+j).

Source: Gu & Dao, "Mamba" (2023), section 3.4; signatures and layouts of the causal-conv1d library (Tri Dao).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_device, check_dtype, check_float, check_index, check_shape, check_written
from ._layout import map_like
from ._op import Cost, Kernel, Op
from ._torch import autocast_dtype, written

__all__ = ["causal_conv1d_fn", "causal_conv1d_ref", "causal_conv1d_update", "causal_conv1d_update_ref"]


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute a causal depthwise convolution, with causal-conv1d's signature and layouts.

    Args:
        x: (B, D, L), float32, bfloat16 or float16 (float64 runs on the reference). L >= 1. Maps that are contiguous along the
            steps or along the channels (a transposed (B, L, D) map) are read in place; other strides cost one copy.
        weight: (D, W) with W from 2 to 4, any float dtype; computed in float32. weight[:, -1] multiplies the current step.
        bias: (D,).
        seq_idx: (B, L) int32, the sequence that each step of a packed row belongs to; steps only see steps of their own
            sequence. Negative: padding, with output 0. Cannot be combined with states.
        initial_states: (B, D, W-1), the steps before the first. Default: zeros.
        return_final_states: also return the last W-1 steps, which include initial states if L < W-1.
        final_states_out: (B, D, W-1), tensor to write the final states to; it is also returned.
        activation: None, "silu" or its synonym "swish".

    Returns:
        out (B, D, L) with the dtype and the layout of `x`, or (out, final_states), (B, D, W-1) with the dtype of `x`.
        Differentiable with respect to x, weight, bias and initial_states, including through the final states.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "causal_conv1d_fn"
    optional = {"bias": bias, "initial_states": initial_states, "final_states_out": final_states_out}
    check_float(op, optional, x=x, weight=weight)
    check_shape(op, "x", x, ("B", "D", "L"))
    batch, dim, length = x.shape
    if length < 1:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected at least one step (L >= 1)")
    silu, width = _check_filter(op, weight, bias, dim, activation)
    for name, states in (("initial_states", initial_states), ("final_states_out", final_states_out)):
        check_shape(op, name, states, (batch, dim, width - 1))
    _check_int32(op, seq_idx=seq_idx)
    check_shape(op, "seq_idx", seq_idx, (batch, length))
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError(f"{op}: seq_idx is given, expected neither initial_states nor return_final_states with it")
    if (dtype := autocast_dtype(x)) is not None:
        x = x.to(dtype)
    if initial_states is not None:
        initial_states = initial_states.to(x.dtype)
    check_device(op, "x", x, "final_states_out", final_states_out)
    out = CAUSAL_CONV1D(x, weight, bias, seq_idx, initial_states, silu)
    return (out, _final_states(x, initial_states, width, final_states_out)) if return_final_states else out


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Reference of `causal_conv1d_fn`: multiply every window of W steps by the weights, in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    batch, dim, _ = x.shape
    width = weight.shape[1]
    before = x.new_zeros(batch, dim, width - 1) if initial_states is None else initial_states.to(x.dtype)
    windows = torch.cat([before, x], -1).to(dtype).unfold(-1, width, 1)
    if seq_idx is not None:
        numbers = F.pad(seq_idx, (width - 1, 0), value=-1).unfold(-1, width, 1)
        own = (numbers == seq_idx[..., None]) & (seq_idx >= 0)[..., None]
        windows = windows.where(own[:, None], 0)
    y = (windows * weight.to(dtype)[:, None]).sum(-1)
    if bias is not None:
        y = y + bias.to(dtype)[:, None]
    y = y if activation is None else F.silu(y)
    if seq_idx is not None:
        y = y.where((seq_idx >= 0)[:, None], 0)
    out = y.to(x.dtype)
    return (out, _final_states(x, initial_states, width, final_states_out)) if return_final_states else out


def _final_states(x, initial_states, width, out):
    """Return the last W-1 steps, preceded by zeros or `initial_states` if there are fewer."""
    missing = width - 1 - x.shape[-1]
    last = x[..., -(width - 1) :]
    if missing > 0:
        last = F.pad(last, (missing, 0)) if initial_states is None else torch.cat([initial_states[..., -missing:], last], -1)
    return last.clone() if out is None else out.copy_(last)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Compute the next steps of the convolution, with causal-conv1d's signature; `conv_state` is updated in place.

    Args:
        x: (B, D) or (B, D, L), float32, bfloat16 or float16 (float64 runs on the reference).
        conv_state: (B, D, S), the last S >= W-1 steps, with any strides; not an expanded tensor, and sharing no memory with
            other arguments. float32 or the dtype of `x` stores the steps exactly.
        weight, bias, activation: see `causal_conv1d_fn`.
        cache_seqlens: (B,) int32. If given, conv_state is a ring buffer, and x is written starting at step cache_seqlens % S.
        conv_state_indices: (B,) int32. If given, conv_state is (N, D, S), and these distinct indices select its rows.
            Negative: padding, with output 0 and no state update. An index of N or more raises ValueError on the CPU and counts
            as padding on the GPU, where checking would force a synchronization.

    Returns:
        (B, D) or (B, D, L) with the dtype of `x`. Gradients, including those of the state, run on the slow reference: train
        with `causal_conv1d_fn` and call this under `torch.no_grad()`.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "causal_conv1d_update"
    check_float(op, {"bias": bias}, x=x, conv_state=conv_state, weight=weight)
    check_shape(op, "x", x, ("B", "D"), ("B", "D", "L"))
    batch, dim = x.shape[:2]
    silu, width = _check_filter(op, weight, bias, dim, activation)
    check_shape(op, "conv_state", conv_state, (batch if conv_state_indices is None else "N", dim, "S"))
    if conv_state.shape[2] < width - 1:
        raise ValueError(f"{op}: conv_state has shape {tuple(conv_state.shape)}, expected at least {width - 1} steps (W-1)")
    check_written(op, "conv_state", conv_state)
    _check_int32(op, cache_seqlens=cache_seqlens, conv_state_indices=conv_state_indices)
    check_shape(op, "cache_seqlens", cache_seqlens, (batch,))
    check_shape(op, "conv_state_indices", conv_state_indices, (batch,))
    if conv_state_indices is not None:
        check_index(op, "conv_state_indices", conv_state_indices, "row", conv_state.shape[0])
    return CAUSAL_CONV1D_UPDATE(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Reference of `causal_conv1d_update`: convolve the last W-1 steps followed by the new ones."""
    steps = x.unsqueeze(-1) if x.dim() == 2 else x
    batch, dim, length = steps.shape
    size, past = conv_state.shape[2], weight.shape[1] - 1
    used = torch.ones(batch, dtype=torch.bool, device=x.device)
    rows = torch.arange(batch, device=x.device)
    if conv_state_indices is not None:
        used, rows = conv_state_indices >= 0, conv_state_indices.clamp(min=0).long()
    states = conv_state[rows]
    if cache_seqlens is None:
        before = states[..., size - past :]
        states = torch.cat([states.to(x.dtype), steps], -1)[..., length:]
    else:
        places = lambda first, count: (
            (cache_seqlens.long()[:, None] + torch.arange(first, first + count, device=x.device)) % size
        )[:, None].expand(-1, dim, -1)
        before = states.gather(2, places(-past, past))
        kept = min(length, size)  # if there are more steps than the ring holds, keep the last ones
        states = states.scatter(2, places(length - kept, kept), steps[..., length - kept :].to(states.dtype))
    conv_state[rows[used]] = states[used].to(conv_state.dtype)
    out = causal_conv1d_ref(steps, weight, bias, initial_states=before, activation=activation)
    return out.where(used[:, None, None], 0).view(x.shape)  # pyright: ignore[reportAttributeAccessIssue]


def _check_filter(op, weight, bias, dim, activation):
    """Return whether the activation is silu, and the width W."""
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"{op}: activation is {activation!r}, expected None, 'silu' or 'swish'")
    check_shape(op, "weight", weight, (dim, "W"))
    if not 2 <= weight.shape[1] <= 4:
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}, expected a width of 2 to 4")
    check_shape(op, "bias", bias, (dim,))
    return activation is not None, weight.shape[1]


def _check_int32(op, **tensors):
    for name, x in tensors.items():
        if x is not None:
            check_dtype(op, name, x, torch.int32)


# ---- registration ----------------------------------------------------------------------------------------------------


def _reference(x, weight, bias, seq_idx, initial_states, silu):
    activation = "silu" if silu else None
    return causal_conv1d_ref(x, weight, bias, seq_idx, initial_states, activation=activation)


def _fake(x, weight, bias, seq_idx, initial_states, silu):
    return map_like(x)


def _fake_bwd(dout, x, weight, bias, seq_idx, initial_states, silu):
    nothing = lambda: weight.new_empty(0)
    dbias, dinitial = (nothing() if y is None else y.new_empty(y.shape) for y in (bias, initial_states))
    return map_like(x), weight.new_empty(weight.shape), dbias, dinitial


def _cost(x, weight, bias, seq_idx, initial_states, silu):
    """Count a multiplication and an addition per step, channel and weight, as FlopCounterMode does for a convolution."""
    return Cost(flops=2 * x.numel() * weight.shape[1], exponentials=x.numel() * silu)


def _cost_bwd(dout, *args):
    """Count twice the forward, for the gradients of x and of the weights."""
    forward = _cost(*args)
    return forward._replace(flops=2 * forward.flops)


CAUSAL_CONV1D = Op(
    causal_conv1d_fn,
    _reference,
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, bool silu) -> Tensor out",
    maps="x initial_states",
    parameters="weight bias",
    fake=_fake,
    cost=_cost,
    triton="causal_conv1d:forward",
    backward=Kernel(
        "causal_conv1d_bwd(Tensor dout, Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, "
        "bool silu) -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dinitial_states)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="causal_conv1d:backward",
    ),
)


def _update(ops, x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices):
    states = conv_state.to(x.dtype)
    steps, silu = x.unsqueeze(-1) if x.dim() == 2 else x, activation is not None
    out = ops.causal_conv1d_update(steps, states, weight, bias, silu, cache_seqlens, conv_state_indices)
    written(conv_state, states)
    return out.view(x.shape)


def _fake_update(x, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices):
    return x.new_empty(x.shape)


def _cost_update(x, conv_state, weight, bias, silu, *rest):
    return _cost(x, weight, bias, None, None, silu)


CAUSAL_CONV1D_UPDATE = Op(
    causal_conv1d_update,
    causal_conv1d_update_ref,
    "causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, bool silu, Tensor? cache_seqlens, "
    "Tensor? conv_state_indices) -> Tensor out",
    maps="x",
    parameters="weight bias",
    kernels=_update,
    fake=_fake_update,
    cost=_cost_update,
    triton="causal_conv1d:update",
)
