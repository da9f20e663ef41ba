"""Scan of SasMamba and PoseMamba over a pose clip in up to four directions at once.

Sources: SasMamba paper, equations 12 to 15 and table 6; official code of SasMamba and PoseMamba (cross scan, selective
scan, cross merge). The map (B, T, J, C) is read once per direction: joints are gathered through a small table, time steps
softplus(dt_proj(dt) + bias) are computed on the fly, and all directions are summed into one output.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ._checks import check_float, check_index, check_shape
from ._op import Cost, Kernel, Op
from ._torch import saves_states
from .linear import linear
from .selective_scan import CHUNK, MAX_STATES, selective_scan_ref

__all__ = ["skeleton_scan", "skeleton_scan_ref"]

# Table 6 of the paper, in the order of the official weight groups. T walks frame by frame (joint fastest), S joint by
# joint (frame fastest); bit 0 of the code is the walk, bit 1 the reversal.
DIRECTIONS = {"T-f": 0, "S-f": 1, "T-b": 2, "S-b": 3}


def skeleton_scan(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A: Tensor,
    D: Tensor,
    gather: Tensor | None = None,
    channel_groups: Sequence[int] | None = None,
    directions: Sequence[str] = ("T-f", "S-f", "T-b", "S-b"),
) -> Tensor:
    """Compute the sum of selective scans over a pose clip in K directions.

    Args:
        x: (B, T, J, C) map, float32, bfloat16 or float16 (float64 runs on the reference).
        x_proj_weight: (K, R + 2N, C), projects a token to (dt, B, C) for each direction.
        dt_proj_weight: (K, C, R). dt_proj_bias: (K, C). delta = softplus(dt_proj(dt) + bias).
        A: (K, C, N) real. D: (K, C) skip.
        gather: (K, G, M, J) int32: direction k reads x[:, :, gather[k, g, 0, v]] + x[:, :, gather[k, g, 1, v]] + ... at joint
            v, for the channels of group g; negative entries are ignored. An entry of J or more raises ValueError on the CPU
            (RuntimeError in a compiled or exported graph) and is ignored on the GPU, where checking would force a
            synchronization. None: each joint reads itself.
        channel_groups: sizes of the G channel groups, which sum to C. None: one group.
        directions: K of "T-f", "T-b" (frame-major, forward and backward), "S-f", "S-b" (joint-major).

    Returns:
        (B, T, J, C) with the dtype of `x`. The scans are bit-for-bit reproducible with any number of threads; the projection
        is PyTorch's matrix product, whose rounding may depend on it.

    Raises:
        ValueError for wrong shapes or names, TypeError for wrong dtypes; both name the argument.
    """
    op = "skeleton_scan"
    check_float(op, x=x, x_proj_weight=x_proj_weight, dt_proj_weight=dt_proj_weight, dt_proj_bias=dt_proj_bias, A=A, D=D)
    codes = _direction_codes(directions)
    channel_groups = _check_shapes(
        op, x, x_proj_weight, dt_proj_weight, dt_proj_bias, A, D, gather, channel_groups, len(codes)
    )
    return SKELETON_SCAN(x, x_proj_weight, dt_proj_weight, dt_proj_bias, A, D, gather, channel_groups, directions)


def skeleton_scan_ref(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A: Tensor,
    D: Tensor,
    gather: Tensor | None = None,
    channel_groups: Sequence[int] | None = None,
    directions: Sequence[str] = ("T-f", "S-f", "T-b", "S-b"),
) -> Tensor:
    """Reference of `skeleton_scan`: plain indexing and `selective_scan_ref`."""
    B, T, J, C = x.shape
    N = A.shape[-1]
    codes = _direction_codes(directions)
    sequences = torch.stack([_walk(_gathered(x, gather, channel_groups, k), code) for k, code in enumerate(codes)], 1)
    dt, Bs, Cs = torch.einsum("bklc,kpc->bkpl", sequences, x_proj_weight).split([dt_proj_weight.shape[-1], N, N], 2)
    dtype = torch.promote_types(x.dtype, torch.float32)
    delta = torch.einsum("bkrl,kcr->bkcl", dt.to(dtype), dt_proj_weight.to(dtype))
    y = selective_scan_ref(
        sequences.to(dtype).transpose(2, 3).flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        Bs,
        Cs,
        D.flatten(),
        delta_bias=dt_proj_bias.flatten(),
        delta_softplus=True,
    )
    y = y.unflatten(1, (len(codes), C)).transpose(2, 3)  # pyright: ignore[reportAttributeAccessIssue]
    return reduce(torch.add, [_unwalk(y[:, k], code, T, J) for k, code in enumerate(codes)]).to(x.dtype)


def _gathered(x, gather, channel_groups, k):
    if gather is None:
        return x
    parts = []
    for part, table in zip(x.split(channel_groups or [x.shape[-1]], -1), gather[k].long()):
        terms = (part[:, :, joints.clamp(min=0)] * (joints >= 0)[:, None] for joints in table)
        parts.append(sum(terms))
    return torch.cat(parts, -1)


def _walk(x, code):
    """Flatten (B, T, J, C) to (B, L, C) in the order of the direction."""
    sequence = (x.transpose(1, 2) if code & 1 else x).flatten(1, 2)
    return sequence.flip(1) if code & 2 else sequence


def _unwalk(y, code, T, J):
    y = y.flip(1) if code & 2 else y
    return y.unflatten(1, (J, T)).transpose(1, 2) if code & 1 else y.unflatten(1, (T, J))


def _direction_codes(directions):
    known = isinstance(directions, (tuple, list)) and all(d in DIRECTIONS for d in directions)
    if not known or not directions:
        raise ValueError(f"skeleton_scan: directions is {directions!r}, expected a sequence of {tuple(DIRECTIONS)}")
    return [DIRECTIONS[d] for d in directions]


def _check_shapes(op, x, x_proj_weight, dt_proj_weight, dt_proj_bias, A, D, gather, channel_groups, K):
    check_shape(op, "x", x, ("B", "T", "J", "C"))
    C, J = x.shape[3], x.shape[2]
    if x.shape[1] * J < 1:
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected at least one frame and one joint")
    check_shape(op, "A", A, (K, C, "N"))
    check_shape(op, "dt_proj_weight", dt_proj_weight, (K, C, "R"))
    N, R = A.shape[2], dt_proj_weight.shape[2]
    if not 1 <= N <= MAX_STATES:
        raise ValueError(f"{op}: A has shape {tuple(A.shape)}, expected 1 to {MAX_STATES} states")
    check_shape(op, "x_proj_weight", x_proj_weight, (K, R + 2 * N, C))
    check_shape(op, "dt_proj_bias", dt_proj_bias, (K, C))
    check_shape(op, "D", D, (K, C))
    if channel_groups is not None and not hasattr(channel_groups, "__iter__"):
        raise TypeError(f"{op}: channel_groups is {channel_groups!r}, expected a sequence of sizes")
    channel_groups = [C] if channel_groups is None else [int(size) for size in channel_groups]
    if sum(channel_groups) != C or min(channel_groups) < 1:
        raise ValueError(f"{op}: channel_groups is {channel_groups}, expected positive sizes that sum to {C}")
    if gather is None:
        if len(channel_groups) > 1:
            raise ValueError(f"{op}: channel_groups is {channel_groups} without gather, expected None")
    else:
        check_index(op, "gather", gather, "joint", J)
        check_shape(op, "gather", gather, (K, len(channel_groups), "M", J))
        if gather.shape[2] < 1:
            raise ValueError(f"{op}: gather has shape {tuple(gather.shape)}, expected at least one term (M >= 1)")
    return channel_groups


# ---- registration ----------------------------------------------------------------------------------------------------


def _kernels(ops, x, x_proj_weight, dt_proj_weight, dt_proj_bias, A, D, gather, channel_groups, directions):
    codes = _direction_codes(directions)
    if gather is None:
        gather = torch.arange(x.shape[2], dtype=torch.int32, device=x.device).expand(len(codes), 1, 1, -1)
    # The kernel gathers after projecting, so only R + 2N channels are gathered and no gathered map is stored.
    proj = [
        linear(part, weight.flatten(0, 1))
        for part, weight in zip(x.split(channel_groups, -1), x_proj_weight.split(channel_groups, -1))
    ]
    proj = torch.stack(proj, -2) if len(proj) > 1 else proj[0].unsqueeze(-2)
    proj = proj.unflatten(-1, x_proj_weight.shape[:2])
    save_states = saves_states(x, proj, dt_proj_weight, dt_proj_bias, A, D)
    out, _ = ops.skeleton_scan(x, proj, dt_proj_weight, dt_proj_bias, A, D, gather, channel_groups, codes, save_states)
    return out


def _fake(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, save_states):
    B, T, J, C = x.shape
    chunks = (T * J + CHUNK - 1) // CHUNK if save_states else 0
    return x.new_empty(x.shape), A.new_empty(B, A.shape[0], chunks, A.shape[2], C)


def _fake_bwd(dout, x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, states):
    return tuple(t.new_empty(t.shape) for t in (x, proj, dt_weight, dt_bias, A, D))


def _cost(x, proj, dt_weight, dt_bias, A, *args):
    """Count dt_proj and, per direction, Mamba's official 9 L D N + L D, with an exponential per step, channel and state."""
    K, _, N = A.shape
    return Cost(flops=x.numel() * K * (2 * dt_weight.shape[2] + 9 * N + 1), exponentials=x.numel() * K * N)


