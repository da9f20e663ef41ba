"""The state of PyTorch that a call depends on: autocast, export, and the transforms that follow its tensors."""

import contextlib

import torch
from torch.autograd import forward_ad

# Of the others torch would raise, "meta" for one. Not asked in a call: Dynamo of torch 2.11 cannot trace the question.
_AUTOCAST = {kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)}


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
    """Return whether a call must keep what its backward needs. Exported graphs are for inference. Inside vmap all do."""
    wanted = any(x is not None and x.requires_grad for x in tensors) or torch._C._are_functorch_transforms_active()
    return torch.is_grad_enabled() and wanted and not exporting()


def exporting() -> bool:
    """Return whether a graph is exported. Dynamo of torch 2.11 would say so of all that it traces."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def derivative_lost(*tensors: torch.Tensor | None) -> bool:
    """Return whether a transform of torch.func (grad, jvp, ...) follows a tensor, or one is a dual of forward mode."""
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


def written(state: torch.Tensor, result: torch.Tensor) -> None:
    """`state` becomes `result`, which a kernel has written; it may be `state` itself, and then autograd hears of it."""
    if result is not state:
        state.copy_(result)
    elif not torch.compiler.is_compiling() and not state.is_inference():
        torch.autograd.graph.increment_version(state)
