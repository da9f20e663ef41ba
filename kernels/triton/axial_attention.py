"""Axial attention on the GPU: flash attention that walks the (B, T, J, 3, H, D) buffer by its strides.

A problem is a head of a row: of a frame for the joint axis, of a joint for the frame axis; N is the length of the axis.
A program holds BLOCK queries of a problem and walks over its keys, WALK at a time, the softmax running along. The
backward computes the weights again, from lse: a launch over blocks of queries for dq, and one over blocks of keys for
dk and dv, so that every sum has one owner and one order. Where one tile is the WHOLE problem (the joints of a skeleton,
or a short clip), nothing walks, and the backward is one launch. Of a packed mask a tile takes one word per query (two if
its keys fill them), and where all are 0 it is skipped.
"""

import torch
import triton
import triton.language as tl

from .._op import triton_interpreted
from ..axial_attention import dropout_threshold
from ..topk_temporal_mask import BITS
from ._scan import launch

LOG2E = tl.constexpr(1.4426950408889634)
WORD = tl.constexpr(BITS)  # keys, of a packed mask


def forward(qkv, mask, axis, scale, dropout_p, seed):
    B, T, J, _, H, D = qkv.shape
    out, lse = qkv.new_empty(B, T, J, H * D), qkv.new_empty(B, T, J, H, dtype=torch.float32)
    problem, options, whole, programs = _plan(qkv, mask, axis, scale, dropout_p, seed)
    launch(outputs, programs, *problem, out, lse, WHOLE=whole, **options)
    return out, lse


def backward(dout, qkv, out, lse, mask, axis, scale, dropout_p, seed):
    dout, out, lse = dout.contiguous(), out.contiguous(), lse.contiguous()
    dqkv, delta = qkv.new_empty(qkv.shape), torch.empty_like(lse)
    problem, options, whole, programs = _plan(qkv, mask, axis, scale, dropout_p, seed)
    if not whole:
        launch(query_gradients, programs, *problem, dout, out, lse, delta, dqkv, **options)
    launch(key_gradients, programs, *problem, dout, out, lse, delta, dqkv, WHOLE=whole, **options)
    return dqkv


def _plan(qkv, mask, axis, scale, dropout_p, seed):
    """The arguments that every kernel starts with, its options, whether it holds a problem whole, and how many run."""
    if qkv.stride(-1) != 1:
        qkv = qkv.contiguous()
    B, T, J, _, H, D = qkv.shape
    b, t, j, part, h, _ = qkv.stride()
    rows, N = (J, T) if axis else (T, J)
    strides = (b, j, t, part, h) if axis else (b, t, j, part, h)
    if mask is not None and mask.stride(-1) != 1:
        mask = mask.contiguous()  # the layout of the tiles, and with it the order of sums, follows the mask's
    mask_strides = None if mask is None else mask.stride()
    threshold, rest = dropout_threshold(dropout_p), 1 / (1 - dropout_p)
    problem = (qkv, strides, rows, N, H, scale, mask, mask_strides, seed, threshold, rest)
    precise = qkv.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"
    options = _tiles(N, D, qkv.dtype) | {"FRAME": bool(axis), "D": D, "PRECISION": "ieee" if precise else "tf32"}
    options["PACKED"] = mask is not None and mask.dtype == torch.int32
    options["WIDE"] = triton_interpreted()  # the interpreter multiplies tiles of bfloat16 wrongly
    return problem, options, N <= options["WALK"], B * rows * H * triton.cdiv(N, options["BLOCK"])


