"""Functions of `mamba_ssm.ops` that lifter's kernels do not have under the same signature."""

import torch
import torch.nn.functional as F

from lifter.kernels import backend, causal_conv1d_fn, selective_scan_fn
from lifter.kernels import selective_state_update as update
from lifter.kernels._checks import check_dtype, check_shape, check_written


def mamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B=None, C=None,
    D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1, b_rms_weight=None,
    c_rms_weight=None, dt_rms_weight=None, b_c_dt_rms_eps=1e-6,
):  # fmt: skip
    """mamba-ssm's mixer between its projections in and out: convolution, projections, gated scan, output projection.

    Args:
        xz: (B, 2D, L), the input and the gate. conv1d_weight: (D, 1, width). conv1d_bias: (D,) or None.
        x_proj_weight: (R + 2N, D). delta_proj_weight: (D, R). out_proj_weight: (E, D). out_proj_bias: (E,) or None.
        A: (D, N). B, C: constant (D, N), or None: from the input. Only those of the input have rows of x_proj_weight.
        D, delta_bias: (D,).
        B_proj_bias, C_proj_bias: (N,), added to B and C of the input.
        b_rms_weight, c_rms_weight, dt_rms_weight: weights of an RMSNorm of B and C of the input, (N,), and of the projected
            time steps, (D,).
        checkpoint_lvl: accepted; memory is what autograd keeps.

    Returns:
        (B, L, E).
    """
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    rows = rank + states * ((B is None) + (C is None))
    check_shape("mamba_inner_fn", "x_proj_weight", x_proj_weight, (rows, A.shape[0]))
    x, z = xz.chunk(2, dim=1)
    x = causal_conv1d_fn(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    projected = F.linear(x.transpose(1, 2), x_proj_weight)
    delta = _varying(F.linear(projected[..., :rank], delta_proj_weight), None, dt_rms_weight, b_c_dt_rms_eps)
    if B is None:
        B = _varying(projected[..., rank : rank + states], B_proj_bias, b_rms_weight, b_c_dt_rms_eps)
    if C is None:
        C = _varying(projected[..., -states:], C_proj_bias, c_rms_weight, b_c_dt_rms_eps)
    y = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus).transpose(1, 2)
    return F.linear(y, out_proj_weight, None if out_proj_bias is None else out_proj_bias.to(out_proj_weight.dtype))


def _varying(x, bias, rms_weight, eps):
    """(B, L, N) -> (B, N, L), biased and normalised."""
    x = x if bias is None else x + bias.to(x.dtype)
    x = x if rms_weight is None else F.rms_norm(x, x.shape[-1:], rms_weight.to(x.dtype), eps)
    return x.transpose(1, 2)


def nothing_fused(*args, **kwargs):
    """The fused mixers `mamba_inner_fn` and `mamba_split_conv1d_scan_combined` of the package itself, where transformers looks
    first: None, which tells it to compose the mixer of its parts.

    It does so in evaluation, and only there uses the mask of padding between the parts, other activations than silu, and for
    FalconMamba an RMSNorm before the projection of the time steps. A model must not train another function than it evaluates.
    """


def mamba_inner_ref(*args, **kwargs):
    """`mamba_inner_fn` on the references."""
    with backend("reference"):
        return mamba_inner_fn(*args, **kwargs)


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):
    """`lifter.kernels.selective_state_update` of some rows of a state.

    state_batch_indices: (B,), the rows of `state` that the batch uses. A negative one is padding: its output is 0 and no
    state changes.
    """
    op = "selective_state_update"
    if state_batch_indices is not None:
        check_dtype(op, "state_batch_indices", state_batch_indices, torch.int32, torch.int64)
        check_shape(op, "state_batch_indices", state_batch_indices, (len(x),))
        check_written(op, "state", state)
        used = state_batch_indices >= 0
        rows = state[state_batch_indices.clamp(min=0)]
        out = update(rows, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
        state[state_batch_indices[used]] = rows[used]
        return out.where(used.view(-1, *(1 for _ in out.shape[1:])), 0)
    return update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


def selective_state_update_ref(*args, **kwargs):
    """`selective_state_update` on the references."""
    with backend("reference"):
        return selective_state_update(*args, **kwargs)
