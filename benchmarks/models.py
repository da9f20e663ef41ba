"""Models: ours on our kernels, on the reference ops, and both under torch.compile; same weights, same clips."""

import importlib
import math
from dataclasses import dataclass, field
from functools import cache, partial
from unittest import mock

import torch

import lifter
import lifter.kernels
from lifter.inference.windows import with_channels

from . import gpu
from .accuracy import error, first_line, tolerance
from .bounds import lower_bound
from .timing import measure, timed

TITLE = "Models: inference of keypoint clips"
COLUMNS = [
    ("case", "case", "{}"),
    ("implementation", "implementation", "{}"),
    ("latency", "time", "{}"),
    ("clips/s", "clips_per_second", "{:.4g}"),
    ("frames/s", "frames_per_second", "{:,.0f}"),
    ("speedup", "speedup", "{:.1f}x"),
    *gpu.COLUMNS,
    ("error", "error", "{:.1e}"),
    ("bound: products + scans + sampling", "bound", lambda bound: _sum_of(bound)),
    ("time / bound", "times_bound", "{:.2f}"),
    ("", "note", "{}"),
]
NOTES = [
    "Latency: median per call ± half the distance between the quartiles, n samples, all implementations interleaved.",
    "Speedup: over the reference ops (plain PyTorch) in float32. Error: largest difference to them, relative to the "
    "largest output; where it is too large no speedup is printed.",
    "Frozen: a copy made by lifter.freeze, on packed weights. Only a frozen MixSynthFormer is one call.",
    "torch.compile at batch 1 (--full: at every batch, and the widest models), for this very shape (dynamic=True is "
    "slower), compiled before the clock starts. It cannot unroll a scan of 17 T steps in finite time, so the reference's "
    "scan stays eager (torch.compiler.disable) and all the rest is compiled.",
    *gpu.NOTES,
    "Bound: the sum, over the ops of one call, of the matrix products by torch.mm of the same shapes (the offset "
    "convolution as im2col), the scans by as many exponentials, the sampling by a copy of as many bytes.",
]

IMPLEMENTATIONS = [
    "lifter", "lifter bfloat16", "lifter frozen", "lifter frozen bfloat16", "lifter + torch.compile", "reference",
    "reference + torch.compile",
]  # fmt: skip
FRAMES = (27, 81, 243)
# Frames and batch of the clips of a model. At width 512 one call at 243 frames is seconds of work, whatever the batch: such a
# model gets the budget of a few calls, and is compiled only by --full.
CLIPS = {
    "sasmamba": [(frames, batch) for frames in FRAMES for batch in (1, 8)],
    "poseretnet": [(27, 1), (243, 1)],
    "mixste": [(243, 1)],
    "motionbert": [(243, 1)],
    "mixsynthformer_h36m": [(101, 1), (101, 256)],  # the whole window is given, of which it takes every tenth frame
}
WIDE = ("poseretnet", "mixste", "motionbert")
LONG_CALL = 3


def cases(setup):
    reference = Reference()
    return [
        (f"{model} T={frames} batch {batch}", partial(run, model, frames, batch, setup, reference))
        for model, clips in CLIPS.items()
        for frames, batch in clips
    ]


@dataclass
class Reference:
    """What is known of the reference from earlier cases: how long it takes, and its output for the first clip."""

    seconds: dict = field(default_factory=dict)  # (model, batch) -> per frame
    first_clip: dict = field(default_factory=dict)  # (model, frames) -> output

    def estimate(self, model, frames, batch) -> float:
        known = self.seconds.get((model, batch)) or batch * self.seconds.get((model, 1), 0)
        return known * frames

    def learn(self, model, frames, batch, seconds, output):
        self.seconds[model, batch] = seconds / frames
        self.first_clip[model, frames] = output[:1]


@cache
def build(name, device, dtype=torch.float32):
    torch.manual_seed(0)
    return lifter.create_model(name).eval().to(device, dtype)


def keypoints(model, setup, frames, batch):
    """Clips as `model` takes them: where it reads confidences, all are 1."""
    return with_channels(setup.clips.batch(batch, frames), model.in_channels).to(setup.device)


