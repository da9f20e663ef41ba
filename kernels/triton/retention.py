"""Retention on the GPU: attention inside chunks, and a state between them.

Inside a chunk of the kernels frame n sees frame m if m // stair <= n // stair: `stair` is the op's chunk, or 1 if
causal, and the kernels' chunk any multiple of it. Launches:
1. `carry`, if there is more than one chunk: the state at the start of each, over the chunks in order;
2. `outputs`: a block of queries against the keys of its chunk and against its state.
Backward: 1 again, `carry` in reverse for the gradients of the states, `key_gradients`, a block of keys against the queries
that see it, and `query_gradients`, a block of queries against its keys. All of it is linear in the value channels, so
these come in blocks. csrc/cpu/retention.cpp begins with the derivation, whose names the kernels use.

Even and odd channels of q and k lie in tiles of their own: xPos turns a pair in registers, and q k^T is two products.
Frames n, m count from the start of their chunk.
"""

import torch
import triton
import triton.language as tl

from .._op import triton_interpreted
from ._scan import launch

WHOLE = 256  # frames that are still one chunk, where the mask leaves the choice
CHUNK = 128  # frames of a chunk otherwise: its keys then cost about what its state costs


def forward(q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal, output_final_state):
    B, T, J, H, K = q.shape
    V = v.shape[-1]
    q, k, v, start = _map(q), _map(k), _map(v), _contiguous(initial_state)
    shape, tiles, chunks, blocks = _plan(q, v, decay, xpos_scale, scale, chunk_size, causal)
    out = v.new_empty(B, T, J, H, V)
    final = decay.new_empty((B, J, H, K, V) if output_final_state else 0)
    if chunks > 1 or output_final_state:
        states = _states(q, v, decay, chunks) if chunks > 1 else None
        _carry(k, v, shape, tiles, start, states, final if output_final_state else None)
        start = start if states is None else states
    launch(outputs, B * J * H * chunks * blocks * triton.cdiv(V, tiles["BV"]), q, q.stride(), k, k.stride(), v,
           v.stride(), *shape, start, out, **tiles)  # fmt: skip
    return out, final


def backward(dout, dfinal, q, k, v, decay, initial_state, xpos_scale, scale, chunk_size, causal):
    B, _, J, H, K = q.shape
    V = v.shape[-1]
    dout, q, k, v = map(_map, (dout, q, k, v))
    start, dfinal = _contiguous(initial_state), _contiguous(dfinal)
    shape, tiles, chunks, blocks = _plan(q, v, decay, xpos_scale, scale, chunk_size, causal, backward=True)
    dstate = decay.new_empty(0 if start is None else start.shape)
    if chunks > 1:
        states = _states(q, v, decay, chunks)
        _carry(k, v, shape, tiles, start, states, None)
        start = states
    carried = start is not None or dfinal is not None
    parts = 2 * chunks * blocks
    partials = decay.new_empty(B, J, H, parts + (_state_blocks(K, V, tiles) if carried else 0))  # of ddecay
    adjoints = _states(q, v, decay, chunks) if chunks > 1 or dfinal is not None else None
    if carried:
        last = None if initial_state is None else dstate
        _carry(q, dout, shape, tiles, dfinal, adjoints, last, start, partials, parts)
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    count, maps = B * J * H * chunks * blocks, (dout, dout.stride(), q, q.stride(), k, k.stride(), v, v.stride())
    launch(key_gradients, count, *maps, *shape, adjoints, dk, dv, partials, partials.shape[3], **tiles)
    launch(query_gradients, count, *maps, *shape, start, dq, partials, partials.shape[3], **tiles)
    return dq, dk, dv, partials.sum((0, 3)), dstate


