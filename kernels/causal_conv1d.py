"""Causal convolution of every channel by itself along time, the short one before a scan: y_l = sum over j of w_j x_(l-W+1+j).

Source: Gu & Dao, "Mamba" (2023), section 3.4; signatures and layouts of the causal-conv1d library (Tri Dao).
"""

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ._op import (
    Op,
    autocast_dtype,
    check_device,
    check_dtype,
    check_float,
    check_shape,
    kernel_dtype,
    map_like,
    no_autocast,
)


def causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """Causal depthwise convolution with causal-conv1d's signature and layouts.

    Args:
        x: (B, D, L), float32, bfloat16 or float16 (float64 runs on the reference). L >= 1. Contiguous steps or contiguous
            channels (a (B, L, D) map seen as (B, D, L)) cost nothing, other strides one copy.
        weight: (D, W), W 2 to 4, any float dtype; computed in float32. weight[:, -1] meets the step itself. bias: (D,).
        seq_idx: (B, L) int32, which sequence of a packed row a step belongs to: steps meet only steps of their own number.
            A negative one is padding, whose output is 0. Not together with states.
        initial_states: (B, D, W-1), the steps before the first, zero if absent.
        return_final_states: also return the last W-1 steps, initial ones among them where L < W-1.
        final_states_out: (B, D, W-1), where to write these; it is then what is returned.
        activation: None, "silu" or "swish" (which is the same).

    Returns:
        out (B, D, L) with the dtype and the layout of `x`, or (out, final_states), (B, D, W-1) with the dtype of `x`.
        Differentiable in x, weight, bias and initial_states, also through the final states.

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
    check_device(op, "x", x, weight=weight, bias=bias, seq_idx=seq_idx, initial_states=initial_states,
                 final_states_out=final_states_out)  # fmt: skip
    if (dtype := autocast_dtype(x)) is not None:
        x = x.to(dtype)
    if initial_states is not None:
        initial_states = initial_states.to(x.dtype)

    ops = CAUSAL_CONV1D.namespace(x, weight, bias, initial_states)
    if ops is None:
        with no_autocast(x):
            return causal_conv1d_ref(
                x, weight, bias, seq_idx, initial_states, return_final_states, final_states_out, activation
            )
    weight, bias = weight.float(), None if bias is None else bias.float()
    y, states = kernel_dtype(x, initial_states)
    out = ops.causal_conv1d(y, weight, bias, seq_idx, states, silu).to(x.dtype)
    return (out, _final_states(x, initial_states, width, final_states_out)) if return_final_states else out


def causal_conv1d_ref(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """`causal_conv1d_fn` in plain PyTorch: every step's window of W steps, times the weights, in float32 at least."""
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
    """The last W-1 steps, zeros or `initial_states` before the first."""
    missing = width - 1 - x.shape[-1]
    last = x[..., -(width - 1) :]
    if missing > 0:
        last = F.pad(last, (missing, 0)) if initial_states is None else torch.cat([initial_states[..., -missing:], last], -1)
    return last.clone() if out is None else out.copy_(last)


