"""What the machine could do at best, measured in the same run, with the same threads.

A call is recorded op by op. Each op is bound by the work that it cannot avoid: a matrix product by `torch.mm` of its
shape, attention by its products (`torch.bmm`) and exponentials, a scan by its exponentials, everything else of ours by its
bytes (arguments and results, each once), and all of them at least by these. Each kind is timed at the very size, best of
many: the product of that shape, as many exponentials, a copy of as many bytes.
Elementwise ops of PyTorch (norms, activations, sums) are not in the bound.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lifter import _library
from lifter.kernels import unpack_mask
from lifter.kernels.temporal_topk_graph_conv import owner

from .timing import best_seconds


def _keys(qkv, mask, axis):
    """How many keys a query meets: of a packed mask those that it sees, on average."""
    _, T, J, *_ = qkv.shape
    if mask is None or mask.dtype != torch.int32:
        return T if axis else J
    return math.ceil(unpack_mask(mask, T).sum(-1, dtype=torch.float32).mean().item())


def _attention_products(qkv, mask, axis):
    """[(batch, m, k, n)] of q k^T and of the weights times v."""
    B, T, J, _, H, D = qkv.shape
    (rows, N), keys = (J, T) if axis else (T, J), _keys(qkv, mask, axis)
    return [(B * rows * H, N, D, keys), (B * rows * H, N, keys, D)]


def _retention_products(q, v, initial_state, chunk_size, final_state):
    """The same of every chunk, all of it even if half is masked; and out of the state before it, into the one after it."""
    B, T, J, H, K = q.shape
    V, products = v.shape[-1], []
    lengths = [chunk_size] * (T // chunk_size) + [T % chunk_size] * (T % chunk_size > 0)
    reading = lengths if initial_state is not None else lengths[1:]
    writing = lengths if final_state else lengths[:-1]
    for length in sorted(set(lengths)):
        batch = B * J * H * lengths.count(length)
        products += [(batch, length, K, length), (batch, length, length, V)]
    for length in sorted(set(reading)):
        products += [(B * J * H * reading.count(length), length, K, V)]
    for length in sorted(set(writing)):
        products += [(B * J * H * writing.count(length), K, length, V)]
    return products


def _graph_products(x, backward=False):
    """Of all pairs of frames, which are symmetric, and of their weights by the frames. Backward of dout by the frames too, and
    of weights by dout; the two gradients that the scores give to the frames are one product."""
    B, T, J, C = x.shape
    pairs, weighted = [(B * J, T, C, (T + 1) // 2)], [(B * J, T, T, C)]
    return pairs + [(B * J, T, C, T)] + 2 * weighted if backward else pairs + weighted


def _mixsynth_products(x, frames, dim, hidden, depth, r_t, r_s, interpolates):
    """The same of the layers, without squeeze-excitation and re-weighting; what has weights takes all windows at once."""
    N, given, poses = x.shape
    channel_keys, frame_keys = dim // r_s, frames // r_t
    left, right = frame_keys + channel_keys * (r_s > 1), channel_keys + frame_keys * (r_t > 1)
    layer = [(1, N * frames, dim, left), (N, right, frames, dim), (N, frames, channel_keys + frame_keys, dim)]
    layer += [(1, N * frames, dim, dim), (1, N * frames, dim, hidden), (1, N * frames, hidden, dim)]
    ends = [(1, N * frames, poses, dim), (1, N * frames, dim, poses)] + [(N, frames, given, poses)] * interpolates
    return ends + layer * depth


def _transformer_products(
    x, mask, xpos_scale, states, positions, hidden, heads, depth, scale, chunk_size, causal, return_state
):
    """The same of the layers."""
    B, T, J, C = x.shape
    rows, spatial = B * T * J, _block_products(x, None, 0, hidden, heads)
    if xpos_scale is None:
        temporal = _block_products(x, mask, 1, hidden, heads)
    else:
        q = x.new_empty(B, T, J, heads, C // heads, device="meta")
        temporal = [(1, rows, C, 4 * C)] + _retention_products(q, q, states or None, min(chunk_size, T), return_state)
        temporal += [(1, rows, C, C), *_block_products(x, None, -1, hidden, heads)]
    return (spatial + temporal) * depth + [(1, rows, C, 3)]


def _block_products(x, mask, axis, hidden, heads):
    """Those of a block."""
    B, T, J, C = x.shape
    rows, qkv = B * T * J, x.new_empty(B, T, J, 3, heads, C // heads, device="meta")
    attention = [(1, rows, C, 3 * C), *_attention_products(qkv, mask, axis), (1, rows, C, C)]
    return (attention if axis >= 0 else []) + [(1, rows, C, hidden), (1, rows, hidden, C)]


def _gradient_products(products):
    """Of a product (m, k) (k, n): (m, n) (n, k) and (k, m) (m, n). Attention's first product is repeated besides."""
    return [p for b, m, k, n in products for p in ((b, m, n, k), (b, k, m, n))] + products[:1]