@torch.inference_mode()
def run(name, frames, batch, setup, reference: Reference) -> list[dict]:
    model = build(name, setup.device)
    bfloat16 = build(name, setup.device, torch.bfloat16)
    clips = keypoints(model, setup, frames, batch)
    calls = {"lifter": partial(model, clips), "lifter bfloat16": partial(bfloat16, clips.bfloat16())}
    if setup.device == "cpu":
        calls["lifter frozen"] = partial(lifter.freeze(model), clips)
        calls["lifter frozen bfloat16"] = partial(lifter.freeze(bfloat16), clips.bfloat16())
    notes = {}
    estimate = reference.estimate(name, frames, batch)
    if estimate <= setup.patience / (1 if batch == 1 else 2):
        calls["reference"] = on_reference(calls["lifter"])
    else:
        notes["reference"] = f"left out: would take about {estimate:.0f} s per call (--full runs it)"
    full = math.isinf(setup.patience)
    if not setup.quick and (batch == 1 and name not in WIDE or full):
        torch.compiler.reset()  # what was compiled for other shapes would be tried first
        compiled = partial(torch.compile(model, dynamic=False), clips)
        candidates = {"lifter": compiled, "reference": on_reference(compiled)}
        for implementation in [name for name in candidates if name in calls]:
            label = f"{implementation} + torch.compile"
            try:
                _, seconds = timed(candidates[implementation], setup.device)  # compiles
            except Exception as failure:  # of any kind: no compiler for inductor, a bug of it
                notes[label] = f"fails: {first_line(failure)}"
            else:
                calls[label] = candidates[implementation]
                notes[label] = f"first call {seconds:.0f} s"

    long = name in WIDE and frames == max(FRAMES) and not setup.quick
    timings, outputs = measure(calls, setup.device, setup.seconds * (LONG_CALL if long else 1))
    if "reference" in timings:
        reference.learn(name, frames, batch, timings["reference"].median, outputs["reference"])
    expected = outputs.get("reference", reference.first_clip.get((name, frames)))

    rows = []
    for implementation in sorted(calls.keys() | notes.keys(), key=IMPLEMENTATIONS.index):
        row = {
            "case": f"{name} T={frames} batch {batch}",
            "model": name,
            "frames": frames,
            "batch": batch,
            "implementation": implementation,
            "dtype": "bfloat16" if "bfloat16" in implementation else "float32",
            "note": notes.get(implementation, ""),
        }
        if implementation in timings:
            row |= _measured(row, timings, outputs, expected)
        if implementation.removesuffix(" bfloat16") in ("lifter", "lifter frozen"):
            bound = lower_bound(calls[implementation], setup.device)
            row |= {"bound": bound and bound.asdict(), "times_bound": bound and row["time"].median / bound.seconds}
            row |= gpu.apart(calls[implementation], row["time"].median, getattr(torch, row["dtype"]), setup.device)
            row["note"] = "; ".join(filter(None, (row["note"], row.pop("graph_note", ""))))
        rows.append(row)
    return rows


def _measured(row, timings, outputs, expected) -> dict:
    time = timings[row["implementation"]]
    fields = {
        "time": time,
        "clips_per_second": row["batch"] / time.median,
        "frames_per_second": row["batch"] * row["frames"] / time.median,
    }
    if expected is None:
        return fields | {"note": row["note"] or "not compared: no reference"}
    off = error(outputs[row["implementation"]][: len(expected)], expected)
    fields |= {"error": off, "matches": off <= tolerance(getattr(torch, row["dtype"]))}
    if not fields["matches"]:
        return fields | {"note": "WRONG OUTPUT"}
    return fields | {"speedup": timings["reference"].median / time.median if "reference" in timings else None}


def _sum_of(bound) -> str:
    return " + ".join(f"{bound[kind] * 1e3:.3g}" for kind in ("products", "exponentials", "bytes")) + " ms"


def on_reference(call):
    """`call` on the reference ops; under torch.compile their scan stays eager."""

    def on_reference():
        with lifter.kernels.backend("reference"), mock.patch.object(_skeleton_scan, "selective_scan_ref", _eager_scan):
            return call()

    return on_reference


_skeleton_scan = importlib.import_module("lifter.kernels.skeleton_scan")
_eager_scan = torch.compiler.disable(lifter.kernels.selective_scan_ref)