def _cost_bwd(dout, *args):
    """Count twice the forward, FlopCounterMode's convention for the two gradients of a product, and recomputed
    exponentials."""
    forward = _cost(*args)
    return forward._replace(flops=2 * forward.flops)


SKELETON_SCAN = Op(
    skeleton_scan,
    skeleton_scan_ref,
    "skeleton_scan(Tensor x, Tensor proj, Tensor dt_weight, Tensor dt_bias, Tensor A, Tensor D, Tensor gather, "
    "int[] channel_groups, int[] directions, bool save_states) -> (Tensor out, Tensor states)",
    maps="x x_proj_weight",
    parameters="dt_proj_weight dt_proj_bias A D",
    kernels=_kernels,
    fake=_fake,
    cost=_cost,
    triton="skeleton_scan:forward",
    backward=Kernel(
        "skeleton_scan_bwd(Tensor dout, Tensor x, Tensor proj, Tensor dt_weight, Tensor dt_bias, Tensor A, Tensor D, "
        "Tensor gather, int[] channel_groups, int[] directions, Tensor states) "
        "-> (Tensor dx, Tensor dproj, Tensor ddt_weight, Tensor ddt_bias, Tensor dA, Tensor dD)",
        fake=_fake_bwd,
        cost=_cost_bwd,
        triton="skeleton_scan:backward",
    ),
)
