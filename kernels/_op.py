"""Base class of the ops: registration, choice of the backend, dtypes.

An op is defined twice from one description: as `torch.ops.lifter.<name>` (C++ on the CPU, Triton on the GPU) and as
`torch.ops.lifter_triton.<name>`, which uses Triton on every device. With the latter, Triton's interpreter runs the GPU code on
a CPU through the same schema, fake implementation, autograd formula and FLOP formula.

FLOP formulas belong to the ops. If a reference runs instead, FlopCounterMode counts only PyTorch's matrix products, and
nothing of a scan. Without kernels, count with tensors on the "meta" device.
"""

import contextlib
import importlib
import importlib.util
import inspect
import os
import warnings
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import register_flop_formula

from lifter import _library

from ._checks import check_device, check_like
from ._gradient import Formula
from ._torch import autocast_dtype, derivative_lost, no_autocast

_libraries = {name: torch.library.Library(name, "DEF") for name in ("lifter", "lifter_triton")}
_kernels: dict[str, "Kernel"] = {}
_forced: ContextVar[str | None] = ContextVar("_forced", default=None)
_forced_last: str | None = None  # of any thread: Dynamo cannot read a context variable but guards on a global one


class Cost(NamedTuple):
    """Cost of a call, in addition to reading its arguments and writing its results once."""

    flops: int  # of matrix products, as FlopCounterMode counts; without any, additions and multiplications; never 0
    products: Sequence = ()  # (batch, m, k, n) of the unavoidable matrix products (m, k) (k, n)
    exponentials: int = 0  # the unavoidable ones


def gradient_products(products):
    """Return the products of a backward: two gradients, (m, n) (n, k) and (k, m) (m, n), of every product (m, k) (k, n), and
    the recomputed first product."""
    return [p for b, m, k, n in products for p in ((b, m, n, k), (b, k, m, n))] + products[:1]


class Kernel:
    """One schema registered in both namespaces, with its fake implementation, cost and gradient.

    Args:
        fake: the fake implementation.
        cost: function of the same arguments that returns the `Cost` of the call.
        triton: the function of `lifter.kernels.triton.<module>` that implements the schema, as "module:function".
        cpu: whether csrc/ implements the schema.
        backward: the `Kernel` of the gradient, named <name>_bwd. Without `formula`, the names in its schema define the
            autograd formula (see `_gradient`).
        formula: an object with `setup_context(ctx, inputs, output)` and `backward(ops, ctx, saved, *gradients)`. `ops` is the
            namespace to call, so that a gradient runs on the backend of its forward.
    """

    def __init__(self, schema, *, fake, cost, triton=None, cpu=True, backward=None, formula=None):
        self.name = schema.split("(", 1)[0]
        self.cost, self.triton, self.cpu, self.backward = cost, triton, cpu, backward
        for namespace, library in _libraries.items():
            library.define(schema, tags=torch.Tag.pt2_compliant_tag)
            qualname = f"{namespace}::{self.name}"
            torch.library.register_fake(qualname, fake, lib=library)
            if triton:
                for key in ("CUDA",) if namespace == "lifter" else ("CPU", "CUDA"):
                    library.impl(self.name, self._run_triton, key)
            self._register_gradient(qualname, library, formula)
            register_flop_formula(getattr(getattr(torch.ops, namespace), self.name), get_raw=True)(self._flops)
        _kernels[self.name] = self

    def _register_gradient(self, qualname, library, formula):
        if self.name.endswith("_bwd"):
            torch.library.register_autograd(qualname, self._no_second_derivative, lib=library)
        if self.backward is None:
            return
        ops = getattr(torch.ops, library.ns)
        formula = formula or Formula(self.name, self.schema, self.backward.schema)
        # Saved tensors are read here, once per op: checkpointing does not allow reading them twice.
        gradient = lambda ctx, *gradients: formula.backward(ops, ctx, ctx.saved_tensors, *gradients)
        torch.library.register_autograd(qualname, gradient, setup_context=formula.setup_context, lib=library)

    @property
    def schema(self):
        return getattr(torch.ops.lifter, self.name).default._schema

    def _flops(self, *args, out_val=None, **kwargs):
        return self.cost(*args, **kwargs).flops

    def _no_second_derivative(self, ctx, *grads):
        raise RuntimeError(f"{self.name.removesuffix('_bwd')}: second derivatives are not supported; use backend('reference')")

    def _run_triton(self, *args):
        module, function = self.triton.split(":")
        return getattr(importlib.import_module(f"lifter.kernels.triton.{module}"), function)(*args)


