"""Checks of arguments. Their errors name the op, the argument, what came and what was expected."""

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def check_shape(op: str, name: str, x: torch.Tensor | None, *expected) -> None:
    """ValueError unless `x` is absent or has one of the `expected` shapes; a shape is a tuple of sizes and letters."""
    if x is None or x.shape == expected[0]:
        return
    for shape in expected:
        if len(shape) == x.dim() and all(isinstance(e, str) or e == s for e, s in zip(shape, x.shape)):
            return
    wanted = " or ".join(dict.fromkeys(str(shape).replace("'", "") for shape in expected))
    raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected {wanted}")


def check_map(op: str, name: str, x: torch.Tensor, *expected) -> torch.Size:
    """The shape of `x`: `check_shape`, and ValueError if a dimension is empty that is not the batch."""
    check_shape(op, name, x, *expected)
    if 0 in x.shape[1:]:
        raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected no empty dimension after the first")
    return x.shape


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


def check_like(op: str, first: str, x: torch.Tensor, name: str, y: torch.Tensor | None) -> None:
    """TypeError unless `y` is absent or has the dtype of `x`, the argument `first`."""
    if y is not None and y.dtype != x.dtype:
        raise TypeError(f"{op}: {name} has dtype {y.dtype}, expected {first}'s, {x.dtype}")


def check_device(op: str, first: str, x: torch.Tensor, name: str, y) -> None:
    """ValueError if `y` is a tensor that is not on the device of `x`, the argument `first`."""
    if isinstance(y, torch.Tensor) and y.device != x.device:
        raise ValueError(f"{op}: {name} is on {y.device}, expected {first}'s device, {x.device}")


def check_index(op: str, name: str, index: torch.Tensor, kind: str, count: int) -> None:
    """Errors unless `index` is int32 and less than `count`, the number of what it counts (`kind`).

    Values are compared only where they can be read at once: not on a GPU, nor while a graph is traced.
    """
    check_dtype(op, name, index, torch.int32)
    traced = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    if index.device.type == "cpu" and type(index) is torch.Tensor and not traced and index.numel():  # no fake tensor
        if (largest := index.max().item()) >= count:
            raise ValueError(f"{op}: {name} names {kind} {largest}, expected less than {count}")


def check_constant(op: str, name: str, x: torch.Tensor | None) -> None:
    """ValueError if a gradient is wanted of `x`, of which the kernels have none."""
    if x is not None and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: {name} requires a gradient, which only backend('reference') has")


def check_number(op: str, name: str, x) -> float:
    """The number `x`. TypeError if it is none, ValueError if a gradient is wanted of it, which no backend has."""
    if isinstance(x, torch.Tensor):
        check_shape(op, name, x, (), (1,))
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: {name} requires a gradient, which it does not have; multiply what it scales by it")
    try:
        return float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} is {x!r}, expected a number") from None


def check_written(op: str, name: str, x: torch.Tensor) -> None:
    """ValueError if several numbers of `x`, which is overwritten, have one place, as those of an expanded tensor."""
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride())):
        raise ValueError(f"{op}: {name} has strides {x.stride()}, expected a place for every number; it is written: clone it")
