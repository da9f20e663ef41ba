"""Every model of the zoo on our kernels and on the reference ops. A model that is slower on ours fails the run."""

import math
from functools import partial

import torch

import lifter
from lifter.evaluation import with_channels

from .accuracy import error, tolerance
from .models import on_reference
from .timing import measure, timed

LONGEST = 0.4  # seconds of one call
CALLS = 3  # of a model that is hardly faster than the reference
TITLE = "Zoo: every model on our kernels and on the reference ops, float32"
COLUMNS = [
    ("case", "case", "{}"),
    ("lifter", "time", "{}"),
    ("reference", "reference", "{}"),
    ("speedup", "speedup", "{:.2f}x"),
    ("error", "error", "{:.1e}"),
    ("", "note", "{}"),
]
NOTES = [
    "Median of interleaved calls ± half the distance between the quartiles, n samples; the model as it is, not frozen. Error: "
    "largest difference, relative to the largest output.",
    "Slower: if the fastest of our calls is slower than the fastest of the reference. Then the run fails.",
    f"Left out by default are models whose call takes more than {LONGEST} s; --full runs them all.",
]
FRAMES, BATCHES = (27, 81, 243), (1, 8)


def cases(setup):
    return [
        (f"zoo {name} T={frames} batch {batch}", partial(run, name, frames, batch, setup))
        for name in lifter.list_models()
        for batch in BATCHES
        for frames in FRAMES
        if not setup.quick or (frames, batch) == (FRAMES[0], BATCHES[0])
    ]


@torch.inference_mode()
def run(name, frames, batch, setup) -> list[dict]:
    row = {"case": f"{name} T={frames} batch {batch}", "model": name, "frames": frames, "batch": batch, "dtype": "float32"}
    with torch.inference_mode(False):  # parameters made in it do not count their changes, see lifter.models.MixSynthFormer
        model = build(name, frames, setup.device)
    if model is None:
        return []
    call = partial(model, *inputs(model, setup, frames, batch))
    limit = math.inf if math.isinf(setup.patience) else LONGEST
    timed(call, setup.device)  # warms up
    seconds = timed(call, setup.device)[1]
    calls = {"lifter": call, "reference": on_reference(call)}
    if seconds < limit:
        first = timed(calls["reference"], setup.device)[1]
    if seconds >= limit or first > 20 * limit:
        took = f"{seconds:.1f} s" if seconds >= limit else f"{first:.0f} s on the reference"
        return [row | {"note": f"left out: {took} a call (--full runs it)"}]
    # One sample is enough where nothing is close.
    timings, outputs = measure(calls, setup.device, CALLS * max(seconds, first) if first < 2 * seconds else first)
    ours, reference = timings["lifter"], timings["reference"]
    off = error(outputs["lifter"], outputs["reference"])
    matches, slower = off <= tolerance(torch.float32), min(ours.seconds) > min(reference.seconds)
    row |= {"time": ours, "reference": reference, "error": off, "matches": matches, "slower": slower}
    if matches:
        row["speedup"] = reference.median / ours.median
    return [row | {"note": "SLOWER" if slower else "" if matches else "WRONG OUTPUT"}]


def build(name, frames, device):
    """The model for clips of so many frames; None if its windows are longer."""
    torch.manual_seed(0)
    model = lifter.create_model(name) if name.startswith("mixsynthformer") else lifter.create_model(name, frames)
    return None if getattr(model, "window", 0) > frames else model.eval().to(device)


def inputs(model, setup, frames, batch) -> list[torch.Tensor]:
    """What the model's forward takes: clips, and for a denoiser noisy poses and their time."""
    clips = setup.clips.batch(batch, frames).to(setup.device)
    if hasattr(model, "denoise"):
        return [clips, torch.randn_like(clips[..., :1].expand(-1, -1, -1, 3)), torch.tensor([500], device=setup.device)]
    joints = torch.arange(model.num_joints) % clips.shape[2]  # a body of more joints has some twice
    return [with_channels(clips[:, :, joints], model.in_channels)]
