"""Causal convolution on the GPU: tiles of (steps, channels) that read what every tap meets; it is in the cache by then."""

import torch
import triton
import triton.language as tl

from .._layout import channels_last, map_like
from ._scan import launch

LONG, SHORT = 64, 16  # of a tile: along what is contiguous, and along the other
WARPS = 8  # with fewer, gradients spill registers


def forward(x, weight, bias, seq_idx, initial_states, silu):
    out = map_like(x)
    programs, sizes = _plan(x, x.shape[2])
    launch(
        outputs, programs, *_inputs(x, weight, bias, seq_idx, initial_states), out, out.stride(), *x.shape[1:],
        WIDTH=weight.shape[1], SILU=silu, **sizes,
    )  # fmt: skip
    return out


def backward(dout, x, weight, bias, seq_idx, initial_states, silu):
    batch, dim, length = x.shape
    width, dx = weight.shape[1], map_like(x)
    dinitial = None if initial_states is None else x.new_empty(batch, dim, width - 1)
    programs, sizes = _plan(x, length + (0 if dinitial is None else width - 1))
    parts = batch * triton.cdiv(length + (0 if dinitial is None else width - 1), sizes["BL"])
    sums = weight.new_empty(parts, width + 1, dim)
    launch(
        gradients, programs, *_inputs(x, weight, bias, seq_idx, initial_states), dout, dout.stride(), dx, dx.stride(),
        dinitial, sums, dim, length, WIDTH=width, SILU=silu, **sizes,
    )  # fmt: skip
    sums = sums.sum(0)
    dbias = weight.new_empty(0) if bias is None else sums[width].clone()
    return dx, sums[:width].t().contiguous(), dbias, weight.new_empty(0) if dinitial is None else dinitial


