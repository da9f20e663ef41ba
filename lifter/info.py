"""`lifter info`: what is installed, what is built, which backend each op takes here, and why not another."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import timeit
from collections import defaultdict
from pathlib import Path

import torch

from lifter import __version__, _library, kernels
from lifter._library import BACKENDS
from lifter.kernels._op import registry
from lifter.kernels.linear import PREFERS_ONEDNN


def environment() -> dict:
    """The machine and the software that a measurement depends on; nothing that names the machine or its user."""
    library = _library._C
    return {
        "lifter": __version__,  # not what pip noted when an editable checkout was installed
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "compiler": library.build_info()["compiler"] if library else None,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": library.cpu_capability() if library else None,
        "gpu": _gpu_name(),
    }


def report() -> str:
    """The text of `lifter info`."""
    env = environment()
    lines = [f"{key.replace('_', ' '):<16}{value}" for key, value in env.items() if value is not None]
    if _library.loaded:
        build = _library._C.build_info()
        best = _library._C.max_cpu_capability()
        lines += [
            f"{'capabilities':<16}{', '.join(build['capabilities'])} compiled; best here: {best}",
            f"{'built against':<16}torch {build['torch']}{', with sanitizers' if build['sanitize'] else ''}",
            f"{'CUDA C++':<16}{'not built: ' + build['cuda_missing'] if build['cuda_missing'] else 'built'}",
        ]
    else:
        lines.append(f"{'C++ kernels':<16}NOT BUILT: {_library.reason}")

    lines.append(f"{'linear layers':<16}{_products()}")

    devices = ["cpu", "cuda"] if env["gpu"] else ["cpu"]
    ops = registry()
    width = max(map(len, ops), default=0) + 2
    lines += ["", f"{'op':<{width}}" + "".join(f"{backend:<12}" for backend in BACKENDS) + "runs"]
    notes = defaultdict(list)
    for name, op in ops.items():
        available = op.availability()
        cells = "".join(f"{'yes' if available[backend][0] else 'no':<12}" for backend in BACKENDS)
        chosen = ", ".join(f"{op.chosen(device)} on {device}" for device in devices)
        lines.append(f"{name:<{width}}{cells}{chosen}")
        for backend in BACKENDS:
            usable, note = available[backend]
            notes[f"{backend}: {'' if usable else 'no, '}{note}"].append(name)
    lines.append("")
    for note, names in sorted(notes.items(), key=lambda item: BACKENDS.index(item[0].split(":")[0])):
        lines.append(note if len(names) == len(ops) else f"{note}  [{', '.join(names)}]")
    return "\n".join(lines)


def _products(rows=1024, size=512) -> str:
    """Return the rates of the float32 CPU products that `lifter.kernels.linear` chooses from, and its choice."""
    x, weight = torch.randn(rows, size), torch.randn(size, size)
    rates = {}
    for name, backend in {"PyTorch's choice": "reference", "oneDNN": "cpu"}.items():
        with kernels.backend(backend), torch.no_grad():
            rates[name] = 2 * rows * size**2 / min(timeit.repeat(lambda: kernels.linear(x, weight), number=1, repeat=5)) / 1e9
    measured = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
    return f"{measured}; taken: {'oneDNN' if PREFERS_ONEDNN else next(iter(rates))}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file lies in, "-dirty" if changed; None for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.cuda.get_device_name(0)} (sm_{major}{minor}, CUDA {torch.version.cuda})"


if __name__ == "__main__":
    print(report())
