"""What the machine could do at best, measured in the same run, with the same threads.

A call is recorded op by op. Each op is bound by the work that it cannot avoid: a matrix product by `torch.mm` of its
shape, a scan by its exponentials, everything else of ours by its bytes (arguments and results, each once). Each kind is
timed at the very size, best of many: the product of that shape, as many exponentials, a copy of as many bytes.
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

from .timing import best_seconds

# Exponentials of an op from its arguments: one per step, channel and state. A backward pass evaluates them again: to
# keep them would take N times the memory of the input.
EXPONENTIALS = {
    "selective_scan": lambda u, delta, A, *rest: u.numel() * A.shape[1],
    "selective_scan_bwd": lambda dout, dlast_state, u, delta, A, *rest: u.numel() * A.shape[1],
    "selective_state_update": lambda state, *rest: state.numel(),
    "skeleton_scan": lambda x, proj, dt_weight, dt_bias, A, *rest: x.numel() * A.shape[0] * A.shape[2],
    "skeleton_scan_bwd": lambda dout, x, proj, dt_weight, dt_bias, A, *rest: x.numel() * A.shape[0] * A.shape[2],
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
    for (m, k, n, dtype), count in work.products.items():
        spent["products"] += count * _product_seconds(m, k, n, dtype, str(device), torch.get_num_threads())
    for (exps, size), count in work.ops.items():
        copy = bytes_seconds(size, str(device), torch.get_num_threads())
        scan = exponential_seconds(exps, str(device), torch.get_num_threads()) if exps else 0.0
        spent["exponentials" if scan > copy else "bytes"] += count * max(scan, copy)
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
            self.products[(a.shape[-2], a.shape[-1], b.shape[-1], a.dtype)] += math.prod(a.shape[:-2])
        elif name == "aten::convolution" and args[1].shape[1] > 1:  # as im2col; a depthwise one is no product
            weight, groups = args[1], args[8]
            pixels = out.shape[0] * math.prod(out.shape[2:])
            self.products[(pixels, weight[0].numel(), weight.shape[0] // groups, weight.dtype)] += groups
        elif name.startswith(("lifter::", "lifter_triton::")):
            op = name.split("::")[1]
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            size = sum(min(x.numel() * x.itemsize, x.untyped_storage().nbytes()) for x in tensors)
            self.ops[(EXPONENTIALS[op](*args) if op in EXPONENTIALS else 0, size)] += 1
        return out


@cache
def _product_seconds(m, k, n, dtype, device, threads) -> float:
    """Rows of weights lie as in F.linear."""
    a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(n, k, device=device, dtype=dtype).t()
    out = torch.empty(m, n, device=device, dtype=dtype)
    return best_seconds(lambda: torch.mm(a, b, out=out), device)


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
    exps = exponential_seconds(2**26, *key)
    return {
        "copy, GB/s": 2**28 / bytes_seconds(2**28, *key) / 1e9,
        "product 1024^3 float32, GFLOP/s": 2 * 1024**3 / _product_seconds(1024, 1024, 1024, torch.float32, *key) / 1e9,
        "product 1024^3 bfloat16, GFLOP/s": 2 * 1024**3
        / _product_seconds(1024, 1024, 1024, torch.bfloat16, *key)
        / 1e9,
        "exponentials, G/s": exps and 2**26 / exps / 1e9,
    }