def update(x, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices):
    batch, dim, length = x.shape
    out, size = x.new_empty(x.shape), triton.next_power_of_2(conv_state.shape[2])
    columns = min(triton.next_power_of_2(max(dim, 1)), max(1, min(64, 2048 // size)))
    launch(
        steps, batch * triton.cdiv(dim, columns), x, x.stride(), conv_state, conv_state.stride(), *conv_state.shape[::2],
        weight.contiguous(), _packed(bias), _packed(cache_seqlens), _packed(conv_state_indices), out, dim, length,
        WIDTH=weight.shape[1], SILU=silu, BS=size, BD=columns, num_warps=4,
    )  # fmt: skip
    return out


def _packed(x):
    return None if x is None else x.contiguous()


def _inputs(x, weight, bias, seq_idx, initial_states):
    return x, x.stride(), weight.contiguous(), _packed(bias), _packed(seq_idx), _packed(initial_states)


def _plan(x, length):
    """Programs, and the sizes of their tiles."""
    batch, dim, _ = x.shape
    rows, columns = (SHORT, LONG) if channels_last(x) else (LONG, SHORT)
    sizes = {"BL": min(rows, triton.next_power_of_2(length)), "BD": min(columns, triton.next_power_of_2(max(dim, 1)))}
    return batch * triton.cdiv(length, sizes["BL"]) * triton.cdiv(dim, sizes["BD"]), sizes | {"num_warps": WARPS}


@triton.jit
def _place(dim, E, BL: tl.constexpr, BD: tl.constexpr):
    """Program (batch, block of E steps, block of channels): the first two as one, the batch, its steps and channels."""
    blocks = tl.cdiv(dim, BD)
    part = (tl.program_id(0) // blocks).to(tl.int64)
    parts = tl.cdiv(E, BL)
    l = (part % parts) * BL + tl.arange(0, BL)
    d = (tl.program_id(0) % blocks).to(tl.int64) * BD + tl.arange(0, BD)
    return part, part // parts, l, d


@triton.jit
def _numbers(seq_idx, b, l, L):
    """The sequence of every step; -1 outside."""
    return tl.load(seq_idx + b * L + l, mask=(l >= 0) & (l < L), other=-1)


@triton.jit
def _taken(x, x_s, seq_idx, states, b, l, d, dim, L, k: tl.constexpr, WIDTH: tl.constexpr):
    """Load what tap k of steps l meets, step l - k; zero where that is none."""
    at = l - k
    inside = (d < dim)[None, :] & (l < L)[:, None]
    place = x + b * x_s[0] + d[None, :] * x_s[1] + at[:, None] * x_s[2]
    tile = tl.load(place, mask=inside & (at >= 0)[:, None], other=0.0).to(tl.float32)
    if states is not None:
        place = states + (b * dim + d[None, :]) * (WIDTH - 1) + at[:, None] + (WIDTH - 1)
        early = inside & (at < 0)[:, None] & (l >= 0)[:, None]
        tile += tl.load(place, mask=early, other=0.0).to(tl.float32)
    if seq_idx is not None:
        own = _numbers(seq_idx, b, at, L) == _numbers(seq_idx, b, l, L)
        tile = tl.where(own[:, None], tile, 0.0)
    return tile


@triton.jit
def _tap(weight, d, dim, k: tl.constexpr, WIDTH: tl.constexpr):
    return tl.load(weight + d * WIDTH + (WIDTH - 1 - k), mask=d < dim, other=0.0)[None, :]


@triton.jit
def _sums(x, x_s, weight, bias, seq_idx, states, b, l, d, dim, L, WIDTH: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr):
    total = tl.zeros((BL, BD), tl.float32)
    if bias is not None:
        total += tl.load(bias + d, mask=d < dim, other=0.0)[None, :]
    for k in tl.static_range(WIDTH):
        total += _tap(weight, d, dim, k, WIDTH) * _taken(x, x_s, seq_idx, states, b, l, d, dim, L, k, WIDTH)
    return total


@triton.jit
def outputs(
    x, x_s, weight, bias, seq_idx, states, out, out_s, dim, L,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    _, b, l, d = _place(dim, L, BL, BD)
    y = _sums(x, x_s, weight, bias, seq_idx, states, b, l, d, dim, L, WIDTH, BL, BD)
    if SILU:
        y *= tl.sigmoid(y)
    if seq_idx is not None:
        y = tl.where((_numbers(seq_idx, b, l, L) >= 0)[:, None], y, 0.0)
    place = out + b * out_s[0] + d[None, :] * out_s[1] + l[:, None] * out_s[2]
    tl.store(place, y, mask=(d < dim)[None, :] & (l < L)[:, None])


@triton.jit
def _slopes(
    x, x_s, weight, bias, seq_idx, states, dout, dout_s, b, l, d, dim, L,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The gradient of the sums before the activation; zero where there is no step."""
    inside = (d < dim)[None, :] & ((l >= 0) & (l < L))[:, None]
    if seq_idx is not None:
        inside &= (_numbers(seq_idx, b, l, L) >= 0)[:, None]
    place = dout + b * dout_s[0] + d[None, :] * dout_s[1] + l[:, None] * dout_s[2]
    slope = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        y = _sums(x, x_s, weight, bias, seq_idx, states, b, l, d, dim, L, WIDTH, BL, BD)
        gate = tl.sigmoid(y)
        slope *= gate * (1.0 + y * (1.0 - gate))
    return slope


@triton.jit
def gradients(
    x, x_s, weight, bias, seq_idx, states, dout, dout_s, dx, dx_s, dinitial, sums, dim, L,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dx, and before its steps dinitial; dweight and dbias of a block of steps."""
    before = 0
    if dinitial is not None:
        before = WIDTH - 1
    part, b, l, d = _place(dim, L + before, BL, BD)
    l -= before
    total = tl.zeros((BL, BD), tl.float32)
    row = sums + part * (WIDTH + 1) * dim + d
    for k in tl.static_range(WIDTH):
        slope = _slopes(x, x_s, weight, bias, seq_idx, states, dout, dout_s, b, l + k, d, dim, L, WIDTH, SILU, BL, BD)
        if seq_idx is None:
            total += _tap(weight, d, dim, k, WIDTH) * slope
        else:
            own = _numbers(seq_idx, b, l + k, L) == _numbers(seq_idx, b, l, L)
            total += tl.where(own[:, None], _tap(weight, d, dim, k, WIDTH) * slope, 0.0)
        if k == 0:
            for j in tl.static_range(WIDTH):
                met = _taken(x, x_s, seq_idx, states, b, l, d, dim, L, j, WIDTH)
                tl.store(row + (WIDTH - 1 - j) * dim, tl.sum(slope * met, 0), mask=d < dim)
            tl.store(row + WIDTH * dim, tl.sum(slope, 0), mask=d < dim)
    place = dx + b * dx_s[0] + d[None, :] * dx_s[1] + l[:, None] * dx_s[2]
    tl.store(place, total, mask=(d < dim)[None, :] & ((l >= 0) & (l < L))[:, None])
    if dinitial is not None:
        place = dinitial + (b * dim + d[None, :]) * (WIDTH - 1) + l[:, None] + (WIDTH - 1)
        tl.store(place, total, mask=(d < dim)[None, :] & (l < 0)[:, None])


@triton.jit
def steps(
    x, x_s, state, state_s, N, S, weight, bias, cache_seqlens, rows, out, dim, L,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The update of (sequence, block of channels): the outputs, then the state, all of it read before any is written."""
    blocks = tl.cdiv(dim, BD)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks).to(tl.int64) * BD + tl.arange(0, BD)
    inside = d < dim
    row = tl.zeros((BD,), tl.int64) + b
    if rows is not None:
        row = tl.zeros((BD,), tl.int64) + tl.load(rows + b)
    used = inside & (row >= 0) & (row < N)
    start = 0
    if cache_seqlens is not None:
        start = (tl.load(cache_seqlens + b) % S + S) % S
    state += row * state_s[0] + d * state_s[1]
    x += b * x_s[0] + d * x_s[1]
    out += (b * dim + d) * L
    for l in range(0, L):
        y = tl.zeros((BD,), tl.float32)
        if bias is not None:
            y += tl.load(bias + d, mask=inside, other=0.0)
        for k in tl.static_range(WIDTH):
            at = tl.zeros((BD,), tl.int64) + (l - k)
            old = (start + at + S) % S  # without a ring, counted from the end: the same
            met = tl.load(x + at * x_s[2], mask=inside & (at >= 0), other=0.0).to(tl.float32)
            met += tl.load(state + old * state_s[2], mask=used & (at < 0), other=0.0).to(tl.float32)
            y += tl.load(weight + d * WIDTH + (WIDTH - 1 - k), mask=inside, other=0.0) * met
        if SILU:
            y *= tl.sigmoid(y)
        tl.store(out + l, tl.where(used, y, 0.0), mask=inside)
    i = tl.arange(0, BS)
    there = used[None, :] & (i < S)[:, None]
    if cache_seqlens is None:
        source = i + (L - S)  # the step that comes to lie at i
        old = i + L
    else:
        source = L - 1 - (start + L - 1 - i + S) % S
        old = i
    new = tl.load(x[None, :] + source[:, None] * x_s[2], mask=there & (source >= 0)[:, None], other=0.0)
    kept = tl.load(state[None, :] + old[:, None] * state_s[2], mask=there & (source < 0)[:, None], other=0.0)
    tl.debug_barrier()
    value = tl.where((source >= 0)[:, None], new, kept)
    tl.store(state[None, :] + i[:, None] * state_s[2], value, mask=there)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for width, dtype, last in ((4, torch.bfloat16, False), (4, torch.float32, True), (3, torch.float16, True)):
        x = tensor(2, 4131, 192, dtype=dtype).transpose(1, 2) if last else tensor(2, 192, 4131, dtype=dtype)
        weight, bias = tensor(192, width), tensor(192)
        states = None if last else tensor(2, 192, width - 1, dtype=dtype)
        numbers = torch.empty(2, 4131, dtype=torch.int32, device="meta") if last else None
        label = f"{'rows of channels' if last else 'rows of steps'} W={width} {str(dtype)[6:]}"
        yield from recorded(label, forward, x, weight, bias, numbers, states, True)
        yield from recorded(label, backward, x, x, weight, bias, numbers, states, True)
        state, rows = tensor(5, 192, width, dtype=dtype), torch.empty(2, dtype=torch.int32, device="meta")
        ring = rows if last else None
        yield from recorded(f"{label} update", update, x[..., :2], state, weight, bias, True, ring, ring)
