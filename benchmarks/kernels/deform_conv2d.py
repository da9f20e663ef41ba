"""deform_conv2d as SasMamba calls it: depthwise 3x3 over the (T, 17) grid, 128 channels, channels last."""

from functools import partial

import torch

from lifter.kernels import deform_conv2d

from . import Case, sizes

CHANNELS, JOINTS, TAPS = 128, 17, 9
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)


def inputs(frames, batch, device, dtype):
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    return {
        "input": randn(batch, frames, JOINTS, CHANNELS).permute(0, 3, 1, 2),
        "offset": randn(batch, frames, JOINTS, 2 * TAPS).permute(0, 3, 1, 2),  # about one cell
        "weight": randn(CHANNELS, 1, 3, 3) / 3,
        "bias": randn(CHANNELS),
    }


def ours(input, offset, weight, bias):
    return deform_conv2d(input, offset, weight, bias, padding=1)


def cases(setup):
    found = peers()
    return [
        Case(f"deform_conv2d {label}", partial(inputs, frames, batch), ours, found)
        for label, frames, batch in sizes(setup, FRAMES)
    ]


def peers() -> dict:
    try:
        from torchvision.ops import deform_conv2d as torchvision
    except (ImportError, RuntimeError):  # not installed, or built for another torch
        return {}
    return {"torchvision": lambda input, offset, weight, bias: torchvision(input, offset, weight, bias, padding=1)}
