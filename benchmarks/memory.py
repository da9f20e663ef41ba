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
    ("lifter", "lifter_bytes", "{:,} B"),
    ("reference", "reference_bytes", "{:,} B"),
    ("reference / lifter", "ratio", "{:.1f}x"),
    ("lifter / (input + output)", "of_input_output", "{:.2f}"),
]
NOTES = [
    "A forward's peak includes its output, a training step's its activations and gradients (weights and input are there "
    "before). The reference is measured only where it fits.",
]


def scan_forward(frames, device):
    small, inputs = (skeleton_scan.inputs(n, device, torch.float32) for n in (1, frames))
    lifter.kernels.skeleton_scan(**small)  # threads and lazy set-up are no part of the call
    return torch.no_grad()(lambda: lifter.kernels.skeleton_scan(**inputs))


def training_step(batch, frames, device):
    model = lifter.create_model("sasmamba", num_frames=243).to(device)
    clips = torch.randn(batch, frames, 17, 2, device=device)
    model(clips[:1, :1]).square().mean().backward()
    model.zero_grad()
    return lambda: model(clips).square().mean().backward()


# name -> (what to measure, backends, bytes of input and output)
CASES = {
    "skeleton_scan forward, T=243 C=128": (partial(scan_forward, 243), ("lifter", "reference"), 2 * 4 * 243 * 17 * 128),
    "sasmamba training, T=27 batch 1": (partial(training_step, 1, 27), ("lifter", "reference"), None),
    "sasmamba training, T=243 batch 16": (partial(training_step, 16, 243), ("lifter",), None),
}


def cases(setup):
    if setup.device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return []  # only Linux tells
    names = [name for name in CASES if not (setup.quick and "batch 16" in name)]
    return [(f"memory: {name}", partial(_row, name, setup)) for name in names]


def _row(name, setup):
    _, backends, size = CASES[name]
    peak = {backend: _in_a_process(name, backend, setup.device) for backend in backends}
    ours, reference = peak["lifter"], peak.get("reference")
    return [
        {
            "case": name,
            "lifter_bytes": ours,
            "reference_bytes": reference,
            "ratio": reference and reference / ours,
            "of_input_output": size and ours / size,
        }
    ]


def _in_a_process(*args) -> int:
    # Large blocks go back to the system when they are freed, so that the resident set is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "benchmarks.memory", *args]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout.split()[-1])


def _peak(call, device) -> int:
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
    name, backend, device = sys.argv[1:]
    with lifter.kernels.backend("reference") if backend == "reference" else nullcontext():
        print(_peak(CASES[name][0](device), device))
