"""Graph convolution along the frames of every joint on the GPU, over the graph of their most similar frames.

Forward, two launches: `choose`, whose program holds the similarities of ROWS frames to all of their window, never in memory,
and stores the bits of those chosen, also for the shorter windows that it is made of; `sums`, which adds up the values at the
bits of every frame. Backward: `tails`, if there is a tail, and `received`, whose program adds for BITS frames, a word of the
graph, what all frames of their window give them.
"""

import torch
import triton
import triton.language as tl

from .._op import triton_interpreted
from ..temporal_topk_graph_conv import BITS, owner
from ._scan import launch

LOWEST = tl.constexpr(-3.4028234e38)


def forward(x, values, k, windows, cosine, all_ties, root, scale, shift, residual, relu):
    x, values, root, residual = map(_channels_inside, (x, values, root, residual))
    scale, shift = map(_packed, (scale, shift))
    B, T, J, C = x.shape
    words = triton.cdiv(max(windows), BITS)
    out = values.new_empty(values.shape)
    graph = values.new_empty(B, J, len(windows), T, words, dtype=torch.int32)
    bases = tuple(owner(windows, size, T) for size in windows)
    for base in sorted(set(bases)):
        parts = tuple(s for s, other in enumerate(bases) if other == base)
        sizes = tuple(windows[s] for s in parts)
        tiles = triton.next_power_of_2(triton.cdiv(base, BITS))
        rows = max(1, min(32, 256 // tiles))
        options = {"ROWS": rows, "WORDS": tiles, "BITS": BITS, "BLOCK": 32 if x.dtype == torch.float32 else 64}
        options |= {"COSINE": cosine, "ALL": all_ties, "num_warps": min(8, max(4, rows * tiles // 32))}
        options["WIDE"] = triton_interpreted()  # the interpreter multiplies tiles of bfloat16 wrongly
        programs = B * J * triton.cdiv(T, base) * triton.cdiv(base, rows)
        at = graph, T, J, C, len(windows), words, base, parts, sizes
        launch(choose, programs, x, x.stride(), *at, min(k, base), **options)
    tail = *_walk(values), *_walk(root), scale, shift, *_walk(residual), out
    tiles = _tiles(values, words)
    programs = B * J * len(windows) * triton.cdiv(T, tiles["ROWS"])
    launch(sums, programs, graph, bases, *values.shape[1:], words, *tail, RELU=relu, **tiles)
    return out, graph


def backward(dout, graph, k, windows, out, values, root, scale):
    dout, values, root = map(_channels_inside, (dout, values, root))
    graph, out, scale = map(_packed, (graph, out, scale))
    (B, T, J, S, D), words = dout.shape, graph.shape[-1]
    bases, tiles = tuple(owner(windows, size, T) for size in windows), _tiles(dout, words)
    dvalues, absent = dout.new_empty(dout.shape), dout.new_empty(0)
    droot = None if scale is None else torch.empty_like(dvalues)
    dresidual = None if out is None else torch.empty_like(dvalues)
    dscale, dshift = (None if values is None else dout.new_empty(B, J, T, S, dtype=torch.float32) for _ in range(2))
    if any(y is not None for y in (droot, dresidual, dscale)):
        tail = *_walk(values), *_walk(root), scale, *_walk(dout), out, droot, dresidual, dscale, dshift
        launch(tails, B * J * S * triton.cdiv(T, tiles["ROWS"]), graph, bases, T, J, S, D, words, *tail, **tiles)
    blocks = max(triton.cdiv(T, base) * triton.cdiv(base, BITS) for base in bases)
    precise = dout.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"
    tiles |= {"ROWS": 16, "PRECISION": "ieee" if precise else "tf32", "num_warps": 8}
    launch(received, B * J * S * blocks, graph, bases, T, J, S, D, words, blocks, scale, *_walk(dout), out, dvalues, **tiles)
    dscale, dshift = (absent.float() if p is None else p.sum((0, 1)) for p in (dscale, dshift))
    return dvalues, absent if droot is None else droot, absent.clone() if dresidual is None else dresidual, dscale, dshift


def _channels_inside(y):
    return y if y is None or y.stride(-1) == 1 else y.contiguous()


def _packed(y):
    return y if y is None else y.contiguous()


def _walk(y):
    """A map and its strides, for a kernel."""
    return (None, None) if y is None else (y, y.stride())


def _tiles(y, words):
    """ROWS frames at a time; registers hold their bits, and BLOCK_D channels."""
    words = triton.next_power_of_2(words)
    block_d = max(16, min(128, triton.next_power_of_2(y.shape[-1])))
    return {"ROWS": max(1, min(16, 64 // words)), "WORDS": words, "BITS": BITS, "BLOCK_D": block_d, "num_warps": 4}


# ---- what is chosen --------------------------------------------------------------------------------------------------


@triton.jit
def _frames(x, x_s, t, c, T, C, WIDE: tl.constexpr):
    """Channels `c` of frames `t`, zero outside."""
    tile = tl.load(x + t[:, None] * x_s[1] + c[None, :], mask=(t < T)[:, None] & (c < C)[None, :], other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def choose(
    x, x_s, graph, T, J, C, S, words, base, parts, sizes, k,
    COSINE: tl.constexpr, ALL: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The bits of ROWS frames of a window of `base` frames, for windows of all `sizes` that it is made of. Every product sums
    in the same order: equal frames have equal ones. A word is a tile of products."""
    pid, blocks, windows = tl.program_id(0), tl.cdiv(base, ROWS), tl.cdiv(T, base)
    joint = (pid // blocks // windows).to(tl.int64)
    begin = pid // blocks % windows * base
    length = tl.minimum(base, T - begin)
    x += joint // J * x_s[0] + joint % J * x_s[2] + begin.to(tl.int64) * x_s[1]
    i, bit = pid % blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, BITS)
    word = tl.arange(0, WORDS)[:, None, None]
    j = word * BITS + bit[None, None, :]
    similarity = tl.full((WORDS, ROWS, BITS), -float("inf"), tl.float32)
    for n in range(tl.cdiv(length, BITS)):
        others = (n * BITS + bit).to(tl.int64)
        products = tl.zeros((ROWS, BITS), tl.float32)
        squares = tl.zeros((BITS,), tl.float32)
        for c0 in range(0, C, BLOCK):
            c = c0 + tl.arange(0, BLOCK)
            u, v = _frames(x, x_s, i.to(tl.int64), c, length, C, WIDE), _frames(x, x_s, others, c, length, C, WIDE)
            products = tl.dot(u, tl.trans(v), products, input_precision="ieee")
            if COSINE:
                squares += tl.sum(v.to(tl.float32) * v.to(tl.float32), 1)
        if COSINE:  # up to the length of the frame that compares
            products = products / tl.maximum(tl.sqrt(squares), 1e-12)[None, :]
        products = tl.where(products > LOWEST, products, LOWEST)  # never NaN, so that there are always k
        similarity = tl.where(word == n, products[None], similarity)

    for n in tl.static_range(len(sizes)):
        first = (i // sizes[n] * sizes[n])[None, :, None]
        inside = (j >= first) & (j < tl.minimum(first + sizes[n], length))
        own = tl.where(inside, similarity, -float("inf"))
        rest = own
        last = tl.zeros((1, ROWS, 1), tl.float32)
        for _ in range(k):
            last = tl.max(tl.max(rest, 0), 1)[None, :, None]
            place = tl.min(tl.min(tl.where(rest == last, j, WORDS * BITS), 0), 1)[None, :, None]
            rest = tl.where(j == place, -float("inf"), rest)
        chosen = inside & ((own >= last) if ALL else (rest < own))
        found = tl.sum(tl.where(chosen, 1, 0) << bit[None, None, :], 2)  # (WORDS, ROWS)
        w = tl.arange(0, WORDS)[:, None]
        at = graph + ((joint * S + parts[n]) * T + begin + i[None, :]) * words + w
        tl.store(at, found, mask=(i < length)[None, :] & (w < words))
        for more in range(WORDS, words):  # of longer windows
            tl.store(graph + ((joint * S + parts[n]) * T + begin + i) * words + more, 0, mask=i < length)


# ---- what is summed --------------------------------------------------------------------------------------------------


@triton.jit
def _problem(graph, bases, number, T, J, S, words):
    """Return for the joint of a clip in windows of one size: its place among the maps (B, ., J, S) and their strides, its
    graph, and the length of its windows, whose frames the bits are."""
    s = number % S
    base = T
    for n in tl.static_range(len(bases)):
        base = tl.where(s == n, bases[n], base)
    return number // S // J, number // S % J, s, graph + number.to(tl.int64) * T * words, base


@triton.jit
def _degrees(graph, t, there, words, WORDS: tl.constexpr):
    """Return the number of frames that `t` chose."""
    w = tl.arange(0, WORDS)[None, :]
    bits = tl.load(graph + t[:, None] * words + w, mask=there[:, None] & (w < words), other=0).to(tl.uint32, bitcast=True)
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return tl.sum(((bits * 0x01010101) >> 24).to(tl.int32), 1)


@triton.jit
def _sums(
    graph, t, T, base, words, values, step, d, D,
    ROWS: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Channels `d` of the sums of frames `t`, bit by bit from the first."""
    begin = t // base * base
    i = tl.arange(0, WORDS * BITS)[None, :]
    words_of = tl.load(graph + t[:, None] * words + i // BITS, mask=(t < T)[:, None] & (i // BITS < words), other=0)
    chosen = tl.where((words_of >> (i % BITS)) & 1 == 1, i, WORDS * BITS)
    degrees = _degrees(graph, t, t < T, words, WORDS)
    frame = tl.min(chosen, 1)
    total = tl.zeros((ROWS, BLOCK_D), tl.float32)
    while tl.min(frame, 0) < WORDS * BITS:
        there = frame < WORDS * BITS
        others = begin + frame
        weights = tl.rsqrt(tl.maximum(degrees * _degrees(graph, others, there, words, WORDS), 1).to(tl.float32))
        mask = there[:, None] & (d < D)[None, :]
        total += weights[:, None] * tl.load(values + others[:, None] * step + d[None, :], mask=mask, other=0.0).to(tl.float32)
        frame = tl.min(tl.where(chosen > frame[:, None], chosen, WORDS * BITS), 1)
    return total


@triton.jit
def sums(
    graph, bases, T, J, S, D, words, values, values_s, root, root_s, scale, shift, residual, residual_s, out,
    RELU: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pid, blocks = tl.program_id(0), tl.cdiv(T, ROWS)
    b, j, s, graph, base = _problem(graph, bases, pid // blocks, T, J, S, words)
    t = (pid % blocks * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    b, j, s = b.to(tl.int64), j.to(tl.int64), s.to(tl.int64)
    values += b * values_s[0] + j * values_s[2] + s * values_s[3]
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = (t < T)[:, None] & (d < D)[None, :]
        y = _sums(graph, t, T, base, words, values, values_s[1], d, D, ROWS, WORDS, BITS, BLOCK_D)
        if root is not None:
            at = root + b * root_s[0] + j * root_s[2] + s * root_s[3] + t[:, None] * root_s[1] + d[None, :]
            y += tl.load(at, mask=mask, other=0.0).to(tl.float32)
        if scale is not None:
            y *= tl.load(scale + t * S + s, mask=t < T, other=0.0)[:, None]
        if shift is not None:
            y += tl.load(shift + t * S + s, mask=t < T, other=0.0)[:, None]
        if residual is not None:
            at = residual + b * residual_s[0] + j * residual_s[2] + s * residual_s[3] + t[:, None] * residual_s[1] + d[None, :]
            y += tl.load(at, mask=mask, other=0.0).to(tl.float32)
        if RELU:
            y = tl.where(y < 0.0, 0.0, y)
        tl.store(out + (((b * T + t) * J + j) * S + s)[:, None] * D + d[None, :], y, mask=mask)


@triton.jit
def tails(
    graph, bases, T, J, S, D, words, values, values_s, root, root_s, scale, dout, dout_s, out,
    droot, dresidual, dscale, dshift,
    ROWS: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of all but the values, as far as they are wanted; those of scale and shift of one joint."""
    pid, blocks = tl.program_id(0), tl.cdiv(T, ROWS)
    number = pid // blocks
    b, j, s, graph, base = _problem(graph, bases, number, T, J, S, words)
    t = (pid % blocks * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    b, j, s = b.to(tl.int64), j.to(tl.int64), s.to(tl.int64)
    dout += b * dout_s[0] + j * dout_s[2] + s * dout_s[3]
    at = (((b * T + t) * J + j) * S + s)[:, None] * D
    by_scale = tl.zeros((ROWS,), tl.float32)
    by_shift = tl.zeros((ROWS,), tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = (t < T)[:, None] & (d < D)[None, :]
        dy = tl.load(dout + t[:, None] * dout_s[1] + d[None, :], mask=mask, other=0.0).to(tl.float32)
        if out is not None:
            dy = tl.where(tl.load(out + at + d[None, :], mask=mask, other=0.0) > 0.0, dy, 0.0)
            tl.store(dresidual + at + d[None, :], dy, mask=mask)
        if dscale is not None:
            of_values = values + b * values_s[0] + j * values_s[2] + s * values_s[3]
            y = _sums(graph, t, T, base, words, of_values, values_s[1], d, D, ROWS, WORDS, BITS, BLOCK_D)
            if root is not None:
                at_root = root + b * root_s[0] + j * root_s[2] + s * root_s[3] + t[:, None] * root_s[1] + d[None, :]
                y += tl.load(at_root, mask=mask, other=0.0).to(tl.float32)
            by_scale += tl.sum(dy * y, 1)
            by_shift += tl.sum(dy, 1)
        if scale is not None:
            dy *= tl.load(scale + t * S + s, mask=t < T, other=0.0)[:, None]
            tl.store(droot + at + d[None, :], dy, mask=mask)
    if dscale is not None:
        partial = ((b * J + j) * T + t) * S + s
        tl.store(dscale + partial, by_scale, mask=t < T)
        tl.store(dshift + partial, by_shift, mask=t < T)


@triton.jit
def received(
    graph, bases, T, J, S, D, words, blocks, scale, dout, dout_s, out, dvalues,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute what BITS frames of a window get from all of it. Some programs have none where windows differ in words."""
    pid = tl.program_id(0)
    b, j, s, graph, base = _problem(graph, bases, pid // blocks, T, J, S, words)
    b, j, s = b.to(tl.int64), j.to(tl.int64), s.to(tl.int64)
    block, words_of = pid % blocks, tl.cdiv(base, BITS)
    begin, word = (block // words_of * base).to(tl.int64), block % words_of
    length = tl.minimum(base, T - begin)
    bit = tl.arange(0, BITS)
    own = (word * BITS + bit).to(tl.int64)
    own_degrees = _degrees(graph, begin + own, own < length, words, WORDS)
    dout += b * dout_s[0] + j * dout_s[2] + s * dout_s[3] + begin * dout_s[1]
    place = (b * T + begin) * J * S + j * S + s
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        total = tl.zeros((BITS, BLOCK_D), tl.float32)
        for i0 in range(0, length, ROWS):
            i = i0 + tl.arange(0, ROWS).to(tl.int64)
            bits = tl.load(graph + (begin + i) * words + word, mask=i < length, other=0)
            degrees = _degrees(graph, begin + i, i < length, words, WORDS)
            weights = tl.rsqrt(tl.maximum(own_degrees[:, None] * degrees[None, :], 1).to(tl.float32))
            weights = tl.where((bits[None, :] >> bit[:, None]) & 1 == 1, weights, 0.0)
            mask = (i < length)[:, None] & (d < D)[None, :]
            dy = tl.load(dout + i[:, None] * dout_s[1] + d[None, :], mask=mask, other=0.0).to(tl.float32)
            if out is not None:
                y = tl.load(out + (place + i * J * S)[:, None] * D + d[None, :], mask=mask, other=0.0)
                dy = tl.where(y > 0.0, dy, 0.0)
            if scale is not None:
                dy *= tl.load(scale + (begin + i) * S + s, mask=i < length, other=0.0)[:, None]
            if PRECISION == "ieee":
                tl.debug_barrier()  # or the compiler loads the next rows before it, and keeps them in registers
            total = tl.dot(weights, dy, total, input_precision=PRECISION)
        at = dvalues + (place + own * J * S)[:, None] * D + d[None, :]
        tl.store(at, total, mask=(own < length)[:, None] & (d < D)[None, :])


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    def cases(label, windows, cosine, all_ties, learned, T=243, J=17, C=128, dtype=torch.float32):
        x, like = tensor(2, T, J, C, dtype=dtype), tensor(2, T, J, len(windows), C, dtype=dtype)
        graph = tensor(2, J, len(windows), T, triton.cdiv(max(windows), BITS), dtype=torch.int32)
        scale, tail = tensor(T, len(windows)), (like, tensor(T, len(windows)), tensor(T, len(windows)), like)
        yield from recorded(label, forward, x, like, 2, windows, cosine, all_ties, *(tail if learned else [None] * 4), learned)
        saved = (like, like, like, scale) if learned else [None] * 4
        yield from recorded(label, backward, like, graph, 2, windows, *saved)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield from cases(str(dtype)[6:], [243], False, True, False, dtype=dtype)
        yield from cases(f"{str(dtype)[6:]} scales, tail", [9, 27, 81], True, False, True, dtype=dtype)
    yield from cases("T=1024, windows apart", [7, 27, 1024, 100], False, False, True, T=1024)
    yield from cases("C=512", [243], True, True, True, C=512)
    # Sizes of 1, which Triton makes constants
    yield from cases("all 1", [1], False, False, True, 1, 1, 1)
