"""Selective scan on the GPU; the three launches of `_scan`, forward and backward."""

import math

import torch
import triton
import triton.language as tl

from ._scan import CHUNK, TARGET_PROGRAMS, carry_over, launch, pick, scan, softplus, softplus_grad, tile_sizes


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, save_states):
    batch, dim, length = u.shape
    chunks = triton.cdiv(length, CHUNK)
    A, D, delta_bias, initial_state = map(_contiguous, (A, D, delta_bias, initial_state))
    sequence, tiles, blocks = _plan(u, delta, A, B, C, delta_bias, delta_softplus)
    out = u.new_empty(batch, dim, length)
    last_state = A.new_empty(batch, dim, A.shape[1])
    states = A.new_empty(batch, chunks if save_states or chunks > 1 else 0, A.shape[1], dim)
    programs = batch * chunks * blocks
    if chunks > 1:
        sums = A.new_empty(batch, chunks, dim)
        launch(local_states, programs, *sequence, states, sums, **tiles)
        carry_over(A[None], sums, initial_state, states)
    start = states if chunks > 1 else initial_state
    save = states if chunks == 1 and save_states else None
    launch(outputs, programs, *sequence, C, _strides(C), D, z, _strides(z), start, save, out, last_state,
           CHUNKED=chunks > 1, C_CONST=C.dim() == 2, **tiles)  # fmt: skip
    return out, last_state, states if save_states else states.new_empty(batch, 0, *states.shape[2:])


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, has_initial_state, states):
    batch, dim, length = u.shape
    n = A.shape[1]
    chunks = triton.cdiv(length, CHUNK)
    A, D, delta_bias, dlast_state, states = map(_contiguous, (A, D, delta_bias, dlast_state, states))
    sequence, tiles, blocks = _plan(u, delta, A, B, C, delta_bias, delta_softplus, backward=True)
    gradient = (C, _strides(C), z, _strides(z), dout, dout.stride())
    consts = {"C_CONST": C.dim() == 2}
    adjoints = dlast_state
    if chunks > 1:
        sums = A.new_empty(batch, chunks, dim)
        adjoints = A.new_empty(batch, chunks, n, dim)
        launch(local_adjoints, batch * chunks * blocks, *sequence, *gradient, adjoints, sums, **consts, **tiles)
        carry_over(A[None], sums, dlast_state, adjoints, reverse=True)

    # One program takes `per_split` blocks of channels one after another and adds up their dB and dC.
    groups, group_blocks = tiles["GROUPS"], blocks // tiles["GROUPS"]
    splits = max(1, min(group_blocks, TARGET_PROGRAMS // max(1, batch * chunks * groups)))
    per_split = triton.cdiv(group_blocks, splits)
    splits = triton.cdiv(group_blocks, per_split)

    du, ddelta = u.new_empty(u.shape), delta.new_empty(delta.shape)
    dz = None if z is None else z.new_empty(z.shape)
    dinitial = A.new_empty(batch, dim, n) if has_initial_state else None
    dA = A.new_empty(batch, chunks, dim, n)
    dD, dbias = (None if x is None else A.new_empty(batch, chunks, dim) for x in (D, delta_bias))
    dB, dC = (
        A.new_empty(batch, chunks, dim, n) if x.dim() == 2 else A.new_empty(batch, groups, splits, n, length)
        for x in (B, C)
    )
    launch(gradients, batch * chunks * groups * splits, *sequence, *gradient, D, states, adjoints,
           du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial, splits, per_split,
           CHUNKED=chunks > 1, **consts, **tiles)  # fmt: skip

    def reduced(partial, x):
        if x is None:
            return A.new_empty(0)
        if x.dim() < 4:
            return partial.sum((0, 1)).to(x.dtype)
        return partial.view(batch, x.shape[1], -1, n, length).sum(2).to(x.dtype)

    dA, dB, dC, dD, dbias = map(reduced, (dA, dB, dC, dD, dbias), (A, B, C, D, delta_bias))
    absent = A.new_empty(0)
    dz, dinitial = (absent.clone() if x is None else x for x in (dz, dinitial))
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dinitial


def _contiguous(x):
    return None if x is None else x.contiguous()


def _strides(x):
    """Strides for (batch, group, state, step); a constant (D, N) has its channel in the place of the group."""
    if x is None:
        return None
    return (0, *x.stride(), 0) if x.dim() == 2 else x.stride()


def _plan(u, delta, A, B, C, delta_bias, delta_softplus, backward=False):
    """The arguments that every kernel starts with, the tile sizes, and the number of channel blocks."""
    dim, length = u.shape[1:]
    groups = math.lcm(*(x.shape[1] for x in (B, C) if x.dim() == 4))
    tiles = tile_sizes(A.shape[1], dim // groups, backward)
    blocks = groups * triton.cdiv(dim // groups, tiles["BD"])
    tiles |= {"SOFTPLUS": delta_softplus, "B_CONST": B.dim() == 2, "CHUNK": CHUNK, "GROUPS": groups}
    sequence = (u, u.stride(), delta, delta.stride(), A, B, _strides(B), delta_bias, dim, A.shape[1], length)
    sequence += tuple(groups // x.shape[1] if x.dim() == 4 else 1 for x in (B, C))
    return sequence, tiles, blocks


# ---- tiles -----------------------------------------------------------------------------------------------------------


@triton.jit
def _where(blocks, L, CHUNK: tl.constexpr, GROUPS: tl.constexpr):
    """What program (batch, chunk, group, block of the group) works on: batch, chunk, group, channels, their mask."""
    pid = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(L, CHUNK)
    row = pid // (blocks * GROUPS)
    g = pid // blocks % GROUPS
    return row // chunks, row % chunks, g, pid % blocks


@triton.jit
def _channels(g, block, dim, BD: tl.constexpr, GROUPS: tl.constexpr):
    """The channels of a block of group g, and their mask."""
    width = dim // GROUPS
    d = block * BD + tl.arange(0, BD)
    return g * width + d, d < width


@triton.jit
def _rows(x, x_s, b, l, d, mask):
    """A tile (SUB, BD) of a map (B, D, L) in float32, zero outside."""
    return tl.load(x + b * x_s[0] + d[None, :] * x_s[1] + l[:, None] * x_s[2], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _time_steps(delta, delta_s, bias, b, l, d, mask, d_mask, SOFTPLUS: tl.constexpr):
    """delta before and after softplus; zero outside, which leaves the state as it is."""
    raw = _rows(delta, delta_s, b, l, d, mask)
    if bias is not None:
        raw += tl.load(bias + d, mask=d_mask, other=0.0)[None, :]
    dt = softplus(raw) if SOFTPLUS else raw
    return raw, tl.where(mask, dt, 0.0)


@triton.jit
def _coefficients(x, x_s, b, g, l, n, d, l_mask, n_mask, d_mask, CONST: tl.constexpr):
    """B or C, broadcastable to (SUB, BN, BD)."""
    if CONST:
        mask = n_mask[:, None] & d_mask[None, :]
        return tl.load(x + d[None, :] * x_s[1] + n[:, None] * x_s[2], mask=mask, other=0.0).to(tl.float32)[None, :, :]
    else:
        mask = l_mask[:, None] & n_mask[None, :]
        x += b * x_s[0] + g * x_s[1]
        return tl.load(x + n[None, :] * x_s[2] + l[:, None] * x_s[3], mask=mask, other=0.0).to(tl.float32)[:, :, None]


@triton.jit
def _states(x, row, d, n, dim, N, mask, TRANSPOSED: tl.constexpr):
    """The (BN, BD) tile of row `row` of (rows, D, N) or (rows, N, D); zero if there is none."""
    if x is None:
        return tl.zeros(mask.shape, tl.float32)
    elif TRANSPOSED:
        return tl.load(x + (row * N + n)[:, None] * dim + d[None, :], mask=mask, other=0.0)
    else:
        return tl.load(x + (row * dim + d)[None, :] * N + n[:, None], mask=mask, other=0.0)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def local_states(
    u, u_s, delta, delta_s, A, B, B_s, bias, dim, N, L, b_share, c_share, states, sums,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1: the last state of a chunk that starts from zero, and the sum of its time steps."""
    b, c, g, block = _where(tl.cdiv(dim // GROUPS, BD), L, CHUNK, GROUPS)
    d, d_mask = _channels(g, block, dim, BD, GROUPS)
    n = tl.arange(0, BN)
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = _states(A, 0, d, n, dim, N, mask, False)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    for first in range(c * CHUNK, tl.minimum(c * CHUNK + CHUNK, L), SUB):
        l = first + tl.arange(0, SUB)
        seen = (l < L)[:, None] & d_mask[None, :]
        _, dt = _time_steps(delta, delta_s, bias, b, l, d, seen, d_mask, SOFTPLUS)
        drive = dt * _rows(u, u_s, b, l, d, seen)
        Bs = _coefficients(B, B_s, b, g // b_share, l, n, d, l < L, n < N, d_mask, B_CONST)
        _, h = scan(h, tl.exp(dt[:, None, :] * decay[None]), drive[:, None, :] * Bs, SUB)
        total += tl.sum(dt, 0)
    row = b * tl.cdiv(L, CHUNK) + c
    tl.store(states + (row * N + n)[:, None] * dim + d[None, :], h, mask=mask)
    tl.store(sums + row * dim + d, total, mask=d_mask)


@triton.jit
def outputs(
    u, u_s, delta, delta_s, A, B, B_s, bias, dim, N, L, b_share, c_share, C, C_s, D, z, z_s, start, save, out, last,
    CHUNKED: tl.constexpr, C_CONST: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3: the outputs of a chunk from its true state, `start`: of every chunk if CHUNKED, else the initial one."""
    b, c, g, block = _where(tl.cdiv(dim // GROUPS, BD), L, CHUNK, GROUPS)
    d, d_mask = _channels(g, block, dim, BD, GROUPS)
    n = tl.arange(0, BN)
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = _states(A, 0, d, n, dim, N, mask, False)
    chunks = tl.cdiv(L, CHUNK)
    h = _states(start, b * chunks + c, d, n, dim, N, mask, CHUNKED)
    if save is not None:
        tl.store(save + (b * N + n)[:, None] * dim + d[None, :], h, mask=mask)
    if D is not None:
        skip = tl.load(D + d, mask=d_mask, other=0.0)
    for first in range(c * CHUNK, tl.minimum(c * CHUNK + CHUNK, L), SUB):
        l = first + tl.arange(0, SUB)
        seen = (l < L)[:, None] & d_mask[None, :]
        _, dt = _time_steps(delta, delta_s, bias, b, l, d, seen, d_mask, SOFTPLUS)
        us = _rows(u, u_s, b, l, d, seen)
        Bs = _coefficients(B, B_s, b, g // b_share, l, n, d, l < L, n < N, d_mask, B_CONST)
        Cs = _coefficients(C, C_s, b, g // c_share, l, n, d, l < L, n < N, d_mask, C_CONST)
        a = tl.exp(dt[:, None, :] * decay[None])
        drive = (dt * us)[:, None, :] * Bs
        entered, h = scan(h, a, drive, SUB)
        y = tl.sum((a * entered + drive) * Cs, 1)
        if D is not None:
            y += us * skip[None, :]
        if z is not None:
            zs = _rows(z, z_s, b, l, d, seen)
            y *= zs * tl.sigmoid(zs)
        tl.store(out + (b * dim + d)[None, :] * L + l[:, None], y, mask=seen)
    if c == chunks - 1:
        tl.store(last + (b * dim + d)[None, :] * N + n[:, None], h, mask=mask)


@triton.jit
def local_adjoints(
    u, u_s, delta, delta_s, A, B, B_s, bias, dim, N, L, b_share, c_share, C, C_s, z, z_s, dout, dout_s, adjoints, sums,
    C_CONST: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1 of the backward: what the outputs of a chunk alone give to the state before it."""
    b, c, g, block = _where(tl.cdiv(dim // GROUPS, BD), L, CHUNK, GROUPS)
    d, d_mask = _channels(g, block, dim, BD, GROUPS)
    n = tl.arange(0, BN)
    mask = (n < N)[:, None] & d_mask[None, :]
    decay = _states(A, 0, d, n, dim, N, mask, False)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    subs = tl.cdiv(tl.minimum(CHUNK, L - c * CHUNK), SUB)
    for i in range(subs):
        l = c * CHUNK + (subs - 1 - i) * SUB + tl.arange(0, SUB)
        seen = (l < L)[:, None] & d_mask[None, :]
        _, dt = _time_steps(delta, delta_s, bias, b, l, d, seen, d_mask, SOFTPLUS)
        dy = _rows(dout, dout_s, b, l, d, seen)
        if z is not None:
            zs = _rows(z, z_s, b, l, d, seen)
            dy *= zs * tl.sigmoid(zs)
        Cs = _coefficients(C, C_s, b, g // c_share, l, n, d, l < L, n < N, d_mask, C_CONST)
        a = tl.exp(dt[:, None, :] * decay[None])
        _, h = scan(h, a, a * (dy[:, None, :] * Cs), SUB, True)
        total += tl.sum(dt, 0)
    row = b * tl.cdiv(L, CHUNK) + c
    tl.store(adjoints + (row * N + n)[:, None] * dim + d[None, :], h, mask=mask)
    tl.store(sums + row * dim + d, total, mask=d_mask)


@triton.jit
def gradients(
    u, u_s, delta, delta_s, A, B, B_s, bias, dim, N, L, b_share, c_share, C, C_s, z, z_s, dout, dout_s, D, states,
    adjoints, du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial, splits, per_split,
    CHUNKED: tl.constexpr, C_CONST: tl.constexpr,
    SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr, GROUPS: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3 of the backward: every gradient of a chunk, parameters and shared coefficients as partial sums."""
    b, c, g, split = _where(splits, L, CHUNK, GROUPS)
    n = tl.arange(0, BN)
    slots = tl.arange(0, CHUNK // SUB)[:, None, None]
    chunks = tl.cdiv(L, CHUNK)
    row = b * chunks + c
    subs = tl.cdiv(tl.minimum(CHUNK, L - c * CHUNK), SUB)
    shared = ((b * GROUPS + g) * splits + split) * N * L  # where dB and dC of this split lie
    for i in range(per_split):
        d, d_mask = _channels(g, split * per_split + i, dim, BD, GROUPS)
        mask = (n < N)[:, None] & d_mask[None, :]
        decay = _states(A, 0, d, n, dim, N, mask, False)
        # The state before every sub-chunk stays in registers.
        h = _states(states, row, d, n, dim, N, mask, True)
        saved = tl.zeros((CHUNK // SUB, BN, BD), tl.float32)
        for s in range(subs):
            saved = tl.where(slots == s, h[None, :, :], saved)
            l = c * CHUNK + s * SUB + tl.arange(0, SUB)
            seen = (l < L)[:, None] & d_mask[None, :]
            _, dt = _time_steps(delta, delta_s, bias, b, l, d, seen, d_mask, SOFTPLUS)
            drive = dt * _rows(u, u_s, b, l, d, seen)
            Bs = _coefficients(B, B_s, b, g // b_share, l, n, d, l < L, n < N, d_mask, B_CONST)
            _, h = scan(h, tl.exp(dt[:, None, :] * decay[None]), drive[:, None, :] * Bs, SUB)

        adjoint = _states(adjoints, row, d, n, dim, N, mask, CHUNKED)
        dA_sum = tl.zeros((BN, BD), tl.float32)
        dB_sum = tl.zeros((BN, BD), tl.float32)
        dC_sum = tl.zeros((BN, BD), tl.float32)
        dD_sum = tl.zeros((BD,), tl.float32)
        dbias_sum = tl.zeros((BD,), tl.float32)
        if D is not None:
            skip = tl.load(D + d, mask=d_mask, other=0.0)
        for i_sub in range(subs):
            s = subs - 1 - i_sub
            l = c * CHUNK + s * SUB + tl.arange(0, SUB)
            seen = (l < L)[:, None] & d_mask[None, :]
            raw, dt = _time_steps(delta, delta_s, bias, b, l, d, seen, d_mask, SOFTPLUS)
            us = _rows(u, u_s, b, l, d, seen)
            Bs = _coefficients(B, B_s, b, g // b_share, l, n, d, l < L, n < N, d_mask, B_CONST)
            Cs = _coefficients(C, C_s, b, g // c_share, l, n, d, l < L, n < N, d_mask, C_CONST)
            a = tl.exp(dt[:, None, :] * decay[None])
            drive = (dt * us)[:, None, :] * Bs
            entered, _ = scan(pick(saved, slots, s), a, drive, SUB)
            hs = a * entered + drive

            place = (b * dim + d)[None, :] * L + l[:, None]
            dy = _rows(dout, dout_s, b, l, d, seen)
            if z is not None:
                zs = _rows(z, z_s, b, l, d, seen)
                gate = tl.sigmoid(zs)
                y = tl.sum(hs * Cs, 1)
                if D is not None:
                    y += us * skip[None, :]
                tl.store(dz + place, dy * y * gate * (1.0 + zs * (1.0 - gate)), mask=seen)
                dy *= zs * gate

            drop = dy[:, None, :] * Cs
            arrived, adjoint = scan(adjoint, a, a * drop, SUB, True)
            grad = arrived + drop  # of the state after every step
            through = grad * entered * a  # grad of (delta A)
            force = tl.sum(grad * Bs, 1)
            du_tile = dt * force
            ddt = us * force + tl.sum(through * decay[None], 1)
            dA_sum += tl.sum(through * dt[:, None, :], 0)
            if D is not None:
                du_tile += dy * skip[None, :]
                dD_sum += tl.sum(dy * us, 0)
            if SOFTPLUS:
                ddt *= softplus_grad(raw)
            ddt = tl.where(seen, ddt, 0.0)
            dbias_sum += tl.sum(ddt, 0)
            tl.store(du + place, du_tile, mask=seen)
            tl.store(ddelta + place, ddt, mask=seen)

            dBs = grad * (dt * us)[:, None, :]
            dCs = hs * dy[:, None, :]
            coefficient = shared + n[None, :] * L + l[:, None]
            coefficient_mask = (l < L)[:, None] & (n < N)[None, :]
            if B_CONST:
                dB_sum += tl.sum(dBs, 0)
            else:
                before = tl.load(dB + coefficient, mask=coefficient_mask & (i > 0), other=0.0)
                tl.store(dB + coefficient, before + tl.sum(dBs, 2), mask=coefficient_mask)
            if C_CONST:
                dC_sum += tl.sum(dCs, 0)
            else:
                before = tl.load(dC + coefficient, mask=coefficient_mask & (i > 0), other=0.0)
                tl.store(dC + coefficient, before + tl.sum(dCs, 2), mask=coefficient_mask)

        tile = (row * dim + d)[None, :] * N + n[:, None]
        tl.store(dA + tile, dA_sum, mask=mask)
        if B_CONST:
            tl.store(dB + tile, dB_sum, mask=mask)
        if C_CONST:
            tl.store(dC + tile, dC_sum, mask=mask)
        if D is not None:
            tl.store(dD + row * dim + d, dD_sum, mask=d_mask)
        if bias is not None:
            tl.store(dbias + row * dim + d, dbias_sum, mask=d_mask)
        if dinitial is not None:
            if c == 0:
                tl.store(dinitial + (b * dim + d)[None, :] * N + n[:, None], adjoint, mask=mask)
        tl.debug_barrier()  # the next block adds to the dB and dC that this one stored


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for n, dtype, constant in (
        (16, torch.float32, False), (16, torch.bfloat16, False), (16, torch.float16, True),
        (1, torch.float32, False), (40, torch.float32, False), (100, torch.bfloat16, True), (256, torch.float32, False),
    ):  # fmt: skip
        for length in (4131,):
            u = tensor(2, 192, length, dtype=dtype)
            A, D = tensor(192, n), tensor(192)
            B = A if constant else tensor(2, 1, n, length, dtype=dtype)
            label = f"{'constant ' if constant else ''}N={n} {str(dtype)[6:]}"
            initial, states = tensor(2, 192, n), tensor(2, 65, n, 192)
            yield from recorded(label, forward, u, u, A, B, B, D, u, D, True, initial, True)
            yield from recorded(label, backward, u, initial, u, u, A, B, B, D, u, D, True, True, states)
