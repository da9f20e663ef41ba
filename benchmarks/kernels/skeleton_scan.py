"""skeleton_scan as SasMamba calls it: 128 channels (dim 64), 17 joints, 4 directions, strides 1, 2, 3."""

import importlib
from functools import partial
from unittest import mock

import torch

from lifter.kernels import backend, skeleton_scan
from lifter.kernels.skeleton_scan import DIRECTIONS
from lifter.models.sasmamba import stride_gather

from . import Case, sizes
from .selective_scan import peers as scans

CHANNELS, JOINTS, STATES, RANK = 128, 17, 16, 4
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)


def inputs(frames, batch, device, dtype):
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    groups = len(DIRECTIONS)
    return {
        "x": randn(batch, frames, JOINTS, CHANNELS),
        "x_proj_weight": randn(groups, RANK + 2 * STATES, CHANNELS) / CHANNELS**0.5,
        "dt_proj_weight": randn(groups, CHANNELS, RANK) / RANK**0.5,
        "dt_proj_bias": randn(groups, CHANNELS) - 3,  # softplus: time steps of about 0.05
        "A": -torch.arange(1, STATES + 1, device=device, dtype=torch.float32).repeat(groups, CHANNELS, 1),
        "D": torch.ones(groups, CHANNELS, device=device),
        "gather": stride_gather((1, 2, 3), DIRECTIONS, JOINTS).to(device),
    }


def cases(setup):
    found = {f"copies + {name}": partial(copies, scan) for name, scan in scans(setup.device).items()}
    return [
        Case(f"skeleton_scan {label}", partial(inputs, frames, batch), skeleton_scan, found, unrolls=True)
        for label, frames, batch in sizes(setup, FRAMES)
    ]


def copies(scan, **inputs):
    """The chain of the official models and of VMamba: a copy of the map in the order of every direction, projections, one scan
    of all, and copies back."""

    def scanned(u, delta, A, B, C, D, delta_bias, delta_softplus):
        B, C = (x.to(u.dtype).contiguous() for x in (B, C))
        return scan(u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias)

    op = importlib.import_module("lifter.kernels.skeleton_scan")
    with mock.patch.object(op, "selective_scan_ref", scanned), backend("reference"):
        return skeleton_scan(**inputs)