class Op(Kernel):
    """Dispatcher of a public function with checked arguments: runs the `reference` or the kernels.

    It casts for autocast, checks dtypes and devices, chooses the backend, and converts arguments for the kernels: parameters
    to float32 and, on the CPU, float16 maps to float32. The first result is returned in the dtype of the first map. An op
    without `backward` runs its reference if a derivative is needed.

    Args:
        function: the public function; errors use its name.
        reference: function that defines the op; a call passes it the arguments in order.
        schema, **kernel: see `Kernel`.
        maps: names of the arguments that must all have the dtype of the first one.
        mixed: True if their dtypes may differ; the kernels then get all of them in float32.
        parameters: names of the arguments that may have any floating-point dtype.
        kernels: function (ops, *args) that calls the kernels of a namespace. None: the schema has the reference's arguments
            and results, followed by results that the backward needs.
        autocast: False if autocast does not cast the maps.
    """

    def __init__(
        self, function, reference, schema, *, maps, parameters="", mixed=False, kernels=None, autocast=True, **kernel
    ):
        super().__init__(schema, **kernel)
        self.function, self.reference = function, reference
        self._mixed, self._autocast, self._kernels = mixed, autocast, kernels or self._call
        self._names = list(inspect.signature(reference).parameters)
        self._maps, self._parameters = ([self._names.index(name) for name in names.split()] for names in (maps, parameters))
        self._first = self._maps[0]
        results = [r.name for r in self.schema.returns]
        if self.backward:
            results = [name for name in results if f"d{name}" in {a.name for a in self.backward.schema.arguments}]
        self._results = len(results)

    def __call__(self, *args) -> Any:
        args = list(args)
        x = args[self._first]
        autocast = autocast_dtype(x)
        if self._autocast and autocast is not None:
            _cast(args, self._maps, autocast)
            x = args[self._first]
        wide = x.dtype == torch.float16 and x.device.type == "cpu"
        for i in self._maps:
            if args[i] is not None and args[i].dtype != x.dtype:
                if not self._mixed:
                    check_like(self.function.__name__, self._names[self._first], x, self._names[i], args[i])
                wide = True
        tensors = [y for y in args if isinstance(y, torch.Tensor)]
        if any(y.device != x.device for y in tensors):
            for name, y in zip(self._names, args):
                check_device(self.function.__name__, self._names[self._first], x, name, y)

        ops = self.namespace(x, *tensors)
        if ops is None:
            with no_autocast(x):
                return self.reference(*args)
        if wide:
            _cast(args, self._maps, torch.float32)
        _cast(args, self._parameters, torch.float32)
        with contextlib.nullcontext() if autocast is None else no_autocast(x):  # `kernels` may call PyTorch's ops
            results = self._kernels(ops, *args)
        return _narrow(results, x.dtype) if wide else results

    def _call(self, ops, *args):
        results = getattr(ops, self.name)(*args)
        if isinstance(results, torch.Tensor):
            return results
        return results[0] if self._results == 1 else results[: self._results]

    def availability(self) -> dict[str, tuple[bool, str]]:
        """Return {backend: (usable here, reason)} for `lifter info`."""
        return {
            "reference": (True, "plain PyTorch"),
            "cpu": (self.cpu and _library.loaded, "C++" if _library.loaded else _library.reason)
            if self.cpu
            else (False, "no C++ kernel"),
            "triton": (_triton_usable, _triton_note) if self.triton else (False, "no Triton kernel"),
            "cuda": (False, "no CUDA C++ kernel: Triton is the GPU backend"),
        }

    def chosen(self, device_type: str) -> str:
        """Return the backend of a float32 call on this device type if none is forced."""
        if device_type == "cpu" and self.cpu and _library.loaded:
            return "cpu"
        if device_type == "cuda" and self.triton and _triton_usable:
            return "triton"
        return "reference"

    def namespace(self, x: torch.Tensor, *others: torch.Tensor | None):
        """Return the `torch.ops` namespace for a call on `x`, or None for the reference.

        Raise RuntimeError if a tensor carries a derivative that the kernels would drop.
        """
        lost = not torch.compiler.is_compiling() and derivative_lost(x, *others)
        if self.backward is None:
            wanted = torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in (x, *others))
            return None if lost or wanted else self._namespace(x)
        ops = self._namespace(x)
        if ops is not None and lost:
            raise RuntimeError(
                f"{self.name}: the kernels support torch.autograd but not torch.func or forward mode; use backend('reference')"
            )
        return ops

    def _namespace(self, x):
        device = x.device.type
        forced = forced_backend()
        if forced == "reference" or (forced is None and x.dtype == torch.float64):
            return None
        if forced is None:
            if device == "meta":
                return torch.ops.lifter
            backend = self.chosen(device)
            if backend == "reference":
                if not torch.compiler.is_compiling():  # a warning would break the graph
                    _warn_slow(self.name, device)
                return None
            return torch.ops.lifter
        if x.dtype == torch.float64:
            raise TypeError(f"{self.name}: backend {forced!r} has no float64 kernel; use backend('reference')")
        usable, note = self.availability()[forced]
        if not usable:
            raise RuntimeError(f"{self.name}: backend {forced!r} is not usable here: {note}")
        if forced == "cpu" and device != "cpu":
            raise RuntimeError(f"{self.name}: backend 'cpu' was forced, but the tensors are on {device}")
        if forced == "triton" and device == "cpu" and not triton_interpreted():
            raise RuntimeError(
                f"{self.name}: backend 'triton' on CPU tensors needs TRITON_INTERPRET=1 set before triton is imported"
            )
        return torch.ops.lifter_triton if forced == "triton" else torch.ops.lifter


