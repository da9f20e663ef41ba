"""selective_state_update, one step of a stream at the size of SasMamba's scan: 4 directions of 128 channels, 16 states."""

from functools import partial

import torch
import torch.nn.functional as F

from lifter.kernels import selective_state_update

from . import Case, chosen

DIM, STATES, GROUPS = 512, 16, 4
BATCHES = (1, 8, 64)


def inputs(batch, device, dtype):
    """The state is the fixed point of its step: every call finds what the one before it found."""

    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    x, dt = randn(batch, DIM), randn(batch, DIM) - 2  # softplus: time steps of about 0.1
    A = -torch.arange(1, STATES + 1, device=device, dtype=torch.float32).repeat(DIM, 1)
    B, C = randn(batch, GROUPS, STATES), randn(batch, GROUPS, STATES)
    step = F.softplus(dt.float()).unsqueeze(-1)
    drive = step * B.float().repeat_interleave(DIM // GROUPS, 1) * x.float().unsqueeze(-1)
    return {
        "state": drive / -torch.expm1(step * A),
        "x": x,
        "dt": dt,
        "A": A,
        "B": B,
        "C": C,
        "D": torch.ones(DIM, device=device),
        "dt_bias": torch.zeros(DIM, device=device),
    }


def ours(**inputs):
    return selective_state_update(**inputs, dt_softplus=True)


def cases(setup):
    found = peers(setup.device)
    return [
        Case(f"selective_state_update B={batch}", partial(inputs, batch), ours, found, differentiable=False)
        for batch in chosen(setup, BATCHES, (1, 64))
    ]


def peers(device) -> dict:
    """mamba-ssm's Triton kernel, where it is installed, to which a group is a head: GPUs only."""
    if not str(device).startswith("cuda"):
        return {}
    try:
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update as mamba
    except ImportError:
        return {}

    def by_heads(state, x, dt, A, B, C, D, dt_bias):
        state, x, dt = (y.unflatten(1, (GROUPS, -1)) for y in (state, x, dt))
        A, D, dt_bias = (y.unflatten(0, (GROUPS, -1)) for y in (A, D, dt_bias))
        return mamba(state, x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=True).flatten(1)

    return {"mamba-ssm": by_heads}