def _map(x):
    """The kernels read maps by their strides, but the channels together."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _contiguous(x):
    return None if x is None else x.contiguous()


def _operand(q):
    """The dtype of what is multiplied. float16 takes tf32: as precise, and its range bears the scales of xPos."""
    narrow = q.dtype == torch.bfloat16 and not triton_interpreted()  # the interpreter multiplies bfloat16 wrongly
    return torch.bfloat16 if narrow else torch.float32


def _plan(q, v, decay, xpos_scale, scale, chunk_size, causal, backward=False):
    """The arguments that the kernels share, their constants, the number of chunks and of blocks of frames in one.

    The tiles are the largest that spill no registers; a tile on its way from memory would need more of them.
    """
    _, T, J, H, K = q.shape
    V = v.shape[-1]
    stair = 1 if causal else chunk_size
    length = max(1, CHUNK // stair) * stair
    if T <= max(length, WHOLE):
        length = T
    narrow = _operand(q) == torch.bfloat16
    exact = q.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"  # not for tensor cores
    rows, columns = ((32, 32) if exact else (64, 16)) if backward else (64, 32)
    if K > 64:
        rows, columns = rows // 2, 16
    if triton_interpreted():  # there time goes by operation, not by element
        rows = columns = 64
    frames = max(16, triton.next_power_of_2(length))
    tiles = {
        "K": K, "V": V, "BD": max(16, triton.next_power_of_2(K) // 2), "BV": min(max(16, triton.next_power_of_2(V)), 64),
        "BN": min(frames, rows), "BM": min(frames, columns),
        "OPERAND": tl.bfloat16 if narrow else tl.float32, "PRECISION": "ieee" if exact else "tf32",
        "num_warps": 8 if exact else 4, "num_stages": 2 if narrow and not backward else 1,
    }  # fmt: skip
    shape = (decay, decay.stride(), _contiguous(xpos_scale), scale, T, J, H, length, stair)
    return shape, tiles, triton.cdiv(T, length), triton.cdiv(length, tiles["BN"])


def _states(q, v, decay, chunks):
    """Room for a state per chunk, in the dtype in which it will be multiplied."""
    B, _, J, H, K = q.shape
    return decay.new_empty(B, J, H, chunks, K, v.shape[-1], dtype=_operand(q))


def _state_tiles(tiles):
    """A program of `carry` holds BD pairs of rows and BV columns of the state."""
    return tiles | {"BD": min(tiles["BD"], 32), "BV": min(tiles["BV"], 32), "BM": min(tiles["BN"], 32), "num_warps": 4}


def _state_blocks(K, V, tiles):
    tiles = _state_tiles(tiles)
    return triton.cdiv(K, 2 * tiles["BD"]) * triton.cdiv(V, tiles["BV"])


def _carry(x, y, shape, tiles, edge, entered, last, start=None, partials=None, first=0):
    """From x = k, y = v the states before every chunk and the last; with `partials`, from q and dout their gradients."""
    B, _, J, H, K = x.shape
    parts = 0 if partials is None else partials.shape[3]
    launch(carry, B * J * H * _state_blocks(K, y.shape[-1], tiles), x, x.stride(), y, y.stride(), *shape, edge, entered,
           last, start, partials, first, parts, REVERSE=partials is not None, **_state_tiles(tiles))  # fmt: skip


# ---- tiles -----------------------------------------------------------------------------------------------------------


@triton.jit
def _where(blocks, T, J, H, length):
    """Row (batch, joint, head) as one number and as three, chunk and block of this program."""
    pid = tl.program_id(0)
    chunks = tl.cdiv(T, length)
    row = pid // (blocks * chunks)
    place = ((row // (J * H)).to(tl.int64), (row // H % J).to(tl.int64), (row % H).to(tl.int64))
    return row.to(tl.int64), place, pid // blocks % chunks, pid % blocks


@triton.jit
def _at(x, x_s, place, t):
    """The rows of frames t (N,) of a map, as pointers (N, 1)."""
    b, j, h = place
    return (x + b * x_s[0] + j * x_s[2] + h * x_s[3]) + (t.to(tl.int64) * x_s[1])[:, None]


@triton.jit
def _pairs(rows, inside, n, d0, K: tl.constexpr, rates, SIGN: tl.constexpr, BD: tl.constexpr):
    """Even and odd channels of the pairs d0 ..., (N, BD) each, turned to frames n: SIGN 1 for queries, -1 for keys."""
    c = 2 * d0 + tl.arange(0, 2 * BD)
    tile = tl.load(rows + c[None, :], mask=inside[:, None] & (c < K)[None, :], other=0.0)
    pairs = tl.reshape(tile, (tile.shape[0], BD, 2))
    if rates is None:
        return tl.split(pairs)
    else:
        turn, growth = rates
        cos, sin = _factors(n[:, None], turn[None, :], growth[None, :] * SIGN)
        # A sum, not a split: over elementwise operations Triton would move the tile into the layout of a product first,
        # in which every warp holds and turns all of it.
        return tl.sum(pairs * tl.join(cos, -sin), 2), tl.sum(pairs * tl.join(sin, cos), 2)


@triton.jit
def _store_pairs(rows, even, odd, inside, n, K: tl.constexpr, rates, SIGN: tl.constexpr, BD: tl.constexpr):
    """The gradient of what `_pairs` read."""
    if rates is not None:
        turn, growth = rates  # by -n, not back by n: cos and sin of `_pairs` would stay in registers until here
        cos, sin = _factors(-n[:, None], turn[None, :], growth[None, :] * -SIGN)
        even, odd = even * cos - odd * sin, odd * cos + even * sin
    c = tl.arange(0, 2 * BD)
    tile = tl.reshape(tl.join(even, odd), (even.shape[0], 2 * BD))
    tl.store(rows + c[None, :], tile, mask=inside[:, None] & (c < K)[None, :])


@triton.jit
def _rates(xpos, d0, K, BD: tl.constexpr):
    """Return for the pairs d0 ...: the angle per frame, 2^32 being a full turn, and log2 of the scale per frame."""
    d = d0 + tl.arange(0, BD)
    turn = tl.exp2(d.to(tl.float64) * (-2 * 13.287712379549449) / K) * (4294967296 / 6.283185307179586)  # log2(10000)
    growth = tl.log2(tl.load(xpos + d, mask=2 * d < K, other=1.0)) / 512
    return (turn + 0.5).to(tl.int32), growth


@triton.jit
def _factors(n, turn, growth):
    """cos and sin of n turns, times the scale of n frames. Integers wrap at full turns, so that every n is exact."""
    phase = n * turn
    quarter = (phase + (1 << 29)) >> 30
    x = (phase - (quarter << 30)).to(tl.float32) * (1.5707963267948966 / (1 << 30))  # at most pi / 4
    y = x * x
    sin = x * (1 + y * (-1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y * (1 / 362880)))))
    cos = 1 + y * (-1 / 2 + y * (1 / 24 + y * (-1 / 720 + y * (1 / 40320))))
    size = tl.exp2(n.to(tl.float32) * growth)
    swap = (quarter & 1) == 1
    sin, cos = tl.where(swap, cos, sin), tl.where(swap, sin, cos)
    return tl.where(((quarter + 1) & 2) == 2, -cos, cos) * size, tl.where((quarter & 2) == 2, -sin, sin) * size


@triton.jit
def _fade(distance, seen, log, scale):
    """scale decay^distance where `seen`, else 0."""
    return tl.where(seen, scale * tl.exp2(distance * log), 0.0)


@triton.jit
def _distance(n, m):
    return tl.abs(n.to(tl.float32)[:, None] - m.to(tl.float32)[None, :])


@triton.jit
def _log_decay(decay, decay_s, place):
    _, j, h = place
    return tl.log2(tl.load(decay + j * decay_s[0] + h * decay_s[1]))


@triton.jit
def _dot(a, b, acc, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(a.to(OPERAND), b.to(OPERAND), acc, input_precision=PRECISION)


@triton.jit
def _state_at(x, row, d0, e, K, V, BD: tl.constexpr):
    """Return the offsets of the even rows 2 d0 ... of columns e of state `row` (odd ones V further), and which exist."""
    c = 2 * (d0 + tl.arange(0, BD))
    columns = (e < V)[None, :]
    return x + row * K * V + c[:, None] * V + e[None, :], (c < K)[:, None] & columns, (c + 1 < K)[:, None] & columns


@triton.jit
def _load_state(x, row, d0, e, K, V, BD: tl.constexpr):
    at, even, odd = _state_at(x, row, d0, e, K, V, BD)
    return tl.load(at, mask=even, other=0.0), tl.load(at + V, mask=odd, other=0.0)


@triton.jit
def _store_state(x, row, d0, e, K, V, even_tile, odd_tile, BD: tl.constexpr):
    at, even, odd = _state_at(x, row, d0, e, K, V, BD)
    tl.store(at, even_tile, mask=even)
    tl.store(at + V, odd_tile, mask=odd)


@triton.jit
def _through_state(
    x, x_s, place, t, inside, states, state, K, V,
    BN: tl.constexpr, BD: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Frames t of a map (N, V) times the transpose of a state: even and odd channels. Few columns at once, for registers."""
    even, odd = tl.zeros((BN, BD), tl.float32), tl.zeros((BN, BD), tl.float32)
    for v0 in range(0, V, 16):
        e = v0 + tl.arange(0, 16)
        tile = tl.load(_at(x, x_s, place, t) + e[None, :], mask=inside[:, None] & (e < V)[None, :], other=0.0)
        s_even, s_odd = _load_state(states, state, 0, e, K, V, BD)
        even = _dot(tile, tl.trans(s_even), even, OPERAND, PRECISION)
        odd = _dot(tile, tl.trans(s_odd), odd, OPERAND, PRECISION)
    return even, odd


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def carry(
    x, x_s, y, y_s, decay, decay_s, xpos, scale, T, J, H, length, stair, edge, entered, last, start, partials,
    first, parts, REVERSE: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of the state over the chunks in order, x = k and y = v; or of its gradient in reverse, x = q and y = dout."""
    blocks_v = tl.cdiv(V, BV)
    row, place, _, block = _where(tl.cdiv(K, 2 * BD) * blocks_v, T, J, H, T)
    d0, e = block // blocks_v * BD, block % blocks_v * BV + tl.arange(0, BV)
    chunks = tl.cdiv(T, length)
    log, rates = _log_decay(decay, decay_s, place), None
    if xpos is not None:
        rates = _rates(xpos, d0, K, BD)
    even, odd = tl.zeros((BD, BV), tl.float32), tl.zeros((BD, BV), tl.float32)
    if edge is not None:
        even, odd = _load_state(edge, row, d0, e, K, V, BD)
    total = 0.0
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        size = tl.minimum(length, T - chunk * length)
        fade = tl.exp2(size * log)
        if REVERSE:
            if rates is not None:  # the transpose of the step to the next chunk's frames
                turn, growth = rates
                cos, sin = _factors(size, turn[:, None], growth[:, None])
                even, odd = even * cos - odd * sin, odd * cos + even * sin
            if start is not None:
                even_start, odd_start = _load_state(start, row * chunks + chunk, d0, e, K, V, BD)
                total += size * fade * tl.sum(even * even_start + odd * odd_start)
        if entered is not None:
            _store_state(entered, row * chunks + chunk, d0, e, K, V, even, odd, BD)
        even *= fade
        odd *= fade
        for n0 in range(0, size, BM):
            n = n0 + tl.arange(0, BM)
            inside = n < size
            t = chunk * length + n
            x_even, x_odd = _pairs(_at(x, x_s, place, t), inside, n, d0, K, rates, 1 if REVERSE else -1, BD)
            weight = scale * tl.exp2((n + 1) * log) if REVERSE else tl.exp2(tl.maximum(size - 1 - n, 0) * log)
            tile = tl.load(_at(y, y_s, place, t) + e[None, :], mask=inside[:, None] & (e < V)[None, :], other=0.0)
            even = _dot(tl.trans(x_even * weight[:, None]), tile, even, OPERAND, PRECISION)
            odd = _dot(tl.trans(x_odd * weight[:, None]), tile, odd, OPERAND, PRECISION)
        if not REVERSE and rates is not None:  # from now on frames count from the end of this chunk
            turn, growth = rates
            cos, sin = _factors(size, turn[:, None], growth[:, None])
            even, odd = even * cos + odd * sin, odd * cos - even * sin
    if last is not None:
        _store_state(last, row, d0, e, K, V, even, odd, BD)
    if REVERSE:
        tl.store(partials + row * parts + first + block, total * tl.exp2(-log))


@triton.jit
def outputs(
    q, q_s, k, k_s, v, v_s, decay, decay_s, xpos, scale, T, J, H, length, stair, start, out,
    K: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries, a block of value channels."""
    blocks_v = tl.cdiv(V, BV)
    row, place, chunk, block = _where(tl.cdiv(length, BN) * blocks_v, T, J, H, length)
    b, j, h = place
    size = tl.minimum(length, T - chunk * length)
    log, rates = _log_decay(decay, decay_s, place), None
    if xpos is not None:
        rates = _rates(xpos, 0, K, BD)
    e, n = block % blocks_v * BV + tl.arange(0, BV), block // blocks_v * BN + tl.arange(0, BN)
    inside, e_mask = n < size, (e < V)[None, :]
    t = chunk * length + n
    q_even, q_odd = _pairs(_at(q, q_s, place, t), inside, n, 0, K, rates, 1, BD)
    total = tl.zeros((BN, BV), tl.float32)
    if start is not None:
        even, odd = _load_state(start, row * tl.cdiv(T, length) + chunk, 0, e, K, V, BD)
        total = _dot(q_even, even, total, OPERAND, PRECISION)
        total = _dot(q_odd, odd, total, OPERAND, PRECISION) * (scale * tl.exp2((n + 1) * log))[:, None]
    end = n // stair * stair + stair  # of the keys that a query sees
    for m0 in range(0, tl.minimum(size, tl.max(end)), BM):
        m = m0 + tl.arange(0, BM)
        t_m = chunk * length + m
        k_even, k_odd = _pairs(_at(k, k_s, place, t_m), m < size, m, 0, K, rates, -1, BD)
        values = tl.load(_at(v, v_s, place, t_m) + e[None, :], mask=(m < size)[:, None] & e_mask, other=0.0)
        scores = _dot(q_even, tl.trans(k_even), tl.zeros((BN, BM), tl.float32), OPERAND, PRECISION)
        scores = _dot(q_odd, tl.trans(k_odd), scores, OPERAND, PRECISION)
        scores *= _fade(_distance(n, m), m[None, :] < end[:, None], log, scale)
        total = _dot(scores, values, total, OPERAND, PRECISION)
    rows = out + (((b * T + t) * J + j) * H + h)[:, None] * V
    tl.store(rows + e[None, :], total, mask=inside[:, None] & e_mask)


@triton.jit
def key_gradients(
    dout, dout_s, q, q_s, k, k_s, v, v_s, decay, decay_s, xpos, scale, T, J, H, length, stair, adjoints, dk, dv,
    partials, parts,
    K: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of a block of frames n, and its share of ddecay: dk_n = sum over m of w_mn dP_mn q_m + g^age dS' v_n,
    dv_n = sum over m of P_mn do_m + g^age dS'^T k_n, where dS' is in `adjoints` and age = L - 1 - n."""
    blocks = tl.cdiv(length, BN)
    row, place, chunk, block = _where(blocks, T, J, H, length)
    b, j, h = place
    state = row * tl.cdiv(T, length) + chunk
    size = tl.minimum(length, T - chunk * length)
    log, rates = _log_decay(decay, decay_s, place), None
    if xpos is not None:
        rates = _rates(xpos, 0, K, BD)
    n = block * BN + tl.arange(0, BN)
    inside = n < size
    t = chunk * length + n
    written = (((b * T + t) * J + j) * H + h)[:, None]
    total = tl.zeros((BN,), tl.float32)
    even, odd = tl.zeros((BN, BD), tl.float32), tl.zeros((BN, BD), tl.float32)
    k_even, k_odd = _pairs(_at(k, k_s, place, t), inside, n, 0, K, rates, -1, BD)
    age = tl.maximum(size - 1 - n, 0)
    if adjoints is not None:
        even, odd = _through_state(v, v_s, place, t, inside, adjoints, state, K, V, BN, BD, OPERAND, PRECISION)
        even, odd = even * tl.exp2(age * log)[:, None], odd * tl.exp2(age * log)[:, None]
        total += age * tl.sum(even * k_even + odd * k_odd, 1)
    first = n // stair * stair  # of the queries that see a key
    for v0 in range(0, V, BV):
        e = v0 + tl.arange(0, BV)
        e_mask = (e < V)[None, :]
        dvalues = tl.zeros((BN, BV), tl.float32)
        if adjoints is not None:
            s_even, s_odd = _load_state(adjoints, state, 0, e, K, V, BD)
            dvalues = _dot(k_even, s_even, dvalues, OPERAND, PRECISION)
            dvalues = _dot(k_odd, s_odd, dvalues, OPERAND, PRECISION) * tl.exp2(age * log)[:, None]
        values = tl.load(_at(v, v_s, place, t) + e[None, :], mask=inside[:, None] & e_mask, other=0.0)
        for m0 in range(tl.min(first), size, BM):
            m = m0 + tl.arange(0, BM)
            t_m = chunk * length + m
            q_even, q_odd = _pairs(_at(q, q_s, place, t_m), m < size, m, 0, K, rates, 1, BD)
            drop = tl.load(_at(dout, dout_s, place, t_m) + e[None, :], mask=(m < size)[:, None] & e_mask, other=0.0)
            distance = _distance(n, m)
            fades = _fade(distance, m[None, :] >= first[:, None], log, scale)
            scores = _dot(k_even, tl.trans(q_even), tl.zeros((BN, BM), tl.float32), OPERAND, PRECISION)
            scores = _dot(k_odd, tl.trans(q_odd), scores, OPERAND, PRECISION) * fades
            dvalues = _dot(scores, drop, dvalues, OPERAND, PRECISION)
            dscores = _dot(values, tl.trans(drop), tl.zeros((BN, BM), tl.float32), OPERAND, PRECISION)
            total += tl.sum(scores * dscores * distance, 1)
            dscores *= fades
            even = _dot(dscores, q_even, even, OPERAND, PRECISION)
            odd = _dot(dscores, q_odd, odd, OPERAND, PRECISION)
        tl.store(dv + written * V + e[None, :], dvalues, mask=inside[:, None] & e_mask)
    _store_pairs(dk + written * K, even, odd, inside, n, K, rates, -1, BD)
    tl.store(partials + row * parts + 2 * (chunk * blocks + block), tl.sum(total) * tl.exp2(-log))


@triton.jit
def query_gradients(
    dout, dout_s, q, q_s, k, k_s, v, v_s, decay, decay_s, xpos, scale, T, J, H, length, stair, start, dq,
    partials, parts,
    K: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of a block of frames n, and its share of ddecay: dq_n = sum over m of w_nm dP_nm k_m + g^(n + 1) S do_n, where S
    is in `start`."""
    blocks = tl.cdiv(length, BN)
    row, place, chunk, block = _where(blocks, T, J, H, length)
    b, j, h = place
    size = tl.minimum(length, T - chunk * length)
    log, rates = _log_decay(decay, decay_s, place), None
    if xpos is not None:
        rates = _rates(xpos, 0, K, BD)
    n = block * BN + tl.arange(0, BN)
    inside = n < size
    t = chunk * length + n
    total = tl.zeros((BN,), tl.float32)
    even, odd = tl.zeros((BN, BD), tl.float32), tl.zeros((BN, BD), tl.float32)
    if start is not None:
        fade = (scale * tl.exp2((n + 1) * log))[:, None]
        state = row * tl.cdiv(T, length) + chunk
        even, odd = _through_state(dout, dout_s, place, t, inside, start, state, K, V, BN, BD, OPERAND, PRECISION)
        even, odd = even * fade, odd * fade
        q_even, q_odd = _pairs(_at(q, q_s, place, t), inside, n, 0, K, rates, 1, BD)
        total += (n + 1) * tl.sum(even * q_even + odd * q_odd, 1)
    end = n // stair * stair + stair  # of the keys that a query sees
    for v0 in range(0, V, BV):
        e = v0 + tl.arange(0, BV)
        e_mask = (e < V)[None, :]
        drop = tl.load(_at(dout, dout_s, place, t) + e[None, :], mask=inside[:, None] & e_mask, other=0.0)
        for m0 in range(0, tl.minimum(size, tl.max(end)), BM):
            m = m0 + tl.arange(0, BM)
            t_m = chunk * length + m
            k_even, k_odd = _pairs(_at(k, k_s, place, t_m), m < size, m, 0, K, rates, -1, BD)
            values = tl.load(_at(v, v_s, place, t_m) + e[None, :], mask=(m < size)[:, None] & e_mask, other=0.0)
            dscores = _dot(drop, tl.trans(values), tl.zeros((BN, BM), tl.float32), OPERAND, PRECISION)
            dscores *= _fade(_distance(n, m), m[None, :] < end[:, None], log, scale)
            even = _dot(dscores, k_even, even, OPERAND, PRECISION)
            odd = _dot(dscores, k_odd, odd, OPERAND, PRECISION)
    _store_pairs(dq + (((b * T + t) * J + j) * H + h)[:, None] * K, even, odd, inside, n, K, rates, 1, BD)
    tl.store(partials + row * parts + 2 * (chunk * blocks + block) + 1, tl.sum(total) * tl.exp2(-log))


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for label, dtype, frames, xpos in (
        ("one chunk", torch.float32, 243, True), ("one chunk", torch.bfloat16, 243, True),
        ("states", torch.float32, 4131, True), ("states", torch.bfloat16, 4131, True),
        ("no xPos", torch.bfloat16, 4131, False), ("states", torch.float16, 4131, True),
    ):  # fmt: skip
        q, decay, xpos_scale = tensor(1, frames, 17, 8, 64, dtype=dtype), tensor(17, 8), tensor(32) if xpos else None
        state = tensor(1, 17, 8, 64, 64) if frames > 243 else None
        options = (state, xpos_scale, 0.125, min(frames, 256), False)
        label += f" {str(dtype)[6:]}"
        yield from recorded(label, forward, q, q, q, decay, *options, state is not None)
        yield from recorded(label, backward, q, state, q, q, q, decay, *options)
    q, one = tensor(1, 1, 1, 1, 1), tensor(1, 1)  # sizes of 1, which Triton makes constants
    options = (q, None, 1.0, 1, True)
    yield from recorded("all 1", forward, q, q, q, one, *options, True)
    yield from recorded("all 1", backward, q, q, q, q, q, one, *options)
