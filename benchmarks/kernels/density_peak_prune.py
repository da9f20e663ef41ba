"""density_peak_prune as HoT calls it: a third of the frames, two nearest frames, 512 channels; and as HTP does, with a mask.

What is compared are the scores of the chosen frames, best first.
"""

from functools import partial

import torch

from lifter.kernels import density_peak_prune

from . import Case, sizes

CHANNELS, BATCH, JOINTS = 512, 8, 17
FRAMES = (27, 81, 243)


def inputs(frames, batch, masked, device, dtype):
    # At different distances from their middle: of nearly equal densities rounding would choose, and HoT's chain wrongly
    size = torch.rand(batch, frames, 1, device=device)
    x = (size * torch.randn(batch, frames, CHANNELS, device=device)).to(dtype)
    if not masked:
        return {"x": x, "noise": torch.rand(batch, frames, device=device)}  # which HoT's chain needs to break ties
    graphs = torch.rand(batch, JOINTS, frames, frames, device=device) < 2 / 3
    return {"x": x, "mask": (graphs | graphs.mT).float().mean(1)}


def cases(setup):
    found = sizes(setup, FRAMES)
    return [case(*found[-1], masked=True), *(case(*size) for size in found)]


def case(label, frames, batch, masked=False):
    kept = frames // 3
    return Case(
        f"density_peak_prune{' masked' if masked else ''} {label}",
        partial(inputs, frames, max(BATCH, batch), masked),
        lambda **inputs: best(density_peak_prune(kept=kept, **inputs)),
        {} if masked else {"eager": lambda **inputs: best(eager(kept=kept, **inputs))},
        differentiable=False,
    )


def best(chosen):
    indices, scores = chosen
    return scores.gather(1, indices).sort(descending=True).values


def eager(x, noise, kept, k=2):
    """HoT's clustering, step by step and with all that it computes, also which centre is nearest to every frame (of which
    its models make nothing); its noise is given, and the frames in order of time."""
    distance = torch.cdist(x, x) / x.shape[-1] ** 0.5
    nearest, _ = distance.topk(k, largest=False)
    density = torch.exp(-nearest.square().mean(-1))
    density = density + 1e-6 * noise.to(x.dtype)
    denser = (density[:, None] > density[:, :, None]).to(x.dtype)
    largest, _ = distance.flatten(1).max(1)
    to_denser, _ = (distance * denser + largest[:, None, None] * (1 - denser)).min(-1)
    scores = density * to_denser
    centres = scores.topk(kept).indices
    clusters = distance[torch.arange(len(x), device=x.device)[:, None], centres].argmin(1)
    clusters.scatter_(1, centres, torch.arange(kept, device=x.device).expand_as(centres))
    return centres.sort().values, scores
