"""deform_conv2d as SasMamba calls it: depthwise 3x3 over the (T, 17) grid, 128 channels, channels last."""

import torch

from lifter.kernels import deform_conv2d

from . import Case

CHANNELS, JOINTS, TAPS = 128, 17, 9
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)
QUICK = (1, 27, 243)


def inputs(frames, device, dtype):
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    return {
        "input": randn(1, frames, JOINTS, CHANNELS).permute(0, 3, 1, 2),
        "offset": randn(1, frames, JOINTS, 2 * TAPS).permute(0, 3, 1, 2),  # about one cell
        "weight": randn(CHANNELS, 1, 3, 3) / 3,
        "bias": randn(CHANNELS),
    }


def ours(input, offset, weight, bias):
    return deform_conv2d(input, offset, weight, bias, padding=1)


def cases(setup):
    found = peers()
    return [
        Case(f"deform_conv2d T={frames}", lambda device, dtype, n=frames: inputs(n, device, dtype), ours, found)
        for frames in (QUICK if setup.quick else FRAMES)
    ]


def peers() -> dict:
    try:
        from torchvision.ops import deform_conv2d as torchvision
    except (ImportError, RuntimeError):  # not installed, or built for another torch
        return {}
    return {"torchvision": lambda input, offset, weight, bias: torchvision(input, offset, weight, bias, padding=1)}
