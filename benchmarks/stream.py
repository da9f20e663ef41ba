"""Streams: how long a live user waits for a pose, and what that costs, against the chunk size."""

import copy
import statistics
from functools import cache, partial
from itertools import count

import torch
from torch.utils._pytree import tree_leaves

import lifter

from . import models
from .timing import measure, milliseconds

TITLE = "Streams: one person, live"
COLUMNS = [
    ("case", "case", "{}"),
    ("implementation", "implementation", "{}"),
    ("waited", "waited", milliseconds),
    ("compute per chunk", "time", "{}"),
    ("first chunks", "first", milliseconds),
    ("last chunks", "last", milliseconds),
    ("waited + compute", "latency", milliseconds),
    ("frames/s", "frames_per_second", "{:,.1f}"),
    ("live", "live", lambda live: "yes" if live else "no"),
    ("state", "state_bytes", lambda size: f"{size / 1e6:,.3f} MB"),
]
SCREEN = ("case", "implementation", "waited", "compute per chunk", "frames/s", "live", "state")
FPS, FRAMES = 50, max(models.FRAMES)
CHUNKS = (1, 3, 9, 27, 81, 243)
QUICK_CHUNKS = (1, 9, 243)
REFINERS = ("deciwatch", "mixsynthformer", "smoothnet")
NOTES = [
    f"Waited: by the first frame of a chunk for the others, at {FPS} frames per second; the last waits for none. Live: a "
    "chunk is computed before the next is there.",
    "Compute: median per chunk ± half the distance between the quartiles, n samples, the implementations of a case "
    "interleaved. First and last: the median of the first and of the last quarter of the samples.",
    f"poseretnet gets every frame once and carries a state; the others get the last {FRAMES} frames again for every chunk, "
    "the window being full from the first sample on. Frozen: `lifter.freeze`.",
    "State: all that a stream keeps between two chunks.",
]


def cases(setup):
    chunks = QUICK_CHUNKS if setup.quick else CHUNKS
    # Not the denoisers, whose sampler sees whole clips, nor what refines whole windows, nor what lifts one frame of a window,
    # for which a push is one call
    names = [name for name in lifter.list_models() if not name.startswith((*REFINERS, "hot_tpc"))]
    names = [name for name in names if not any(hasattr(models.described(name), part) for part in ("denoise", "margins"))]
    return [(f"{name} chunk {chunk}", partial(run, name, chunk, setup)) for name in names for chunk in chunks]


@cache
def implementations(name, device) -> dict:
    """A model with a state is for this use: it is shown in all its forms."""
    model = models.build(name, FRAMES, device)
    found = {"lifter": model}
    if name == "poseretnet":
        found["lifter bfloat16"] = copy.deepcopy(model).bfloat16()
        if device == "cpu":
            found |= {f"{label}, frozen": lifter.freeze(model) for label, model in found.items()}
    return found


def run(name, chunk, setup) -> list[dict]:
    found = implementations(name, setup.device)
    clip = models.keypoints(found["lifter"], setup, FRAMES, 1)[0].cpu()
    streams = {label: full(model, chunk, clip) for label, model in found.items()}
    calls = {label: partial(push_next, stream, chunk, clip, count()) for label, stream in streams.items()}
    timings, _ = measure(calls, setup.device, setup.seconds)
    waited = (chunk - 1) / FPS
    return [
        {
            "case": f"{name} chunk {chunk}",
            "model": name,
            "implementation": label,
            "dtype": "bfloat16" if "bfloat16" in label else "float32",
            "chunk_size": chunk,
            "fps": FPS,
            "waited": waited,
            "time": time,
            **flatness(time.seconds),
            "latency": waited + time.median,
            "frames_per_second": chunk / time.median,
            "live": time.median <= chunk / FPS,
            "state_bytes": sum(x.nbytes for x in tree_leaves(streams[label].state_dict()) if isinstance(x, torch.Tensor)),
        }
        for label, time in timings.items()
    ]


def full(model, chunk, clip):
    """A stream that has seen as many frames as it can remember: by one call, whatever its chunk size."""
    whole, stream = (lifter.Stream(model, size, FPS) for size in (None, chunk))
    whole.push(clip[1:])
    whole.flush()
    stream.load_state_dict(whole.state_dict() | {"chunk_size": chunk})
    return stream


def push_next(stream, chunk, clip, numbers):
    """The next chunk, frame by frame as from a camera; the clip starts again where it ends."""
    begin = next(numbers) * chunk
    for frame in range(begin, begin + chunk):
        lifted = stream.push(clip[frame % len(clip)])
    return lifted


def flatness(seconds) -> dict:
    quarter = len(seconds) // 4
    if not quarter:
        return {}
    return {"first": statistics.median(seconds[:quarter]), "last": statistics.median(seconds[-quarter:])}
