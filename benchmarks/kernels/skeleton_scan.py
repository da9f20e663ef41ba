"""skeleton_scan as SasMamba calls it: 128 channels (dim 64), 17 joints, 4 directions, strides 1, 2, 3."""

import torch

from lifter.kernels import skeleton_scan
from lifter.kernels.skeleton_scan import DIRECTIONS
from lifter.models.sasmamba import stride_gather

from . import Case

CHANNELS, JOINTS, STATES, RANK = 128, 17, 16, 4
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)
QUICK = (1, 27, 243)


def inputs(frames, device, dtype):
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    groups = len(DIRECTIONS)
    return {
        "x": randn(1, frames, JOINTS, CHANNELS),
        "x_proj_weight": randn(groups, RANK + 2 * STATES, CHANNELS) / CHANNELS**0.5,
        "dt_proj_weight": randn(groups, CHANNELS, RANK) / RANK**0.5,
        "dt_proj_bias": randn(groups, CHANNELS) - 3,  # softplus: time steps of about 0.05
        "A": -torch.arange(1, STATES + 1, device=device, dtype=torch.float32).repeat(groups, CHANNELS, 1),
        "D": torch.ones(groups, CHANNELS, device=device),
        "gather": stride_gather((1, 2, 3), DIRECTIONS, JOINTS).to(device),
    }


def cases(setup):
    return [
        Case(f"skeleton_scan T={frames}", lambda device, dtype, n=frames: inputs(n, device, dtype), skeleton_scan)
        for frames in (QUICK if setup.quick else FRAMES)
    ]
