"""Chunked scan of Mamba-2 (SSD), in which the state of a head decays by one factor per step:
h_l = exp(dt_l A) h_(l-1) + dt_l x_l B_l^T,  y_l = h_l C_l + D x_l.

Source: Dao & Gu, "Transformers are SSMs" (2024), sections 3 and 6; names, layouts and options of mamba-ssm.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_dtype, check_float, check_map, check_number, check_shape
from ._op import Cost, Kernel, Op, gradient_products

__all__ = ["mamba_chunk_scan_combined", "mamba_chunk_scan_ref"]


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the scan of Mamba-2, with mamba-ssm's signature and layouts.

    Args:
        x: (B, L, H, P) input of H heads, float32, bfloat16 or float16 (float64 runs on the reference). L >= 1. Strided views
            cost nothing if their last dimension is contiguous.
        dt: (B, L, H) time steps, any float dtype; computed in float32.
        A: (H,), the logarithm of each head's decay per unit of time.
        B, C: (B, L, G, N) with the dtype of `x`; head h reads group h // (H / G).
        chunk_size: accepted for compatibility. The kernels choose their own, which affects only the rounding.
        D: (H,) or (H, P) skip connection. z: (B, L, H, P) gate, out * silu(z). dt_bias: (H,), added to dt.
        initial_states: (B, H, P, N) state before the first step, differentiable. Default: zeros.
        seq_idx: (B, L) int32, the sequence that each step of a packed row belongs to. Every change of the index starts a new
            sequence from a zero state; `initial_states` belong to the first sequence.
        cu_seqlens: accepted for compatibility; only `return_varlen_states` would need it.
        dt_softplus: apply softplus to dt + dt_bias.
        dt_limit: (min, max) to which time steps are clamped; clamped ones get no gradient.
        return_final_states: also return the state after the last step, (B, H, P, N) float32, differentiable.
        return_varlen_states: final states of packed sequences; not supported.

    Returns:
        out (B, L, H, P) with the dtype of `x`, or (out, final_states).

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "mamba_chunk_scan_combined"
    optional = {"D": D, "z": z, "dt_bias": dt_bias, "initial_states": initial_states}
    check_float(op, optional, x=x, dt=dt, A=A, B=B, C=C)
    batch, length, heads, width = check_map(op, "x", x, ("B", "L", "H", "P"))
    check_shape(op, "dt", dt, (batch, length, heads))
    check_shape(op, "A", A, (heads,))
    _, _, groups, states = check_map(op, "B", B, (batch, length, "G", "N"))
    if heads % groups:
        raise ValueError(f"{op}: B has {groups} groups, which do not divide the {heads} heads of x")
    check_shape(op, "C", C, (batch, length, groups, states))
    check_shape(op, "D", D, (heads,), (heads, width))
    check_shape(op, "z", z, (batch, length, heads, width))
    check_shape(op, "dt_bias", dt_bias, (heads,))
    check_shape(op, "initial_states", initial_states, (batch, heads, width, states))
    if seq_idx is not None:
        check_dtype(op, "seq_idx", seq_idx, torch.int32)
        check_shape(op, "seq_idx", seq_idx, (batch, length))
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"{op}: chunk_size is {chunk_size!r}, expected an integer of at least 1")
    if return_varlen_states:
        raise ValueError(f"{op}: return_varlen_states is True, expected False: give every sequence a row of its own")
    least, largest = _limits(op, dt_limit)
    if D is not None and D.dim() == 1:
        D = D[:, None].expand(-1, width)
    out, final_states = MAMBA_CHUNK_SCAN(
        x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, bool(dt_softplus), least, largest, bool(return_final_states)
    )
    return (out, final_states) if return_final_states else out


def mamba_chunk_scan_ref(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_softplus: bool = False,
    dt_min: float = 0.0,
    dt_max: float = math.inf,
    return_final_states: bool = True,
):
    """Reference: scan step by step, in at least float32, with D (H, P). Return out and the final states."""
    out_dtype, dtype = x.dtype, torch.promote_types(x.dtype, torch.float32)
    x, dt, A, B, C = (y.to(dtype) for y in (x, dt, A, B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(dt_min, dt_max)
    decay = torch.exp(dt * A)
    if seq_idx is not None:
        begins = F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))
        decay = decay.masked_fill(begins[..., None], 0)
    B, C = (y.repeat_interleave(x.shape[2] // y.shape[2], 2) for y in (B, C))

    h = x.new_zeros(*x.shape[::2], x.shape[3], B.shape[3]) if initial_states is None else initial_states.to(dtype)
    ys = []
    for decay_l, u_l, B_l, C_l in zip(*(y.unbind(1) for y in (decay, dt[..., None] * x, B, C))):
        h = decay_l[..., None, None] * h + u_l[..., None] * B_l[..., None, :]
        ys.append((h @ C_l[..., None])[..., 0])
    y = torch.stack(ys, 1)

    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(out_dtype), h


def _limits(op, dt_limit):
    try:
        least, largest = dt_limit
    except (TypeError, ValueError):
        raise ValueError(f"{op}: dt_limit is {dt_limit!r}, expected two numbers") from None
    least, largest = check_number(op, "dt_limit", least), check_number(op, "dt_limit", largest)
    if not least <= largest:
        raise ValueError(f"{op}: dt_limit is {dt_limit!r}, expected the smaller number first")
    return least, largest


# ---- registration ----------------------------------------------------------------------------------------------------
# The kernels read x, B, C and z through their strides, with a contiguous last dimension; everything else is float32.


def _fake(x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, dt_softplus, dt_min, dt_max, return_final_states):
    batch, _, heads, width = x.shape
    states = (batch, heads, width, B.shape[3]) if return_final_states else (0,)
    return x.new_empty(x.shape), A.new_empty(states)


def _fake_bwd(dout, dfinal_states, x, dt, A, B, C, D, z, dt_bias, initial_states, *options):
    inputs = (x, dt, A, B, C, D, z, dt_bias, initial_states)
    return tuple(A.new_empty(0) if y is None else y.new_empty(y.shape) for y in inputs)


def _cost(x, dt, A, B, *args):
    """Count, per step and head, a product into the state, a product out of it, and the exponential of the decay."""
    batch, length, heads, width = x.shape
    states = B.shape[3]
    products = [(batch * heads, states, length, width), (batch * heads, length, states, width)]
    return Cost(flops=4 * x.numel() * states, products=products, exponentials=dt.numel())


def _cost_bwd(dout, dfinal_states, *args):
    """Count the two gradients of both products, and recomputing the states."""
    forward = _cost(*args)
    return forward._replace(flops=forward.flops * 5 // 2, products=gradient_products(forward.products))


MAMBA_CHUNK_SCAN = Op(
    mamba_chunk_scan_combined,
    mamba_chunk_scan_ref,
    "mamba_chunk_scan(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? initial_states, Tensor? seq_idx, bool dt_softplus, float dt_min, float dt_max, bool return_final_states) "
    "-> (Tensor out, Tensor final_states)",
    maps="x B C z",
    parameters="dt A D dt_bias initial_states",
    fake=_fake,
    cost=_cost,
    backward=Kernel(
        "mamba_chunk_scan_bwd(Tensor dout, Tensor? dfinal_states, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, "
        "Tensor? D, Tensor? z, Tensor? dt_bias, Tensor? initial_states, Tensor? seq_idx, bool dt_softplus, float dt_min, "
        "float dt_max) -> (Tensor dx, Tensor ddt, Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz, Tensor ddt_bias, "
        "Tensor dinitial_states)",
        fake=_fake_bwd,
        cost=_cost_bwd,
    ),
)
