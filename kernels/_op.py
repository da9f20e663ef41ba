"""What every op shares: where it is registered, and which backend a call takes.

An op is defined twice from one description: as `torch.ops.lifter.<name>` (C++ on the CPU, Triton on the GPU) and as
`torch.ops.lifter_triton.<name>`, whose kernel is Triton on every device, so that the interpreter can run the GPU code
on a CPU through the same schema, fake, autograd and FLOP formula.

FLOP formulas belong to the ops. Of a reference FlopCounterMode sees only PyTorch's products, of a scan's nothing: where
no kernels are, count with tensors on "meta".
"""

import contextlib
import importlib
import importlib.util
import os
import warnings
from functools import cache, partial

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

from lifter import _library

_libraries = {name: torch.library.Library(name, "DEF") for name in ("lifter", "lifter_triton")}
_registry: dict[str, "Op"] = {}
_forced: str | None = None
# Of the others torch would raise, "meta" for one. Not asked in a call: Dynamo of torch 2.11 cannot trace the question.
_AUTOCAST = {kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)}


class Op:
    """One op: its schema (without namespace), fake implementation, FLOP formula and, if differentiable, autograd formula.

    `triton` names the function of `lifter.kernels.triton.<module>` that implements the schema; `cpu` says whether
    csrc implements it. `backward(ops, ctx, *grads)` gets the namespace it must call, so that a gradient stays on the
    backend of its forward.
    """

    def __init__(self, schema, *, fake, triton=None, cpu=True, flops=None, setup_context=None, backward=None, public=True):
        self.name = schema.split("(", 1)[0]
        self.cpu, self.triton, self.differentiable = cpu, triton, backward is not None
        for namespace, library in _libraries.items():
            library.define(schema, tags=torch.Tag.pt2_compliant_tag)
            qualname = f"{namespace}::{self.name}"
            torch.library.register_fake(qualname, fake, lib=library)
            if triton:
                for key in ("CUDA",) if namespace == "lifter" else ("CPU", "CUDA"):
                    library.impl(self.name, self._run_triton, key)
            if self.name.endswith("_bwd"):
                torch.library.register_autograd(qualname, self._no_second_derivative, lib=library)
            if backward:
                ops = getattr(torch.ops, namespace)
                torch.library.register_autograd(
                    qualname, partial(backward, ops), setup_context=setup_context, lib=library
                )
            if flops:
                register_flop_formula(getattr(getattr(torch.ops, namespace), self.name))(flops)
        if public:
            _registry[self.name] = self

    def _no_second_derivative(self, ctx, *grads):
        raise RuntimeError(f"{self.name.removesuffix('_bwd')}: its gradient has no gradient; backend('reference') has one")

    def _run_triton(self, *args):
        module, function = self.triton.split(":")
        return getattr(importlib.import_module(f"lifter.kernels.triton.{module}"), function)(*args)

    def availability(self) -> dict[str, tuple[bool, str]]:
        """For `lifter info`: backend -> (usable here, why or why not)."""
        return {
            "reference": (True, "plain PyTorch"),
            "cpu": (self.cpu and _library.loaded, "C++" if _library.loaded else _library.reason)
            if self.cpu
            else (False, "no C++ kernel"),
            "triton": (_triton_usable, _triton_note) if self.triton else (False, "no Triton kernel"),
            "cuda": (False, "no CUDA C++ kernel: Triton is the GPU backend"),
        }

    def chosen(self, device_type: str) -> str:
        """The backend that a float32 call on this device type takes when none is forced."""
        if device_type == "cpu" and self.cpu and _library.loaded:
            return "cpu"
        if device_type == "cuda" and self.triton and _triton_usable:
            return "triton"
        return "reference"

    def namespace(self, x: torch.Tensor, *others: torch.Tensor | None):
        """The `torch.ops` namespace that a call on `x` must use, or None for the reference.

        RuntimeError if any tensor carries a derivative that the kernels would lose.
        """
        ops = self._namespace(x)
        followed = ops is not None and self.differentiable and not torch.compiler.is_compiling()
        if followed and derivative_lost(x, *others):
            raise RuntimeError(
                f"{self.name}: the kernels have gradients for torch.autograd, not for torch.func nor in forward mode; "
                "backend('reference') has them"
            )
        return ops

    def inference_namespace(self, x, *others):
        """`namespace` of an op without gradients: None, the reference, where a derivative is wanted."""
        if torch.is_grad_enabled() and any(y.requires_grad for y in (x, *others)):
            return None
        if not torch.compiler.is_compiling() and derivative_lost(x, *others):
            return None
        return self.namespace(x)

    def _namespace(self, x):
        device = x.device.type
        if _forced == "reference" or (_forced is None and x.dtype == torch.float64):
            return None
        if _forced is None:
            if device == "meta":
                return torch.ops.lifter
            backend = self.chosen(device)
            if backend == "reference":
                if not torch.compiler.is_compiling():  # a warning would break the graph
                    _warn_slow(self.name, device)
                return None
            return torch.ops.lifter
        if x.dtype == torch.float64:
            raise TypeError(f"{self.name}: backend {_forced!r} has no float64 kernel; use backend('reference')")
        usable, note = self.availability()[_forced]
        if not usable:
            raise RuntimeError(f"{self.name}: backend {_forced!r} is not usable here: {note}")
        if _forced == "cpu" and device != "cpu":
            raise RuntimeError(f"{self.name}: backend 'cpu' was forced, but the tensors are on {device}")
        if _forced == "triton" and device == "cpu" and not triton_interpreted():
            raise RuntimeError(
                f"{self.name}: backend 'triton' on CPU tensors needs TRITON_INTERPRET=1 set before triton is imported"
            )
        return torch.ops.lifter_triton if _forced == "triton" else torch.ops.lifter


