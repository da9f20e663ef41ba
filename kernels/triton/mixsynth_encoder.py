"""MixSynthFormer on the GPU: one launch, a program per window, whose map stays in registers through all layers.

Products of float32 are of three TF32 parts each, which loses little more than float32 does: those for no tensor core take
more registers than there are. A map that is too large for one program (`fits`) runs on the reference.
"""

import torch
import triton
import triton.language as tl

from ..mixsynth_encoder import LANES, PANEL, MixSynthSizes, layout, mixsynth_encoder_ref
from ._scan import launch

PANEL_ = tl.constexpr(PANEL)
LANES_ = tl.constexpr(LANES)
LARGEST = 128 * 128  # elements of a map
SQRT_HALF = tl.constexpr(0.7071067811865476)
NETWORK = ("interpolation", "interpolation_bias", "embedding", "embedding_bias", "norm", "norm_bias", "fc", "fc_bias")


def forward(x, weights, frames, dim, hidden, depth, r_t, r_s, interpolates):
    N, given, poses = x.shape
    sizes = MixSynthSizes(frames, given if interpolates else 0, poses, dim, hidden, depth, r_t, r_s)
    if not fits(sizes):
        return mixsynth_encoder_ref(x, weights, sizes)
    out = x.new_empty(N, frames, poses)
    places, begin = {}, 0
    for name, (_, size, _) in layout(sizes).items():
        places[name] = begin
        begin += size
    first = places["0.left"]
    layer = {name[2:]: place - first for name, place in places.items() if name.startswith("0.")}
    network = tuple(places.get(name, 0) for name in NETWORK)
    channel_keys, frame_keys = dim // r_s, frames // r_t
    few = max(1, frames // 4), max(1, dim // 4)
    block_t, block_c = _block(frames), _block(dim)
    launch(
        windows, N, x, x.stride(), weights.contiguous(), out, T=frames, S=given if interpolates else 0, P=poses, C=dim,
        HIDDEN=hidden, DEPTH=depth, CHANNEL_KEYS=channel_keys, FRAME_KEYS=frame_keys, FEW_T=few[0], FEW_C=few[1],
        NETWORK=network, FIRST=first, SIZE=(begin - first) // depth, LAYER=tuple(layer.values()), BLOCK_T=block_t,
        BLOCK_C=block_c, BLOCK_CK=_block(channel_keys), BLOCK_TK=_block(frame_keys), BLOCK_FT=_block(few[0]),
        BLOCK_FC=_block(few[1]), BLOCK_S=_block(given), BLOCK=32,
        PRECISION="tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
        num_warps=max(4, min(16, block_t * block_c // 1024)), num_stages=1,
    )  # fmt: skip
    return out


def fits(sizes):
    """Whether one program can hold a window."""
    return _block(sizes.frames) * _block(sizes.dim) <= LARGEST and max(sizes.frames, sizes.dim) <= 256


def _block(n):
    return max(16, triton.next_power_of_2(n))


# ---- weights ---------------------------------------------------------------------------------------------------------


@triton.jit
def _panels(w, i, j, IN: tl.constexpr, OUT: tl.constexpr):
    """Elements (in i, out j) of a weight in panels, zero outside."""
    panel = j // PANEL_
    width = tl.minimum(PANEL_, (OUT + LANES_ - 1) // LANES_ * LANES_ - panel * PANEL_)
    return tl.load(w + panel * PANEL_ * IN + i * width + j % PANEL_, mask=(i < IN) & (j < OUT), other=0.0)


@triton.jit
def _rows(w, i, j, ROWS: tl.constexpr, COLS: tl.constexpr):
    return tl.load(w + i * COLS + j, mask=(i < ROWS) & (j < COLS), other=0.0)


@triton.jit
def _vector(w, i, N: tl.constexpr):
    return tl.load(w + i, mask=i < N, other=0.0)


# ---- parts of a layer ------------------------------------------------------------------------------------------------


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))


@triton.jit
def _norm(x, w, b, c, C: tl.constexpr):
    inside = (c < C)[None, :]
    mean = tl.sum(tl.where(inside, x, 0.0), 1) / C
    d = tl.where(inside, x - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(d * d, 1) / C + 1e-5)
    return d * scale[:, None] * _vector(w, c, C)[None, :] + _vector(b, c, C)[None, :]


@triton.jit
def _squeeze(means, w, n, f, N: tl.constexpr, FEW: tl.constexpr):
    """(n,) -> (few,), without bias or activation."""
    return tl.sum(means[:, None] * _panels(w, n[:, None], f[None, :], N, FEW), 0)


@triton.jit
def _excite(few, w, n, f, N: tl.constexpr, FEW: tl.constexpr):
    """(few,) -> (n,), the same."""
    return tl.sum(few[None, :] * _panels(w, f[None, :], n[:, None], FEW, N), 1)


@triton.jit
def _gate(means, squeeze, excite, n, f, N: tl.constexpr, FEW: tl.constexpr):
    few = tl.maximum(_squeeze(means, squeeze, n, f, N, FEW), 0.0)
    return tl.sigmoid(_excite(few, excite, n, f, N, FEW))


@triton.jit
def _softmax(scores, inside, AXIS: tl.constexpr):
    scores = tl.where(inside, scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, AXIS, keep_dims=True))
    return weights / tl.sum(weights, AXIS, keep_dims=True)


# ---- the network -----------------------------------------------------------------------------------------------------


@triton.jit
def _poses(x, x_s, w, p, t, T: tl.constexpr, S: tl.constexpr, P: tl.constexpr, NETWORK: tl.constexpr,
           BLOCK_S: tl.constexpr, PRECISION: tl.constexpr):
    """What the network refines: the columns `p` of all frames, given or interpolated."""
    if S == 0:
        given = tl.load(x + t[:, None] * x_s[1] + p[None, :] * x_s[2], mask=(t < T)[:, None] & (p < P)[None, :], other=0.0)
        return given.to(tl.float32)
    s = tl.arange(0, BLOCK_S)
    keyframes = tl.load(x + s[:, None] * x_s[1] + p[None, :] * x_s[2], mask=(s < S)[:, None] & (p < P)[None, :], other=0.0)
    a = _rows(w + NETWORK[0], t[:, None], s[None, :], T, S)
    return tl.dot(a, keyframes.to(tl.float32), input_precision=PRECISION) + _vector(w + NETWORK[1], t, T)[:, None]


@triton.jit
def windows(
    x, x_s, w, out, T: tl.constexpr, S: tl.constexpr, P: tl.constexpr, C: tl.constexpr, HIDDEN: tl.constexpr,
    DEPTH: tl.constexpr, CHANNEL_KEYS: tl.constexpr, FRAME_KEYS: tl.constexpr, FEW_T: tl.constexpr, FEW_C: tl.constexpr,
    NETWORK: tl.constexpr, FIRST: tl.constexpr, SIZE: tl.constexpr, LAYER: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_CK: tl.constexpr, BLOCK_TK: tl.constexpr, BLOCK_FT: tl.constexpr, BLOCK_FC: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    x += n * x_s[0]
    t, c, j = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_C), tl.arange(0, BLOCK)
    ft, fc = tl.arange(0, BLOCK_FT), tl.arange(0, BLOCK_FC)
    ck, tk = tl.arange(0, BLOCK_CK), tl.arange(0, BLOCK_TK)
    few_keys: tl.constexpr = (0 if CHANNEL_KEYS == C else CHANNEL_KEYS) + FRAME_KEYS  # columns of left
    many: tl.constexpr = CHANNEL_KEYS + (0 if FRAME_KEYS == T else FRAME_KEYS)  # rows of right

    tokens = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for p0 in range(0, P, BLOCK):
        part = _poses(x, x_s, w, p0 + j, t, T, S, P, NETWORK, BLOCK_S, PRECISION)
        weight = _panels(w + NETWORK[2], (p0 + j)[:, None], c[None, :], P, C)
        tokens = tl.dot(part, weight, tokens, input_precision=PRECISION)
    tokens += _vector(w + NETWORK[3], c, C)[None, :]

    for i in range(DEPTH):
        l = w + FIRST + i * SIZE
        tokens = tl.where((t < T)[:, None], tokens, 0.0)  # the products over the frames see no others

        column = tk + (few_keys - FRAME_KEYS)
        scores = tl.dot(tokens, _panels(l + LAYER[0], c[:, None], column[None, :], C, few_keys), input_precision=PRECISION)
        scores += _vector(l + LAYER[1], column, few_keys)[None, :]
        means = tl.sum(tl.where((tk < FRAME_KEYS)[None, :], scores, 0.0), 1) / FRAME_KEYS
        gate = _gate(tl.where(t < T, means, 0.0), l + LAYER[4], l + LAYER[5], t, ft, T, FEW_T)
        weights = _softmax(scores * gate[:, None], (tk < FRAME_KEYS)[None, :], 1)
        if FRAME_KEYS == T:
            mixed = tl.dot(weights, tokens, input_precision=PRECISION)
        else:
            row = tk + CHANNEL_KEYS
            values = tl.dot(_rows(l + LAYER[2], row[:, None], t[None, :], many, T), tokens, input_precision=PRECISION)
            values += _vector(l + LAYER[3], row, many)[:, None]
            mixed = tl.dot(weights, values, input_precision=PRECISION)

        row = tl.where(ck < CHANNEL_KEYS, ck, many)
        scores = tl.dot(_rows(l + LAYER[2], row[:, None], t[None, :], many, T), tokens, input_precision=PRECISION)
        scores += _vector(l + LAYER[3], row, many)[:, None]
        channel_means = tl.sum(tl.where((ck < CHANNEL_KEYS)[:, None], scores, 0.0), 0) / CHANNEL_KEYS
        channel_gate = _gate(tl.where(c < C, channel_means, 0.0), l + LAYER[6], l + LAYER[7], c, fc, C, FEW_C)
        weights = _softmax(scores * channel_gate[None, :], (ck < CHANNEL_KEYS)[:, None], 0)
        if CHANNEL_KEYS == C:
            spatial = tl.dot(tokens, weights, input_precision=PRECISION)
        else:
            column = tl.where(ck < CHANNEL_KEYS, ck, few_keys)
            values = tl.dot(tokens, _panels(l + LAYER[0], c[:, None], column[None, :], C, few_keys), input_precision=PRECISION)
            values += _vector(l + LAYER[1], column, few_keys)[None, :]
            spatial = tl.dot(values, weights, input_precision=PRECISION)

        means = tl.sum(tl.where((c < C)[None, :], mixed + spatial, 0.0), 1) / C
        few = _squeeze(tl.where(t < T, means, 0.0), l + LAYER[8], t, ft, T, FEW_T) + _vector(l + LAYER[9], ft, FEW_T)
        share = tl.sigmoid(_excite(_gelu(few), l + LAYER[10], t, ft, T, FEW_T) + _vector(l + LAYER[11], t, T))
        mixed = tl.where((c < C)[None, :], spatial + share[:, None] * (mixed - spatial), 0.0)

        weight = _panels(l + LAYER[12], c[:, None], c[None, :], C, C)
        tokens = tl.dot(mixed, weight, tokens, input_precision=PRECISION) + _vector(l + LAYER[13], c, C)[None, :]
        tokens = _norm(tokens, l + LAYER[14], l + LAYER[15], c, C)
        sums = tokens
        for h0 in range(0, HIDDEN, BLOCK):
            h = h0 + j
            part = tl.dot(tokens, _panels(l + LAYER[16], c[:, None], h[None, :], C, HIDDEN), input_precision=PRECISION)
            part = _gelu(part + _vector(l + LAYER[17], h, HIDDEN)[None, :])
            sums = tl.dot(part, _panels(l + LAYER[18], h[:, None], c[None, :], HIDDEN, C), sums, input_precision=PRECISION)
        tokens = _norm(sums + _vector(l + LAYER[19], c, C)[None, :], l + LAYER[20], l + LAYER[21], c, C)

    tokens = _norm(tokens, w + NETWORK[4], w + NETWORK[5], c, C)
    out += n * T * P
    for p0 in range(0, P, BLOCK):
        p = p0 + j
        part = _poses(x, x_s, w, p, t, T, S, P, NETWORK, BLOCK_S, PRECISION) + _vector(w + NETWORK[7], p, P)[None, :]
        part = tl.dot(tokens, _panels(w + NETWORK[6], c[:, None], p[None, :], C, P), part, input_precision=PRECISION)
        tl.store(out + t[:, None] * P + p[None, :], part, mask=(t < T)[:, None] & (p < P)[None, :])


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    from ..mixsynth_encoder import packed_size

    sizes = {
        "h36m": MixSynthSizes(101, 11, 51, 64, 128, 4, 4, 4),
        "jhmdb": MixSynthSizes(11, 2, 30, 128, 256, 5, 4, 4),
        "3dpw": MixSynthSizes(51, 6, 42, 32, 64, 4, 4, 4),
        "aist": MixSynthSizes(101, 11, 42, 128, 256, 5, 4, 4),
        "h36m, r 1": MixSynthSizes(101, 0, 51, 64, 128, 4, 1, 1),
        "all 1": MixSynthSizes(1, 0, 1, 1, 1, 1, 1, 1),
    }
    for name, s in sizes.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16) if name == "h36m" else (torch.float32,):
            x = torch.empty(3, s.keyframes or s.frames, s.poses, dtype=dtype, device="meta")
            weights = torch.empty(packed_size(s), device="meta")
            frames, keyframes, _, *rest = s
            yield from recorded(f"{name} {str(dtype)[6:]}", forward, x, weights, frames, *rest, bool(keyframes))
