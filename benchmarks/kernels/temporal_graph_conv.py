"""temporal_graph_conv as HTP calls it: 512 channels, and a mask of every frame's most similar two thirds."""

import torch

from lifter.kernels import temporal_graph_conv, topk_temporal_mask, unpack_mask

from . import Case

JOINTS, CHANNELS = 17, 512
FRAMES = (27, 81, 243)
QUICK = (243,)


def inputs(frames, device, dtype):
    x = torch.randn(1, frames, JOINTS, CHANNELS, device=device, dtype=dtype)
    graph = torch.randn(frames, frames, device=device, dtype=dtype)
    mask = topk_temporal_mask(x, 2 * frames // 3)
    return {"x": x, "graph": graph, "mask": mask, "seen": unpack_mask(mask, frames)}


def cases(setup):
    return [case(frames) for frames in (QUICK if setup.quick else FRAMES)]


def case(frames):
    return Case(
        f"temporal_graph_conv T={frames}",
        lambda device, dtype: inputs(frames, device, dtype),
        lambda x, graph, mask, seen: temporal_graph_conv(x, graph, mask),
        {"eager": eager},
    )


def eager(x, graph, mask, seen):
    """The chain as a user would write it, with the bool mask."""
    frames = x.permute(0, 2, 1, 3)
    scores = frames @ frames.transpose(-2, -1) * CHANNELS**-0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1) * graph
    return (weights @ frames).permute(0, 2, 1, 3)
