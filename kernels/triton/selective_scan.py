"""Selective scan on the GPU; the three launches of `_scan`, forward and backward."""

import math

import torch
import triton
import triton.language as tl

from .._layout import channels_last, map_like
from ..selective_scan import CHUNK
from ._scan import (
    LOG2E,
    carry_over,
    differentiate,
    launch,
    load_states,
    pick,
    scan,
    softplus,
    softplus_grad,
    states_at,
    tile_sizes,
    walk,
    walk_sizes,
)

MAX_PARTIALS = 4  # the partial sums of dB and dC may take this many times the memory of u (times 2, there are two)


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, save_states):
    batch, dim, length = u.shape
    A, D, delta_bias, initial_state = map(_contiguous, (A, D, delta_bias, initial_state))
    sequence, tiles, groups = _plan(u, delta, A, B, C, delta_bias, delta_softplus)
    sizes, span = walk_sizes(A.shape[1], dim // groups, batch * groups, length, CHUNK)
    tiles |= sizes
    spans = triton.cdiv(length, span)
    out = map_like(u)
    last_state = A.new_empty(batch, dim, A.shape[1])
    save = A.new_empty(batch, triton.cdiv(length, CHUNK) if save_states else 0, A.shape[1], dim)
    programs = batch * spans * groups * triton.cdiv(dim // groups, tiles["BD"])
    start = initial_state
    if spans > 1:
        start, sums = A.new_empty(batch, spans, A.shape[1], dim), A.new_empty(batch, spans, dim)
        launch(local_states, programs, *sequence, span, start, sums, **tiles)
        carry_over(A[None], sums, initial_state, start)
    launch(outputs, programs, *sequence, span, C, _strides(C), D, z, _strides(z), start, save if save_states else None, out,
           out.stride(), last_state, CHUNK=CHUNK, SPANS=spans > 1, C_CONST=C.dim() == 2, **tiles)  # fmt: skip
    return out, last_state, save


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, has_initial_state, states):
    batch, dim, length = u.shape
    n = A.shape[1]
    chunks = triton.cdiv(length, CHUNK)
    lie = u, delta, z
    # Contiguous inputs (seldom a copy) share their addresses with the gradients; registers are what is short here.
    u, delta, z, dout, B, C = map(_contiguous, (u, delta, z, dout, B, C))
    A, D, delta_bias, dlast_state, states = map(_contiguous, (A, D, delta_bias, dlast_state, states))
    sequence, tiles, groups = _plan(u, delta, A, B, C, delta_bias, delta_softplus)
    tiles |= tile_sizes(n, dim // groups, 64, 8)
    group_blocks = triton.cdiv(dim // groups, tiles["BD"])
    tiles |= {"CHUNK": CHUNK, "C_CONST": C.dim() == 2, "CHUNKED": chunks > 1}
    maps = (u, delta, z, dout, u.stride(), A, B, _strides(B), C, _strides(C), D, delta_bias, *sequence[-5:])
    adjoints = dlast_state
    if chunks > 1:
        sums = A.new_empty(batch, chunks, dim)
        adjoints = A.new_empty(batch, chunks, n, dim)
        launch(local_adjoints, batch * chunks * groups * group_blocks, *maps, adjoints, sums, **tiles)
        carry_over(A[None], sums, dlast_state, adjoints, reverse=True)

    # Every block of channels of a group has its own dB and dC, to be summed; with many states that is too much memory,
    # and a launch for every `splits` blocks adds to those of the launch before.
    splits = group_blocks
    if B.dim() == 4 or C.dim() == 4:
        splits = min(group_blocks, max(1, MAX_PARTIALS * dim // (groups * n)))

    du, ddelta = u.new_empty(u.shape), delta.new_empty(delta.shape)
    dz = None if z is None else z.new_empty(z.shape)
    dinitial = A.new_empty(batch, dim, n) if has_initial_state else None
    dA = A.new_empty(batch, chunks, dim, n)
    dD, dbias = (None if x is None else A.new_empty(batch, chunks, dim) for x in (D, delta_bias))
    dB, dC = (
        A.new_empty(batch, chunks, dim, n) if x.dim() == 2 else A.new_empty(batch, groups, splits, n, length)
        for x in (B, C)
    )
    for first in range(0, group_blocks, max(1, splits)):
        programs = batch * chunks * groups * min(splits, group_blocks - first)
        launch(gradients, programs, *maps, states, adjoints, du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial, first,
               min(splits, group_blocks - first), splits, ACCUMULATE=first > 0, **tiles)  # fmt: skip

    def reduced(partial, x):
        if x is None:
            return A.new_empty(0)
        if x.dim() < 4:
            return partial.sum((0, 1)).to(x.dtype)
        return partial.view(batch, x.shape[1], groups // x.shape[1] * splits, n, length).sum(2).to(x.dtype)

    dA, dB, dC, dD, dbias = map(reduced, (dA, dB, dC, dD, dbias), (A, B, C, D, delta_bias))
    absent = A.new_empty(0)
    du, ddelta, dz = map(_as_lies, lie, (du, ddelta, dz))
    dz, dinitial = (absent.clone() if x is None else x for x in (dz, dinitial))
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dinitial


def _as_lies(x, y):
    """The contiguous `y` in the layout of `x`."""
    return map_like(x).copy_(y) if y is not None and channels_last(x) else y


def _contiguous(x):
    return None if x is None else x.contiguous()


def _strides(x):
    """Strides for (batch, group, state, step); a constant (D, N) has its channel in the place of the group."""
    if x is None:
        return None
    return (0, *x.stride(), 0) if x.dim() == 2 else x.stride()


def _plan(u, delta, A, B, C, delta_bias, delta_softplus):
    """The arguments that every kernel starts with, its constants, and the number of groups of channels."""
    dim, length = u.shape[1:]
    groups = math.lcm(*(x.shape[1] for x in (B, C) if x.dim() == 4))
    constants = {"SOFTPLUS": delta_softplus, "B_CONST": B.dim() == 2, "GROUPS": groups}
    sequence = (u, u.stride(), delta, delta.stride(), A, B, _strides(B), delta_bias, dim, A.shape[1], length)
    sequence += tuple(groups // x.shape[1] if x.dim() == 4 else 1 for x in (B, C))
    return sequence, constants, groups


# ---- tiles -----------------------------------------------------------------------------------------------------------


@triton.jit
def _where(blocks, L, span, GROUPS: tl.constexpr):
    """Return the part of program (batch, span, group, block of the group). Divisions are of int32: int64 would be calls."""
    pid = tl.program_id(0)
    chunks = tl.cdiv(L, span)
    row = pid // (blocks * GROUPS)
    g = pid // blocks % GROUPS
    return (row // chunks).to(tl.int64), (row % chunks).to(tl.int64), g, (pid % blocks).to(tl.int64)


# Addresses are a scalar for the tile and a small offset in it: the scalar costs no vector register, and the offsets of
# the SUB steps become immediates where steps are contiguous.


@triton.jit
def _rows(x, x_s, b, d0, l0, d, l, mask):
    """The tile (SUB, BD) of a map (B, D, L) at channel d0 and step l0, in float32; zero outside."""
    x += b * x_s[0] + d0 * x_s[1] + l0 * x_s[2]
    return tl.load(x + d[None, :] * x_s[1] + l[:, None] * x_s[2], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _time_steps(delta, delta_s, bias, b, d0, l0, d, l, mask, SOFTPLUS: tl.constexpr):
    """delta with its bias, before and after softplus; the latter zero outside, which leaves the state as it is."""
    raw = _rows(delta, delta_s, b, d0, l0, d, l, mask) + bias[None, :]
    dt = softplus(raw) if SOFTPLUS else raw
    return raw, tl.where(mask, dt, 0.0)


@triton.jit
def _coefficients(x, x_s, b, g, d0, l0, d, l, n, left, mask, N, CONST: tl.constexpr):
    """B or C, broadcastable to (SUB, BN, BD)."""
    if CONST:
        x += d0 * x_s[1]
        return tl.load(x + d[None, :] * x_s[1] + n[:, None] * x_s[2], mask=mask, other=0.0).to(tl.float32)[None, :, :]
    else:
        x += b * x_s[0] + g * x_s[1] + l0 * x_s[3]
        inside = (l < left)[:, None] & (n < N)[None, :]
        return tl.load(x + n[None, :] * x_s[2] + l[:, None] * x_s[3], mask=inside, other=0.0).to(tl.float32)[:, :, None]


@triton.jit
def _vector(x, d0, d, mask):
    """Channels of a parameter (D,); zero if there is none."""
    return tl.zeros(d.shape, tl.float32) if x is None else tl.load(x + d0 + d, mask=mask, other=0.0)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def local_states(
    u, u_s, delta, delta_s, A, B, B_s, bias, dim, N, L, b_share, c_share, span, states, sums,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1: the last state of a span that starts from zero, and the sum of its time steps."""
    b, c, g, block = _where(tl.cdiv(dim // GROUPS, BD), L, span, GROUPS)
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    width = dim // GROUPS
    d0, d_mask = g.to(tl.int64) * width + block * BD, d < width - block * BD
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = load_states(A, 0, d0, d, n, dim, N, mask, False) * LOG2E
    shift = _vector(bias, d0, d, d_mask)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    for l0 in range(c * span, tl.minimum(c * span + span, L), SUB):
        seen = (l < L - l0)[:, None] & d_mask[None, :]
        _, dt = _time_steps(delta, delta_s, shift, b, d0, l0, d, l, seen, SOFTPLUS)
        drive = dt * _rows(u, u_s, b, d0, l0, d, l, seen)
        Bs = _coefficients(B, B_s, b, g // b_share, d0, l0, d, l, n, L - l0, mask, N, B_CONST)
        h, _ = walk(h, tl.exp2(dt[:, None, :] * decay[None]), drive[:, None, :] * Bs, None, drive, SUB)
        total += tl.sum(dt, 0)
    row = b * tl.cdiv(L, span) + c
    tl.store(states_at(states, row, d0, d, n, dim, N, True), h, mask=mask)
    tl.store(sums + row * dim + d0 + d, total, mask=d_mask)


@triton.jit
def outputs(
    u, u_s, delta, delta_s, A, B, B_s, bias, dim, N, L, b_share, c_share, span, C, C_s, D, z, z_s, start, save, out, out_s,
    last,
    CHUNK: tl.constexpr, SPANS: tl.constexpr, C_CONST: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3: the outputs of a span from its true state, `start`: of every span if SPANS, else the initial one."""
    b, c, g, block = _where(tl.cdiv(dim // GROUPS, BD), L, span, GROUPS)
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    width = dim // GROUPS
    d0, d_mask = g.to(tl.int64) * width + block * BD, d < width - block * BD
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = load_states(A, 0, d0, d, n, dim, N, mask, False) * LOG2E
    shift = _vector(bias, d0, d, d_mask)
    skip = _vector(D, d0, d, d_mask)
    h = load_states(start, b * tl.cdiv(L, span) + c, d0, d, n, dim, N, mask, SPANS)
    out += b * out_s[0] + d0 * out_s[1]
    end = tl.minimum(c * span + span, L)
    for chunk in range(c * span, end, CHUNK):
        if save is not None:
            row = b * tl.cdiv(L, CHUNK) + chunk // CHUNK
            tl.store(states_at(save, row, d0, d, n, dim, N, True), h, mask=mask)
        for l0 in range(chunk, tl.minimum(chunk + CHUNK, end), SUB):
            seen = (l < L - l0)[:, None] & d_mask[None, :]
            _, dt = _time_steps(delta, delta_s, shift, b, d0, l0, d, l, seen, SOFTPLUS)
            us = _rows(u, u_s, b, d0, l0, d, l, seen)
            Bs = _coefficients(B, B_s, b, g // b_share, d0, l0, d, l, n, L - l0, mask, N, B_CONST)
            Cs = _coefficients(C, C_s, b, g // c_share, d0, l0, d, l, n, L - l0, mask, N, C_CONST)
            a = tl.exp2(dt[:, None, :] * decay[None])
            h, y = walk(h, a, (dt * us)[:, None, :] * Bs, Cs, us * skip[None, :], SUB)
            if z is not None:
                zs = _rows(z, z_s, b, d0, l0, d, l, seen)
                y *= zs * tl.sigmoid(zs)
            tl.store(out + l0 * out_s[2] + d[None, :] * out_s[1] + l[:, None] * out_s[2], y, mask=seen)
    if c == tl.cdiv(L, span) - 1:
        tl.store(states_at(last, b, d0, d, n, dim, N, False), h, mask=mask)


@triton.jit
def local_adjoints(
    u, delta, z, dout, map_s, A, B, B_s, C, C_s, D, bias, dim, N, L, b_share, c_share, adjoints, sums,
    C_CONST: tl.constexpr, CHUNKED: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1 of the backward: what the outputs of a chunk alone give to the state before it."""
    b, c, g, block = _where(tl.cdiv(dim // GROUPS, BD), L, CHUNK, GROUPS)
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    width = dim // GROUPS
    d0, d_mask = g.to(tl.int64) * width + block * BD, d < width - block * BD
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = load_states(A, 0, d0, d, n, dim, N, mask, False)
    shift = _vector(bias, d0, d, d_mask)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    subs = tl.cdiv(tl.minimum(CHUNK, L - c * CHUNK), SUB)
    for i in range(subs):
        l0 = c * CHUNK + (subs - 1 - i) * SUB
        seen = (l < L - l0)[:, None] & d_mask[None, :]
        _, dt = _time_steps(delta, map_s, shift, b, d0, l0, d, l, seen, SOFTPLUS)
        dy = _rows(dout, map_s, b, d0, l0, d, l, seen)
        if z is not None:
            zs = _rows(z, map_s, b, d0, l0, d, l, seen)
            dy *= zs * tl.sigmoid(zs)
        Cs = _coefficients(C, C_s, b, g // c_share, d0, l0, d, l, n, L - l0, mask, N, C_CONST)
        a = tl.exp(dt[:, None, :] * decay[None])
        _, h = scan(h, a, a * (dy[:, None, :] * Cs), SUB, True)
        total += tl.sum(dt, 0)
    row = b * tl.cdiv(L, CHUNK) + c
    tl.store(states_at(adjoints, row, d0, d, n, dim, N, True), h, mask=mask)
    tl.store(sums + row * dim + d0 + d, total, mask=d_mask)


@triton.jit(do_not_specialize=["first", "blocks"])
def gradients(
    u, delta, z, dout, map_s, A, B, B_s, C, C_s, D, bias, dim, N, L, b_share, c_share, states, adjoints, du, ddelta, dz,
    dA, dB, dC, dD, dbias, dinitial, first, blocks, splits,
    ACCUMULATE: tl.constexpr, C_CONST: tl.constexpr, CHUNKED: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3 of the backward: every gradient of a chunk, parameters and shared coefficients as partial sums."""
    b, c, g, split = _where(blocks, L, CHUNK, GROUPS)
    block = first + split
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    width = dim // GROUPS
    slots = tl.arange(0, CHUNK // SUB)[:, None, None]
    chunks = tl.cdiv(L, CHUNK)
    row = b * chunks + c
    subs = tl.cdiv(tl.minimum(CHUNK, L - c * CHUNK), SUB)
    shared = ((b * GROUPS + g) * splits + split) * N * L  # where dB and dC of this split lie
    d0, d_mask = g.to(tl.int64) * width + block * BD, d < width - block * BD
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = load_states(A, 0, d0, d, n, dim, N, mask, False)
    shift = _vector(bias, d0, d, d_mask)
    # The state before every sub-chunk stays in registers.
    h = load_states(states, row, d0, d, n, dim, N, mask, True)
    saved = tl.zeros((CHUNK // SUB, BN, BD), tl.float32)
    for s in tl.range(0, subs, disable_licm=True):
        saved = tl.where(slots == s, h[None, :, :], saved)
        l0 = c * CHUNK + s * SUB
        seen = (l < L - l0)[:, None] & d_mask[None, :]
        _, dt = _time_steps(delta, map_s, shift, b, d0, l0, d, l, seen, SOFTPLUS)
        drive = dt * _rows(u, map_s, b, d0, l0, d, l, seen)
        Bs = _coefficients(B, B_s, b, g // b_share, d0, l0, d, l, n, L - l0, mask, N, B_CONST)
        _, h = scan(h, tl.exp(dt[:, None, :] * decay[None]), drive[:, None, :] * Bs, SUB)

    adjoint = load_states(adjoints, row, d0, d, n, dim, N, mask, CHUNKED)
    dA_sum = tl.zeros((BN, BD), tl.float32)
    dB_sum = tl.zeros((BN, BD), tl.float32)
    dC_sum = tl.zeros((BN, BD), tl.float32)
    dD_sum = tl.zeros((BD,), tl.float32)
    dbias_sum = tl.zeros((BD,), tl.float32)
    skip = _vector(D, d0, d, d_mask)
    for i in tl.range(0, subs, disable_licm=True):
        s = subs - 1 - i
        l0 = c * CHUNK + s * SUB
        seen = (l < L - l0)[:, None] & d_mask[None, :]
        raw, dt = _time_steps(delta, map_s, shift, b, d0, l0, d, l, seen, SOFTPLUS)
        us = _rows(u, map_s, b, d0, l0, d, l, seen)
        Bs = _coefficients(B, B_s, b, g // b_share, d0, l0, d, l, n, L - l0, mask, N, B_CONST)
        Cs = _coefficients(C, C_s, b, g // c_share, d0, l0, d, l, n, L - l0, mask, N, C_CONST)
        a = tl.exp(dt[:, None, :] * decay[None])
        drive = (dt * us)[:, None, :] * Bs
        entered, _ = scan(pick(saved, slots, s), a, drive, SUB)

        corner = (b * dim + d0) * L + l0
        place = d[None, :] * map_s[1] + l[:, None]
        dy = _rows(dout, map_s, b, d0, l0, d, l, seen)
        if z is not None:
            zs = _rows(z, map_s, b, d0, l0, d, l, seen)
            gate = tl.sigmoid(zs)
            y = tl.sum((a * entered + drive) * Cs, 1) + us * skip[None, :]
            tl.store(dz + corner + place, dy * y * gate * (1.0 + zs * (1.0 - gate)), mask=seen)
            dy *= zs * gate

        adjoint, du_tile, ddt, dA_tile, dBs, dCs = differentiate(
            entered, adjoint, a, drive, dt, us, dy, Bs, Cs, decay, SUB
        )
        du_tile += dy * skip[None, :]
        dA_sum += dA_tile
        dD_sum += tl.sum(dy * us, 0)
        if SOFTPLUS:
            ddt *= softplus_grad(raw)
        ddt = tl.where(seen, ddt, 0.0)
        dbias_sum += tl.sum(ddt, 0)
        tl.store(du + corner + place, du_tile, mask=seen)
        tl.store(ddelta + corner + place, ddt, mask=seen)

        coefficient = n[None, :] * L + l[:, None]
        coefficient_mask = (l < L - l0)[:, None] & (n < N)[None, :]
        if B_CONST:
            dB_sum += tl.sum(dBs, 0)
        else:
            dB_tile = tl.sum(dBs, 2)
            if ACCUMULATE:
                dB_tile += tl.load(dB + (shared + l0) + coefficient, mask=coefficient_mask, other=0.0)
            tl.store(dB + (shared + l0) + coefficient, dB_tile, mask=coefficient_mask)
        if C_CONST:
            dC_sum += tl.sum(dCs, 0)
        else:
            dC_tile = tl.sum(dCs, 2)
            if ACCUMULATE:
                dC_tile += tl.load(dC + (shared + l0) + coefficient, mask=coefficient_mask, other=0.0)
            tl.store(dC + (shared + l0) + coefficient, dC_tile, mask=coefficient_mask)

    tl.store(states_at(dA, row, d0, d, n, dim, N, False), dA_sum, mask=mask)
    if B_CONST:
        tl.store(states_at(dB, row, d0, d, n, dim, N, False), dB_sum, mask=mask)
    if C_CONST:
        tl.store(states_at(dC, row, d0, d, n, dim, N, False), dC_sum, mask=mask)
    if D is not None:
        tl.store(dD + row * dim + d0 + d, dD_sum, mask=d_mask)
    if bias is not None:
        tl.store(dbias + row * dim + d0 + d, dbias_sum, mask=d_mask)
    if dinitial is not None:
        if c == 0:
            tl.store(states_at(dinitial, b, d0, d, n, dim, N, False), adjoint, mask=mask)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for n, dtype, constant in (
        (16, torch.float32, False), (16, torch.bfloat16, False), (16, torch.float16, True), (256, torch.float32, False),
    ):  # fmt: skip
        u, A, D = tensor(2, 192, 4131, dtype=dtype), tensor(192, n), tensor(192)
        B = A if constant else tensor(2, 1, n, 4131, dtype=dtype)
        label = f"{'constant ' if constant else ''}N={n} {str(dtype)[6:]}"
        initial, states = tensor(2, 192, n), tensor(2, 65, n, 192)
        yield from recorded(label, forward, u, u, A, B, B, D, u, D, True, initial, True)
        yield from recorded(label, backward, u, initial, u, u, A, B, B, D, u, D, True, True, states)
    # Sizes of 1 and absent tensors, which Triton makes constants
    u, A, B, states = tensor(1, 1, 70), tensor(1, 1), tensor(1, 1, 1, 70), tensor(1, 2, 1, 1)
    yield from recorded("all 1", forward, u, u, A, B, B, None, None, None, False, None, True)
    yield from recorded("all 1", backward, u, None, u, u, A, B, B, None, None, None, False, False, states)
