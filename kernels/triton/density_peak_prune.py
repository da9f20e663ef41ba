"""Density peaks of a clip's frames on the GPU.

Four launches: `products` of all pairs of frames into a (B, T, T) workspace, tile by tile; `measure`, which makes them
squared distances and sums each frame's nearest; `score`, which knows every frame's sums and so its density; `select`. The
middle two hold ROWS frames of a clip against all of them, the last a whole clip.
"""

import torch
import triton
import triton.language as tl

from ..density_peak_prune import NOISE
from ._scan import launch

STATISTICS = tl.constexpr(6)  # of a frame: its product with itself, and what `measure` says of it
BLOCK = 32  # frames along a tile of products


def forward(x, kept, k, mask, noise, valid):
    B, T, C = x.shape
    indices, scores = x.new_empty(B, kept, dtype=torch.int64), x.new_empty(B, T, dtype=torch.float32)
    pairs, statistics = (x.new_empty(B, n, T, dtype=torch.float32) for n in (T, STATISTICS.value))
    noise, valid = (None if y is None else y.contiguous() for y in (noise, valid))
    # Frames that are much alike would else lose their distance in the rounding of the products
    mean = x.float().contiguous().mean(1)
    width = max(16, triton.next_power_of_2(T))
    walk = {"ROWS": max(1, 2048 // width), "WIDTH": width, "num_warps": 4}
    blocks = B * triton.cdiv(T, walk["ROWS"])
    if mask is not None and mask.stride(-1) != 1:
        mask = mask.contiguous()  # the layout of the tiles, and with it the order of sums, follows the mask's
    mask_s = None if mask is None else mask.stride()
    launch(products, B * triton.cdiv(T, BLOCK) ** 2, x, x.stride(), mean, pairs, statistics, T, C, BLOCK=BLOCK)
    launch(measure, blocks, pairs, mask, mask_s, valid, statistics, T, k, **walk)
    launch(score, blocks, pairs, mask, noise, valid, statistics, scores, T, C, k, NOISE=NOISE, **walk)
    launch(select, B, scores, indices, T, kept, WIDTH=width)
    return indices, scores


@triton.jit
def products(x, x_s, mean, pairs, statistics, T, C, BLOCK: tl.constexpr):
    """A tile of x x^T, from the clip's mean. Every product sums in the same order: equal frames have equal ones."""
    pid, tiles = tl.program_id(0), tl.cdiv(T, BLOCK)
    b, i0, j0 = (pid // tiles // tiles).to(tl.int64), pid // tiles % tiles * BLOCK, pid % tiles * BLOCK
    i, j = (i0 + tl.arange(0, BLOCK)).to(tl.int64), (j0 + tl.arange(0, BLOCK)).to(tl.int64)
    x += b * x_s[0]
    sums = tl.zeros((BLOCK, BLOCK), tl.float32)
    for c0 in range(0, C, BLOCK):
        c = c0 + tl.arange(0, BLOCK).to(tl.int64)
        inside = (c < C)[None, :]
        centre = tl.load(mean + b * C + c, mask=c < C, other=0.0)[None, :]
        u = tl.load(x + i[:, None] * x_s[1] + c[None, :] * x_s[2], mask=(i < T)[:, None] & inside, other=0.0)
        v = tl.load(x + j[:, None] * x_s[1] + c[None, :] * x_s[2], mask=(j < T)[:, None] & inside, other=0.0)
        u, v = u.to(tl.float32) - centre, v.to(tl.float32) - centre
        sums = tl.dot(u, tl.trans(v), sums, input_precision="ieee")
    tl.store(pairs + (b * T + i[:, None]) * T + j[None, :], sums, mask=(i < T)[:, None] & (j < T)[None, :])
    if i0 == j0:
        squares = tl.sum(tl.where(i[:, None] == j[None, :], sums, 0.0), 1)
        tl.store(statistics + b * STATISTICS * T + i, squares, mask=i < T)


@triton.jit
def _rows(T, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The program's clip, its frames, and all frames."""
    pid, blocks = tl.program_id(0), tl.cdiv(T, ROWS)
    return (pid // blocks).to(tl.int64), (pid % blocks * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.arange(0, WIDTH)


@triton.jit
def measure(pairs, mask, mask_s, valid, statistics, T, k, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Products to squared distances, infinite where hidden. Of every frame: the sum of those to its nearest frames, and how
    many of these are hidden; the largest; whether any is hidden; the sum of its mask."""
    b, i, j = _rows(T, ROWS, WIDTH)
    inside = (i < T)[:, None] & (j < T)[None, :]
    tile = pairs + (b * T + i[:, None]) * T + j[None, :]
    statistics += b * STATISTICS * T
    own, other = tl.load(statistics + i, mask=i < T, other=0.0), tl.load(statistics + j, mask=j < T, other=0.0)
    squares = own[:, None] + other[None, :] - 2 * tl.load(tile, mask=inside, other=0.0)
    squares = tl.where(inside, tl.maximum(squares, 0.0), 0.0)
    tl.store(statistics + 3 * T + i, tl.max(squares, 1), mask=i < T)
    seen = inside
    if mask is not None:
        weights = tl.load(mask + b * mask_s[0] + i[:, None] * mask_s[1] + j[None, :] * mask_s[2], mask=inside, other=0.0)
        tl.store(statistics + 5 * T + i, tl.sum(weights, 1), mask=i < T)
        seen = seen & (weights != 0)
    if valid is not None:
        seen = seen & (tl.load(valid + b * T + j, mask=j < T, other=0) != 0)[None, :]
    tl.store(statistics + 4 * T + i, tl.max(tl.where(inside & (seen == 0), 1.0, 0.0), 1), mask=i < T)
    squares = tl.where(seen, squares, float("inf"))
    tl.store(tile, squares, mask=inside)
    total = tl.zeros((ROWS,), tl.float32)
    missing = tl.zeros((ROWS,), tl.float32)
    for _ in range(k):
        least = tl.min(squares, 1)
        total += tl.where(least < float("inf"), least, 0.0)
        missing += tl.where(least < float("inf"), 0.0, 1.0)
        first = tl.min(tl.where(squares == least[:, None], j[None, :], WIDTH), 1)
        squares = tl.where(j[None, :] == first[:, None], float("inf"), squares)
    tl.store(statistics + T + i, total, mask=i < T)
    tl.store(statistics + 2 * T + i, missing, mask=i < T)


@triton.jit
def score(
    pairs, mask, noise, valid, statistics, scores, T, C, k,
    NOISE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Density times the distance to the nearest denser frame; of equally dense ones those before are denser."""
    b, i, j = _rows(T, ROWS, WIDTH)
    statistics += b * STATISTICS * T + j
    known = j < T
    total = tl.load(statistics + T, mask=known, other=0.0)
    missing = tl.load(statistics + 2 * T, mask=known, other=0.0)
    most = tl.sqrt(tl.max(tl.load(statistics + 3 * T, mask=known, other=0.0), 0) / C)
    hidden = tl.max(tl.load(statistics + 4 * T, mask=known, other=0.0), 0)
    away = most + 1.0
    density = tl.exp(-(total / C + missing * away * away) / k)
    if noise is not None:
        density += NOISE * tl.load(noise + b * T + j, mask=known, other=0.0)
    if mask is not None:  # the softmax of the logarithms
        support = tl.where(known, 1.0 + tl.load(statistics + 5 * T, mask=known, other=0.0), 0.0)
        density *= support / tl.sum(support, 0)
    if valid is not None:
        density = tl.where(tl.load(valid + b * T + j, mask=known, other=0) != 0, density, 0.0)
    squares = tl.load(statistics, mask=known, other=0.0)
    density += tl.sum(tl.where(squares == squares, 0.0, squares), 0)  # NaN if any frame has one: all were measured from it
    density = tl.where(known, density, -float("inf"))[None, :]
    own = tl.sum(tl.where(i[:, None] == j[None, :], density, 0.0), 1)[:, None]
    denser = (density > own) | ((density == own) & (j[None, :] < i[:, None]))
    inside = (i < T)[:, None] & known[None, :]
    squares = tl.load(pairs + (b * T + i[:, None]) * T + j[None, :], mask=inside, other=0.0)
    least = tl.min(tl.where(denser & inside, squares, float("inf")), 1)
    distance = tl.where(least < float("inf"), tl.sqrt(least / C), tl.where(hidden > 0.0, away, most))
    tl.store(scores + b * T + i, tl.sum(own, 1) * distance, mask=i < T)


@triton.jit
def select(scores, indices, T, kept, WIDTH: tl.constexpr):
    """The largest scores of a clip, of equal ones the first, in order of time. As integers of the same order, NaN too: the
    smallest one kept is found bit by bit, from the top."""
    b = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, WIDTH)
    bits = tl.load(scores + b * T + j, mask=j < T, other=0.0).to(tl.int32, bitcast=True)
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    key = tl.where(j < T, key, -1)
    least = tl.full((), 0, tl.int64)
    bit = tl.full((), 2147483648, tl.int64)
    for _ in range(32):
        enough = tl.sum((key >= least + bit).to(tl.int32), 0) >= kept
        least = tl.where(enough, least + bit, least)
        bit = bit >> 1
    more, equal = (key > least).to(tl.int32), (key == least).to(tl.int32)
    chosen = (more == 1) | ((equal == 1) & (tl.cumsum(equal, 0) <= kept - tl.sum(more, 0)))
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(indices + b * kept + place, j.to(tl.int64), mask=chosen)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield from recorded(str(dtype)[6:], forward, tensor(8, 243, 512, dtype=dtype), 81, 2, None, None, None)
    for T in (243, 1024):
        others = tensor(2, T, T), tensor(2, T), tensor(2, T, dtype=torch.bool)
        yield from recorded(f"T={T} masked", forward, tensor(2, T, 512), T // 3, 5, *others)
    # Sizes of 1, which Triton makes constants
    yield from recorded("all 1", forward, tensor(1, 1, 1), 1, 1, tensor(1, 1, 1), None, None)
