"""Skeleton scan on the GPU: the launches of `_scan` for all directions at once, and an output launch per direction.

Step l of a direction is token (t, j) of the (B, T, J, C) map. Its input is the sum of the tokens that the gather table
names; its row (dt, B, C) the sum, over channel groups too, of the projections of those tokens; delta is formed in
registers. The backward writes the gradients of inputs and rows by step, in the order of the map, and `ungather` gives
every token what the tables took from it, in a fixed order.
"""

from itertools import accumulate

import torch
import triton
import triton.language as tl

from ..selective_scan import CHUNK
from ._scan import (
    SUB,
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
)

MAX_PARTIALS = 4  # the partial sums of the row gradients may take this many times the memory of u in K directions


def forward(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, save_states):
    B, T, J, C = x.shape
    K, _, N = A.shape
    chunks = triton.cdiv(T * J, CHUNK)
    sequence, tiles, blocks = _plan(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions)
    states = A.new_zeros(B, K, chunks, N, C) if chunks == 1 else A.new_empty(B, K, chunks, N, C)
    if chunks > 1:
        sums = A.new_empty(B, K, chunks, C)
        launch(local_states, B * K * chunks * blocks, *sequence, states, sums, **tiles)
        carry_over(A.contiguous(), sums.flatten(0, 1), None, states.flatten(0, 1))
    out = x.new_empty(B, T, J, C)
    total = out if K == 1 or out.dtype == torch.float32 else A.new_empty(B, T, J, C)
    for k in range(K):
        launch(outputs, B * chunks * blocks, *sequence, k, states, total, out if k == K - 1 else total,
               FIRST=k == 0, **tiles)  # fmt: skip
    return out, states if save_states else A.new_empty(B, K, 0, N, C)


