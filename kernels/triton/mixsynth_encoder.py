"""MixSynthFormer on the GPU: one launch. A program takes window after window through all layers; what lies between two steps
is in a workspace of its own, 0.2 MB at the official sizes, which the caches hold.

The steps are those of csrc/cpu/mixsynth_encoder.cpp: `left` (frames, keys) and `right` (keys, dim) are both attentions.
"""

import torch
import triton
import triton.language as tl

from .._op import triton_interpreted
from .._panels import LANES, PANEL
from ..mixsynth_encoder import MixSynthSizes, layout, mixsynth_encoder_ref, packed_size
from ._scan import launch

PANEL_ = tl.constexpr(PANEL)
LANES_ = tl.constexpr(LANES)
SQRT_HALF = tl.constexpr(0.7071067811865476)
# Rows and tiles that are held at a time; the interpreter takes as long for small ones as for large ones.
AT_ONCE = tl.constexpr(128 if triton_interpreted() else 16)
TILE = 128 if triton_interpreted() else 32
PROGRAMS = 1024  # at most: each has a workspace
LARGEST = 512  # frames, channels, or keys of both: larger networks run on the reference
# Names of kernels/mixsynth_encoder.py's layout, in its order.
NETWORK = ("interpolation", "interpolation_bias", "embedding", "embedding_bias", "norm", "norm_bias", "fc", "fc_bias")


def forward(x, weights, frames, dim, hidden, depth, r_t, r_s, interpolates):
    N, given, poses = x.shape
    keyframes = given if interpolates else 0
    sizes = MixSynthSizes(frames, keyframes, poses, dim, hidden, depth, r_t, r_s)
    places, begin = {}, 0
    for name, (_, size, _) in layout(sizes).items():
        places[name] = begin
        begin += size
    first = places["0.left"]
    layer = tuple(place - first for name, place in places.items() if name.startswith("0."))
    channel_keys, frame_keys = dim // r_s, frames // r_t
    keys, few = channel_keys + frame_keys, max(1, frames // 4, dim // 4)
    vector = max(frames, dim, keys)
    if vector > LARGEST:
        return mixsynth_encoder_ref(x, weights, sizes)
    room = (frames * poses, frames * dim, frames * keys, keys * dim, frames * dim, frames * hidden, vector, vector, few)
    programs = min(N, PROGRAMS)
    out = x.new_empty(N, frames, poses)
    workspace = x.new_empty(programs, sum(room), dtype=torch.float32)
    blocks = {"T": frames, "C": dim, "K": keys, "P": poses, "FEW": few}
    launch(
        windows, programs, x.contiguous(), weights.contiguous(), out, workspace, workspace.stride(0), N, T=frames,
        S=keyframes, P=poses, C=dim, HIDDEN=hidden, DEPTH=depth, CK=channel_keys, TK=frame_keys,
        NETWORK=tuple(places.get(name, 0) for name in NETWORK), FIRST=first, SIZE=(begin - first) // depth, LAYER=layer,
        ROOM=tuple(sum(room[:i]) for i in range(len(room))), TILE=TILE,
        PRECISION="ieee" if torch.backends.cuda.matmul.fp32_precision != "tf32" else "tf32",
        num_warps=4 if keys <= 256 else 8, num_stages=1,
        **{f"BLOCK_{name}": triton.next_power_of_2(n) for name, n in blocks.items()},
    )  # fmt: skip
    return out


@triton.jit
def _panels(w, i, j, IN: tl.constexpr, OUT: tl.constexpr):
    """Elements (in i, out j) of a weight in panels, zero outside."""
    panel = j // PANEL_
    width = tl.minimum(PANEL_, (OUT + LANES_ - 1) // LANES_ * LANES_ - panel * PANEL_)
    return tl.load(w + panel * PANEL_ * IN + i * width + j % PANEL_, mask=(i < IN) & (j < OUT), other=0.0)


@triton.jit
def _tile(x, step, i, j, ROWS: tl.constexpr, COLS: tl.constexpr):
    return tl.load(x + i[:, None] * step + j[None, :], mask=(i < ROWS)[:, None] & (j < COLS)[None, :], other=0.0)


@triton.jit
def _put(x, step, i, j, tile, ROWS: tl.constexpr, COLS: tl.constexpr):
    tl.store(x + i[:, None] * step + j[None, :], tile, mask=(i < ROWS)[:, None] & (j < COLS)[None, :])


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))


