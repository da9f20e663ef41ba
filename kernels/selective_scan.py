"""Selective scan, the recurrence of Mamba: h_l = exp(delta_l A) h_(l-1) + delta_l B_l u_l,  y_l = C_l h_l + D u_l.

Source: Gu & Dao, "Mamba" (2023), equations 2 and 3 with the zero-order hold of A and the Euler step of B, as mamba-ssm
computes it; SasMamba paper, equations 2 to 6.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_like, check_shape
from ._layout import map_like
from ._op import Cost, Kernel, Op
from ._torch import autocast_dtype, exporting, saves_states

__all__ = ["selective_scan_fn", "selective_scan_ref"]

CHUNK = 64  # steps between two saved states; equals kChunk in csrc/cpu/layout.h
MAX_STATES = 256


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the selective scan, with mamba-ssm's signature and layouts.

    Args:
        u: (B, D, L) input, float32, bfloat16 or float16 (float64 runs on the reference). L >= 1. On a CPU, maps that are
            contiguous along the steps or the channels (a transposed (B, L, D) map) are read in place; other strides cost one
            copy.
        delta: (B, D, L) time steps, dtype of `u`.
        A: (D, N) real, any float dtype; computed in float32. N <= 256.
        B, C: (D, N) constant, or (B, N, L) or (B, G, N, L) with the dtype of `u`; channel d reads group d // (D / G).
        D: (D,) skip connection. z: (B, D, L) gate: out * silu(z). delta_bias: (D,), added to delta.
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last step, (B, D, N) float32, differentiable.
        initial_state: (B, D, N) state before the first step, differentiable. Default: zeros.

    Returns:
        out (B, D, L) with the dtype and the layout of `u`, or (out, last_state).

    Raises:
        ValueError for wrong shapes, TypeError for wrong dtypes; both name the argument.
    """
    op = "selective_scan_fn"
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "initial_state": initial_state}
    check_float(op, optional, u=u, delta=delta, A=A, B=B, C=C)
    _check_shapes(op, u, delta, A, B, C, D, z, delta_bias, initial_state)
    # B and C are maps like u if they vary over time, otherwise parameters.
    if (dtype := autocast_dtype(u)) is not None:
        u, B, C = (x.to(dtype) if x.dim() > 2 else x for x in (u, B, C))
    for name, x in (("B", B), ("C", C)):
        if x.dim() > 2:
            check_like(op, "u", u, name, x)
    out, last_state = SELECTIVE_SCAN(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    return (out, last_state) if return_last_state else out


def same_groups(B, C):
    """Expand B and C, (B, G, N, ...), to the same number of groups, as the kernels require."""
    groups = math.lcm(B.shape[1], C.shape[1])
    return (x if x.shape[1] == groups else x.repeat_interleave(groups // x.shape[1], dim=1) for x in (B, C))


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Reference of `selective_scan_fn`: step by step in float32 (float64 for float64 input)."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    batch, dim, length = u.shape
    u_in, u, delta, A, B, C = u, *(x.to(dtype) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)

    decay = torch.exp(torch.einsum("bdl,dn->lbdn", delta, A))
    drive = torch.einsum("bdl,lbdn->lbdn", delta * u, _per_step(B, batch, dim, length))
    C = _per_step(C, batch, dim, length)
    h = u.new_zeros(batch, dim, A.shape[1]) if initial_state is None else initial_state.to(dtype)

    def step(h, now):
        decay, drive, C = now
        h = decay * h + drive
        return h, (h * C).sum(-1)

    if exporting():  # a single loop in the graph for any length, instead of thousands of nodes
        from torch._higher_order_ops import scan

        h, ys = scan(step, h, (decay, drive, C))
    else:
        ys = []
        for now in zip(decay.unbind(0), drive.unbind(0), C.unbind(0)):
            h, y = step(h, now)
            ys.append(y)
        ys = torch.stack(ys)
    y = ys.movedim(0, -1)

    if D is not None:
        y = y + u * D.to(dtype)[:, None]
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u_in.dtype)
    return (y, h) if return_last_state else y


def _per_step(X, batch, dim, length):
    """Convert B or C from any of its layouts to (L, B, D, N)."""
    if X.dim() == 2:
        return X.expand(length, batch, *X.shape)
    if X.dim() == 3:
        X = X.unsqueeze(1)
    return X.repeat_interleave(dim // X.shape[1], dim=1).permute(3, 0, 1, 2)


def _check_shapes(op, u, delta, A, B, C, D, z, delta_bias, initial_state):
    check_shape(op, "u", u, ("B", "D", "L"))
    batch, dim, length = u.shape
    if length < 1:
        raise ValueError(f"{op}: u has shape {tuple(u.shape)}, expected at least one step (L >= 1)")
    check_shape(op, "A", A, (dim, "N"))
    states = A.shape[1]
    if not 1 <= states <= MAX_STATES:
        raise ValueError(f"{op}: A has shape {tuple(A.shape)}, expected 1 to {MAX_STATES} states")
    for name, x in (("B", B), ("C", C)):
        check_shape(op, name, x, (dim, states), (batch, states, length), (batch, "G", states, length))
        if x.dim() == 4 and (x.shape[1] == 0 or dim % x.shape[1]):
            raise ValueError(f"{op}: {name} has {x.shape[1]} groups, which do not divide the {dim} channels of u")
    check_shape(op, "delta", delta, (batch, dim, length))
    check_shape(op, "z", z, (batch, dim, length))
    check_shape(op, "D", D, (dim,))
    check_shape(op, "delta_bias", delta_bias, (dim,))
    check_shape(op, "initial_state", initial_state, (batch, dim, states))


# ---- registration ----------------------------------------------------------------------------------------------------


def _reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state):
    return selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True, initial_state)


def _kernels(ops, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state):
    B, C = (x.float() if x.dim() == 2 else (x.unsqueeze(1) if x.dim() == 3 else x).to(u.dtype) for x in (B, C))
    if B.dim() == C.dim() == 4:
        B, C = same_groups(B, C)
    save_states = saves_states(u, delta, A, B, C, D, z, delta_bias, initial_state)
    out, last_state, _ = ops.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, save_states)
    return out, last_state


