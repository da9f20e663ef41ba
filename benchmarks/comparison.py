"""Our models beside the official code, on the same weights and clips, where `benchmarks.peers` has fetched it."""

import copy
import math
from functools import partial

import torch

import lifter
from lifter._errors import first_line

from . import official
from .accuracy import error, tolerance
from .models import build, candidates, cast, inputs
from .timing import RULE, measure, speedup, timed, twice

TITLE = "Beside the official code, same weights and clips"
COLUMNS = [
    ("case", "case", "{}"),
    ("implementation", "implementation", "{}"),
    ("latency", "time", "{}"),
    ("frames/s", "frames_per_second", "{:,.0f}"),
    ("speedup", "speedup", "{}"),
    ("error", "error", "{:.1e}"),
    ("", "note", "{}"),
]
SCREEN = ("case", "implementation", "latency", "frames/s", "speedup", "error")
NOTES = [
    "Median of interleaved calls ± half the distance between the quartiles, n samples. Random weights, loaded from the "
    "official network into ours. Speedup: over the official code in float32. Error: largest difference to its output, "
    "relative to the largest; its own: of two calls (HoT draws noise), twice which ours may have.",
    RULE,
    "Autocast: the official code under torch.autocast in bfloat16. Frozen: a copy made by lifter.freeze.",
    "torch.compile of the official code where its call takes less than 0.05 s (--full: wherever it compiles).",
    "Chunk: PoseRetNet frame by frame, or nine at once, with its state; one person. The error is of the first chunk.",
]
SAMPLES = 3
SHORT = 0.05  # seconds
WINDOWS = {"h36m": 101, "jhmdb": 11, "3dpw": 51, "3dpw_smpl": 51, "aist": 101, "aist_smpl": 101}
FRAMES = {"hdformer": 96, "smoothnet": 100, "deciwatch": 101, "deciwatch_3dpw": 101, "deciwatch_jhmdb": 11}
FRAMES |= {f"{name}_{size}": T for name in ("motionagformer", "hgmamba") for size, T in (("xs", 27), ("s", 81))}
FRAMES |= {f"mixsynthformer_{name}": T for name, T in WINDOWS.items()}
LONGEST = 243
CHUNKS = (1, 9)


def cases(setup):
    if not (official.PEERS / "official").is_dir():
        raise ValueError(f"official: no code of others in {official.PEERS} (python -m benchmarks.peers fetch)")
    found = []
    for name in official.CODE:
        frames = FRAMES.get(name, 27 if setup.quick else LONGEST)
        for batch in (1, 256) if name.startswith("mixsynthformer") and not setup.quick else (1,):
            found.append((f"{name} T={frames} batch {batch}", partial(run, name, frames, batch, setup)))
    return found + [(f"poseretnet chunk {chunk}", partial(run_stream, chunk, setup)) for chunk in CHUNKS]


@torch.inference_mode()
@official.constants_stay()
def run(name, frames, batch, setup) -> list[dict]:
    case = {"case": f"{name} T={frames} batch {batch}", "model": name, "frames": frames, "batch": batch}
    with torch.inference_mode(False):  # see models.build
        ours = copy.deepcopy(build(name, frames, setup.device))
        try:
            theirs = official.build(name, frames).eval().to(setup.device)
        except Exception as failure:  # whatever it is, it is theirs
            return [case | {"implementation": "official", "note": f"fails: {first_line(failure)}"}]
        lifter.load_checkpoint(ours, theirs.state_dict())
        models = candidates(ours, setup)
    given = inputs(ours, setup, frames, batch)
    call = official.call(name, theirs, given)
    try:
        first, seconds = twice(call, setup.device)
    except Exception as failure:  # as above
        return [case | {"implementation": "official", "note": f"fails: {first_line(failure)}"}]
    calls = {"official": call, "official autocast": autocast(call, setup.device)}
    notes = {}
    if not setup.quick and (seconds < SHORT or math.isinf(setup.patience)):
        torch.compiler.reset()  # what was compiled for other shapes would be tried first
        compiled = official.call(name, torch.compile(theirs, dynamic=False), given)
        try:
            timed(compiled, setup.device)
        except Exception as failure:  # a bug of the compiler
            notes["official + torch.compile"] = f"fails: {first_line(failure)}"
        else:
            calls["official + torch.compile"] = compiled
    calls |= {which: partial(model, *cast(given, dtype)) for which, (model, dtype) in models.items()}
    return rows(case, calls, notes, max(setup.seconds, SAMPLES * seconds), setup, first)


@torch.inference_mode()
def run_stream(chunk, setup) -> list[dict]:
    case = {"case": f"poseretnet chunk {chunk}", "model": "poseretnet", "frames": chunk, "batch": 1}
    ours = lifter.create_model("poseretnet", chunk_size=chunk).eval().to(setup.device)
    try:
        theirs = official.build("poseretnet", LONGEST, chunk_size=chunk).eval().to(setup.device)
    except Exception as failure:  # whatever it is, it is theirs
        return [case | {"implementation": "official", "note": f"fails: {first_line(failure)}"}]
    lifter.load_checkpoint(ours, theirs.state_dict())
    clip = inputs(ours, setup, chunk, 1)[0]
    calls = {"official": Live(lambda state, number: theirs(clip, state, number))}
    for which, (model, dtype) in candidates(ours, setup).items():
        calls[which] = Live(partial(chunk_of_ours, model, clip.to(dtype)))
    return rows(case, calls, {}, setup.seconds, setup)


class Live:
    """A call that goes on from the state that the one before it left."""

    def __init__(self, step):
        self.step, self.state, self.number = step, None, 0

    def __call__(self):
        out, self.state = self.step(self.state, self.number)
        self.number += 1
        return out


def chunk_of_ours(model, clip, state, number):
    return model(clip, state, return_state=True)


def autocast(call, device):
    def under_autocast():
        with torch.autocast(device, torch.bfloat16):
            return call()

    return under_autocast


def rows(case, calls, notes, seconds, setup, expected=None) -> list[dict]:
    """`expected`: of an earlier official call. None: what its first call in the measurement gives, as in a stream."""
    timings, outputs = measure(calls, setup.device, seconds, rounds=200)
    expected = outputs["official"] if expected is None else expected
    own = error(outputs["official"], expected)
    found = [case | {"implementation": which, "note": note} for which, note in notes.items()]
    for which, time in timings.items():
        dtype = torch.bfloat16 if which.endswith(("bfloat16", "autocast")) else torch.float32
        off = error(outputs[which].reshape(expected.shape), expected)
        row = {
            "implementation": which,
            "dtype": str(dtype).removeprefix("torch."),
            "time": time,
            "frames_per_second": case["batch"] * case["frames"] / time.median,
            "error": off,
        }
        if which.startswith("lifter"):
            row["matches"] = off <= max(tolerance(dtype), 2 * own)
            row["note"] = "" if row["matches"] else "WRONG OUTPUT"
        if row.get("matches", True):
            row["speedup"] = speedup(time, timings["official"])
        found.append(case | row)
    return found