def _pairs_of_frames(x, k):
    """Half of the products of all pairs of frames of every joint, which are symmetric; where all are selected, none."""
    B, T, J, C = x.shape
    return [(B * J, T, C, (T + 1) // 2)] if k < T - 1 else []


def _window_products(x, windows):
    """All pairs of the frames of every window, symmetric; of windows that others are made of they are among theirs."""
    B, T, J, C = x.shape
    longest = sorted({owner(windows, size, T) for size in windows})
    whole = [(B * J * (T // size), size) for size in longest]
    rest = [(B * J, T % size) for size in longest if T % size]
    return [(batch, size, C, (size + 1) // 2) for batch, size in whole + rest]


# Matrix products of an op from its arguments.
PRODUCTS = {
    "alternating_transformer": lambda x, weights, vectors, *rest: _transformer_products(x, *rest),
    "axial_attention": lambda qkv, mask, axis, *rest: _attention_products(qkv, mask, axis),
    "axial_attention_bwd": lambda dout, qkv, out, lse, mask, axis, *rest: _gradient_products(
        _attention_products(qkv, mask, axis)
    ),
    "density_peak_prune": lambda x, *rest: [(len(x), x.shape[1], x.shape[2], (x.shape[1] + 1) // 2)],  # it is symmetric
    "topk_temporal_mask": _pairs_of_frames,
    "mixsynth_encoder": lambda x, weights, *sizes: _mixsynth_products(x, *sizes),
    "retention": lambda q, k, v, decay, state, xpos_scale, scale, chunk_size, causal, final: _retention_products(
        q, v, state, chunk_size, final
    ),
    "retention_bwd": lambda dout, dfinal, q, k, v, decay, state, xpos_scale, scale, chunk_size, causal: (
        _gradient_products(_retention_products(q, v, state, chunk_size, dfinal is not None))
    ),
    "temporal_graph_conv": lambda x, *rest: _graph_products(x),
    "temporal_graph_conv_bwd": lambda dout, x, *rest: _graph_products(x, backward=True),
    "temporal_topk_graph_conv": lambda x, values, k, windows, *rest: _window_products(x, windows),
    "transformer_block": lambda x, weights, vectors, mask, axis, hidden, heads, *rest: _block_products(
        x, mask, axis, hidden, heads
    ),
}

# Exponentials of an op from its arguments: of a scan one per step, channel and state. A backward pass evaluates them
# again: to keep them would take N times the memory of the input.
EXPONENTIALS = {
    "selective_scan": lambda u, delta, A, *rest: u.numel() * A.shape[1],
    "selective_scan_bwd": lambda dout, dlast_state, u, delta, A, *rest: u.numel() * A.shape[1],
    "selective_state_update": lambda state, *rest: state.numel(),
    "causal_conv1d": lambda x, weight, bias, seq_idx, states, silu: x.numel() * silu,
    "causal_conv1d_bwd": lambda dout, x, weight, bias, seq_idx, states, silu: x.numel() * silu,
    "causal_conv1d_update": lambda x, state, weight, bias, silu, *rest: x.numel() * silu,
    "skeleton_scan": lambda x, proj, dt_weight, dt_bias, A, *rest: x.numel() * A.shape[0] * A.shape[2],
    "skeleton_scan_bwd": lambda dout, x, proj, dt_weight, dt_bias, A, *rest: x.numel() * A.shape[0] * A.shape[2],
    "axial_attention": lambda qkv, mask, axis, *rest: qkv[..., 0, :, 0].numel() * _keys(qkv, mask, axis),
    "axial_attention_bwd": lambda dout, qkv, out, lse, mask, axis, *rest: lse.numel() * _keys(qkv, mask, axis),
    "temporal_graph_conv": lambda x, *rest: x[..., 0].numel() * x.shape[1],
    "temporal_graph_conv_bwd": lambda dout, x, *rest: x[..., 0].numel() * x.shape[1],
    "mixsynth_encoder": lambda x, weights, frames, dim, hidden, depth, r_t, r_s, interpolates: (  # GELU's too
        len(x) * depth * (frames * (frames // r_t) + dim * (dim // r_s) + frames * hidden)
    ),
}


@dataclass(frozen=True)
class Bound:
    """Seconds by kind of work."""

    products: float = 0.0
    exponentials: float = 0.0
    bytes: float = 0.0

    @property
    def seconds(self) -> float:
        return self.products + self.exponentials + self.bytes

    @property
    def kind(self) -> str:
        """The kind that takes the most."""
        return max(vars(self), key=vars(self).get)

    def asdict(self) -> dict:
        return vars(self) | {"seconds": self.seconds}


def lower_bound(call, device="cpu") -> Bound | None:
    """The bound of all ops that `call` runs; None where the ops run as their references."""
    if device == "cpu" and not _library.loaded:
        return None
    with _Recorder() as work:
        call()
    spent = Counter()
    on = str(device), torch.get_num_threads()
    for shape, count in work.products.items():
        spent["products"] += count * _product_seconds(*shape, *on)
    for (products, exps, size), count in work.ops.items():
        work_of_op = {
            "products": sum(_product_seconds(*shape, *on) for shape in products),
            "exponentials": exponential_seconds(exps, *on) if exps else 0.0,
        }
        copy = bytes_seconds(size, *on)
        if copy > sum(work_of_op.values()):
            work_of_op = {"bytes": copy}
        for kind, seconds in work_of_op.items():
            spent[kind] += count * seconds
    return Bound(**spent)


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.products, self.ops = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # in inference mode a linear layer comes whole
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        name = func._schema.name
        if name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
            a, b = args[-2:]
            self.products[(math.prod(a.shape[:-2]), a.shape[-2], a.shape[-1], b.shape[-1], a.dtype)] += 1
        elif name == "mkldnn::_linear_pointwise":  # a layer that lifter.freeze packed
            self.products[(1, out.numel() // out.shape[-1], args[0].shape[-1], out.shape[-1], out.dtype)] += 1
        elif name == "aten::convolution" and args[1].shape[1] > 1:  # as im2col; a depthwise one is no product
            weight, groups = args[1], args[8]
            pixels = out.shape[0] * math.prod(out.shape[2:])
            self.products[(1, pixels, weight[0].numel(), weight.shape[0] // groups, weight.dtype)] += groups
        elif name.startswith(("lifter::", "lifter_triton::")):
            op = name.split("::")[1]
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            size = sum(min(x.numel() * x.itemsize, x.untyped_storage().nbytes()) for x in tensors)
            dtype = next(x.dtype for x in tensors)
            products = tuple((*shape, dtype) for shape in PRODUCTS[op](*args)) if op in PRODUCTS else ()
            self.ops[(products, EXPONENTIALS[op](*args) if op in EXPONENTIALS else 0, size)] += 1
        return out


@cache
def _product_seconds(batch, m, k, n, dtype, device, threads) -> float:
    """Rows of weights lie as in F.linear."""
    lead = (batch,) if batch > 1 else ()
    a = torch.randn(*lead, m, k, device=device, dtype=dtype)
    b = torch.randn(*lead, n, k, device=device, dtype=dtype).mT
    out = torch.empty(*lead, m, n, device=device, dtype=dtype)
    return best_seconds(lambda: torch.matmul(a, b, out=out), device)


@cache
def bytes_seconds(size, device, threads) -> float:
    """Moving `size` bytes: half of them read, half written."""
    source = torch.zeros(max(1, size // 8), device=device)
    target = torch.empty_like(source)
    return best_seconds(lambda: target.copy_(source), device)


@cache
def exponential_seconds(count, device, threads) -> float | None:
    if device.startswith("cuda"):
        from ._cuda import exponentials

        return best_seconds(lambda: exponentials(count), device)
    if not _library.loaded:
        return None
    return min(_library._C.time_exponentials(count) for _ in range(max(5, min(200, 2**28 // count))))


def ceilings(device="cpu") -> dict:
    """The rates of this machine at sizes that favour it."""
    key = str(device), torch.get_num_threads()
    size, exponentials, side = (2**28, 2**26, 1024) if device == "cpu" else (2**32, 2**32, 8192)
    exps = exponential_seconds(exponentials, *key)
    rate = lambda dtype: 2 * side**3 / _product_seconds(1, side, side, side, dtype, *key) / 1e9
    return {
        "copy, GB/s": size / bytes_seconds(size, *key) / 1e9,
        f"product {side}^3 float32, GFLOP/s": rate(torch.float32),
        f"product {side}^3 bfloat16, GFLOP/s": rate(torch.bfloat16),
        "exponentials, G/s": exps and exponentials / exps / 1e9,
    }
