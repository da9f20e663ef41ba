"""selective_scan at the size of SasMamba's scan: 4 directions of 128 channels, 16 states."""

import importlib
from functools import partial

import torch

from lifter.kernels import selective_scan_fn

from . import Case, sizes

DIM, STATES = 512, 16
LENGTHS = (1, 2, 3, 17, 27, 81, 129, 243, 1024, 4131)


def inputs(length, batch, device, dtype):
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    return {
        "u": randn(batch, DIM, length),
        "delta": randn(batch, DIM, length) - 2,  # softplus: time steps of about 0.1
        "A": -torch.arange(1, STATES + 1, device=device, dtype=torch.float32).repeat(DIM, 1),
        "B": randn(batch, 4, STATES, length),
        "C": randn(batch, 4, STATES, length),
        "D": torch.ones(DIM, device=device),
        "delta_bias": torch.zeros(DIM, device=device),
    }


def ours(u, delta, A, B, C, D, delta_bias):
    return selective_scan_fn(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)


def cases(setup):
    found = peers(setup.device)
    return [
        Case(f"selective_scan {label}", partial(inputs, length, batch), ours, found, unrolls=True)
        for label, length, batch in sizes(setup, LENGTHS, "L")
    ]


def peers(device) -> dict:
    """The scans of mamba-ssm and VMamba (which the official models use), where they are installed: CUDA only."""
    found = {}
    if not str(device).startswith("cuda"):
        return found
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as mamba
    except ImportError:
        pass
    else:
        found["mamba-ssm"] = lambda u, delta, A, B, C, D, delta_bias: mamba(
            u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True
        )
    for module in ("selective_scan_cuda_oflex", "selective_scan_cuda_core"):
        try:
            found[f"VMamba ({module})"] = vmamba(importlib.import_module(module))
        except ImportError:
            pass
    return found


def vmamba(kernels):
    """VMamba's `csms6s.py`: its CUDA kernels as an autograd function."""
    forward_end = (1, True) if kernels.__name__.endswith("oflex") else (1,)  # rows per thread, output in float32

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, delta, A, B, C, D, delta_bias):
            out, states, *_ = kernels.fwd(u, delta, A, B, C, D, delta_bias, True, *forward_end)
            ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, states)
            return out

        @staticmethod
        def backward(ctx, dout):
            u, delta, A, B, C, D, delta_bias, states = ctx.saved_tensors
            grads = kernels.bwd(u, delta, A, B, C, D, delta_bias, dout.contiguous(), states, True, 1)
            return grads[:7]  # du, ddelta, dA, dB, dC, dD, ddelta_bias

    return lambda **inputs: Scan.apply(*inputs.values())
