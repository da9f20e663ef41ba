"""Peak memory, each case in a process of its own: the largest resident set (on a GPU: allocation) above its start."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

import lifter
import lifter.kernels

from .kernels import skeleton_scan

TITLE = "Memory: peak above the start of the call"
COLUMNS = [
    ("case", "case", "{}"),
    ("lifter", "lifter_bytes", lambda size: f"{size / 1e6:,.1f} MB"),
    ("reference", "reference_bytes", lambda size: f"{size / 1e6:,.1f} MB"),
    ("reference / lifter", "ratio", "{:.1f}x"),
    ("lifter / (input + output)", "of_input_output", "{:.2f}"),
    ("the same without the output itself", "extra_of_input_output", "{:.2f}"),
    ("", "note", "{}"),
]
SCREEN = ("case", "lifter", "reference", "reference / lifter")
NOTES = [
    "Of a second call, but for batch 16. A forward's peak includes its output, a training step's its activations and "
    "gradients; input and weights are there before.",
]
CLIP = 4 * 243 * 17 * 128  # bytes of the map of one clip


def scan_forward(frames, device):
    inputs = skeleton_scan.inputs(frames, 1, device, torch.float32)
    return torch.no_grad()(lambda: lifter.kernels.skeleton_scan(**inputs))


def training_step(batch, frames, device):
    model = lifter.create_model("sasmamba", num_frames=243).to(device)
    clips = torch.randn(batch, frames, 17, 2, device=device)
    return lambda: torch.autograd.grad(model(clips).square().mean(), model.parameters())


SCAN, SMALL_STEP, STEP = (
    "skeleton_scan forward, T=243 C=128",
    "sasmamba training, T=27 batch 1",
    "sasmamba training, T=243 batch 16",
)
CASES = {
    SCAN: (partial(scan_forward, 243), ("lifter", "reference")),
    SMALL_STEP: (partial(training_step, 1, 27), ("lifter", "reference")),
    STEP: (partial(training_step, 16, 243), ("lifter",)),  # the reference does not fit
}


def cases(setup):
    if setup.device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return []  # only Linux tells
    names = [name for name in CASES if not (setup.quick and name == STEP)]
    return [(f"memory: {name}", partial(_row, name, setup)) for name in names]


def _row(name, setup):
    peaks = {backend: _in_a_process(name, backend, setup.device) for backend in CASES[name][1]}
    row = {"case": name, "lifter_bytes": peaks["lifter"]}
    if "reference" in peaks:
        row |= {"reference_bytes": peaks["reference"], "ratio": peaks["reference"] / peaks["lifter"]}
    else:
        row["note"] = "the reference does not fit: compare with the line above"
    if name == SCAN:
        row["of_input_output"] = peaks["lifter"] / (2 * CLIP)
        row["extra_of_input_output"] = (peaks["lifter"] - CLIP) / (2 * CLIP)
    return [row]


def _in_a_process(*args) -> int:
    # Large blocks go back to the system when they are freed, so that the resident set is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "benchmarks.memory", *args]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout.split()[-1])


def peak(name, backend, device) -> int:
    """Return the peak of this process."""
    with lifter.kernels.backend("reference") if backend == "reference" else nullcontext():
        return _peak(CASES[name][0](device), device, warm=name != STEP)


def _peak(call, device, warm) -> int:
    if warm:
        call()  # set-up and buffers that stay are no part of it
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field) -> int:
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    print(peak(*sys.argv[1:]))
