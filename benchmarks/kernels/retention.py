"""retention as PoseRetNet calls it: 512 channels in 8 heads, a decay per joint, xPos, all frames of a call seeing each
other; a stream of it; and RetNet's causal form of a long sequence."""

from functools import cache, partial

import torch

from lifter.kernels import retention, xpos_scale
from lifter.kernels.retention import xpos
from lifter.layers import joint_decays

from . import Case, sizes

JOINTS, HEADS, CHANNELS = 17, 8, 64
LONG = 4131
STREAMED = (1, 9)  # frames of a call
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)


def inputs(frames, batch, device, dtype):
    """q, k and v are parts of one projection, as in the model."""
    q, k, v, _ = torch.randn(batch, frames, JOINTS, 4, HEADS, CHANNELS, device=device, dtype=dtype).unbind(3)
    return {"q": q, "k": k, "v": v}


def stream_inputs(frames, device, dtype):
    return inputs(frames, 1, device, dtype) | {"state": torch.randn(1, JOINTS, HEADS, CHANNELS, CHANNELS, device=device)}


def long_inputs(device, dtype):
    """Rows, flash-linear-attention's layout."""
    return {name: torch.randn(JOINTS, LONG, HEADS, CHANNELS, device=device, dtype=dtype) for name in "qkv"}


@cache
def constants(device):
    """Decays and scales, which get no gradient here, as in the official model."""
    return joint_decays(HEADS).to(device), xpos_scale(CHANNELS, device)


@cache
def mask(frames, device, dtype):
    n, (decay, _) = torch.arange(frames, device=device), constants(device)
    return (decay[..., None, None] ** (n[:, None] - n).abs()).to(dtype)


def ours(q, k, v, state=None):
    decay, scales = constants(q.device)
    streams = state is not None
    out, state = retention(q, k, v, decay, 1.0, state, streams, causal=False, xpos_scale=scales)
    return (out, state) if streams else out


def eager(q, k, v):
    """The official chain, with the mask made beforehand."""
    n, (_, scales) = torch.arange(q.shape[1], device=q.device), constants(q.device)
    q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (q, k, v))
    q, k = (xpos(x.float(), n, scales, downscale).to(x.dtype) for x, downscale in ((q, False), (k, True)))
    return (q @ k.mT * mask(len(n), q.device, q.dtype) @ v).permute(0, 3, 1, 2, 4)


def cases(setup):
    # The last case is run in bfloat16 too.
    long = Case(f"retention causal T={LONG}", long_inputs, lambda q, k, v: retention(q, k, v)[0], long_peers(setup.device))
    return [
        *([long] if setup.everything else []),  # whose reference takes many seconds
        *(
            Case(f"retention stream T={frames}", partial(stream_inputs, frames), ours, differentiable=False)
            for frames in STREAMED
        ),
        *(
            Case(f"retention {label}", partial(inputs, frames, batch), ours, {"eager": eager})
            for label, frames, batch in sizes(setup, FRAMES)
        ),
    ]


def long_peers(device) -> dict:
    """flash-linear-attention, where it is installed: GPUs only."""
    if not str(device).startswith("cuda"):
        return {}
    try:
        from fla.ops.retention import chunk_retention
    except ImportError:
        return {}
    return {"flash-linear-attention": lambda q, k, v: chunk_retention(q, k, v)[0]}
