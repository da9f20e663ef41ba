"""temporal_graph_conv as HTP calls it: 512 channels, and a mask of every frame's most similar two thirds."""

from functools import partial

import torch

from lifter.kernels import temporal_graph_conv, topk_temporal_mask, unpack_mask

from . import Case, sizes

JOINTS, CHANNELS = 17, 512
FRAMES = (27, 81, 243)


def inputs(frames, batch, device, dtype):
    x = torch.randn(batch, frames, JOINTS, CHANNELS, device=device, dtype=dtype)
    graph = torch.randn(frames, frames, device=device, dtype=dtype)
    mask = topk_temporal_mask(x, 2 * frames // 3)
    return {"x": x, "graph": graph, "mask": mask, "seen": unpack_mask(mask, frames)}


def cases(setup):
    return [case(*size) for size in sizes(setup, FRAMES)]


def case(label, frames, batch):
    return Case(
        f"temporal_graph_conv {label}",
        partial(inputs, frames, batch),
        lambda x, graph, mask, seen: temporal_graph_conv(x, graph, mask),
        {"eager": eager},
    )


def eager(x, graph, mask, seen):
    """The chain as a user would write it, with the bool mask."""
    frames = x.permute(0, 2, 1, 3)
    scores = frames @ frames.transpose(-2, -1) * CHANNELS**-0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1) * graph
    return (weights @ frames).permute(0, 2, 1, 3)
