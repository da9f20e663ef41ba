"""Bounds of the machine, measured in the same run, with the same threads.

A call is recorded op by op. Each op is bound by the work that it cannot avoid: a matrix product by `torch.mm` of its
shape, ours by the products and exponentials of its `Cost`, which stands beside the op, and all of ours at least by their
bytes (arguments and results, each once). Each kind is timed at the very size, best of
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
from lifter.kernels._op import cost

from .timing import best_seconds


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
        elif name in ("mkldnn::_linear_pointwise", "lifter::linear"):  # the first is a layer that lifter.freeze packed
            self.products[(1, out.numel() // out.shape[-1], args[0].shape[-1], out.shape[-1], out.dtype)] += 1
        elif name == "aten::convolution" and args[1].shape[1] > 1:  # as im2col; a depthwise one is no product
            weight, groups = args[1], args[8]
            pixels = out.shape[0] * math.prod(out.shape[2:])
            self.products[(1, pixels, weight[0].numel(), weight.shape[0] // groups, weight.dtype)] += groups
        elif name.startswith(("lifter::", "lifter_triton::")):
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            size = sum(min(x.numel() * x.itemsize, x.untyped_storage().nbytes()) for x in tensors)
            dtype = next(x.dtype for x in tensors)
            work = cost(name.split("::")[1], *args)
            self.ops[(tuple((*shape, dtype) for shape in work.products), work.exponentials, size)] += 1
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
