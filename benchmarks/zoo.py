"""Every model of the zoo on our kernels and on the reference ops. A model that is slower on ours fails the run."""

import copy
import math
from functools import partial

import torch

import lifter
from lifter._errors import first_line

from . import gpu, official
from .accuracy import error, tolerance
from .models import FRAMES, build, cast, inputs, lengths, near_in_float64, on_reference
from .timing import RULE, measure, milliseconds, speedup, timed, twice

LONGEST = {"lifter": 0.5, "reference": 8.0}  # seconds of one call
SAMPLES = 3
TITLE = "Zoo: every model on our kernels and on the reference ops, float32"
COLUMNS = [
    ("case", "case", "{}"),
    ("lifter", "time", "{}"),
    ("reference", "reference", "{}"),
    ("speedup", "speedup", "{}"),
    ("frames/s", "frames_per_second", "{:,.0f}"),
    *gpu.COLUMNS,
    ("bfloat16", "bfloat16", "{}"),
    ("bfloat16, graph", "bfloat16_graph", milliseconds),
    ("torch.compile", "compiled", "{}"),
    ("official", "official", "{}"),
    ("error", "error", "{:.1e}"),
    ("", "note", "{}"),
]
SCREEN = ("case", "lifter", "reference", "speedup", "error")
NOTES = [
    "Median of interleaved calls ± half the distance between the quartiles, n samples; the model as it is, not frozen. Error: "
    "largest difference, relative to the largest output.",
    "A difference above rounding counts as none where ours is as near to the reference in float64 as that in float32 is: "
    "HTP's choice of frames.",
    f"{RULE} A model that is clearly slower than the reference fails the run.",
    *gpu.NOTES,
    "On a GPU, too: the model in bfloat16; the reference under torch.compile, its scan eager, of one long clip; the official "
    "code in float32 with random weights, where `python -m benchmarks.peers fetch` has brought it.",
    f"Left out are models whose call takes more than {LONGEST['lifter']} s; --full runs them all.",
]
BATCHES, LARGE_BATCHES = (1, 8), (64,)


def cases(setup):
    usual, batches = (FRAMES[:1], BATCHES[:1]) if setup.quick else (FRAMES, BATCHES)
    batches += LARGE_BATCHES if setup.device != "cpu" and not setup.quick else ()
    return [
        (f"zoo {name} T={frames} batch {batch}", partial(run, name, frames, batch, setup))
        for name in lifter.list_models()
        for batch in batches
        for frames in lengths(name, usual)
    ]


@torch.inference_mode()
def run(name, frames, batch, setup) -> list[dict]:
    row = {"case": f"{name} T={frames} batch {batch}", "model": name, "frames": frames, "batch": batch, "dtype": "float32"}
    model = build(name, frames, setup.device)
    given = inputs(model, setup, frames, batch)
    call = partial(model, *given)
    calls = {"lifter": call, "reference": on_reference(call)}
    seconds = dict.fromkeys(calls, 0.0)
    for which in calls:
        seconds[which] = twice(calls[which], setup.device)[1]
        if seconds[which] > (math.inf if math.isinf(setup.patience) else LONGEST[which]):
            where = "" if which == "lifter" else " on the reference"
            return [row | {"note": f"left out: {seconds[which]:.1f} s a call{where} (--full runs it)"}]
    # One sample is enough where nothing is close.
    budget = max(seconds.values()) * (SAMPLES if seconds["reference"] < 2 * seconds["lifter"] else 1)
    timings, outputs = measure(calls, setup.device, budget, SAMPLES)
    if speedup(timings["lifter"], timings["reference"]).slower:  # or somebody else was busy
        more, _ = measure(calls, setup.device, 3 * budget, 3 * SAMPLES)
        for which, timing in timings.items():
            timing.seconds += more[which].seconds
    ours, reference = timings["lifter"], timings["reference"]
    off = error(outputs["lifter"], outputs["reference"])
    matches, in_float64 = off <= tolerance(torch.float32), ""
    if not matches:
        matches, in_float64 = near_in_float64(call, outputs["lifter"], outputs["reference"])
    ratio = speedup(ours, reference)
    if setup.device != "cpu":
        row |= on_gpu(name, model, given, setup, ours.median)
    row |= {"time": ours, "reference": reference, "error": off, "matches": matches, "slower": ratio.slower}
    if matches:
        row["speedup"] = ratio
    notes = ["" if matches else "WRONG OUTPUT", in_float64, "SLOWER" if ratio.slower else "", row.get("note")]
    return [row | {"note": "; ".join(filter(None, notes))}]


def on_gpu(name, model, given, setup, seconds) -> dict:
    """Columns of a row that only a GPU has; `seconds` is the median of our call, `given` its arguments, clips first."""
    (batch, frames), call, notes = given[0].shape[:2], partial(model, *given), []
    row = gpu.apart(call, seconds, torch.float32, setup.device)
    notes.append(row.pop("graph_note", None))
    with torch.inference_mode(False):  # see models.build
        half = copy.deepcopy(model).bfloat16()
    calls = {"bfloat16": partial(half, *cast(given, torch.bfloat16))}
    try:
        calls["official"] = official.call(name, official.build(name, frames).eval().to(setup.device), given)
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
