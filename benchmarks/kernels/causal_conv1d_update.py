"""causal_conv1d_update, one step of a stream at the size of Mamba-130M: 1536 channels and 4 taps."""

import torch

from lifter.kernels import causal_conv1d_update

from . import Case, causal_conv1d, chosen

BATCHES = (1, 8, 64)


def inputs(batch, device, dtype):
    """The state is what the step makes of it again: every call finds what the one before it found."""
    x = torch.randn(batch, causal_conv1d.DIM, device=device, dtype=dtype)
    state = x[..., None].repeat(1, 1, causal_conv1d.WIDTH)
    return {**causal_conv1d.inputs(1, False, device, dtype), "x": x, "conv_state": state}


def ours(x, conv_state, weight, bias):
    return causal_conv1d_update(x, conv_state, weight, bias, "silu")


def cases(setup):
    found = peers(setup.device)
    return [
        Case(
            f"causal_conv1d_update B={batch}",
            lambda device, dtype, n=batch: inputs(n, device, dtype),
            ours,
            found,
            differentiable=False,
        )  # fmt: skip
        for batch in chosen(setup, BATCHES, (1, 64))
    ]


def peers(device) -> dict:
    """The causal-conv1d library, where it is installed: CUDA only."""
    found = {}
    if str(device).startswith("cuda"):
        try:
            from causal_conv1d import causal_conv1d_update as library
        except ImportError:
            pass
        else:
            found["causal-conv1d"] = lambda x, conv_state, weight, bias: library(x, conv_state, weight, bias, "silu")
    return found
