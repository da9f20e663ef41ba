"""Parts that the scans share: the recurrence in registers, the pass over chunks, tile sizes and launches.

A forward walks over the steps in order, a warp for BD channels, and saves the state before every CHUNK steps for the
backward. A backward takes every chunk by itself; so does a forward with spans of chunks where there are too few channels
for a GPU and too many steps to wait for. That takes three launches:
1. every span by itself: its last state from a zero state, and the sum of its time steps (its decay is exp(A * sum));
2. `carry`, over the spans in order: the state at the start of every span;
3. every span again, from its true state.
The adjoint states of the backward go the same way in reverse. A sequence of one span is phase 3 alone.

A program holds tiles (SUB steps, BN states, BD channels). Steps lie in registers, channels on lanes, then states, too.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SUB = 8  # steps of a tile
WARPS = 1000  # that keep a GPU busy, about two for a scheduler
LONG = 1000  # steps from which spans pay: they are computed twice


def tile_sizes(states: int, channels: int, per_warp: int = 128, warps: int = 1) -> dict:
    """SUB, BN, BD and num_warps, for `per_warp` (state, channel) pairs: as many as registers hold without spilling.

    A backward holds more tiles at once, so it asks for fewer pairs; and for more warps, since every block of channels
    has its own share of dB and dC.
    """
    bn, width = triton.next_power_of_2(states), triton.next_power_of_2(max(channels, 1))
    if triton.knobs.runtime.interpret:  # there time goes by operation, not by element
        return {"SUB": SUB, "BN": bn, "BD": min(width, 64), "num_warps": 1}
    if warps > 1 and bn == 256:
        per_warp = min(per_warp, 32)
    bd = min(width, 32, max(2 if warps == 1 else 1, per_warp * warps // bn))
    return {"SUB": SUB, "BN": bn, "BD": bd, "num_warps": max(1, bn * bd // per_warp)}


def walk_sizes(states: int, channels: int, rows: int, length: int, chunk: int) -> tuple[dict, int]:
    """SUB, BN, BD and num_warps of a forward over `rows` sequences of `channels`, and the steps of its spans.

    A lane holds all states of a channel, up to 16. Where that leaves schedulers idle, lanes share the states of a channel,
    or a long sequence is cut in spans.
    """
    bn = triton.next_power_of_2(states)
    bd = wide = min(32, max(1, 512 // bn), triton.next_power_of_2(max(channels, 1)))
    warps = lambda bd: max(1, rows * triton.cdiv(channels, bd))
    while bd > 2 and warps(bd) < WARPS:
        bd //= 2
    spans = 1
    if warps(bd) < WARPS and length > LONG:
        bd, spans = wide, triton.cdiv(WARPS, warps(wide))
    tiles = {"SUB": min(16, max(2, 1024 // (bn * bd))), "BN": bn, "BD": bd, "num_warps": 1}
    if triton.knobs.runtime.interpret:
        tiles = tile_sizes(states, channels)
    return tiles, triton.cdiv(length, spans * chunk) * chunk


def launch(kernel, programs: int, *args, **options) -> None:
    """Run `kernel` on `programs` programs, on the device of its first argument.

    All 255 registers are allowed: left alone, ptxas now and then spills a few to reach the next step of occupancy. Products
    and sums are fused whatever the default of the version.
    """
    if programs:
        device = args[0].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*args, maxnreg=255, enable_fp_fusion=True, **options)


def carry_over(A, sums, edge, local, reverse=False) -> None:
    """Phase 2, in place: `local` (rows, chunks, N, D) becomes the state (adjoint) that enters every chunk.

    A: (K, D, N) of row r % K. sums: (rows, chunks, D). edge: (rows, D, N), what enters the first (last) chunk, or None.
    """
    rows, chunks, states, dim = local.shape
    sizes = tile_sizes(states, dim)
    launch(
        carry, rows * triton.cdiv(dim, sizes["BD"]), A, sums, edge, local, A.shape[0], dim, states, chunks,
        REVERSE=reverse, **sizes,
    )  # fmt: skip


@triton.jit
def softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), as log1p(e) = 2 atanh(s) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), s = e / (2 + e) <= 1/3."""
    e = tl.exp2(tl.abs(x) * -LOG2E)
    s = e / (2.0 + e)
    q = s * s
    series = q * (2 / 13) + 2 / 11
    series = series * q + 2 / 9
    series = series * q + 2 / 7
    series = series * q + 2 / 5
    series = series * q + 2 / 3
    return tl.maximum(x, 0.0) + s * (series * q + 2.0)


@triton.jit
def softplus_grad(x):
    return tl.where(x > 20.0, 1.0, tl.sigmoid(x))


@triton.jit
def pick(tile, rows, i):
    """Row i of a tile, `rows` being the index along axis 0. On integers, so that LLVM folds it to a register name."""
    bits = tl.where(rows == i, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0).to(tl.float32, bitcast=True)


