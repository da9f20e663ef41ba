"""topk_temporal_mask as HTP calls it: two thirds of the frames, 512 channels. What is compared are the pairs, unpacked."""

import math
from functools import partial

import torch

from lifter.kernels import topk_temporal_mask, unpack_mask

from . import Case, sizes

CHANNELS, JOINTS = 512, 17
FRAMES = (27, 81, 243)


def inputs(frames, batch, device, dtype):
    """One turn of a gait: frames are as alike as they are near in phase, so that two thirds of them, an even number, are
    clearly the nearest, also where bfloat16 rounds the similarity."""
    phase = torch.arange(frames, device=device) * (2 * math.pi / frames)
    circle = torch.stack([phase.cos(), phase.sin()], -1)
    axes, _ = torch.linalg.qr(torch.randn(batch, JOINTS, CHANNELS, 2, device=device))
    x = CHANNELS**0.5 * torch.einsum("td,bjcd->btjc", circle, axes)
    return {"x": x.contiguous().to(dtype)}


def cases(setup):
    return [case(*size) for size in sizes(setup, FRAMES)]


def case(label, frames, batch):
    k = 2 * frames // 3
    return Case(
        f"topk_temporal_mask {label}",
        partial(inputs, frames, batch),
        lambda x: topk_temporal_mask(x, k),
        {"eager": lambda x: eager(x, k)},
        differentiable=False,
        compared=lambda mask: (mask if mask.dtype == torch.bool else unpack_mask(mask, frames)).float(),
    )


def eager(x, k):
    """The same in bool, which nobody packs. Products in the dtype of `x`, as under autocast."""
    frames = x.transpose(1, 2).contiguous()
    similarity = frames @ frames.mT
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    nearest = similarity.masked_fill_(itself, -torch.inf).topk(k).indices
    selected = torch.zeros_like(similarity, dtype=torch.bool).scatter_(-1, nearest, True)
    return selected | selected.mT | itself
