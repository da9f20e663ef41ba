"""Every model of the zoo on our kernels and on the reference ops. A model that is slower on ours fails the run."""

import copy
import math
from functools import partial

import torch

import lifter
from lifter.inference.windows import with_channels

from . import gpu, official
from .accuracy import error, first_line, tolerance
from .models import on_reference
from .timing import measure, milliseconds, timed

LONGEST = {"lifter": 0.5, "reference": 8.0}  # seconds of one call
SAMPLES = 3
NOISE = 1.03  # by what equal calls differ here
TITLE = "Zoo: every model on our kernels and on the reference ops, float32"
COLUMNS = [
    ("case", "case", "{}"),
    ("lifter", "time", "{}"),
    ("reference", "reference", "{}"),
    ("speedup", "speedup", "{:.2f}x"),
    ("frames/s", "frames_per_second", "{:,.0f}"),
    *gpu.COLUMNS,
    ("bfloat16", "bfloat16", "{}"),
    ("bfloat16, graph", "bfloat16_graph", milliseconds),
    ("torch.compile", "compiled", "{}"),
    ("official", "official", "{}"),
    ("error", "error", "{:.1e}"),
    ("", "note", "{}"),
]
NOTES = [
    "Median of interleaved calls ± half the distance between the quartiles, n samples; the model as it is, not frozen. Error: "
    "largest difference, relative to the largest output.",
    "A difference above rounding counts as none where ours is as near to the reference in float64 as that in float32 is: "
    "HTP's choice of frames.",
    f"Slower: if both the median and the fastest of our calls take more than {NOISE} times those of the reference. Then the "
    "run fails.",
    *gpu.NOTES,
    "On a GPU, too: the model in bfloat16; the reference under torch.compile, its scan eager, of one long clip; the official "
    "code in float32 with random weights, where `python -m benchmarks.peers fetch` has brought it.",
    f"Left out are models whose call takes more than {LONGEST['lifter']} s; --full runs them all.",
]
FRAMES, BATCHES, LARGE_BATCHES = (27, 81, 243), (1, 8), (64,)


def cases(setup):
    return [
        (f"zoo {name} T={frames} batch {batch}", partial(run, name, frames, batch, setup))
        for name in lifter.list_models()
        for batch in BATCHES + (LARGE_BATCHES if setup.device != "cpu" else ())
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
    given = inputs(model, setup, frames, batch)
    call = partial(model, *given)
    calls = {"lifter": call, "reference": on_reference(call)}
    seconds = dict.fromkeys(calls, 0.0)
    for which in calls:
        seconds[which] = timed(calls[which], setup.device)[1]
        if seconds[which] > (math.inf if math.isinf(setup.patience) else LONGEST[which]):
            where = "" if which == "lifter" else " on the reference"
            return [row | {"note": f"left out: {seconds[which]:.1f} s a call{where} (--full runs it)"}]
    # One sample is enough where nothing is close.
    budget = max(seconds.values()) * (SAMPLES if seconds["reference"] < 2 * seconds["lifter"] else 1)
    timings, outputs = measure(calls, setup.device, budget, SAMPLES)
    if is_slower(timings):  # or somebody else was busy
        more, _ = measure(calls, setup.device, 3 * budget, 3 * SAMPLES)
        for which, timing in timings.items():
            timing.seconds += more[which].seconds
    ours, reference = timings["lifter"], timings["reference"]
    off = error(outputs["lifter"], outputs["reference"])
    matches, in_float64 = off <= tolerance(torch.float32), ""
    if not matches:
        exact = errors_in_float64(model, given, outputs)
        matches = exact["lifter"] <= max(tolerance(torch.float32), 2 * exact["reference"])
        in_float64 = "to float64: lifter {lifter:.1e}, reference {reference:.1e}".format(**exact)
    slower = is_slower(timings)
    if setup.device != "cpu":
        row |= on_gpu(name, model, given, setup, ours.median)
    row |= {"time": ours, "reference": reference, "error": off, "matches": matches, "slower": slower}
    if matches:
        row["speedup"] = reference.median / ours.median
    notes = ["" if matches else "WRONG OUTPUT", in_float64, "SLOWER" if slower else "", row.get("note")]
    return [row | {"note": "; ".join(filter(None, notes))}]


def is_slower(timings) -> bool:
    ours, reference = timings["lifter"], timings["reference"]
    fastest, usual = min(ours.seconds) / min(reference.seconds), ours.median / reference.median
    return min(fastest, usual) > NOISE


def errors_in_float64(model, given, outputs) -> dict:
    """How far each is from the reference in float64: a network that chooses frames chooses others where two are alike up to
    rounding, and then the reference in float32 says nothing."""
    wide = [x.double() if x.is_floating_point() else x for x in given]
    exact = on_reference(partial(copy.deepcopy(model).double(), *wide))()
    return {which: error(output, exact) for which, output in outputs.items()}


def on_gpu(name, model, given, setup, seconds) -> dict:
    """What a row has besides on a GPU; `seconds` is the median of our call, `given` its arguments, clips first."""
    (batch, frames), call, notes = given[0].shape[:2], partial(model, *given), []
    row = gpu.apart(call, seconds, torch.float32, setup.device)
    notes.append(row.pop("graph_note", None))
    with torch.inference_mode(False):  # as above
        half = copy.deepcopy(model).bfloat16()
    calls = {"bfloat16": partial(half, *(x.bfloat16() if x.is_floating_point() else x for x in given))}
    try:
        calls["official"] = partial(official.build(name, frames).eval().to(setup.device), *official.inputs(name, given))
        timed(calls["official"], setup.device)
    except Exception as failure:  # whatever it is, it is theirs
        notes.append(f"official: {first_line(failure)}")
        calls.pop("official", None)
    if (batch, frames) == (1, max(FRAMES)) and not setup.quick:
        torch.compiler.reset()  # what was compiled for other shapes would be tried first
        compiled = on_reference(partial(torch.compile(model, dynamic=False), *given))
        try:
            timed(compiled, setup.device)
        except Exception as failure:  # a bug of the compiler
            notes.append(f"torch.compile fails: {first_line(failure)}")
        else:
            calls["compiled"] = compiled
    timings, _ = measure(calls, setup.device, setup.seconds)
    halved = gpu.apart(calls["bfloat16"], timings["bfloat16"].median, torch.bfloat16, setup.device)
    notes.append(halved.get("graph_note"))
    row |= timings | {f"bfloat16_{key}": value for key, value in halved.items() if key != "graph_note"}
    return row | {"frames_per_second": batch * frames / seconds, "note": "; ".join(filter(None, notes))}


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
