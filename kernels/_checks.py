"""Checks of arguments. The errors name the op, the argument, the value and the expected value."""

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def check_shape(op: str, name: str, x: torch.Tensor | None, *expected) -> None:
    """Raise ValueError unless `x` is None or has one of the `expected` shapes; a shape is a tuple of sizes and letters."""
    if x is None or x.shape == expected[0]:
        return
    for shape in expected:
        if len(shape) == x.dim() and all(isinstance(e, str) or e == s for e, s in zip(shape, x.shape)):
            return
    wanted = " or ".join(dict.fromkeys(str(shape).replace("'", "") for shape in expected))
    raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected {wanted}")


def check_map(op: str, name: str, x: torch.Tensor, *expected) -> torch.Size:
    """Return the shape of `x` after `check_shape`; raise ValueError if a dimension other than the batch is empty."""
    check_shape(op, name, x, *expected)
    if 0 in x.shape[1:]:
        raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected no empty dimension after the first")
    return x.shape


def check_float(op: str, optional: dict | None = None, **tensors: torch.Tensor) -> None:
    """Raise TypeError unless all `tensors` are real floating-point tensors; those in `optional` may also be None."""
    given = {name: x for name, x in (optional or {}).items() if x is not None}
    for name, x in (tensors | given).items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{op}: {name} is {type(x).__name__}, expected a tensor")
        if not x.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} has dtype {x.dtype}, expected a real floating-point dtype")


def check_dtype(op: str, name: str, x: torch.Tensor, *expected: torch.dtype) -> None:
    """Raise TypeError unless `x` is a tensor of one of the `expected` dtypes."""
    kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
    if kind not in expected:
        raise TypeError(f"{op}: {name} has dtype {kind}, expected {' or '.join(map(str, expected))}")


def check_like(op: str, first: str, x: torch.Tensor, name: str, y: torch.Tensor | None) -> None:
    """Raise TypeError unless `y` is None or has the dtype of `x`, which is the argument named `first`."""
    if y is not None and y.dtype != x.dtype:
        raise TypeError(f"{op}: {name} has dtype {y.dtype}, expected {first}'s, {x.dtype}")


def check_device(op: str, first: str, x: torch.Tensor, name: str, y) -> None:
    """Raise ValueError if `y` is a tensor on another device than `x`, which is the argument named `first`."""
    if isinstance(y, torch.Tensor) and y.device != x.device:
        raise ValueError(f"{op}: {name} is on {y.device}, expected {first}'s device, {x.device}")


def check_index(op: str, name: str, index: torch.Tensor, kind: str, count: int) -> None:
    """Raise an error unless `index` is int32 and all its values are below `count`, the number of `kind`s.

    Values are checked only where they can be read without waiting: not on a GPU and not while a graph is traced.
    """
    check_dtype(op, name, index, torch.int32)
    traced = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    if index.device.type == "cpu" and type(index) is torch.Tensor and not traced and index.numel():  # no fake tensor
        if (largest := index.max().item()) >= count:
            raise ValueError(f"{op}: {name} names {kind} {largest}, expected less than {count}")


def check_constant(op: str, name: str, x: torch.Tensor | None) -> None:
    """Raise ValueError if `x` requires a gradient, which the kernels do not compute."""
    if x is not None and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: {name} requires a gradient, which only backend('reference') has")


def check_number(op: str, name: str, x) -> float:
    """Return `x` as a float. Raise TypeError if it is not a number, ValueError if it requires a gradient, which no backend
    has."""
    if isinstance(x, torch.Tensor):
        check_shape(op, name, x, (), (1,))
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: {name} requires a gradient, which is not supported; scale the tensor outside the op")
    try:
        return float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} is {x!r}, expected a number") from None


def check_written(op: str, name: str, x: torch.Tensor) -> None:
    """Raise ValueError if elements of `x`, which is written in place, share memory, as in an expanded tensor."""
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride())):
        raise ValueError(f"{op}: {name} has strides {x.stride()}, expected one place in memory per element; clone it")
