"""Models: ours on our kernels, on the reference ops, and both under torch.compile; same weights, same clips."""

import copy
import importlib
import math
from functools import cache, lru_cache, partial
from unittest import mock

import torch

import lifter
import lifter.kernels
from lifter._errors import first_line
from lifter.inference.windows import with_channels
from lifter.models import FinePOSE
from lifter.models.finepose import TOKENS

from . import gpu
from .accuracy import error, tolerance
from .bounds import lower_bound
from .timing import RULE, measure, speedup, timed, twice

TITLE = "Models: inference of keypoint clips"
COLUMNS = [
    ("case", "case", "{}"),
    ("implementation", "implementation", "{}"),
    ("latency", "time", "{}"),
    ("clips/s", "clips_per_second", "{:.4g}"),
    ("frames/s", "frames_per_second", "{:,.0f}"),
    ("speedup", "speedup", "{}"),
    *gpu.COLUMNS,
    ("error", "error", "{:.1e}"),
    ("bound: products + scans + sampling", "bound", lambda bound: _sum_of(bound)),
    ("time / bound", "times_bound", "{:.2f}"),
    ("", "note", "{}"),
]
SCREEN = ("case", "implementation", "latency", "frames/s", "speedup", "error")
NOTES = [
    "Latency: median per call ± half the distance between the quartiles, n samples, all implementations interleaved. Speedup: "
    "over the reference ops (plain PyTorch) in float32. Frozen: a copy made by lifter.freeze, on packed weights; only a "
    "frozen MixSynthFormer is one call.",
    "Error: largest difference to the reference ops, relative to the largest output, on a shorter clip where they are left "
    "out; where it is too large no speedup is printed. A model that chooses frames or neighbours chooses others where two are "
    "alike up to rounding: in bfloat16 its error is printed and not judged, in float32 ours may be as far from the reference "
    "in float64 as the reference is.",
    RULE,
    "torch.compile (--full: at every batch, and the widest models; on a GPU at batch 1) for this very shape (dynamic=True is "
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
# Frames and batch of the clips of a model, the fastest model first: what it leaves of its time is for the others.
CLIPS = {
    "mixsynthformer_h36m": [(101, 1), (101, 256)],  # the whole window is given, of which it takes every tenth frame
    "sasmamba": [(frames, batch) for frames in FRAMES for batch in (1, 8)],
    "masc_pose": [(243, 1)],
    "poseretnet": [(27, 1), (243, 1)],
    "htp": [(243, 1)],
    "motionbert": [(243, 1)],
    "mixste": [(243, 1)],
}
HOSTS = ("mixste", "motionbert")  # not among the five architectures
# At width 512 one call at 243 frames is seconds of work, whatever the batch: such a model is compiled only by --full.
WIDE = ("poseretnet", "htp", *HOSTS)
CHOOSING = ("htp", "masc_pose")


def cases(setup):
    return [
        (f"{model} T={frames} batch {batch}", partial(run, model, frames, batch, setup))
        for model, clips in planned(setup).items()
        for frames, batch in clips
    ]


def planned(setup) -> dict:
    """Model -> (frames, batch) of its clips: one size each, but for a run of everything."""
    if setup.everything:
        return CLIPS
    return {name: [(lengths(name, FRAMES)[0], 1)] for name in CLIPS if not (setup.quick and name in HOSTS)}


@cache
def described(name) -> torch.nn.Module:
    """The model as it is by default, on "meta"."""
    with torch.device("meta"):
        return lifter.create_model(name)


@cache
def fixed(name) -> torch.nn.Module | None:
    """On "meta", a model whose number of frames is its own; None if it is built for any number."""
    with torch.device("meta"):
        try:
            lifter.create_model(name, min(FRAMES))
        except ValueError:
            return described(name)
    return None


def window(name) -> int | None:
    """The number of frames that is a model's own."""
    model = fixed(name)
    return model and (getattr(model, "span", None) or model.num_frames)


def lengths(name, frames) -> tuple:
    """The numbers of frames that a model takes: `frames`, or its own, and what is longer if it slides over it."""
    own = window(name)
    if own is None:
        return frames
    return own, *(n for n in frames if n > own and hasattr(fixed(name), "span"))


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # it is kept for calls in any mode
def build(name, frames, device, dtype=torch.float32):
    """The model for clips of so many frames, with the same weights in every dtype."""
    torch.manual_seed(0)
    model = lifter.create_model(name, *([] if window(name) else [frames]))
    return model.eval().to(device, dtype)


def keypoints(model, setup, frames, batch):
    """Clips as `model` takes them: where it reads confidences, all are 1; a body of more joints has some twice."""
    clips = setup.clips.batch(batch, frames)
    joints = torch.arange(model.num_joints) % clips.shape[2]
    return with_channels(clips[:, :, joints], model.in_channels).to(setup.device)


def inputs(model, setup, frames, batch) -> list[torch.Tensor]:
    """Return the arguments of the model's forward: clips, and for a denoiser noisy poses, their time and a text, if it
    reads one."""
    clips = keypoints(model, setup, frames, batch)
    if not hasattr(model, "denoise"):
        return [clips]
    torch.manual_seed(0)
    given = [clips, torch.randn(*clips.shape[:3], 3).to(clips), torch.tensor([500]).to(clips.device)]
    if isinstance(model, FinePOSE):
        dim = model.Spatial_pos_embed.shape[-1]
        given += [torch.randn(size).to(clips) for size in ((batch, dim), (batch, TOKENS, dim))]
    return given


def cast(tensors, dtype) -> list[torch.Tensor]:
    return [x.to(dtype) if x.is_floating_point() else x for x in tensors]


def candidates(model, setup, everything=True, bfloat16=True) -> dict:
    """Our implementations: name -> (model, dtype of its maps). Not `everything`: without bfloat16 for a model that is not
    frozen, the linear layers of which are PyTorch's: on a CPU without products of bfloat16 they take ten times as long."""
    with torch.inference_mode(False):  # see `build`
        half = copy.deepcopy(model).bfloat16() if bfloat16 else None
        found = {"lifter": (model, torch.float32)}
        if bfloat16 and everything:
            found["lifter bfloat16"] = (half, torch.bfloat16)
        if setup.device == "cpu":
            found["lifter frozen"] = (lifter.freeze(model), torch.float32)
        if bfloat16 and setup.device == "cpu":
            found["lifter frozen bfloat16"] = (lifter.freeze(half), torch.bfloat16)
    return found


@torch.inference_mode()
def run(name, frames, batch, setup) -> list[dict]:
    model = build(name, frames, setup.device)
    found = candidates(model, setup, setup.everything, bfloat16=not setup.quick)

    def calls_of(frames):
        given = inputs(model, setup, frames, batch)
        calls = {label: partial(network, *cast(given, dtype)) for label, (network, dtype) in found.items()}
        return calls | {"reference": on_reference(calls["lifter"])}

    calls, notes, outputs = calls_of(frames), {}, {}
    multiple = getattr(model, "clip_multiple", 1)
    short = max(1, frames // 9 // multiple) * multiple
    if short < frames and not window(name) and not math.isinf(setup.patience):
        for label, call in calls_of(short).items():
            outputs[label], seconds = twice(call, setup.device)
            if label != "lifter" and seconds * frames / short > setup.patience:
                notes[label] = f"left out: would take about {seconds * frames / short:.0f} s a call (--full runs it)"
                del calls[label]
    full = math.isinf(setup.patience)
    if setup.everything and (batch == 1 and name not in WIDE or full):
        for label in [label for label in ("lifter", "reference") if label in calls]:
            torch.compiler.reset()  # what was compiled for other shapes would be tried first
            compiled = partial(torch.compile(model, dynamic=False), *calls["lifter"].args)
            compiled = on_reference(compiled) if label == "reference" else compiled
            try:
                _, seconds = timed(compiled, setup.device)  # compiles
            except Exception as failure:  # of any kind: no compiler for inductor, a bug of it
                notes[f"{label} + torch.compile"] = f"fails: {first_line(failure)}"
            else:
                calls[f"{label} + torch.compile"] = compiled
                notes[f"{label} + torch.compile"] = f"first call {seconds:.0f} s"

    timings, first = measure(calls, setup.device, setup.seconds)
    outputs = first if "reference" in calls else outputs  # else of the shorter clip

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
            row |= _measured(row, timings, outputs, calls["lifter"])
        if implementation in found and implementation in calls:
            bound = lower_bound(calls[implementation], setup.device)
            row |= {"bound": bound and bound.asdict(), "times_bound": bound and row["time"].median / bound.seconds}
            row |= gpu.apart(calls[implementation], row["time"].median, getattr(torch, row["dtype"]), setup.device)
            row["note"] = "; ".join(filter(None, (row["note"], row.pop("graph_note", ""))))
        rows.append(row)
    return rows


def _measured(row, timings, outputs, call) -> dict:
    time, dtype = timings[row["implementation"]], getattr(torch, row["dtype"])
    fields = {
        "time": time,
        "clips_per_second": row["batch"] / time.median,
        "frames_per_second": row["batch"] * row["frames"] / time.median,
    }
    output, expected = outputs.get(row["implementation"]), outputs.get("reference")
    if output is None or expected is None:
        return fields | {"note": row["note"] or "not compared: no reference"}
    off = error(output, expected)
    fields |= {"error": off, "matches": off <= tolerance(dtype)}
    if not fields["matches"] and row["model"] in CHOOSING:
        fields["matches"] = None if dtype == torch.bfloat16 else near_in_float64(call, output, expected)[0]
    if fields["matches"] is False:
        return fields | {"note": "WRONG OUTPUT"}
    return fields | {"speedup": speedup(time, timings["reference"]) if "reference" in timings else None}


def near_in_float64(call, output, expected) -> tuple[bool, str]:
    """Return whether an output is as near to the reference in float64 as that in float32, `expected`: a network that
    chooses frames chooses others where two are alike up to rounding, and then the reference in float32 says nothing."""
    exact = on_reference(partial(copy.deepcopy(call.func).double(), *cast(call.args, torch.float64)))()
    ours, theirs = error(output, exact), error(expected, exact)
    return ours <= max(tolerance(torch.float32), 2 * theirs), f"to float64: lifter {ours:.1e}, reference {theirs:.1e}"


def _sum_of(bound) -> str:
    return " + ".join(f"{bound[kind] * 1e3:.3g}" for kind in ("products", "exponentials", "bytes")) + " ms"


def on_reference(call):
    """`call` on the reference ops; under torch.compile their scan stays eager."""

    def on_reference():
        with lifter.kernels.backend("reference"), mock.patch.object(_skeleton_scan, "selective_scan_ref", _eager_scan()):
            return call()

    return on_reference


_skeleton_scan = importlib.import_module("lifter.kernels.skeleton_scan")


@cache
def _eager_scan():
    """The reference of the scan, for which the compiler, which takes long to import, is told to leave it alone."""
    return torch.compiler.disable(lifter.kernels.selective_scan_ref)