@triton.jit
def walk(h, a, drive, Cs, y, SUB: tl.constexpr):
    """h = a_t h + drive_t along axis 0: the last one, and y with the sums over the states of h_t C_t. Without Cs, y stays."""
    rows = tl.arange(0, SUB)[:, None]
    for t in tl.static_range(SUB):
        h = pick(a, rows[:, :, None], t) * h + pick(drive, rows[:, :, None], t)
        if Cs is not None:
            y = tl.where(rows == t, y + tl.sum(h * pick(Cs, rows[:, :, None], t), 0)[None, :], y)
    return h, y


@triton.jit
def scan(h, a, b, SUB: tl.constexpr, REVERSE: tl.constexpr = False):
    """h = a_t h + b_t along axis 0: the h that entered every step, and the last one."""
    rows = tl.arange(0, SUB)[:, None, None]
    entered = a
    for i in tl.static_range(SUB):
        t = SUB - 1 - i if REVERSE else i
        entered = tl.where(rows == t, h[None, :, :], entered)
        h = pick(a, rows, t) * h + pick(b, rows, t)
    return entered, h


@triton.jit
def differentiate(entered, adjoint, a, drive, dt, us, dy, Bs, Cs, decay, SUB: tl.constexpr):
    """A tile of the backward, from the states `entered` before its steps and the `adjoint` after them.

    Returns the adjoint before them, du, ddelta, dA summed over the steps, and the terms of dB and dC, to be summed.
    """
    drop = dy[:, None, :] * Cs
    arrived, adjoint = scan(adjoint, a, a * drop, SUB, True)
    grad = arrived + drop  # of the state after every step
    through = grad * entered * a  # of delta A
    force = tl.sum(grad * Bs, 1)
    ddt = us * force + tl.sum(through * decay[None], 1)
    dA = tl.sum(through * dt[:, None, :], 0)
    return adjoint, dt * force, ddt, dA, grad * (dt * us)[:, None, :], (a * entered + drive) * dy[:, None, :]


@triton.jit
def states_at(x, row, d0, d, n, D, N, CHANNELS_LAST: tl.constexpr):
    """Return the offsets of the (BN, BD) tile of row `row` of (rows, N, D), or of (rows, D, N)."""
    if CHANNELS_LAST:
        return x + (row * N * D + d0) + d[None, :] + n[:, None] * D
    else:
        return x + (row * D + d0) * N + d[None, :] * N + n[:, None]


@triton.jit
def load_states(x, row, d0, d, n, D, N, mask, CHANNELS_LAST: tl.constexpr):
    """Load that tile; zero if there is none."""
    if x is None:
        return tl.zeros(mask.shape, tl.float32)
    else:
        return tl.load(states_at(x, row, d0, d, n, D, N, CHANNELS_LAST), mask=mask, other=0.0)


@triton.jit
def _chunk(i, row, chunks, D, REVERSE: tl.constexpr):
    """The i-th chunk of a row that `carry` meets, and its channels: none if there is no such chunk."""
    first = row * chunks
    c = first + (chunks - 1 - i if REVERSE else i)
    return c, tl.where((first <= c) & (c < first + chunks), D, 0)


@triton.jit
def carry(A, sums, edge, local, K, D, N, chunks, SUB: tl.constexpr, REVERSE: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    blocks = tl.cdiv(D, BD)
    row = tl.program_id(0).to(tl.int64) // blocks
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    mask = (n < N)[:, None] & (d < D)[None, :]
    tile = d[None, :] * N + n[:, None]
    decay = tl.load(A + (row % K) * D * N + tile, mask=mask, other=0.0)
    if edge is None:
        h = tl.zeros((BN, BD), tl.float32)
    else:
        h = tl.load(edge + row * D * N + tile, mask=mask, other=0.0)
    for i in range(0, chunks, SUB):
        # All loads before the first store, and in two dimensions: a layout with steps on lanes would pick them by shuffles.
        decays, tiles = (), ()
        for s in tl.static_range(SUB):
            c, width = _chunk(i + s, row, chunks, D, REVERSE)
            total = tl.load(sums + c * D + d, mask=d < width, other=0.0)
            # An exponent may overflow where no step by itself does; a finite decay keeps a zero state zero.
            decays = decays + (tl.minimum(tl.exp(total[None, :] * decay), 3.4e38),)
            where = local + c * N * D + n[:, None] * D + d[None, :]
            tiles = tiles + (tl.load(where, mask=(n < N)[:, None] & (d < width)[None, :], other=0.0),)
        for s in tl.static_range(SUB):
            c, width = _chunk(i + s, row, chunks, D, REVERSE)
            where = local + c * N * D + n[:, None] * D + d[None, :]
            tl.store(where, h, mask=(n < N)[:, None] & (d < width)[None, :])
            h = decays[s] * h + tiles[s]