def _fake(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, save_states):
    batch, dim, length = u.shape
    states = A.shape[1]
    chunks = (length + CHUNK - 1) // CHUNK if save_states else 0
    return (
        map_like(u),
        A.new_empty(batch, dim, states),
        A.new_empty(batch, chunks, states, dim),
    )


def _fake_bwd(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, has_initial_state, states):
    def like(x):
        return A.new_empty(0) if x is None else x.new_empty(x.shape)

    dinitial = A.new_empty(u.shape[0], *A.shape) if has_initial_state else A.new_empty(0)
    dz = A.new_empty(0) if z is None else map_like(z)
    return map_like(u), map_like(delta), *(like(x) for x in (A, B, C, D)), dz, like(delta_bias), dinitial


def _cost(u, delta, A, *args):
    """Count as Mamba's authors do: 9 L D N for the scan and L D for the skip per sequence; one exponential per step, channel
    and state."""
    return Cost(flops=u.numel() * (9 * A.shape[1] + 1), exponentials=u.numel() * A.shape[1])


def _cost_bwd(dout, dlast_state, *args):
    """Count twice the forward, FlopCounterMode's convention for the two gradients of a product. Exponentials are recomputed:
    storing them would take N times the memory of the input."""
    forward = _cost(*args)
    return forward._replace(flops=2 * forward.flops)


SELECTIVE_SCAN = Op(
    selective_scan_fn,
    _reference,
    "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? initial_state, bool save_states) -> (Tensor out, Tensor last_state, Tensor states)",
    maps="u delta z",
    parameters="A D delta_bias initial_state",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="selective_scan:forward",
    backward=Kernel(
        "selective_scan_bwd(Tensor dout, Tensor? dlast_state, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, "
        "Tensor? D, Tensor? z, Tensor? delta_bias, bool delta_softplus, bool has_initial_state, Tensor states) "
        "-> (Tensor du, Tensor ddelta, Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz, Tensor ddelta_bias, "
        "Tensor dinitial_state)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="selective_scan:backward",
    ),
)