def registry() -> dict[str, Op]:
    """Every public op by name."""
    return dict(_registry)


@contextlib.contextmanager
def backend(name: str):
    """Force the backend of every op called inside: "reference", "cpu", "triton" or "cuda". Holds for the whole process.

    On "reference" FlopCounterMode counts only PyTorch's products; with tensors on "meta" and no backend forced, all.
    """
    global _forced
    if name not in _library.BACKENDS:
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(_library.BACKENDS)}")
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


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
    warnings.warn(f"lifter.{op} runs its slow PyTorch reference on {device}: {reason}", stacklevel=5)


# ---- argument checks -------------------------------------------------------------------------------------------------


def check_shape(op: str, name: str, x: torch.Tensor | None, *expected) -> None:
    """ValueError unless `x` is absent or has one of the `expected` shapes; a shape is a tuple of sizes and letters."""
    if x is None or x.shape == expected[0]:
        return
    for shape in expected:
        if len(shape) == x.dim() and all(isinstance(e, str) or e == s for e, s in zip(shape, x.shape)):
            return
    wanted = " or ".join(str(shape).replace("'", "") for shape in expected)
    raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected {wanted}")


def check_float(op: str, optional: dict | None = None, **tensors: torch.Tensor) -> None:
    """TypeError unless each of `tensors` is a real floating-point tensor, and each of `optional` that or None."""
    given = {name: x for name, x in (optional or {}).items() if x is not None}
    for name, x in (tensors | given).items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{op}: {name} is {type(x).__name__}, expected a tensor")
        if not x.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} has dtype {x.dtype}, expected a real floating-point dtype")


def check_dtype(op: str, name: str, x: torch.Tensor, *expected: torch.dtype) -> None:
    """TypeError unless `x` is a tensor of one of the `expected` dtypes."""
    kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
    if kind not in expected:
        raise TypeError(f"{op}: {name} has dtype {kind}, expected {' or '.join(map(str, expected))}")


def check_like(op: str, first: str, x: torch.Tensor, **tensors: torch.Tensor | None) -> None:
    """TypeError unless every given tensor has the dtype of `x`, ValueError unless it is on the same device."""
    for name, y in tensors.items():
        if y is None:
            continue
        if y.dtype != x.dtype:
            raise TypeError(f"{op}: {name} has dtype {y.dtype}, expected {first}'s, {x.dtype}")
    check_device(op, first, x, **tensors)


def check_device(op: str, first: str, x: torch.Tensor, **tensors: torch.Tensor | None) -> None:
    """ValueError unless every given tensor is on the device of `x`."""
    for name, y in tensors.items():
        if y is not None and y.device != x.device:
            raise ValueError(f"{op}: {name} is on {y.device}, expected {first}'s device, {x.device}")


def check_joints(op: str, name: str, joints: torch.Tensor, J: int) -> None:
    """TypeError unless `joints` is int32; ValueError if one is J or more, where values can be read at once: not on a GPU,
    nor while a graph is traced."""
    check_dtype(op, name, joints, torch.int32)
    traced = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    if joints.device.type == "cpu" and type(joints) is torch.Tensor and not traced and joints.numel():  # no fake tensor
        if (joint := joints.max().item()) >= J:
            raise ValueError(f"{op}: {name} names joint {joint}, expected less than {J}")


def channels_last(x: torch.Tensor) -> bool:
    """Whether a map (B, D, L) lies along its channels, as a (B, L, D) map does that is seen so."""
    return x.stride(1) == 1 and x.stride(2) != 1


def map_like(x: torch.Tensor) -> torch.Tensor:
    """A new map in the layout of this one."""
    batch, dim, length = x.shape
    return x.new_empty(batch, length, dim).transpose(1, 2) if channels_last(x) else x.new_empty(batch, dim, length)


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The dtype that autocast wants for activations like `x`, or None outside autocast; float64 it leaves alone."""
    kind = x.device.type
    wanted = kind in _AUTOCAST and torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if wanted else None


def no_autocast(x: torch.Tensor):
    """A reference computes in the dtypes that it names."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind in _AUTOCAST else contextlib.nullcontext()


def saves_states(*tensors: torch.Tensor | None) -> bool:
    """Whether a call must keep what its backward needs. An exported graph is for inference. Inside vmap nobody can tell."""
    wanted = any(x is not None and x.requires_grad for x in tensors) or torch._C._are_functorch_transforms_active()
    return torch.is_grad_enabled() and wanted and not exporting()


def exporting() -> bool:
    """Whether a graph is exported. Dynamo of torch 2.11 would say so of all that it traces."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def derivative_lost(*tensors: torch.Tensor | None) -> bool:
    """Whether a transform of torch.func (grad, jvp, ...) follows any of the tensors, or one is a dual of forward mode."""
    if not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0:
        return False
    functorch = torch._C._functorch
    for x in tensors:
        while x is not None and functorch.is_functorch_wrapped_tensor(x):  # vmap inside grad hides it
            if functorch.is_gradtrackingtensor(x):
                return True
            x = functorch.get_unwrapped(x)
        if x is not None and forward_ad.unpack_dual(x).tangent is not None:
            return True
    return False


def kernel_dtype(*tensors: torch.Tensor | None) -> tuple:
    """float16 on the CPU is widened: no CPU of today computes in it, and the copy costs less than a second kernel."""
    return tuple(
        x.float() if x is not None and x.dtype == torch.float16 and x.device.type == "cpu" else x for x in tensors
    )
