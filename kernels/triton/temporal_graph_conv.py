"""Temporal graph convolution on the GPU: products of all pairs of a joint's frames in a workspace, as their channels are too
many for a tile that would hold them.

Forward: `scores`, where a program holds ROWS frames of a joint and walks over all, a word of the mask at a time, for the
products and lse; `outputs`, where it holds BLOCK channels of them. Backward: `weights`, from the products again and lse,
beside dout x^T; `edges`, where a program holds BLOCK pairs of frames and walks over the joints of its part, for what these
give to the graph's gradient, and what meets dout and x; `gradients`, as outputs.

The workspace is of ROOM bytes, or of one clip: more clips follow in its place. Every sum has one owner and one order, which
shapes decide.
"""

import torch
import triton
import triton.language as tl

from .._op import triton_interpreted
from ._scan import launch
from .axial_attention import LOG2E

WORD = tl.constexpr(32)  # bits of the mask
ROOM = 2**28
PARTS = 16  # of the sum over clips and joints that is dgraph: as many (T, T)
EDGES = 256  # of a program


def forward(x, graph, mask, scale):
    B, T, J, C = x.shape
    x, graph, mask, precise = _inputs(x, graph, mask)
    out, lse = x.new_empty(B, T, J, C), x.new_empty(B, T, J, dtype=torch.float32)
    step, pitch, (pairs,) = _workspaces(x, 1)
    tiles, products, channels = _options(T, C, x.dtype, precise)
    for clips in _groups(B, step):
        frames, sizes = (x[clips], x.stride()), (T, J, C)
        programs = len(frames[0]) * J * tiles
        mask_ = None if mask is None else mask[clips]
        launch(scores, programs, *frames, mask_, scale, pairs, pitch, lse[clips], *sizes, **products)
        programs *= triton.cdiv(C, channels["BLOCK"])
        launch(outputs, programs, *frames, graph, pairs, pitch, lse[clips], out[clips], *sizes, **channels)
    return out, lse


def backward(dout, x, graph, lse, mask, scale):
    B, T, J, C = x.shape
    x, graph, mask, precise = _inputs(x, graph, mask)
    dout, lse = dout if dout.stride(-1) == 1 else dout.contiguous(), lse.contiguous()
    dx, dgraph = x.new_empty(B, T, J, C), torch.zeros_like(graph)
    step, pitch, workspaces = _workspaces(x, 2)
    workspaces = *workspaces, pitch
    means = lse.new_empty(step * J, T)
    tiles, products, channels = _options(T, C, x.dtype, precise)
    for clips in _groups(B, step):
        frames, sizes = (x[clips], x.stride(), dout[clips], dout.stride()), (T, J, C)
        problems = len(frames[0]) * J
        mask_ = None if mask is None else mask[clips]
        launch(weights, problems * tiles, *frames, graph, mask_, scale, *workspaces, lse[clips], means, *sizes, **products)
        partial = graph.new_empty(min(problems, PARTS), T, T)
        programs = len(partial) * triton.cdiv(T * pitch, EDGES)
        launch(edges, programs, graph, scale, *workspaces, means, partial, problems, len(partial), T, BLOCK=EDGES, num_warps=2)
        dgraph += partial.sum(0)
        programs = problems * tiles * triton.cdiv(C, channels["BLOCK"])
        launch(gradients, programs, *frames, *workspaces, dx[clips], *sizes, **channels)
    return dx, dgraph


def _groups(B, step):
    return [slice(first, first + step) for first in range(0, B, step)]


def _inputs(x, graph, mask):
    """Return the arguments as the kernels take them, and whether float32 is multiplied as such."""
    x, mask = x if x.stride(-1) == 1 else x.contiguous(), None if mask is None else mask.contiguous()
    return x, graph.contiguous(), mask, x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"


