"""causal_conv1d at the size of Mamba-130M, 1536 channels and 4 taps, along steps and along channels."""

import torch
import torch.nn.functional as F

from lifter.kernels import causal_conv1d_fn

from . import Case, chosen

DIM, WIDTH = 1536, 4
LENGTHS = (27, 128, 243, 1024, 4096)


def inputs(length, last, device, dtype):
    shape = (1, length, DIM) if last else (1, DIM, length)
    x = torch.randn(shape, device=device, dtype=dtype)
    return {
        "x": x.transpose(1, 2) if last else x,
        "weight": torch.randn(DIM, WIDTH, device=device, dtype=dtype) / 2,
        "bias": torch.randn(DIM, device=device, dtype=dtype),
    }


def ours(x, weight, bias):
    return causal_conv1d_fn(x, weight, bias, activation="silu")


def chain(x, weight, bias):
    """The chain that runs where causal-conv1d is not installed."""
    padded = F.conv1d(x, weight[:, None], bias, padding=WIDTH - 1, groups=DIM)
    return F.silu(padded[..., : x.shape[-1]])


def cases(setup):
    found = peers(setup.device)
    return [
        Case(
            f"causal_conv1d L={length}{' channels last' if last else ''}",
            lambda device, dtype, n=length, last=last: inputs(n, last, device, dtype),
            ours,
            found,
        )  # fmt: skip
        for length in chosen(setup, LENGTHS, (128, 1024))
        for last in (False, True)
    ]


def peers(device) -> dict:
    """PyTorch's chain of ops, and the library where it is installed: CUDA only."""
    found = {"F.conv1d": chain}
    if str(device).startswith("cuda"):
        try:
            from causal_conv1d import causal_conv1d_fn as library
        except ImportError:
            pass
        else:
            found["causal-conv1d"] = lambda x, weight, bias: library(x, weight, bias, activation="silu")
    return found
