"""Whole models: official weights and inputs, against official outputs, and PoseRetNet's also chunk by chunk."""

import itertools

import torch

from lifter.checkpoints import load_checkpoint
from lifter.kernels.retention import xpos


def check(official, kwargs, data, dtype):
    """Pairs (got, expected)."""
    model = official.build(**kwargs).eval()
    load_checkpoint(model, {key[len("param/") :]: value for key, value in data.items() if key.startswith("param/")})
    inputs, expected = _numbered(data, "input"), _numbered(data, "output")
    if not inputs or not expected:
        raise ValueError("input/0 or output/0 is missing")
    model.to(device=inputs[0].device, dtype=dtype)
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        got = official.run(model, *inputs)
        pairs = list(zip(got if isinstance(got, tuple) else (got,), expected, strict=True))
        if any(key.startswith("state/") for key in data):
            pairs += _check_chunks(model, kwargs["chunk_size"], *inputs, data)
    return pairs


def _numbered(data, prefix):
    """The tensors `prefix`/0, `prefix`/1, ..."""
    keys = (f"{prefix}/{i}" for i in itertools.count())
    return [data[key] for key in itertools.takewhile(data.__contains__, keys)]


def _check_chunks(model, chunk_size, keypoints, data):
    """Chunk by chunk: `output/chunk/<n>`, or else its part of `output/0`, and `state/<n>`, the last also `state/last`."""
    pairs, state, frames = [], None, 0
    for n, chunk in enumerate(keypoints.split(chunk_size, 1)):
        poses, state = model(chunk, state, return_state=True)
        expected = data["output/0"][:, frames : frames + chunk.shape[1]]
        pairs.append((poses, data.get(f"output/chunk/{n}", expected)))
        frames += chunk.shape[1]
        name = f"state/{n}" if f"state/{n}" in data else "state/last"
        if name != "state/last" or frames == keypoints.shape[1]:
            ours = _official_state(model, state, frames, padding=chunk_size - chunk.shape[1])
            size = data[name].abs().max().clamp(min=1)  # keys grow with the frame number, tolerances are for order 1
            pairs.append((ours / size, data[name] / size))
    return pairs


def _official_state(model, state, frames, padding):
    """Our state after `frames` frames as the official code has it, (depth, H, B * J, K, V): its keys are rotated by their
    frame numbers in the stream, and a short last chunk was filled with zeros, over which the state decayed."""
    official = []
    for block, tensor in zip(model.TTEblocks, state, strict=True):
        layer = block.attn
        absolute = xpos(tensor.mT, torch.tensor(frames, device=tensor.device), layer.xpos_scale, downscale=True).mT
        official.append(absolute * layer.decay[..., None, None] ** padding)
    return torch.stack(official).movedim(3, 1).flatten(2, 3)