def causal_conv1d_update(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None):
    """The next steps of the convolution, with causal-conv1d's signature; `conv_state` is updated in place.

    Args:
        x: (B, D) or (B, D, L), float32, bfloat16 or float16 (float64 runs on the reference).
        conv_state: (B, D, S), the last S >= W-1 steps; any strides. float32 or the dtype of `x` keeps them exactly.
        weight, bias, activation: as of `causal_conv1d_fn`.
        cache_seqlens: (B,) int32. If given, conv_state is a ring: x is written from step cache_seqlens % S on.
        conv_state_indices: (B,) int32. If given, conv_state is (N, D, S), and these are the rows of it that belong to x's,
            all different. A negative one is padding: its output is 0 and no state changes. One of N or more is a ValueError
            on the CPU, and padding on the GPU, which cannot look without waiting.

    Returns:
        (B, D) or (B, D, L) with the dtype of `x`. Not differentiable: train with `causal_conv1d_fn`.

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
    _check_int32(op, cache_seqlens=cache_seqlens, conv_state_indices=conv_state_indices)
    check_shape(op, "cache_seqlens", cache_seqlens, (batch,))
    check_shape(op, "conv_state_indices", conv_state_indices, (batch,))
    check_device(op, "x", x, conv_state=conv_state, weight=weight, bias=bias, cache_seqlens=cache_seqlens,
                 conv_state_indices=conv_state_indices)  # fmt: skip
    _check_rows(op, conv_state_indices, conv_state.shape[0])
    if (dtype := autocast_dtype(x)) is not None:
        x = x.to(dtype)

    with torch.no_grad():
        ops = CAUSAL_CONV1D_UPDATE.namespace(x)
        if ops is None:
            return causal_conv1d_update_ref(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
        (y,) = kernel_dtype(x)
        states = conv_state.to(y.dtype)
        steps = y.unsqueeze(-1) if y.dim() == 2 else y
        out = ops.causal_conv1d_update(
            steps, states, weight.float(), None if bias is None else bias.float(), silu, cache_seqlens, conv_state_indices
        )
        if states is not conv_state:
            conv_state.copy_(states)
        elif not torch.compiler.is_compiling() and not conv_state.is_inference():
            torch.autograd.graph.increment_version(conv_state)  # so that autograd sees the write
        return out.view(x.shape).to(x.dtype)


def causal_conv1d_update_ref(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None):
    """`causal_conv1d_update` in plain PyTorch: the convolution of the last W-1 steps and the new ones."""
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
        kept = min(length, size)  # of more steps than the ring holds, the last ones stay
        states = states.scatter(2, places(length - kept, kept), steps[..., length - kept :].to(states.dtype))
    conv_state[rows[used]] = states[used].to(conv_state.dtype)
    out = causal_conv1d_ref(steps, weight, bias, initial_states=before, activation=activation)
    return out.where(used[:, None, None], 0).view(x.shape)


def _check_filter(op, weight, bias, dim, activation):
    """Whether the activation is silu, and the width W."""
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


def _check_rows(op, rows, count):
    """ValueError if a row is `count` or more, where values can be read at once: not on a GPU, nor while a graph is traced."""
    traced = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    if rows is not None and rows.device.type == "cpu" and type(rows) is torch.Tensor and not traced and rows.numel():
        if (row := rows.max().item()) >= count:
            raise ValueError(f"{op}: conv_state_indices names row {row}, expected less than {count}")


# ---- registration ----------------------------------------------------------------------------------------------------


def _fake(x, weight, bias, seq_idx, initial_states, silu):
    return map_like(x)


def _fake_bwd(dout, x, weight, bias, seq_idx, initial_states, silu):
    nothing = lambda: weight.new_empty(0)
    dbias, dinitial = (nothing() if y is None else y.new_empty(y.shape) for y in (bias, initial_states))
    return map_like(x), weight.new_empty(weight.shape), dbias, dinitial


def _setup_context(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _backward(ops, ctx, dout):
    _, _, bias, _, initial_states = ctx.saved_tensors
    dx, dweight, dbias, dinitial = ops.causal_conv1d_bwd(dout, *ctx.saved_tensors, ctx.silu)
    return dx, dweight, None if bias is None else dbias, None, None if initial_states is None else dinitial, None


def _flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """A product and a sum per step, channel and weight, as FlopCounterMode counts a convolution."""
    batch, dim, length = x_shape
    return 2 * batch * dim * length * weight_shape[1]


def _flops_bwd(dout_shape, x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Twice the forward: the gradients of x and of the weights."""
    return 2 * _flops(x_shape, weight_shape)


def _fake_update(x, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices):
    return x.new_empty(x.shape)


def _flops_update(x_shape, conv_state_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    return _flops(x_shape, weight_shape)


CAUSAL_CONV1D = Op(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, bool silu) -> Tensor out",
    fake=_fake,
    triton="causal_conv1d:forward",
    flops=_flops,
    setup_context=_setup_context,
    backward=_backward,
)
Op(
    "causal_conv1d_bwd(Tensor dout, Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, "
    "bool silu) -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dinitial_states)",
    fake=_fake_bwd,
    triton="causal_conv1d:backward",
    flops=_flops_bwd,
    public=False,
)
CAUSAL_CONV1D_UPDATE = Op(
    "causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, bool silu, Tensor? cache_seqlens, "
    "Tensor? conv_state_indices) -> Tensor out",
    fake=_fake_update,
    triton="causal_conv1d:update",
    flops=_flops_update,
)
