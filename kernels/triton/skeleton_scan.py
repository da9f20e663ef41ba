"""Skeleton scan on the GPU: the launches of `_scan` for all directions at once, whose outputs are summed.

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
    LOG2E,
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
    walk,
    walk_sizes,
)

MAX_PARTIALS = 4  # the partial sums of the row gradients may take this many times the memory of u in K directions


def forward(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, save_states):
    B, T, J, C = x.shape
    K, _, N = A.shape
    sequence, tiles = _plan(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions)
    sizes, span = walk_sizes(N, C, B * K, T * J, CHUNK)
    tiles |= sizes
    spans = triton.cdiv(T * J, span)
    programs = B * K * spans * triton.cdiv(C, tiles["BD"])
    out = x.new_empty(B, T, J, C) if K == 1 else A.new_empty(B, K, T, J, C)
    states = A.new_empty(B, K, triton.cdiv(T * J, CHUNK) if save_states else 0, N, C)
    start = None
    if spans > 1:
        start, sums = A.new_empty(B, K, spans, N, C), A.new_empty(B, K, spans, C)
        launch(local_states, programs, *sequence, span, start, sums, **tiles)
        carry_over(A.contiguous(), sums.flatten(0, 1), None, start.flatten(0, 1))
    launch(outputs, programs, *sequence, span, start, states if save_states else None, out, CHUNK=CHUNK, **tiles)
    return out if K == 1 else out.sum(1).to(x.dtype), states


def backward(dout, x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions, states):
    B, T, J, C = x.shape
    K, _, N = A.shape
    R = dt_weight.shape[2]
    G = gather.shape[1]
    chunks = triton.cdiv(T * J, CHUNK)
    dout, states = dout.contiguous(), states.contiguous()
    sequence, tiles = _plan(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions)
    tiles |= {"CHUNK": CHUNK, **tile_sizes(N, C, 32, 8)}
    blocks = triton.cdiv(C, tiles["BD"])
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


def _plan(x, proj, dt_weight, dt_bias, A, D, gather, channel_groups, directions):
    """The arguments that every kernel starts with, and its constants."""
    B, T, J, C = x.shape
    K, _, R = dt_weight.shape
    G, M = gather.shape[1:3]
    constants = {"G": G, "M": M, "BOUNDS": (0, *accumulate(channel_groups))[:-1]}
    constants |= {"R": R, "W": proj.shape[-1], "BR": min(triton.next_power_of_2(R), 4)}
    codes = sum(code << (2 * k) for k, code in enumerate(directions))
    dt_weight, dt_bias, A, D, gather = (p.contiguous() for p in (dt_weight, dt_bias, A, D, gather))
    rows = A.new_empty(B, K, T * J, proj.shape[-1])
    block, of_all = 1024, {name: constants[name] for name in "GMW"}
    launch(gather_rows, B * K * triton.cdiv(T * J * rows.shape[-1], block), proj, proj.stride(), gather, codes, T, J, K, rows,
           BLOCK=block, num_warps=4, **of_all)  # fmt: skip
    sequence = (x, x.stride(), rows, dt_weight, dt_bias, A, D, gather, codes, T, J, C, K, A.shape[2])
    return sequence, constants


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
def _where(blocks, K, T, J, span):
    """Return the part of program (batch, direction, span, block of channels); int32 divisions, int64 would be calls."""
    pid = tl.program_id(0)
    chunks = tl.cdiv(T * J, span)
    row = pid // (blocks * chunks)
    chunk = pid // blocks % chunks
    return (row // K).to(tl.int64), (row % K).to(tl.int64), chunk.to(tl.int64), (pid % blocks).to(tl.int64)


@triton.jit
def _first(code, l0, l, T, J):
    """Where the steps l0 + l of a walk are: its slow and its fast coordinate, before a reversal."""
    step, inner = (l0 + l).to(tl.int32), tl.where(code % 2 == 1, T, J)
    return step // inner, step % inner


@triton.jit
def _next(code, slow, fast, T, J, SUB: tl.constexpr):
    """Where they are SUB steps later."""
    inner = tl.where(code % 2 == 1, T, J)
    fast += SUB % inner
    over = fast >= inner
    return slow + SUB // inner + over.to(tl.int32), tl.where(over, fast - inner, fast)


@triton.jit
def _token(code, slow, fast, inside, T, J):
    """Frame and joint of such a place; zero outside."""
    by_joint, back = code % 2 == 1, code // 2 == 1
    t, j = tl.where(by_joint, fast, slow), tl.where(by_joint, slow, fast)
    t, j = tl.where(back, T - 1 - t, t), tl.where(back, J - 1 - j, j)
    return tl.where(inside, t, 0).to(tl.int64), tl.where(inside, j, 0).to(tl.int64)


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
        if G == 1:  # an entry for all channels
            joint = tl.load(table + (k * M + m) * J + j)[:, None].to(tl.int64)
        else:
            joint = tl.load(table + ((k * G + group)[None, :] * M + m) * J + j[:, None], mask=mask, other=-1).to(tl.int64)
        there = mask & (joint >= 0) & (joint < J)
        place = t[:, None] * x_s[1] + joint * x_s[2] + c[None, :] * x_s[3]
        total += tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def _columns(rows, l, first, r, mask, W: tl.constexpr):
    """The columns first + r of the `gather_rows` of a tile of steps, (SUB, r)."""
    return tl.load(rows + l[:, None] * W + (first + r)[None, :], mask=mask, other=0.0)


@triton.jit
def _time_steps(rows, dt_weight, shift, k, l, c, inside, c_mask, C, R: tl.constexpr, W: tl.constexpr, BR: tl.constexpr):
    """delta of a tile before and after softplus; the latter zero outside, which leaves the state as it is."""
    mask = inside[:, None] & c_mask[None, :]
    raw = tl.zeros(mask.shape, tl.float32) + shift[None, :]
    for r0 in tl.static_range(0, R, BR):
        r = tl.arange(0, BR).to(tl.int64)
        r_mask = r < R - r0
        dt = _columns(rows, l, r0, r, inside[:, None] & r_mask[None, :], W)
        weight = _weights(dt_weight, k, r0, r, c, r_mask, c_mask, C, R)
        raw += tl.sum(dt[:, :, None] * weight[None], 1)
    return raw, tl.where(mask, softplus(raw), 0.0)


@triton.jit
def _weights(dt_weight, k, r0, r, c, r_mask, c_mask, C, R: tl.constexpr):
    """The (BR, BD) tile of dt_weight."""
    place = dt_weight + (k * C * R + r0) + (c * R)[None, :] + r[:, None]
    return tl.load(place, mask=r_mask[:, None] & c_mask[None, :], other=0.0)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def gather_rows(
    proj, proj_s, table, codes, T, J, K, rows, G: tl.constexpr, M: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr
):
    """Rows (dt, B, C) of all steps of a direction, in order, (B, K, T J, W): the sums of those that the table names."""
    blocks = tl.cdiv(T * J * W, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    b, k = row // K, row % K
    code = (codes >> (2 * k)) & 3
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    step, column = place // W, place % W
    inside = step < T * J
    slow, fast = _first(code, 0, step, T, J)
    t, j = _token(code, slow, fast, inside, T, J)
    proj += b * proj_s[0] + k * proj_s[4]
    total = tl.zeros((BLOCK,), tl.float32)
    for g in tl.static_range(G):
        for m in tl.static_range(M):
            joint = tl.load(table + ((k * G + g) * M + m) * J + j).to(tl.int64)
            there = inside & (joint >= 0) & (joint < J)
            where = t * proj_s[1] + joint * proj_s[2] + column * proj_s[5]
            total += tl.load(proj + g * proj_s[3] + where, mask=there, other=0.0).to(tl.float32)
    tl.store(rows + row * T * J * W + place, total, mask=inside)


@triton.jit
def local_states(
    x, x_s, rows, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, N, span, states, sums,
    SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1: the last state of a span that starts from zero, and the sum of its time steps."""
    b, k, part, block = _where(tl.cdiv(C, BD), K, T, J, span)
    code = (codes >> (2 * k)) & 3
    rows += (b * K + k) * T * J * W
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    d0 = block * BD
    c, c_mask, n_mask = d0 + d, d < C - d0, n < N
    mask = n_mask[:, None] & c_mask[None, :]
    group = _group(c, BOUNDS)
    decay = load_states(A, k, d0, d, n, C, N, mask, False) * LOG2E
    shift = tl.load(dt_bias + k * C + c, mask=c_mask, other=0.0)
    h = tl.zeros((BN, BD), tl.float32)
    total = tl.zeros((BD,), tl.float32)
    slow, fast = _first(code, part * span, l, T, J)
    for l0 in range(part * span, tl.minimum(part * span + span, T * J), SUB):
        inside, at = l < T * J - l0, rows + l0 * W
        t, j = _token(code, slow, fast, inside, T, J)
        slow, fast = _next(code, slow, fast, T, J, SUB)
        _, dt = _time_steps(at, dt_weight, shift, k, l, c, inside, c_mask, C, R, W, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, inside[:, None] & c_mask[None, :], J, G, M)
        Bs = _columns(at, l, R, n, inside[:, None] & n_mask[None, :], W)
        h, _ = walk(h, tl.exp2(dt[:, None, :] * decay[None]), (dt * us)[:, None, :] * Bs[:, :, None], None, us, SUB)
        total += tl.sum(dt, 0)
    row = (b * K + k) * tl.cdiv(T * J, span) + part
    tl.store(states_at(states, row, d0, d, n, C, N, True), h, mask=mask)
    tl.store(sums + row * C + c, total, mask=c_mask)


