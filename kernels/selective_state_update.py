"""One step of the selective scan, for streaming. See `selective_scan` for the equations."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_shape, check_written
from ._op import Cost, Op
from ._torch import written
from .selective_scan import MAX_STATES, same_groups

__all__ = ["selective_state_update", "selective_state_update_ref"]


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Compute one step of the scan, with mamba-ssm's name and argument order; `state` is updated in place.

    Args:
        state: (B, D, N), overwritten with the new state; not an expanded tensor, and sharing no memory with other arguments.
            Any float dtype; float32 keeps streams exact.
        x, dt: (B, D), any float dtypes (float64 of `x` runs on the reference). A: (D, N) real.
        B, C: (B, N) or (B, G, N). D: (D,). z: (B, D), gate. dt_bias: (D,). Any float dtypes.
        dt_softplus: apply softplus to dt + dt_bias.

    With heads, as in Mamba-2: state (B, H, P, N), x and z (B, H, P), D (H, P). The channels and states of a head share
    dt (B, H), A (H,) and dt_bias (H,). mamba-ssm's dt (B, H, P), A (H, P, N) and dt_bias (H, P) are accepted too; they cost
    no more if they are expanded from one value per head.

    Returns:
        (B, D) or (B, H, P) with the dtype of `x`. Gradients, including those of the state, run on the slow reference: train
        with `selective_scan_fn` and call this under `torch.no_grad()`.

    Raises:
        ValueError for wrong shapes, TypeError for wrong dtypes; both name the argument.
    """
    op = "selective_state_update"
    check_float(op, {"D": D, "z": z, "dt_bias": dt_bias}, state=state, x=x, dt=dt, A=A, B=B, C=C)
    check_shape(op, "state", state, ("B", "D", "N"), ("B", "H", "P", "N"))
    if state.dim() == 4:
        return _with_heads(SELECTIVE_STATE_UPDATE, state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    batch, dim, states = state.shape
    _check_states(op, state)
    for name, y in (("x", x), ("dt", dt), ("z", z)):
        check_shape(op, name, y, (batch, dim))
    check_shape(op, "A", A, (dim, states))
    _check_groups(op, batch, dim, states, "channels", B=B, C=C)
    check_shape(op, "D", D, (dim,))
    check_shape(op, "dt_bias", dt_bias, (dim,))
    return SELECTIVE_STATE_UPDATE(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _check_states(op, state):
    if not 1 <= state.shape[-1] <= MAX_STATES:
        raise ValueError(f"{op}: state has shape {tuple(state.shape)}, expected 1 to {MAX_STATES} states")
    check_written(op, "state", state)


def _check_groups(op, batch, count, states, of, **maps):
    for name, y in maps.items():
        check_shape(op, name, y, (batch, states), (batch, "G", states))
        if y.dim() == 3 and (y.shape[1] == 0 or count % y.shape[1]):
            raise ValueError(f"{op}: {name} has {y.shape[1]} groups, which do not divide the {count} {of} of x")


def _with_heads(step, state, x, dt, A, B, C, D, z, dt_bias, dt_softplus):
    """Advance heads by flattening them to channels for `step`; channels of a head may share dt, A and dt_bias."""
    op = "selective_state_update"
    _check_states(op, state)
    batch, heads, width, states = state.shape
    for name, y in (("x", x), ("z", z)):
        check_shape(op, name, y, (batch, heads, width))
    check_shape(op, "dt", dt, (batch, heads, width), (batch, heads))
    check_shape(op, "A", A, (heads, width, states), (heads,))
    check_shape(op, "D", D, (heads, width))
    check_shape(op, "dt_bias", dt_bias, (heads, width), (heads,))
    _check_groups(op, batch, heads, states, "heads", B=B, C=C)
    dt = dt if dt.dim() == 3 else dt[..., None].expand(batch, heads, width)
    A = A if A.dim() == 3 else A[:, None, None].expand(heads, width, states)
    if dt_bias is not None and dt_bias.dim() == 1:
        dt_bias = dt_bias[:, None].expand(heads, width)
    if width and not (dt.stride(2) or A.stride(1) or A.stride(2) or dt_bias is not None and dt_bias.stride(1)):
        dt, A, dt_bias = dt[..., 0], A[:, 0], None if dt_bias is None else dt_bias[:, 0]
    else:
        dt, A, dt_bias = dt.flatten(1), A.flatten(0, 1), None if dt_bias is None else dt_bias.flatten()
    rows = state.flatten(1, 2)
    D, z = None if D is None else D.flatten(), None if z is None else z.flatten(1)
    out = step(rows, x.flatten(1), dt, A, B, C, D, z, dt_bias, dt_softplus)
    if heads > 1 and state.stride(1) != width * state.stride(2):  # `rows` is a copy
        state.copy_(rows.unflatten(1, (heads, width)))
    return out.view(x.shape)


def selective_state_update_ref(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Reference of `selective_state_update`."""
    if state.dim() == 4:
        return _with_heads(selective_state_update_ref, state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_in, x, dt = x, x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    dt = (F.softplus(dt) if dt_softplus else dt).unsqueeze(-1)
    width = x.shape[1] // max(1, len(A))  # channels that share these
    dt, A = dt.repeat_interleave(width, 1), A.to(dtype).repeat_interleave(width, 0)
    B, C = (y.to(dtype).unsqueeze(1) if y.dim() == 2 else y.to(dtype) for y in (B, C))
    B, C = (y.repeat_interleave(x.shape[1] // y.shape[1], dim=1) for y in (B, C))
    before = state.to(dtype, copy=True)  # autograd keeps it
    h = torch.exp(dt * A) * before + dt * B * x.unsqueeze(-1)
    state.copy_(h)
    y = (h * C).sum(-1)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x_in.dtype)


# ---- registration ----------------------------------------------------------------------------------------------------


def _kernels(ops, state, x, dt, A, B, C, *rest):
    B, C = same_groups(*(y.unsqueeze(1) if y.dim() == 2 else y for y in (B, C)))
    h = state.float()
    out = ops.selective_state_update(h, x, dt, A, B, C, *rest)
    written(state, h)
    return out


def _fake(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus):
    return x.new_empty(x.shape)


def _cost(state, *args):
    """Count as Mamba's authors do: 9 D N for the state and D for the skip per sequence."""
    batch, dim, states = state.shape
    return Cost(flops=batch * dim * (9 * states + 1), exponentials=state.numel())


SELECTIVE_STATE_UPDATE = Op(
    selective_state_update,
    selective_state_update_ref,
    "selective_state_update(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, bool dt_softplus) -> Tensor",
    maps="x dt B C z",
    mixed=True,
    parameters="A D dt_bias",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="selective_state_update:forward",
)
