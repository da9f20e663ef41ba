"""temporal_topk_graph_conv as MotionAGFormer calls it, over whole clips, and as MASC-Pose does, at three scales; two frames of
128 channels per frame."""

from functools import partial

import torch

from lifter.kernels import temporal_topk_graph_conv

from . import Case, sizes

CHANNELS, JOINTS, K = 128, 17, 2
FRAMES = (27, 81, 243)


def inputs(frames, batch, scales, device, dtype):
    shape = (batch, frames, JOINTS)
    several = (len(scales),) if scales else ()
    draw = lambda *shape: torch.randn(*shape, device=device, dtype=dtype)
    # The tokens, which have no gradient, come in a tuple: what is differentiated are the tensors.
    return {"values": draw(*shape, *several, CHANNELS), "compared": (draw(*shape, CHANNELS),)}


def cases(setup):
    found = sizes(setup, FRAMES)
    return [*(case(*size, scales=True) for size in found), *(case(*size) for size in found)]


def case(label, frames, batch, scales=False):
    scales = (frames // 27, frames // 9, frames // 3) if scales else None
    options = {"window": scales, "similarity": "cosine"} if scales else {"ties": "all"}
    return Case(
        f"temporal_topk_graph_conv{' scales' if scales else ''} {label}",
        partial(inputs, frames, batch, scales),
        lambda values, compared: temporal_topk_graph_conv(*compared, values, K, **options),
        {} if scales else {"eager": eager},
    )


def eager(values, compared):
    """MotionAGFormer's chain, step by step, with its products by diagonal matrices."""
    x, values = (y.transpose(1, 2).flatten(0, 1) for y in (*compared, values))
    similarity = x @ x.transpose(1, 2)
    threshold = similarity.topk(k=K, dim=-1, largest=True)[0][..., -1:]
    graph = (similarity >= threshold).to(x.dtype)
    degrees = torch.diag_embed(graph.sum(-1) ** -0.5)
    y = torch.bmm(torch.bmm(degrees, graph), degrees) @ values
    return y.unflatten(0, (-1, JOINTS)).transpose(1, 2)
