"""State of PyTorch that a call depends on: autocast, export, and active transforms."""

import contextlib

import torch
from torch.autograd import forward_ad

# torch raises for other device types, such as "meta". Computed at import: Dynamo of torch 2.11 cannot trace this check.
_AUTOCAST = {kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)}


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """Return the dtype to which autocast casts activations like `x`; None outside autocast and for float64."""
    kind = x.device.type
    wanted = kind in _AUTOCAST and torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if wanted else None


def no_autocast(x: torch.Tensor):
    """Disable autocast: a reference chooses its dtypes itself."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind in _AUTOCAST else contextlib.nullcontext()


def saves_states(*tensors: torch.Tensor | None) -> bool:
    """Return whether a call must save tensors for its backward: not in exported graphs, which are for inference; always inside
    vmap."""
    wanted = any(x is not None and x.requires_grad for x in tensors) or torch._C._are_functorch_transforms_active()
    return torch.is_grad_enabled() and wanted and not exporting()


def exporting() -> bool:
    """Return whether a graph is being exported. Dynamo of torch 2.11 reports every traced call as an export."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def derivative_lost(*tensors: torch.Tensor | None) -> bool:
    """Return whether a transform of torch.func (grad, jvp, ...) tracks one of the tensors, or one is a forward-mode dual."""
    if not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0:
        return False
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    for x in tensors:
        while x is not None and functorch.is_functorch_wrapped_tensor(x):  # vmap inside grad hides the transform
            if functorch.is_gradtrackingtensor(x):
                return True
            x = functorch.get_unwrapped(x)
        if x is not None and forward_ad.unpack_dual(x).tangent is not None:
            return True
    return False


def written(state: torch.Tensor, result: torch.Tensor) -> None:
    """Copy `result`, written by a kernel, to `state`. If both are the same tensor, only tell autograd about the change."""
    if result is not state:
        state.copy_(result)
    elif not torch.compiler.is_compiling() and not state.is_inference():
        torch.autograd.graph.increment_version(state)