def backward(dout, x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, states):
    B, T, J, C = x.shape
    K, _, N = A.shape
    R = dt_weight.shape[2]
    G = gather.shape[1]
    chunks = triton.cdiv(T * J, CHUNK)
    dout, states = dout.contiguous(), states.contiguous()
    sequence, tiles, blocks = _plan(
        x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, backward=True
    )
    adjoints = None
    if chunks > 1:
        sums = A.new_empty(B, K, chunks, C)
        adjoints = A.new_empty(B, K, chunks, N, C)
        launch(local_adjoints, B * K * chunks * blocks, *sequence, dout, adjoints, sums, **tiles)
        carry_over(A.contiguous(), sums.flatten(0, 1), None, adjoints.flatten(0, 1), reverse=True)

    width = R + 2 * N
    splits = min(blocks, max(1, MAX_PARTIALS * C // width))
    du = A.new_empty(B, K, 1, T, J, C)
    drows = A.new_empty(B, K, splits, T, J, width)
    dA, dW = (A.new_empty(B, K, chunks, C, n) for n in (N, R))
    dD, dbias = (A.new_empty(B, K, chunks, C) for _ in range(2))
    for first in range(0, blocks, max(1, splits)):
        count = min(splits, blocks - first)
        launch(gradients, B * K * chunks * count, *sequence, dout, states, adjoints, du, drows, dA, dW, dD, dbias,
               first, count, splits, ACCUMULATE=first > 0, **tiles)  # fmt: skip

    dx, dproj = x.new_empty(x.shape), proj.new_empty(proj.shape)
    table = gather.contiguous()
    bounds = tiles["BOUNDS"]
    _ungather(du, table, dx, bounds, per_direction=False)
    _ungather(drows, table, dproj, (0,) * G, per_direction=True)
    return dx, dproj, *(partial.sum((0, 2)) for partial in (dW, dbias, dA, dD))


def _plan(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, backward=False):
    """The arguments that every kernel starts with, its constants, and the number of channel blocks."""
    B, T, J, C = x.shape
    K, _, R = dt_weight.shape
    G, M = gather.shape[1:3]
    tiles = tile_sizes(A.shape[2], C, *((32, 8) if backward else ()))
    blocks = triton.cdiv(C, tiles["BD"])
    tiles |= {"CHUNK": CHUNK, "BR": min(triton.next_power_of_2(R), 4), "G": G, "M": M}
    tiles["BOUNDS"] = (0, *accumulate(channel_groups))[:-1]
    codes = sum(code << (2 * k) for k, code in enumerate(directions))
    dt_weight, dt_bias, A, D, gather = (p.contiguous() for p in (dt_weight, dt_bias, A, D, gather))
    sequence = (x, x.stride(), proj, proj.stride(), dt_weight, dt_bias, A, D, gather, codes, T, J, C, K, R, A.shape[2])
    return sequence, tiles, blocks


def _ungather(source, table, out, bounds, per_direction):
    """out (B, T, J, C), or (B, T, J, G, K, C) per direction, from source (B, K, S, T, J, C), which is summed over S."""
    B, K, S, T, J, C = source.shape
    G, M = table.shape[1:3]
    bc = min(triton.next_power_of_2(max(C, 1)), 32)
    programs = triton.cdiv(B * T * J, SUB * 8) * triton.cdiv(C, bc) * (G * K if per_direction else 1)
    launch(ungather, programs, source, table, out, B * T * J, T, J, C, K, S, PER_DIRECTION=per_direction, BOUNDS=bounds,
           G=G, M=M, TOKENS=SUB * 8, BC=bc, num_warps=4)  # fmt: skip


# ---- tiles -----------------------------------------------------------------------------------------------------------


@triton.jit
def _where(blocks, K, T, J, CHUNK: tl.constexpr):
    """Return the part of program (batch, direction, chunk, block of channels); int32 divisions, int64 would be calls."""
    pid = tl.program_id(0)
    chunks = tl.cdiv(T * J, CHUNK)
    row = pid // (blocks * chunks)
    chunk = pid // blocks % chunks
    return (row // K).to(tl.int64), (row % K).to(tl.int64), chunk.to(tl.int64), (pid % blocks).to(tl.int64)


@triton.jit
def _tokens(code, l0, l, T, J):
    """Frame, joint of the steps l0 + l of a direction, and which of them exist. T J fits int32: it divides faster."""
    step = (l0 + l).to(tl.int32)
    inside = step < T * J
    place = tl.where(inside, tl.where(code // 2 == 1, T * J - 1 - step, step), 0)
    inner = tl.where(code % 2 == 1, T, J)
    slow, fast = (place // inner).to(tl.int64), (place % inner).to(tl.int64)
    by_joint = code % 2 == 1
    return tl.where(by_joint, fast, slow), tl.where(by_joint, slow, fast), inside


@triton.jit
def _group(c, BOUNDS: tl.constexpr):
    """The group of a channel, whose groups start at BOUNDS."""
    g = c * 0
    for i in tl.static_range(1, len(BOUNDS)):
        g += tl.where(c >= BOUNDS[i], 1, 0)
    return g


@triton.jit
def _inputs(x, x_s, table, b, k, t, j, c, group, mask, J, G: tl.constexpr, M: tl.constexpr):
    """The (SUB, BD) inputs of a tile of steps: the gathered tokens, summed."""
    x += b * x_s[0]
    total = tl.zeros(mask.shape, tl.float32)
    for m in tl.static_range(M):
        joint = tl.load(table + ((k * G + group)[None, :] * M + m) * J + j[:, None], mask=mask, other=-1).to(tl.int64)
        there = mask & (joint >= 0) & (joint < J)
        place = t[:, None] * x_s[1] + joint * x_s[2] + c[None, :] * x_s[3]
        total += tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def _columns(proj, proj_s, table, b, k, t, j, first, r, mask, J, G: tl.constexpr, M: tl.constexpr):
    """The columns first + r of the rows (dt, B, C) of a tile of steps, (SUB, r)."""
    proj += b * proj_s[0] + k * proj_s[4] + first * proj_s[5]
    total = tl.zeros(mask.shape, tl.float32)
    for g in tl.static_range(G):
        for m in tl.static_range(M):
            joint = tl.load(table + ((k * G + g) * M + m) * J + j).to(tl.int64)
            there = mask & ((joint >= 0) & (joint < J))[:, None]
            place = (t * proj_s[1] + joint * proj_s[2])[:, None] + (r * proj_s[5])[None, :]
            total += tl.load(proj + g * proj_s[3] + place, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def _time_steps(
    proj, proj_s, dt_weight, shift, table, b, k, t, j, c, inside, c_mask, J, C, R,
    G: tl.constexpr, M: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """delta of a tile before and after softplus; the latter zero outside, which leaves the state as it is."""
    mask = inside[:, None] & c_mask[None, :]
    raw = tl.zeros(mask.shape, tl.float32) + shift[None, :]
    for r0 in range(0, R, BR):
        r = tl.arange(0, BR).to(tl.int64)
        r_mask = r < R - r0
        dt = _columns(proj, proj_s, table, b, k, t, j, r0, r, inside[:, None] & r_mask[None, :], J, G, M)
        weight = _weights(dt_weight, k, r0, r, c, r_mask, c_mask, C, R)
        raw += tl.sum(dt[:, :, None] * weight[None], 1)
    return raw, tl.where(mask, softplus(raw), 0.0)


@triton.jit
def _weights(dt_weight, k, r0, r, c, r_mask, c_mask, C, R):
    """The (BR, BD) tile of dt_weight."""
    place = dt_weight + (k * C * R + r0) + (c * R)[None, :] + r[:, None]
    return tl.load(place, mask=r_mask[:, None] & c_mask[None, :], other=0.0)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def local_states(
    x, x_s, proj, proj_s, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, R, N, states, sums,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1: the last state of a chunk that starts from zero, and the sum of its time steps."""
    b, k, chunk, block = _where(tl.cdiv(C, BD), K, T, J, CHUNK)
    code = (codes >> (2 * k)) & 3
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    d0 = block * BD
    c, c_mask, n_mask = d0 + d, d < C - d0, n < N
    mask = n_mask[:, None] & c_mask[None, :]
    group = _group(c, BOUNDS)
    decay = load_states(A, k, d0, d, n, C, N, mask, False)
    shift = tl.load(dt_bias + k * C + c, mask=c_mask, other=0.0)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    for l0 in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, T * J), SUB):
        t, j, inside = _tokens(code, l0, l, T, J)
        _, dt = _time_steps(proj, proj_s, dt_weight, shift, table, b, k, t, j, c, inside, c_mask, J, C, R, G, M, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, inside[:, None] & c_mask[None, :], J, G, M)
        Bs = _columns(proj, proj_s, table, b, k, t, j, R, n, inside[:, None] & n_mask[None, :], J, G, M)
        _, h = scan(h, tl.exp(dt[:, None, :] * decay[None]), (dt * us)[:, None, :] * Bs[:, :, None], SUB)
        total += tl.sum(dt, 0)
    row = (b * K + k) * tl.cdiv(T * J, CHUNK) + chunk
    tl.store(states_at(states, row, d0, d, n, C, N, True), h, mask=mask)
    tl.store(sums + row * C + c, total, mask=c_mask)


@triton.jit(do_not_specialize=["k"])
def outputs(
    x, x_s, proj, proj_s, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, R, N, k, states, total, out,
    FIRST: tl.constexpr,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3 of direction k: out = total (unless FIRST) + its outputs."""
    b, _one, chunk, block = _where(tl.cdiv(C, BD), 1, T, J, CHUNK)
    code = (codes >> (2 * k)) & 3
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    d0 = block * BD
    c, c_mask, n_mask = d0 + d, d < C - d0, n < N
    mask = n_mask[:, None] & c_mask[None, :]
    group = _group(c, BOUNDS)
    decay = load_states(A, k, d0, d, n, C, N, mask, False)
    shift = tl.load(dt_bias + k * C + c, mask=c_mask, other=0.0)
    skip = tl.load(D + k * C + c, mask=c_mask, other=0.0)
    h = load_states(states, (b * K + k) * tl.cdiv(T * J, CHUNK) + chunk, d0, d, n, C, N, mask, True)
    for l0 in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, T * J), SUB):
        t, j, inside = _tokens(code, l0, l, T, J)
        seen, row_mask = inside[:, None] & c_mask[None, :], inside[:, None] & n_mask[None, :]
        _, dt = _time_steps(proj, proj_s, dt_weight, shift, table, b, k, t, j, c, inside, c_mask, J, C, R, G, M, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, seen, J, G, M)
        Bs = _columns(proj, proj_s, table, b, k, t, j, R, n, row_mask, J, G, M)[:, :, None]
        Cs = _columns(proj, proj_s, table, b, k, t, j, R + N, n, row_mask, J, G, M)[:, :, None]
        a = tl.exp(dt[:, None, :] * decay[None])
        drive = (dt * us)[:, None, :] * Bs
        entered, h = scan(h, a, drive, SUB)
        y = tl.sum((a * entered + drive) * Cs, 1) + us * skip[None, :]
        place = (((b * T + t) * J + j) * C)[:, None] + c[None, :]
        if not FIRST:
            y += tl.load(total + place, mask=seen, other=0.0)
        tl.store(out + place, y, mask=seen)


@triton.jit
def local_adjoints(
    x, x_s, proj, proj_s, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, R, N, dout, adjoints, sums,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1 of the backward: what the outputs of a chunk alone give to the state before it."""
    b, k, chunk, block = _where(tl.cdiv(C, BD), K, T, J, CHUNK)
    code = (codes >> (2 * k)) & 3
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    d0 = block * BD
    c, c_mask, n_mask = d0 + d, d < C - d0, n < N
    mask = n_mask[:, None] & c_mask[None, :]
    decay = load_states(A, k, d0, d, n, C, N, mask, False)
    shift = tl.load(dt_bias + k * C + c, mask=c_mask, other=0.0)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    subs = tl.cdiv(tl.minimum(CHUNK, T * J - chunk * CHUNK), SUB)
    for i in range(subs):
        t, j, inside = _tokens(code, chunk * CHUNK + (subs - 1 - i) * SUB, l, T, J)
        _, dt = _time_steps(proj, proj_s, dt_weight, shift, table, b, k, t, j, c, inside, c_mask, J, C, R, G, M, BR)
        place = (((b * T + t) * J + j) * C)[:, None] + c[None, :]
        dy = tl.load(dout + place, mask=inside[:, None] & c_mask[None, :], other=0.0).to(tl.float32)
        Cs = _columns(proj, proj_s, table, b, k, t, j, R + N, n, inside[:, None] & n_mask[None, :], J, G, M)
        a = tl.exp(dt[:, None, :] * decay[None])
        _, h = scan(h, a, a * (dy[:, None, :] * Cs[:, :, None]), SUB, True)
        total += tl.sum(dt, 0)
    row = (b * K + k) * tl.cdiv(T * J, CHUNK) + chunk
    tl.store(states_at(adjoints, row, d0, d, n, C, N, True), h, mask=mask)
    tl.store(sums + row * C + c, total, mask=c_mask)


@triton.jit(do_not_specialize=["first", "blocks"])
def gradients(
    x, x_s, proj, proj_s, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, R, N, dout, states, adjoints,
    du, drows, dA, dW, dD, dbias, first, blocks, splits,
    ACCUMULATE: tl.constexpr,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3 of the backward: every gradient of a chunk by step, and parameters as partial sums."""
    b, k, chunk, split = _where(blocks, K, T, J, CHUNK)
    code = (codes >> (2 * k)) & 3
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    d0 = (first + split) * BD
    c, c_mask, n_mask = d0 + d, d < C - d0, n < N
    mask = n_mask[:, None] & c_mask[None, :]
    group = _group(c, BOUNDS)
    decay = load_states(A, k, d0, d, n, C, N, mask, False)
    shift = tl.load(dt_bias + k * C + c, mask=c_mask, other=0.0)
    skip = tl.load(D + k * C + c, mask=c_mask, other=0.0)
    row = (b * K + k) * tl.cdiv(T * J, CHUNK) + chunk
    subs = tl.cdiv(tl.minimum(CHUNK, T * J - chunk * CHUNK), SUB)

    # The state before every sub-chunk stays in registers.
    slots = tl.arange(0, CHUNK // SUB)[:, None, None]
    h = load_states(states, row, d0, d, n, C, N, mask, True)
    saved = tl.zeros((CHUNK // SUB, BN, BD), tl.float32)
    for s in tl.range(0, subs, disable_licm=True):
        saved = tl.where(slots == s, h[None, :, :], saved)
        t, j, inside = _tokens(code, chunk * CHUNK + s * SUB, l, T, J)
        _, dt = _time_steps(proj, proj_s, dt_weight, shift, table, b, k, t, j, c, inside, c_mask, J, C, R, G, M, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, inside[:, None] & c_mask[None, :], J, G, M)
        Bs = _columns(proj, proj_s, table, b, k, t, j, R, n, inside[:, None] & n_mask[None, :], J, G, M)
        _, h = scan(h, tl.exp(dt[:, None, :] * decay[None]), (dt * us)[:, None, :] * Bs[:, :, None], SUB)

    adjoint = load_states(adjoints, row, d0, d, n, C, N, mask, True)
    dA_sum = tl.zeros((BN, BD), tl.float32)
    dD_sum = tl.zeros((BD,), tl.float32)
    dbias_sum = tl.zeros((BD,), tl.float32)
    for i in tl.range(0, subs, disable_licm=True):
        s = subs - 1 - i
        t, j, inside = _tokens(code, chunk * CHUNK + s * SUB, l, T, J)
        seen, row_mask = inside[:, None] & c_mask[None, :], inside[:, None] & n_mask[None, :]
        raw, dt = _time_steps(proj, proj_s, dt_weight, shift, table, b, k, t, j, c, inside, c_mask, J, C, R, G, M, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, seen, J, G, M)
        Bs = _columns(proj, proj_s, table, b, k, t, j, R, n, row_mask, J, G, M)[:, :, None]
        Cs = _columns(proj, proj_s, table, b, k, t, j, R + N, n, row_mask, J, G, M)[:, :, None]
        dy = tl.load(dout + (((b * T + t) * J + j) * C)[:, None] + c[None, :], mask=seen, other=0.0).to(tl.float32)
        a = tl.exp(dt[:, None, :] * decay[None])
        drive = (dt * us)[:, None, :] * Bs
        entered, _ = scan(pick(saved, slots, s), a, drive, SUB)
        adjoint, du_tile, ddt, dA_tile, dBs, dCs = differentiate(
            entered, adjoint, a, drive, dt, us, dy, Bs, Cs, decay, SUB
        )
        ddt = tl.where(seen, ddt * softplus_grad(raw), 0.0)
        dA_sum += dA_tile
        dD_sum += tl.sum(dy * us, 0)
        dbias_sum += tl.sum(ddt, 0)

        place = (((b * K + k) * T + t) * J + j) * C
        tl.store(du + place[:, None] + c[None, :], du_tile + dy * skip[None, :], mask=seen)
        rows = drows + (((((b * K + k) * splits + split) * T + t) * J + j) * (R + 2 * N))[:, None]
        dB_tile, dC_tile = tl.sum(dBs, 2), tl.sum(dCs, 2)
        if ACCUMULATE:
            dB_tile += tl.load(rows + R + n[None, :], mask=row_mask, other=0.0)
            dC_tile += tl.load(rows + R + N + n[None, :], mask=row_mask, other=0.0)
        tl.store(rows + R + n[None, :], dB_tile, mask=row_mask)
        tl.store(rows + R + N + n[None, :], dC_tile, mask=row_mask)
        for r0 in range(0, R, BR):
            r = tl.arange(0, BR).to(tl.int64)
            r_mask = r < R - r0
            tile_mask = inside[:, None] & r_mask[None, :]
            steps = _columns(proj, proj_s, table, b, k, t, j, r0, r, tile_mask, J, G, M)
            weight = _weights(dt_weight, k, r0, r, c, r_mask, c_mask, C, R)
            dsteps = tl.sum(ddt[:, None, :] * weight[None], 2)
            if ACCUMULATE:
                dsteps += tl.load(rows + r0 + r[None, :], mask=tile_mask, other=0.0)
            tl.store(rows + r0 + r[None, :], dsteps, mask=tile_mask)
            sums = dW + (row * C * R + r0) + (c * R)[None, :] + r[:, None]
            sums_mask = r_mask[:, None] & c_mask[None, :]
            before = tl.load(sums, mask=sums_mask & (i > 0), other=0.0)
            tl.debug_barrier()  # every thread has read before one writes,
            tl.store(sums, before + tl.sum(steps[:, :, None] * ddt[:, None, :], 0), mask=sums_mask)
            tl.debug_barrier()  # and the next tile reads what was written

    tl.store(states_at(dA, row, d0, d, n, C, N, False), dA_sum, mask=mask)
    tl.store(dD + row * C + c, dD_sum, mask=c_mask)
    tl.store(dbias + row * C + c, dbias_sum, mask=c_mask)


@triton.jit
def ungather(
    source, table, out, tokens, T, J, C, K, S,
    PER_DIRECTION: tl.constexpr, BOUNDS: tl.constexpr, G: tl.constexpr, M: tl.constexpr,
    TOKENS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradient of every token: the sum over the steps whose table entries name its joint, in a fixed order."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BC)
    c = (pid % blocks * BC + tl.arange(0, BC)).to(tl.int64)
    pid = pid // blocks
    first, last = 0, K
    group = _group(c, BOUNDS)
    to = pid * 0
    if PER_DIRECTION:  # program (token block, group, direction)
        to = pid % (G * K)
        first, last = to % K, to % K + 1
        group = c * 0 + to // K
        pid = pid // (G * K)
    token = pid * TOKENS + tl.arange(0, TOKENS)
    frame, joint = token // J, token % J
    batch, frame = (frame // T).to(tl.int64), frame % T
    mask = (token < tokens)[:, None] & (c < C)[None, :]
    total = tl.zeros((TOKENS, BC), tl.float32)
    for k in range(first, last):
        for s in range(S):
            begin = (((batch * K + k) * S + s) * T + frame) * J
            for v in range(J):
                for m in tl.static_range(M):
                    entry = tl.load(table + ((k * G + group) * M + m) * J + v, mask=c < C, other=-1)
                    taken = mask & (entry[None, :] == joint[:, None])
                    total += tl.load(source + ((begin + v) * C)[:, None] + c[None, :], mask=taken, other=0.0)
    token = token.to(tl.int64)
    place = ((token * (G * K) + to) * C if PER_DIRECTION else token * C)[:, None] + c[None, :]
    tl.store(out + place, total, mask=mask)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for n, dtype, groups, m, directions in (
        (16, torch.float32, [64], 3, [0, 1, 2, 3]), (16, torch.bfloat16, [22, 21, 21], 1, [0, 1, 2, 3]),
        (1, torch.float16, [64], 1, [1]), (40, torch.float32, [64], 2, [0, 2]), (256, torch.float32, [64], 1, [0]),
    ):  # fmt: skip
        k = len(directions)
        x = tensor(2, 243, 17, 64, dtype=dtype)
        proj = tensor(2, 243, 17, len(groups), k, 4 + 2 * n, dtype=dtype)
        arguments = (x, proj, tensor(k, 64, 4), tensor(k, 64), tensor(k, 64, n), tensor(k, 64),
                     tensor(k, len(groups), m, 17, dtype=torch.int32), groups, directions)  # fmt: skip
        label = f"N={n} {str(dtype)[6:]} G={len(groups)} M={m} K={k}"
        yield from recorded(label, forward, *arguments, True)
        yield from recorded(label, backward, x, *arguments, tensor(2, k, 65, n, 64))
    x, one = tensor(1, 1, 1, 1), tensor(1, 1)  # sizes of 1, which Triton makes constants
    arguments = (x, tensor(1, 1, 1, 1, 1, 3), x[0], one, x[0], one, tensor(1, 1, 1, 1, dtype=torch.int32), [1], [1])
    yield from recorded("all 1", forward, *arguments, True)
    yield from recorded("all 1", backward, x, *arguments, tensor(1, 1, 1, 1, 1))