def _tiles(N, D, dtype):
    """Tiles that registers hold without spilling: BLOCK places of a program's own, and WALK of those that it walks over.

    Products of float32 are not for tensor cores, and take many more registers.
    """
    block_d, fits = (max(16, triton.next_power_of_2(n)) for n in (D, N))
    if dtype == torch.float32:
        block, walk, warps = 32 if D <= 128 else 16, 32 if D <= 64 else 16, 4
    else:
        block, walk, warps = 64 if D <= 128 else 32, 32, 1
    walk = min(walk, fits)
    block = walk if N <= walk else min(block, fits)
    warps = min(8, warps * block // 16 * max(1, block_d // 64))
    return {"BLOCK": block, "WALK": walk, "BLOCK_D": block_d, "num_warps": warps, "num_stages": 3 if D <= 128 else 2}


# ---- tiles -----------------------------------------------------------------------------------------------------------


@triton.jit
def _where(rows, N, H, FRAME: tl.constexpr, BLOCK: tl.constexpr):
    """The program's batch, row, head and first place; its first token of (B, T, J), and the way to the next.

    Divisions are of int32: int64 would be calls.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(N, BLOCK)
    problem = pid // blocks
    row = problem // H
    b, row, h = (row // rows).to(tl.int64), (row % rows).to(tl.int64), (problem % H).to(tl.int64)
    token = b * rows * N + (row if FRAME else row * N)
    return b, row, h, (pid % blocks).to(tl.int64) * BLOCK, token, rows if FRAME else 1


@triton.jit
def _inputs(qkv, qkv_s, b, row, h):
    """Return the offsets of the problem's queries, keys and values."""
    queries = qkv + b * qkv_s[0] + row * qkv_s[1] + h * qkv_s[4]
    keys = queries + qkv_s[3]
    return queries, keys, keys + qkv_s[3]


@triton.jit
def _load(x, n, step, N, D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr):
    """The vectors `n`, which lie `step` apart: (n, BLOCK_D), zero outside."""
    d = tl.arange(0, BLOCK_D)
    tile = tl.load(x + n[:, None] * step + d[None, :], mask=(n < N)[:, None] & (d < D)[None, :], other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def _store(x, n, step, tile, N, D: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    tl.store(x + n[:, None] * step + d[None, :], tile, mask=(n < N)[:, None] & (d < D)[None, :])


@triton.jit
def _words(mask, mask_s, i, j, first, N, BLOCK: tl.constexpr):
    """Load the bits of a packed mask for queries i and keys j, which are BLOCK from `first` on."""
    rows, word = mask + i * mask_s[2], first // WORD
    words = tl.load(rows + word * mask_s[3], mask=i < N, other=0)
    if BLOCK > WORD:
        second = tl.minimum(word + 1, (N - 1) // WORD)
        words = tl.where(j < first + WORD, words, tl.load(rows + second * mask_s[3], mask=i < N, other=0))
    return words


@triton.jit
def _any(words, WHOLE: tl.constexpr):
    """Return whether a tile with these words has anything to see; a WHOLE problem is not skipped."""
    if words is None or WHOLE:
        return True
    else:
        return tl.max((words != 0).to(tl.int32)) != 0


@triton.jit
def _scores(x, y, i, j, N, scale, mask, mask_s, words, PRECISION: tl.constexpr):
    """scale x y^T + mask of queries i and keys j, either along the rows; -inf outside.

    In natural units: a mask of the lowest float would leave float32 in those of exp2.
    """
    seen = (i < N) & (j < N)
    if PRECISION == "ieee":
        tl.debug_barrier()  # here, or the compiler puts it amid the operands, and keeps them all in registers
    scores = tl.dot(x, tl.trans(y), input_precision=PRECISION) * scale
    if words is not None:
        seen = seen & ((words >> (j % WORD).to(tl.int32)) & 1 != 0)
    elif mask is not None:
        chosen = tl.load(mask + i * mask_s[2] + j * mask_s[3], mask=seen, other=0)
        if mask.dtype.element_ty == tl.int1:
            seen = seen & chosen
        else:
            scores += chosen
    return tl.where(seen, scores, -float("inf"))


@triton.jit
def _mix(x):
    """Hash as in lifter.kernels.axial_attention, in 32 bits."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _kept(seed, b, row, h, rows, H, i, j, N, threshold):
    """Return a mask of the weights of queries i and keys j that survive."""
    first = _mix((tl.load(seed) + (b * rows + row) * H + h).to(tl.uint32))
    return _mix(first + i.to(tl.uint32) * N + j.to(tl.uint32)) >= threshold.to(tl.uint32)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["threshold"])
def outputs(
    qkv, qkv_s, rows, N, H, scale, mask, mask_s, seed, threshold, rest, out, lse,
    FRAME: tl.constexpr, PACKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b, row, h, start, token, step = _where(rows, N, H, FRAME, BLOCK)
    i = start + tl.arange(0, BLOCK)
    queries, keys, values = _inputs(qkv, qkv_s, b, row, h)
    if mask is not None:
        mask += b * mask_s[0] + row * mask_s[1]
    q = _load(queries, i, qkv_s[2], N, D, BLOCK_D, WIDE)
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    sums = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for j0 in range(0, WALK if WHOLE else N, WALK):
        j = j0 + tl.arange(0, WALK).to(tl.int64)
        words = None
        if PACKED:
            words = _words(mask, mask_s, i[:, None], j[None, :], j0, N, WALK)
        if _any(words, WHOLE):
            k = _load(keys, j, qkv_s[2], N, D, BLOCK_D, WIDE)
            scores = _scores(q, k, i[:, None], j[None, :], N, scale, mask, mask_s, words, PRECISION)
            before, largest = largest, tl.maximum(largest, tl.max(scores, 1))
            shift = tl.where(largest == -float("inf"), 0.0, largest)
            weights = tl.exp2((scores - shift[:, None]) * LOG2E)
            decay = tl.exp2((before - shift) * LOG2E)
            total = total * decay + tl.sum(weights, 1)
            if seed is not None:
                kept = _kept(seed, b, row, h, rows, H, i[:, None], j[None, :], N, threshold)
                weights = tl.where(kept, weights, 0.0)
            v = _load(values, j, qkv_s[2], N, D, BLOCK_D, WIDE)
            sums = tl.dot(weights.to(v.dtype), v, sums * decay[:, None], input_precision=PRECISION)
    some = tl.where(total == 0.0, 1.0, total)  # a query that may look at nothing gets zeros
    _store(out + (token * H + h) * D, i, step * H * D, sums * (rest / some)[:, None], N, D, BLOCK_D)
    tl.store(lse + token * H + h + i * step * H, largest + tl.log(some), mask=i < N)


@triton.jit
def _score_gradients(scores, lse, dweights, delta, kept, rest):
    """The weights as the values saw them, up to `rest`, and the gradient of the scores."""
    weights = tl.exp2((scores - tl.where(lse == -float("inf"), 0.0, lse)) * LOG2E)
    if kept is None:
        return weights, weights * (dweights - delta)
    else:
        return tl.where(kept, weights, 0.0), weights * (tl.where(kept, dweights * rest, 0.0) - delta)


@triton.jit(do_not_specialize=["threshold"])
def query_gradients(
    qkv, qkv_s, rows, N, H, scale, mask, mask_s, seed, threshold, rest, dout, out, lse, delta, dqkv,
    FRAME: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dq, and delta, the sum of dout * out over the channels."""
    b, row, h, start, token, step = _where(rows, N, H, FRAME, BLOCK)
    i = start + tl.arange(0, BLOCK)
    queries, keys, values = _inputs(qkv, qkv_s, b, row, h)
    if mask is not None:
        mask += b * mask_s[0] + row * mask_s[1]
    first = token * H + h
    q = _load(queries, i, qkv_s[2], N, D, BLOCK_D, WIDE)
    do = _load(dout + first * D, i, step * H * D, N, D, BLOCK_D, WIDE)
    o = _load(out + first * D, i, step * H * D, N, D, BLOCK_D, WIDE)
    log_total = tl.load(lse + first + i * step * H, mask=i < N, other=0.0)
    means = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + first + i * step * H, means, mask=i < N)
    dq = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for j0 in range(0, N, WALK):
        j = j0 + tl.arange(0, WALK).to(tl.int64)
        words = None
        if PACKED:
            words = _words(mask, mask_s, i[:, None], j[None, :], j0, N, WALK)
        if _any(words, False):
            k = _load(keys, j, qkv_s[2], N, D, BLOCK_D, WIDE)
            v = _load(values, j, qkv_s[2], N, D, BLOCK_D, WIDE)
            scores = _scores(q, k, i[:, None], j[None, :], N, scale, mask, mask_s, words, PRECISION)
            dweights = tl.dot(do, tl.trans(v), input_precision=PRECISION)
            kept = None
            if seed is not None:
                kept = _kept(seed, b, row, h, rows, H, i[:, None], j[None, :], N, threshold)
            _, dscores = _score_gradients(scores, log_total[:, None], dweights, means[:, None], kept, rest)
            dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision=PRECISION)
    _store(dqkv + (token * 3 * H + h) * D, i, step * 3 * H * D, dq * scale, N, D, BLOCK_D)


@triton.jit(do_not_specialize=["threshold"])
def key_gradients(
    qkv, qkv_s, rows, N, H, scale, mask, mask_s, seed, threshold, rest, dout, out, lse, delta, dqkv,
    FRAME: tl.constexpr, PACKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dk and dv; of a WHOLE problem dq too. Keys lie along the rows of the tiles."""
    b, row, h, start, token, step = _where(rows, N, H, FRAME, BLOCK)
    j = start + tl.arange(0, BLOCK)
    queries, keys, values = _inputs(qkv, qkv_s, b, row, h)
    if mask is not None:
        mask += b * mask_s[0] + row * mask_s[1]
    first = token * H + h
    dqkv += (token * 3 * H + h) * D
    k = _load(keys, j, qkv_s[2], N, D, BLOCK_D, WIDE)
    v = _load(values, j, qkv_s[2], N, D, BLOCK_D, WIDE)
    dk = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for i0 in range(0, WALK if WHOLE else N, WALK):
        i = i0 + tl.arange(0, WALK).to(tl.int64)
        words = None
        if PACKED:
            words = _words(mask, mask_s, i[None, :], j[:, None], start, N, BLOCK)
        if _any(words, WHOLE):
            q = _load(queries, i, qkv_s[2], N, D, BLOCK_D, WIDE)
            do = _load(dout + first * D, i, step * H * D, N, D, BLOCK_D, WIDE)
            log_total = tl.load(lse + first + i * step * H, mask=i < N, other=0.0)
            if WHOLE:
                o = _load(out + first * D, i, step * H * D, N, D, BLOCK_D, WIDE)
                means = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
            else:
                means = tl.load(delta + first + i * step * H, mask=i < N, other=0.0)
            scores = _scores(k, q, i[None, :], j[:, None], N, scale, mask, mask_s, words, PRECISION)
            if PRECISION == "ieee":
                tl.debug_barrier()  # as in `_scores`
            dweights = tl.dot(v, tl.trans(do), input_precision=PRECISION)
            kept = None
            if seed is not None:
                kept = _kept(seed, b, row, h, rows, H, i[None, :], j[:, None], N, threshold)
            weights, dscores = _score_gradients(scores, log_total[None, :], dweights, means[None, :], kept, rest)
            dv = tl.dot(weights.to(do.dtype), do, dv, input_precision=PRECISION)
            dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision=PRECISION)
            if WHOLE:
                dq = tl.dot(tl.trans(dscores.to(k.dtype)), k, input_precision=PRECISION)
                _store(dqkv, i, step * 3 * H * D, dq * scale, N, D, BLOCK_D)
    _store(dqkv + H * D, j, step * 3 * H * D, dk * scale, N, D, BLOCK_D)
    _store(dqkv + 2 * H * D, j, step * 3 * H * D, dv * rest, N, D, BLOCK_D)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    def cases(label, qkv, *arguments):
        B, T, J, _, H, D = qkv.shape
        out, lse = qkv.new_empty(B, T, J, H * D), tensor(B, T, J, H)
        yield from recorded(label, forward, qkv, *arguments)
        yield from recorded(label, backward, out, qkv, out, lse, *arguments)

    seed, shape = tensor(1, dtype=torch.int64), (2, 243, 17, 3, 8, 64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for axis, name in enumerate(("joint", "frame")):
            yield from cases(f"{name} {str(dtype)[6:]}", tensor(*shape, dtype=dtype), None, axis, 0.125, 0.0, None)
    visible, added = (tensor(1, 1, 243, 243, dtype=dtype).expand(2, 17, -1, -1) for dtype in (torch.bool, torch.float32))
    packed = tensor(2, 17, 243, 8, dtype=torch.int32)
    half = tensor(*shape, dtype=torch.bfloat16)
    yield from cases("frame float32 visible dropout", tensor(*shape), visible, 1, 0.125, 0.1, seed)
    yield from cases("frame bfloat16 visible dropout", half, visible, 1, 0.125, 0.1, seed)
    yield from cases("frame bfloat16 added", half, added, 1, 0.125, 0.0, None)
    yield from cases("frame float32 packed", tensor(*shape), packed, 1, 0.125, 0.0, None)
    yield from cases("frame bfloat16 packed", half, packed, 1, 0.125, 0.0, None)
    yield from cases("frame bfloat16 packed dropout", half, packed, 1, 0.125, 0.1, seed)
    for dtype in (torch.float32, torch.bfloat16):
        yield from cases(f"frame D=256 {str(dtype)[6:]}", tensor(2, 243, 17, 3, 1, 256, dtype=dtype), None, 1, 0.1, 0.0, None)
    wide = tensor(2, 243, 17, 3, 1, 256, dtype=torch.bfloat16)
    yield from cases("frame D=256 bfloat16 packed", wide, packed, 1, 0.1, 0.0, None)
    yield from cases("17 frames packed", half[:, :17], packed[:, :, :17, :1], 1, 0.125, 0.0, None)
    # Sizes of 1, which Triton makes constants
    yield from cases("all 1", tensor(1, 1, 1, 3, 1, 1), tensor(1, 1, 1, 1), 1, 1.0, 0.5, seed)