def _workspaces(x, count):
    """Return the number of clips; the pitch, which is T up to whole words; (clips * J, T, pitch) each."""
    B, T, J, _ = x.shape
    pitch = triton.cdiv(T, WORD.value) * WORD.value
    clips = max(1, min(B, ROOM // (4 * J * T * pitch * count)))
    return clips, pitch, [x.new_empty(clips * J, T, pitch, dtype=torch.float32) for _ in range(count)]


def _options(T, C, dtype, precise):
    """Return the number of tiles of ROWS frames; the tiles of products over BLOCK channels at a time, and of results that have
    BLOCK channels: what registers hold without spilling. Products of float32 are not for tensor cores."""
    wide = dtype == torch.float32
    rows = min(32 if wide else 64, max(16, triton.next_power_of_2(T)))
    block = max(16, triton.next_power_of_2(C))
    common = {"ROWS": rows, "PRECISION": "ieee" if precise else "tf32", "WIDE": triton_interpreted(), "num_warps": 4}
    products = common | {"BLOCK": min(16 if wide else 32, block)}
    channels = common | {"BLOCK": min(64, block), "WALK": 16 if wide else 32}
    return triton.cdiv(T, rows), products, channels


# ---- tiles -----------------------------------------------------------------------------------------------------------


@triton.jit
def _where(T, J, tiles, ROWS: tl.constexpr):
    """The program's clip and joint, its frames, and its number among those of a problem's tile."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(T, ROWS)
    problem = pid // tiles // blocks
    i = (pid // tiles % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return (problem // J).to(tl.int64), (problem % J).to(tl.int64), i, (pid % tiles).to(tl.int64)


@triton.jit
def _frames(x, step, n, c, T, C, WIDE: tl.constexpr):
    """The channels `c` of the frames `n`, which lie `step` apart; zero outside."""
    tile = tl.load(x + n[:, None] * step + c[None, :], mask=(n < T)[:, None] & (c < C)[None, :], other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def _products(
    x, x_step, i, y, y_step, j, T, C,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    sums = tl.zeros((ROWS, WORD), tl.float32)
    for c0 in range(0, C, BLOCK):
        c = c0 + tl.arange(0, BLOCK).to(tl.int64)
        u, v = _frames(x, x_step, i, c, T, C, WIDE), _frames(y, y_step, j, c, T, C, WIDE)
        sums = tl.dot(u, tl.trans(v), sums, input_precision=PRECISION)
    return sums


@triton.jit
def _seen(mask, problem, i, j0, T):
    """Whom of the keys from `j0` on the frames `i` see."""
    lane = tl.arange(0, WORD)
    seen = (i < T)[:, None] & (j0 + lane < T)[None, :]
    if mask is not None:
        words = tl.cdiv(T, WORD)
        word = tl.load(mask + (problem * T + i) * words + j0 // WORD, mask=i < T, other=0)
        seen = seen & ((word[:, None] >> lane[None, :]) & 1 != 0)
    return seen


@triton.jit
def _exp(x):
    return tl.exp2(x * LOG2E)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def scores(
    x, x_s, mask, scale, pairs, pitch, lse, T, J, C,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """pairs: minus infinity where not seen, and in the rest of the pitch."""
    b, joint, i, _ = _where(T, J, 1, ROWS)
    x += b * x_s[0] + joint * x_s[2]
    problem = b * J + joint
    pairs += problem * T * pitch
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for j0 in range(0, T, WORD):
        j = j0 + tl.arange(0, WORD).to(tl.int64)
        tile = _products(x, x_s[1], i, x, x_s[1], j, T, C, ROWS, BLOCK, PRECISION, WIDE) * scale
        tile = tl.where(_seen(mask, problem, i, j0, T), tile, -float("inf"))
        tl.store(pairs + i[:, None] * pitch + j[None, :], tile, mask=(i < T)[:, None])
        before, largest = largest, tl.maximum(largest, tl.max(tile, 1))
        shift = tl.where(largest == -float("inf"), 0.0, largest)
        total = total * _exp(before - shift) + tl.sum(_exp(tile - shift[:, None]), 1)
    some = tl.where(total == 0.0, 1.0, total)  # a frame that sees nothing
    tl.store(lse + (b * T + i) * J + joint, largest + tl.log(some), mask=i < T)


@triton.jit
def outputs(
    x, x_s, graph, pairs, pitch, lse, out, T, J, C,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    b, joint, i, block = _where(T, J, tl.cdiv(C, BLOCK), ROWS)
    c = block * BLOCK + tl.arange(0, BLOCK)
    x += b * x_s[0] + joint * x_s[2]
    pairs += (b * J + joint) * T * pitch
    inside = (i < T)[:, None]
    log_total = tl.load(lse + (b * T + i) * J + joint, mask=i < T, other=0.0)
    shift = tl.where(log_total == -float("inf"), 0.0, log_total)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for j0 in range(0, T, WALK):
        j = j0 + tl.arange(0, WALK).to(tl.int64)
        tile = tl.load(pairs + i[:, None] * pitch + j[None, :], mask=inside, other=-float("inf"))
        edge = tl.load(graph + i[:, None] * T + j[None, :], mask=inside & (j < T)[None, :], other=0.0)
        v = _frames(x, x_s[1], j, c, T, C, WIDE)
        sums = tl.dot((_exp(tile - shift[:, None]) * edge).to(v.dtype), v, sums, input_precision=PRECISION)
    tl.store(out + ((b * T + i[:, None]) * J + joint) * C + c[None, :], sums, mask=inside & (c < C)[None, :])


@triton.jit
def weights(
    x, x_s, dout, dout_s, graph, mask, scale, pairs, dpairs, pitch, lse, means, T, J, C,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """pairs: the softmax; dpairs: dout x^T; means: of the gradients of a frame's weights, weighted by these."""
    b, joint, i, _ = _where(T, J, 1, ROWS)
    x += b * x_s[0] + joint * x_s[2]
    dout += b * dout_s[0] + joint * dout_s[2]
    problem = b * J + joint
    pairs += problem * T * pitch
    dpairs += problem * T * pitch
    inside = (i < T)[:, None]
    log_total = tl.load(lse + (b * T + i) * J + joint, mask=i < T, other=0.0)
    shift = tl.where(log_total == -float("inf"), 0.0, log_total)
    mean = tl.zeros((ROWS,), tl.float32)
    for j0 in range(0, T, WORD):
        j = j0 + tl.arange(0, WORD).to(tl.int64)
        at = i[:, None] * pitch + j[None, :]
        tile = _products(x, x_s[1], i, x, x_s[1], j, T, C, ROWS, BLOCK, PRECISION, WIDE) * scale
        tile = _exp(tl.where(_seen(mask, problem, i, j0, T), tile, -float("inf")) - shift[:, None])
        tl.store(pairs + at, tile, mask=inside)
        dtile = _products(dout, dout_s[1], i, x, x_s[1], j, T, C, ROWS, BLOCK, PRECISION, WIDE)
        tl.store(dpairs + at, dtile, mask=inside)
        edge = tl.load(graph + i[:, None] * T + j[None, :], mask=inside & (j < T)[None, :], other=0.0)
        mean += tl.sum(tile * dtile * edge, 1)
    tl.store(means + problem * T + i, mean, mask=i < T)


@triton.jit
def edges(
    graph, scale, pairs, dpairs, pitch, means, partial, problems, parts, T,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """In place, pairs: what meets dout; dpairs: the gradient of the products."""
    pid = tl.program_id(0)
    part = pid % parts
    place = (pid // parts).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    i, j = place // pitch, place % pitch
    inside = (i < T) & (j < T)
    edge = tl.load(graph + i * T + j, mask=inside, other=0.0)
    sums = tl.zeros((BLOCK,), tl.float32)
    first = part * problems // parts
    problem = first.to(tl.int64)
    for _ in range(first, (part + 1) * problems // parts):
        at = problem * T * pitch + place
        weight = tl.load(pairs + at, mask=i < T, other=0.0)
        dedge = tl.load(dpairs + at, mask=i < T, other=0.0)
        mean = tl.load(means + problem * T + i, mask=i < T, other=0.0)
        sums += weight * dedge
        tl.store(pairs + at, weight * edge, mask=i < T)
        tl.store(dpairs + at, weight * (dedge * edge - mean) * scale, mask=i < T)
        problem += 1
    tl.store(partial + (part.to(tl.int64) * T + i) * T + j, sums, mask=inside)


@triton.jit
def gradients(
    x, x_s, dout, dout_s, pairs, dpairs, pitch, dx, T, J, C,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The transposed pairs times dout, and dpairs and its transposed times x."""
    b, joint, i, block = _where(T, J, tl.cdiv(C, BLOCK), ROWS)
    c = block * BLOCK + tl.arange(0, BLOCK)
    x += b * x_s[0] + joint * x_s[2]
    dout += b * dout_s[0] + joint * dout_s[2]
    pairs += (b * J + joint) * T * pitch
    dpairs += (b * J + joint) * T * pitch
    inside = (i < T)[:, None]
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for j0 in range(0, T, WALK):
        j = j0 + tl.arange(0, WALK).to(tl.int64)
        known = (j < T)[:, None] & (i < pitch)[None, :]
        tile = tl.trans(tl.load(pairs + j[:, None] * pitch + i[None, :], mask=known, other=0.0))
        u = _frames(dout, dout_s[1], j, c, T, C, WIDE)
        sums = tl.dot(tile.to(u.dtype), u, sums, input_precision=PRECISION)
    for j0 in range(0, T, WALK):
        j = j0 + tl.arange(0, WALK).to(tl.int64)
        known = (j < T)[:, None] & (i < pitch)[None, :]
        tile = tl.load(dpairs + i[:, None] * pitch + j[None, :], mask=inside, other=0.0)
        tile += tl.trans(tl.load(dpairs + j[:, None] * pitch + i[None, :], mask=known, other=0.0))
        v = _frames(x, x_s[1], j, c, T, C, WIDE)
        sums = tl.dot(tile.to(v.dtype), v, sums, input_precision=PRECISION)
    tl.store(dx + ((b * T + i[:, None]) * J + joint) * C + c[None, :], sums, mask=inside & (c < C)[None, :])


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    def cases(label, x, masked):
        B, T, J, _ = x.shape
        mask = tensor(B, J, T, -(-T // 32), dtype=torch.int32) if masked else None
        yield from recorded(label, forward, x, tensor(T, T), mask, 0.1)
        yield from recorded(label, backward, x, x, tensor(T, T), tensor(B, T, J), mask, 0.1)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield from cases(str(dtype)[6:], tensor(2, 243, 17, 512, dtype=dtype), True)
    for dtype in (torch.float32, torch.bfloat16):
        yield from cases(f"C=1000 {str(dtype)[6:]}", tensor(2, 81, 17, 1000, dtype=dtype), False)
    yield from cases("T=27 bfloat16", tensor(1, 27, 17, 512, dtype=torch.bfloat16), True)
    # Sizes of 1, which Triton makes constants
    yield from cases("all 1", tensor(1, 1, 1, 1), True)
