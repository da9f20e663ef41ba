"""Diffusion lifting: the whole sampler, hypotheses, steps and mirror images counted, as HTP's table V does."""

import math
from functools import partial

import torch

import lifter
from lifter import diffusion, kernels

from . import models, published
from .accuracy import error, tolerance
from .timing import RULE, measure, speedup

TITLE = "Diffusion: frames per second of the sampler"
COLUMNS = [
    ("case", "case", "{}"),
    ("model", "implementation", "{}"),
    ("time", "time", "{}"),
    ("frames/s", "frames_per_second", "{:.4g}"),
    *((f"at H={h}, K={k}", f"frames_per_second_h{h}_k{k}", "{:.3g}") for h, k in published.FPS),
    ("by d3dp", "by_d3dp", "{}"),
    *((f"printed, K={k}", f"printed_by_d3dp_k{k}", "{:.2f}x") for _, k in published.FPS),
    ("error", "error", "{:.1e}"),
    ("", "note", "{}"),
]
SCREEN = ("case", "model", "time", "frames/s", "by d3dp", "printed, K=1", "error")
NOTES = [
    "One call of the sampler is H hypotheses times K steps times 2 (mirror images) of the network. On a CPU it is timed at "
    "H=1, K=1 unless --full, and what it would be at the paper's settings follows from the number of calls.",
    "By d3dp: frames per second over those of d3dp, same dtype and settings, interleaved in this run; printed: the same ratio "
    "of the paper, float32 on two RTX 4090.",
    RULE,
    "Error: largest difference to the reference ops in float32, relative to the largest value. In bfloat16 HTP may choose "
    "other frames than in float32: there it is printed and not judged.",
    "ktpformer is its lifting network, called as often: its diffusion variant has no public code.",
]
NAMES = ("d3dp", "ktpformer", "htp n=1", "htp n=3")
FRAMES = 243
SEVERAL_CALLS = 9  # budgets: one call is seconds of work


def cases(setup):
    settings = published.FPS if math.isinf(setup.patience) or setup.device != "cpu" else [(1, 1)]
    names = ", ".join(NAMES)
    return [(f"{names}: H={h} K={k}", partial(run, h, k, setup)) for h, k in settings]


@torch.inference_mode()
def run(hypotheses, steps, setup) -> list[dict]:
    torch.manual_seed(0)
    noise = torch.randn(steps, 1, hypotheses, FRAMES, 17, 3).to(setup.device)
    calls, expected = {}, {}
    for name in NAMES:
        kind, _, n = name.partition(" n=")
        model = models.build(kind, FRAMES, setup.device)
        choices, clips = {"n": int(n)} if n else {}, models.keypoints(model, setup, FRAMES, 1)
        for dtype in (torch.float32, torch.bfloat16):
            ready = models.build(kind, FRAMES, setup.device, dtype)
            ready = lifter.freeze(ready) if setup.device == "cpu" else ready
            calls[name, dtype] = partial(_sample, ready, clips.to(dtype), hypotheses, steps, noise, choices)
        with kernels.backend("reference"):
            expected[name] = _sample(model, clips, hypotheses, steps, noise, choices)
    timings, outputs = measure(calls, setup.device, setup.seconds * SEVERAL_CALLS)
    return [_row(name, dtype, hypotheses, steps, timings, outputs[name, dtype], expected[name]) for name, dtype in calls]


def _sample(model, clips, hypotheses, steps, noise, choices):
    if hasattr(model, "denoise"):
        return diffusion.sample(model, clips, hypotheses, steps, noise=noise, **choices)
    for _ in range(steps):
        poses = model(torch.cat((clips, diffusion.mirror(clips))).repeat_interleave(hypotheses, 0))
    return poses


def _row(name, dtype, hypotheses, steps, timings, output, expected) -> dict:
    time = timings[name, dtype]
    label = str(dtype).removeprefix("torch.")
    fps, off = FRAMES / time.median, error(output, expected)
    judged = dtype == torch.float32 or not name.startswith("htp")
    row = {
        "case": f"H={hypotheses} K={steps}",
        "model": name,
        "implementation": name if dtype == torch.float32 else f"{name} bfloat16",
        "dtype": label,
        "time": time,
        "frames_per_second": fps,
        "error": off,
        "matches": off <= tolerance(dtype) if judged else None,
        "note": "" if not judged or off <= tolerance(dtype) else "WRONG OUTPUT",
    }
    for h, k in published.FPS:
        row[f"frames_per_second_h{h}_k{k}"] = fps * hypotheses * steps / (h * k)
        printed = published.FPS[h, k]
        if name in printed:
            row[f"printed_by_d3dp_k{k}"] = printed[name] / printed["d3dp"]
    if row["matches"] is not False:
        row["by_d3dp"] = speedup(time, timings["d3dp", dtype])
    return row