@triton.jit
def outputs(
    x, x_s, rows, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, N, span, start, save, out,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3: the outputs of a span of a direction, (B, K, T, J, C), and the states before its chunks."""
    b, k, part, block = _where(tl.cdiv(C, BD), K, T, J, span)
    code = (codes >> (2 * k)) & 3
    rows += (b * K + k) * T * J * W
    d, l, n = tl.arange(0, BD).to(tl.int64), tl.arange(0, SUB).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    d0 = block * BD
    c, c_mask, n_mask = d0 + d, d < C - d0, n < N
    mask = n_mask[:, None] & c_mask[None, :]
    group = _group(c, BOUNDS)
    decay = load_states(A, k, d0, d, n, C, N, mask, False) * LOG2E
    shift = tl.load(dt_bias + k * C + c, mask=c_mask, other=0.0)
    skip = tl.load(D + k * C + c, mask=c_mask, other=0.0)
    row = b * K + k
    h = load_states(start, row * tl.cdiv(T * J, span) + part, d0, d, n, C, N, mask, True)
    end = tl.minimum(part * span + span, T * J)
    slow, fast = _first(code, part * span, l, T, J)
    for chunk in range(part * span, end, CHUNK):
        if save is not None:
            here = row * tl.cdiv(T * J, CHUNK) + chunk // CHUNK
            tl.store(states_at(save, here, d0, d, n, C, N, True), h, mask=mask)
        for l0 in range(chunk, tl.minimum(chunk + CHUNK, end), SUB):
            inside, at = l < T * J - l0, rows + l0 * W
            t, j = _token(code, slow, fast, inside, T, J)
            slow, fast = _next(code, slow, fast, T, J, SUB)
            seen, row_mask = inside[:, None] & c_mask[None, :], inside[:, None] & n_mask[None, :]
            _, dt = _time_steps(at, dt_weight, shift, k, l, c, inside, c_mask, C, R, W, BR)
            us = _inputs(x, x_s, table, b, k, t, j, c, group, seen, J, G, M)
            Bs = _columns(at, l, R, n, row_mask, W)[:, :, None]
            Cs = _columns(at, l, R + N, n, row_mask, W)[:, :, None]
            a = tl.exp2(dt[:, None, :] * decay[None])
            h, y = walk(h, a, (dt * us)[:, None, :] * Bs, Cs, us * skip[None, :], SUB)
            tl.store(out + (((row * T + t) * J + j) * C)[:, None] + c[None, :], y, mask=seen)


@triton.jit
def local_adjoints(
    x, x_s, rows, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, N, dout, adjoints, sums,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 1 of the backward: what the outputs of a chunk alone give to the state before it."""
    b, k, chunk, block = _where(tl.cdiv(C, BD), K, T, J, CHUNK)
    code = (codes >> (2 * k)) & 3
    rows += (b * K + k) * T * J * W
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
        l0 = chunk * CHUNK + (subs - 1 - i) * SUB
        inside, at = l < T * J - l0, rows + l0 * W
        slow, fast = _first(code, l0, l, T, J)
        t, j = _token(code, slow, fast, inside, T, J)
        _, dt = _time_steps(at, dt_weight, shift, k, l, c, inside, c_mask, C, R, W, BR)
        place = (((b * T + t) * J + j) * C)[:, None] + c[None, :]
        dy = tl.load(dout + place, mask=inside[:, None] & c_mask[None, :], other=0.0).to(tl.float32)
        Cs = _columns(at, l, R + N, n, inside[:, None] & n_mask[None, :], W)
        a = tl.exp(dt[:, None, :] * decay[None])
        _, h = scan(h, a, a * (dy[:, None, :] * Cs[:, :, None]), SUB, True)
        total += tl.sum(dt, 0)
    row = (b * K + k) * tl.cdiv(T * J, CHUNK) + chunk
    tl.store(states_at(adjoints, row, d0, d, n, C, N, True), h, mask=mask)
    tl.store(sums + row * C + c, total, mask=c_mask)


@triton.jit(do_not_specialize=["first", "blocks"])
def gradients(
    x, x_s, rows, dt_weight, dt_bias, A, D, table, codes, T, J, C, K, N, dout, states, adjoints,
    du, drows, dA, dW, dD, dbias, first, blocks, splits,
    ACCUMULATE: tl.constexpr,
    CHUNK: tl.constexpr, SUB: tl.constexpr, G: tl.constexpr, M: tl.constexpr, BOUNDS: tl.constexpr,
    R: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Phase 3 of the backward: every gradient of a chunk by step, and parameters as partial sums."""
    b, k, chunk, split = _where(blocks, K, T, J, CHUNK)
    code = (codes >> (2 * k)) & 3
    rows += (b * K + k) * T * J * W
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
        l0 = chunk * CHUNK + s * SUB
        inside, at = l < T * J - l0, rows + l0 * W
        slow, fast = _first(code, l0, l, T, J)
        t, j = _token(code, slow, fast, inside, T, J)
        _, dt = _time_steps(at, dt_weight, shift, k, l, c, inside, c_mask, C, R, W, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, inside[:, None] & c_mask[None, :], J, G, M)
        Bs = _columns(at, l, R, n, inside[:, None] & n_mask[None, :], W)
        _, h = scan(h, tl.exp(dt[:, None, :] * decay[None]), (dt * us)[:, None, :] * Bs[:, :, None], SUB)

    adjoint = load_states(adjoints, row, d0, d, n, C, N, mask, True)
    dA_sum = tl.zeros((BN, BD), tl.float32)
    dD_sum = tl.zeros((BD,), tl.float32)
    dbias_sum = tl.zeros((BD,), tl.float32)
    for i in tl.range(0, subs, disable_licm=True):
        s = subs - 1 - i
        l0 = chunk * CHUNK + s * SUB
        inside, at = l < T * J - l0, rows + l0 * W
        slow, fast = _first(code, l0, l, T, J)
        t, j = _token(code, slow, fast, inside, T, J)
        seen, row_mask = inside[:, None] & c_mask[None, :], inside[:, None] & n_mask[None, :]
        raw, dt = _time_steps(at, dt_weight, shift, k, l, c, inside, c_mask, C, R, W, BR)
        us = _inputs(x, x_s, table, b, k, t, j, c, group, seen, J, G, M)
        Bs = _columns(at, l, R, n, row_mask, W)[:, :, None]
        Cs = _columns(at, l, R + N, n, row_mask, W)[:, :, None]
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
        shares = drows + (((((b * K + k) * splits + split) * T + t) * J + j) * (R + 2 * N))[:, None]
        dB_tile, dC_tile = tl.sum(dBs, 2), tl.sum(dCs, 2)
        if ACCUMULATE:
            dB_tile += tl.load(shares + R + n[None, :], mask=row_mask, other=0.0)
            dC_tile += tl.load(shares + R + N + n[None, :], mask=row_mask, other=0.0)
        tl.store(shares + R + n[None, :], dB_tile, mask=row_mask)
        tl.store(shares + R + N + n[None, :], dC_tile, mask=row_mask)
        for r0 in range(0, R, BR):
            r = tl.arange(0, BR).to(tl.int64)
            r_mask = r < R - r0
            tile_mask = inside[:, None] & r_mask[None, :]
            steps = _columns(at, l, r0, r, tile_mask, W)
            weight = _weights(dt_weight, k, r0, r, c, r_mask, c_mask, C, R)
            dsteps = tl.sum(ddt[:, None, :] * weight[None], 2)
            if ACCUMULATE:
                dsteps += tl.load(shares + r0 + r[None, :], mask=tile_mask, other=0.0)
            tl.store(shares + r0 + r[None, :], dsteps, mask=tile_mask)
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
