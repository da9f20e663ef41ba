"""The most similar frames of every frame of a joint, on the GPU.

Two launches: `select`, whose program holds the similarities of ROWS frames to all frames of their joint, never in memory,
and stores the bits of those selected; `symmetrise`, which adds their transpose. A word of bits is a tile of products, of
ROWS frames and BITS others, and the tiles of all words lie side by side in registers: with T there are fewer ROWS.
"""

import torch
import triton
import triton.language as tl

from .._op import triton_interpreted
from ..topk_temporal_mask import BITS, pack_mask
from ._scan import launch


def forward(x, k):
    if x.stride(-1) != 1:
        x = x.contiguous()
    B, T, J, C = x.shape
    if k >= T - 1:
        return pack_mask(x.new_ones(T, dtype=torch.bool)).expand(B, J, T, -1).contiguous()
    words = triton.cdiv(T, BITS)
    selected, mask = (x.new_empty(B, J, T, words, dtype=torch.int32) for _ in range(2))
    tiles = triton.next_power_of_2(words)
    rows = max(1, min(32, 256 // tiles))
    options = {"ROWS": rows, "WORDS": tiles, "BITS": BITS, "BLOCK": 32 if x.dtype == torch.float32 else 64}
    options["WIDE"] = triton_interpreted()  # the interpreter multiplies tiles of bfloat16 wrongly
    options["num_warps"] = min(8, max(4, rows * tiles // 32))  # 16 could not have all the registers
    launch(select, B * J * triton.cdiv(T, rows), x, x.stride(), selected, T, J, C, k, **options)
    launch(symmetrise, B * J * words**2, selected, mask, T, words, BITS=BITS, num_warps=1)
    return mask


@triton.jit
def _frames(x, x_s, t, c, T, C, WIDE: tl.constexpr):
    """Channels `c` of frames `t`, zero outside."""
    tile = tl.load(x + t[:, None] * x_s[1] + c[None, :], mask=(t < T)[:, None] & (c < C)[None, :], other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def _count(chosen):
    """Count the chosen bits of every row of (WORDS, ROWS, BITS): (1, ROWS, 1)."""
    return tl.sum(tl.sum(chosen.to(tl.int32), 0), 1)[None, :, None]


@triton.jit
def select(
    x, x_s, selected, T, J, C, k,
    WIDE: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Every product sums in the same order: equal frames have equal ones. Similarities are compared as integers of the same
    order, NaN too: the least one selected is found bit by bit, from the top, and of those equal to it the last frame."""
    pid, blocks = tl.program_id(0), tl.cdiv(T, ROWS)
    joint = (pid // blocks).to(tl.int64)
    x += joint // J * x_s[0] + joint % J * x_s[2]
    i, bit = pid % blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, BITS)
    word = tl.arange(0, WORDS)[:, None, None]
    similarity = tl.full((WORDS, ROWS, BITS), -float("inf"), tl.float32)
    for n in range(tl.cdiv(T, BITS)):
        j = n * BITS + bit
        sums = tl.zeros((ROWS, BITS), tl.float32)
        for c0 in range(0, C, BLOCK):
            c = c0 + tl.arange(0, BLOCK)
            u, v = _frames(x, x_s, i.to(tl.int64), c, T, C, WIDE), _frames(x, x_s, j.to(tl.int64), c, T, C, WIDE)
            sums = tl.dot(u, tl.trans(v), sums, input_precision="ieee")
        others = (j < T)[None, :] & (i[:, None] != j[None, :])
        sums = tl.where(others, sums + 0.0, -float("inf"))  # -0 becomes 0
        similarity = tl.where(word == n, sums[None], similarity)

    bits = similarity.to(tl.int32, bitcast=True)
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
    least = tl.zeros((1, ROWS, 1), tl.uint32)
    for n in range(32):
        more = least | (tl.full((1, ROWS, 1), 0x80000000, tl.uint32) >> n)
        least = tl.where(_count(key >= more) >= k, more, least)
    equal = key == least
    rest = k - _count(key > least)
    j = word * BITS + bit[None, None, :]
    before = tl.zeros((1, ROWS, 1), tl.int32)  # fewer than `rest` of those equal
    step = WORDS * BITS // 2
    while step > 0:
        further = before + step
        before = tl.where(_count(equal & (j < further)) < rest, further, before)
        step = step // 2
    chosen = ((key > least) | (equal & (j <= before))) & (j < T)
    found = tl.sum(tl.where(chosen, 1, 0) << bit[None, None, :], 2)  # (WORDS, ROWS)
    words = tl.cdiv(T, BITS)
    word = tl.arange(0, WORDS)[:, None]
    at = selected + (joint * T + i[None, :]) * words + word
    tl.store(at, found, mask=(i < T)[None, :] & (word < words))


@triton.jit
def symmetrise(selected, mask, T, words, BITS: tl.constexpr):
    """A word of BITS frames: its own bits, the bits of the other frames for them, and of a frame itself."""
    pid = tl.program_id(0)
    joint, first, word = (pid // words // words).to(tl.int64), pid // words % words, pid % words
    i, j = first * BITS + tl.arange(0, BITS), word * BITS + tl.arange(0, BITS)
    own = tl.load(selected + (joint * T + i) * words + word, mask=i < T, other=0)
    theirs = tl.load(selected + (joint * T + j) * words + first, mask=j < T, other=0)
    bit = tl.arange(0, BITS)
    transposed = ((theirs[None, :] >> bit[:, None]) & 1) | tl.where(i[:, None] == j[None, :], 1, 0)
    others = tl.sum(transposed << bit[None, :], 1)
    tl.store(mask + (joint * T + i) * words + word, own | others, mask=i < T)


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield from recorded(str(dtype)[6:], forward, tensor(8, 243, 17, 512, dtype=dtype), 162)
    for T in (27, 81, 1024, 4131):
        for dtype in (torch.float32, torch.bfloat16):
            yield from recorded(f"T={T} {str(dtype)[6:]}", forward, tensor(1, T, 17, 512, dtype=dtype), 2 * T // 3)
    # Sizes of 1, which Triton makes constants
    yield from recorded("all 1", forward, tensor(1, 3, 1, 1), 1)