def registry() -> dict[str, Op]:
    """Return all public ops by name."""
    return {name: kernel for name, kernel in _kernels.items() if isinstance(kernel, Op)}


def cost(name: str, *args) -> Cost:
    """Return the cost of a call to `torch.ops.lifter.<name>`."""
    return _kernels[name].cost(*args)


@contextlib.contextmanager
def backend(name: str):
    """Force the backend of every op called inside: "reference", "cpu", "triton" or "cuda".

    Other threads and asyncio tasks keep their own setting. On a GPU these include autograd's threads, which recompute
    checkpointed parts. Compiled code uses the setting of the thread that called this last. With "reference", FlopCounterMode
    counts only PyTorch's matrix products; with tensors on "meta" and no forced backend it counts everything.
    """
    global _forced_last
    if name not in _library.BACKENDS:
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(_library.BACKENDS)}")
    before, _forced_last = _forced.set(name), name
    try:
        yield
    finally:
        _forced.reset(before)
        _forced_last = _forced.get()


def forced_backend() -> str | None:
    """Return the backend forced by `backend` in this context, or None."""
    return _forced_last if torch.compiler.is_dynamo_compiling() else _forced.get()


def triton_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _triton_state() -> tuple[bool, str]:
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed"
    if torch.cuda.is_available():
        return True, "Triton"
    if triton_interpreted():
        return True, "Triton's interpreter (TRITON_INTERPRET=1): right, but slow"
    return False, "no GPU (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"


_triton_usable, _triton_note = _triton_state()


@cache
def _warn_slow(op: str, device: str) -> None:
    reason = {"cpu": _library.reason, "cuda": _triton_note}.get(device, f"there are no kernels for {device}")
    warnings.warn(f"lifter.{op} runs its slow PyTorch reference on {device}: {reason}", stacklevel=6)


def _cast(args, places, dtype):
    for i in places:
        if (y := args[i]) is not None and y.dtype != dtype:
            args[i] = y.to(dtype)


def _narrow(results, dtype):
    """Cast the first result to the dtype of the call, if it is floating point."""
    first, *others = results if isinstance(results, tuple) else (results,)
    first = first.to(dtype) if first.is_floating_point() else first
    return (first, *others) if others else first