@triton.jit
def _product(
    a, a_step, b, b_step, bias, c, c_step, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PACKED: tl.constexpr,
    BIAS: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """c (M, N) = a (M, K) b (K, N) + bias of columns or rows, then GELU; or c + that. b is `PACKED` in panels or has rows."""
    tl.debug_barrier()  # the step before has stored its operands
    i, j = tl.arange(0, TILE), tl.arange(0, TILE)
    for m0 in range(0, M, TILE):
        for n0 in range(0, N, TILE):
            m, n = m0 + i, n0 + j
            sums = tl.zeros((TILE, TILE), tl.float32)
            for k0 in range(0, K, TILE):
                u = _tile(a, a_step, m, k0 + j, M, K).to(tl.float32)
                v = _panels(b, (k0 + i)[:, None], n[None, :], K, N) if PACKED else _tile(b, b_step, k0 + i, n, K, N)
                sums = tl.dot(u, v.to(tl.float32), sums, input_precision=PRECISION)
            if BIAS == "columns":
                sums += tl.load(bias + n, mask=n < N, other=0.0)[None, :]
            if BIAS == "rows":
                sums += tl.load(bias + m, mask=m < M, other=0.0)[:, None]
            if GELU:
                sums = _gelu(sums)
            if ADD:
                sums += _tile(c, c_step, m, n, M, N)
            _put(c, c_step, m, n, sums, M, N)


@triton.jit
def _copy(a, a_step, c, c_step, M: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr):
    i, j = tl.arange(0, AT_ONCE), tl.arange(0, BLOCK_N)
    for m0 in range(0, M, AT_ONCE):
        _put(c, c_step, m0 + i, j, _tile(a, a_step, m0 + i, j, M, N).to(tl.float32), M, N)


@triton.jit
def _norm(x, w, b, T: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr):
    tl.debug_barrier()
    i, c = tl.arange(0, AT_ONCE), tl.arange(0, BLOCK_C)
    weight, shift = tl.load(w + c, mask=c < C, other=0.0), tl.load(b + c, mask=c < C, other=0.0)
    for t0 in range(0, T, AT_ONCE):
        row = _tile(x, C, t0 + i, c, T, C)
        d = tl.where((c < C)[None, :], row - (tl.sum(row, 1) / C)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(d * d, 1) / C + 1e-5)
        _put(x, C, t0 + i, c, d * scale[:, None] * weight[None, :] + shift[None, :], T, C)


@triton.jit
def _dense(x, w, bias, out, IN: tl.constexpr, OUT: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_IN: tl.constexpr):
    """A layer of one vector; no bias if `bias` is None."""
    tl.debug_barrier()
    i, j = tl.arange(0, BLOCK_IN), tl.arange(0, AT_ONCE)
    values = tl.load(x + i, mask=i < IN, other=0.0)
    for j0 in range(0, OUT, AT_ONCE):
        sums = tl.sum(values[:, None] * _panels(w, i[:, None], (j0 + j)[None, :], IN, OUT), 0)
        if bias is not None:
            sums += tl.load(bias + j0 + j, mask=j0 + j < OUT, other=0.0)
        if ACTIVATION == "relu":
            sums = tl.where(sums < 0.0, 0.0, sums)  # a maximum loses NaN
        elif ACTIVATION == "gelu":
            sums = _gelu(sums)
        else:
            sums = tl.sigmoid(sums)
        tl.store(out + j0 + j, sums, mask=j0 + j < OUT)


@triton.jit
def _means(x, step, factors, out, M: tl.constexpr, N: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK_N: tl.constexpr):
    """out[m] = the mean over n of x[m, n], of x[n, m] if `TRANSPOSED`; or the sum of x[m, n] factors[n]."""
    tl.debug_barrier()
    i, n = tl.arange(0, AT_ONCE), tl.arange(0, BLOCK_N)
    for m0 in range(0, M, AT_ONCE):
        m = m0 + i
        if TRANSPOSED:
            sums = tl.sum(_tile(x, step, n, m, N, M), 0) / N
        elif factors is None:
            sums = tl.sum(_tile(x, step, m, n, M, N), 1) / N
        else:
            sums = tl.sum(_tile(x, step, m, n, M, N) * tl.load(factors + n, mask=n < N, other=0.0)[None, :], 1)
        tl.store(out + m, sums, mask=m < M)


@triton.jit
def _softmax(x, step, gates, M: tl.constexpr, N: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK_N: tl.constexpr):
    """Multiply the rows x[m], or the columns if `TRANSPOSED`, by gates[m]; in place."""
    tl.debug_barrier()
    i, n = tl.arange(0, AT_ONCE), tl.arange(0, BLOCK_N)
    for m0 in range(0, M, AT_ONCE):
        m = m0 + i
        gate = tl.load(gates + m, mask=m < M, other=0.0)
        if TRANSPOSED:
            scores = tl.where((n < N)[:, None], _tile(x, step, n, m, N, M) * gate[None, :], -float("inf"))
            weights = tl.exp(scores - tl.max(scores, 0)[None, :])
            _put(x, step, n, m, weights / tl.sum(weights, 0)[None, :], N, M)
        else:
            scores = tl.where((n < N)[None, :], _tile(x, step, m, n, M, N) * gate[:, None], -float("inf"))
            weights = tl.exp(scores - tl.max(scores, 1)[:, None])
            _put(x, step, m, n, weights / tl.sum(weights, 1)[:, None], M, N)


@triton.jit
def windows(
    x, w, out, workspace, workspace_s, N, T: tl.constexpr, S: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
    HIDDEN: tl.constexpr, DEPTH: tl.constexpr, CK: tl.constexpr, TK: tl.constexpr, NETWORK: tl.constexpr, FIRST: tl.constexpr,
    SIZE: tl.constexpr, LAYER: tl.constexpr, ROOM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_FEW: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    K: tl.constexpr = CK + TK
    LEFT: tl.constexpr = CK if CK == C else 0  # the first column of left that is a product
    RIGHT: tl.constexpr = CK if TK == T else K  # how many rows of right are one
    FEW_T: tl.constexpr = T // 4 if T > 4 else 1
    FEW_C: tl.constexpr = C // 4 if C > 4 else 1
    room = workspace + tl.program_id(0).to(tl.int64) * workspace_s
    poses, tokens, left, right = room + ROOM[0], room + ROOM[1], room + ROOM[2], room + ROOM[3]
    mixed, hidden, means, gates, few = room + ROOM[4], room + ROOM[5], room + ROOM[6], room + ROOM[7], room + ROOM[8]
    i, k = tl.arange(0, AT_ONCE), tl.arange(0, BLOCK_K)
    for window in range(tl.program_id(0), N, tl.num_programs(0)):
        place = tl.full((), 0, tl.int64) + window
        if S == 0:
            _copy(x + place * (T * P), P, poses, P, T, P, BLOCK_P)
        else:
            _product(
                w + NETWORK[0], S, x + place * (S * P), P, w + NETWORK[1], poses, P, T, P, S, False, "rows",
                False, False, TILE, PRECISION,
            )  # fmt: skip
        _product(
            poses, P, w + NETWORK[2], 0, w + NETWORK[3], tokens, C, T, C, P, True, "columns", False, False, TILE, PRECISION
        )
        for n in range(DEPTH):
            l = w + FIRST + n * SIZE
            _product(
                tokens, C, l + LAYER[0], 0, l + LAYER[1], left + LEFT, K, T, K - LEFT, C, True, "columns", False, False,
                TILE, PRECISION,
            )  # fmt: skip
            _product(
                l + LAYER[2], T, tokens, C, l + LAYER[3], right, C, RIGHT, C, T, False, "rows", False, False, TILE, PRECISION
            )
            if LEFT:
                _copy(tokens, C, left, K, T, C, BLOCK_C)
            if TK == T:
                _copy(tokens, C, right + CK * C, C, T, C, BLOCK_C)

            _means(left + CK, K, None, means, T, TK, False, BLOCK_K)
            _dense(means, l + LAYER[4], None, few, T, FEW_T, "relu", BLOCK_T)
            _dense(few, l + LAYER[5], None, gates, FEW_T, T, "sigmoid", BLOCK_FEW)
            _softmax(left + CK, K, gates, T, TK, False, BLOCK_K)
            _means(right, C, None, means, C, CK, True, BLOCK_K)
            _dense(means, l + LAYER[6], None, few, C, FEW_C, "relu", BLOCK_C)
            _dense(few, l + LAYER[7], None, gates, FEW_C, C, "sigmoid", BLOCK_FEW)
            _softmax(right, C, gates, C, CK, True, BLOCK_K)

            _means(right, C, None, gates, K, C, False, BLOCK_C)
            _means(left, K, gates, means, T, K, False, BLOCK_K)
            _dense(means, l + LAYER[8], l + LAYER[9], few, T, FEW_T, "gelu", BLOCK_T)
            _dense(few, l + LAYER[10], l + LAYER[11], gates, FEW_T, T, "sigmoid", BLOCK_FEW)
            tl.debug_barrier()
            for t0 in range(0, T, AT_ONCE):
                share = tl.load(gates + t0 + i, mask=t0 + i < T, other=0.0)[:, None]
                scaled = _tile(left, K, t0 + i, k, T, K) * tl.where((k < CK)[None, :], 1.0 - share, share)
                _put(left, K, t0 + i, k, scaled, T, K)

            _product(left, K, right, C, None, mixed, C, T, C, K, False, "none", False, False, TILE, PRECISION)
            _product(
                mixed, C, l + LAYER[12], 0, l + LAYER[13], tokens, C, T, C, C, True, "columns", False, True, TILE, PRECISION
            )
            _norm(tokens, l + LAYER[14], l + LAYER[15], T, C, BLOCK_C)
            _product(
                tokens, C, l + LAYER[16], 0, l + LAYER[17], hidden, HIDDEN, T, HIDDEN, C, True, "columns", True, False, TILE,
                PRECISION,
            )  # fmt: skip
            _product(
                hidden, HIDDEN, l + LAYER[18], 0, l + LAYER[19], tokens, C, T, C, HIDDEN, True, "columns", False, True, TILE,
                PRECISION,
            )  # fmt: skip
            _norm(tokens, l + LAYER[20], l + LAYER[21], T, C, BLOCK_C)
        _norm(tokens, w + NETWORK[4], w + NETWORK[5], T, C, BLOCK_C)
        _product(
            tokens, C, w + NETWORK[6], 0, w + NETWORK[7], poses, P, T, P, C, True, "columns", False, True, TILE, PRECISION
        )
        tl.debug_barrier()
        _copy(poses, P, out + place * (T * P), P, T, P, BLOCK_P)
        tl.debug_barrier()  # the next window takes the workspace


def aot_cases():
    """See `_aot`."""
    from ._aot import recorded

    sizes = {
        "h36m": MixSynthSizes(101, 11, 51, 64, 128, 4, 4, 4),
        "aist": MixSynthSizes(101, 11, 144, 128, 256, 5, 4, 4),
        "r 1": MixSynthSizes(243, 0, 51, 128, 256, 4, 1, 1),
        "largest": MixSynthSizes(400, 0, 51, 48, 128, 4, 4, 1),
        "all 1": MixSynthSizes(1, 0, 1, 1, 1, 1, 1, 1),
    }
    for name, s in sizes.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16) if name == "h36m" else (torch.float32,):
            x = torch.empty(3, s.keyframes or s.frames, s.poses, dtype=dtype, device="meta")
            weights = torch.empty(packed_size(s), device="meta")
            frames, keyframes, _, *rest = s
            yield from recorded(f"{name} {str(dtype)[6:]}", forward, x, weights, frames, *rest, bool(keyframes))
