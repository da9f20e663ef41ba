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

    Returns:
        (B, D) with the dtype of `x`. Gradients, including those of the state, run on the slow reference: train with
        `selective_scan_fn` and call this under `torch.no_grad()`.

    Raises:
        ValueError for wrong shapes, TypeError for wrong dtypes; both name the argument.
    """
    op = "selective_state_update"
    check_float(op, {"D": D, "z": z, "dt_bias": dt_bias}, state=state, x=x, dt=dt, A=A, B=B, C=C)
    check_shape(op, "state", state, ("B", "D", "N"))
    batch, dim, states = state.shape
    if not 1 <= states <= MAX_STATES:
        raise ValueError(f"{op}: state has shape {tuple(state.shape)}, expected 1 to {MAX_STATES} states")
    for name, y in (("x", x), ("dt", dt), ("z", z)):
        check_shape(op, name, y, (batch, dim))
    check_written(op, "state", state)
    check_shape(op, "A", A, (dim, states))
    for name, y in (("B", B), ("C", C)):
        check_shape(op, name, y, (batch, states), (batch, "G", states))
        if y.dim() == 3 and (y.shape[1] == 0 or dim % y.shape[1]):
            raise ValueError(f"{op}: {name} has {y.shape[1]} groups, which do not divide the {dim} channels of x")
    check_shape(op, "D", D, (dim,))
    check_shape(op, "dt_bias", dt_bias, (dim,))
    return SELECTIVE_STATE_UPDATE(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


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
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_in, x, dt = x, x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    dt = (F.softplus(dt) if dt_softplus else dt).unsqueeze(-1)
    B, C = (y.to(dtype).unsqueeze(1) if y.dim() == 2 else y.to(dtype) for y in (B, C))
    B, C = (y.repeat_interleave(x.shape[1] // y.shape[1], dim=1) for y in (B, C))
    before = state.to(dtype, copy=True)  # autograd keeps it
    h = torch.exp(dt * A.to(dtype)) * before + dt * B * x.unsqueeze(-1)
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
