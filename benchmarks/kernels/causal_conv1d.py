"""causal_conv1d at the size of Mamba-130M, 1536 channels and 4 taps, along steps and along channels; and its update."""

import torch
import torch.nn.functional as F

from lifter.kernels import causal_conv1d_fn, causal_conv1d_update

from . import Case

DIM, WIDTH = 1536, 4
LENGTHS = (27, 128, 243, 1024, 4096)
QUICK = (128, 1024)


def inputs(length, last, device, dtype):
    shape = (1, length, DIM) if last else (1, DIM, length)
    x = torch.randn(shape, device=device, dtype=dtype)
    return {
        "x": x.transpose(1, 2) if last else x,
        "weight": torch.randn(DIM, WIDTH, device=device, dtype=dtype) / 2,
        "bias": torch.randn(DIM, device=device, dtype=dtype),
    }


def update_inputs(batch, device, dtype):
    """The state is what the step makes of it again: every call finds what the one before it found."""
    step = inputs(1, False, device, dtype)
    x = torch.randn(batch, DIM, device=device, dtype=dtype)
    return {**step, "x": x, "conv_state": x[..., None].repeat(1, 1, WIDTH)}


def ours(x, weight, bias):
    return causal_conv1d_fn(x, weight, bias, activation="silu")


def chain(x, weight, bias):
    """What runs where causal-conv1d is not installed."""
    padded = F.conv1d(x, weight[:, None], bias, padding=WIDTH - 1, groups=DIM)
    return F.silu(padded[..., : x.shape[-1]])


def update(x, conv_state, weight, bias):
    return causal_conv1d_update(x, conv_state, weight, bias, "silu")


def cases(setup):
    peers, update_peers = {"F.conv1d": chain}, {}
    if str(setup.device).startswith("cuda"):
        try:
            import causal_conv1d as library
        except ImportError:
            pass
        else:
            peers["causal-conv1d"] = lambda x, weight, bias: library.causal_conv1d_fn(x, weight, bias, activation="silu")
            update_peers["causal-conv1d"] = lambda x, conv_state, weight, bias: library.causal_conv1d_update(
                x, conv_state, weight, bias, "silu"
            )
    found = [
        Case(
            f"causal_conv1d_update B={batch}", lambda device, dtype, n=batch: update_inputs(n, device, dtype), update,
            update_peers, differentiable=False,
        )  # fmt: skip
        for batch in (1, 64)
    ]
    return found + [
        Case(
            f"causal_conv1d L={length}{' channels last' if last else ''}",
            lambda device, dtype, n=length, last=last: inputs(n, last, device, dtype), ours, peers,
        )  # fmt: skip
        for length in (QUICK if setup.quick else LENGTHS)
        for last in (False, True)
    ]
