"""Kernels: every op of lifter against its reference, the peers found here, and the machine's bound.

A file here is an op. It declares `cases(setup)`; its name, `--only` and the reports follow.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

import lifter.kernels
from lifter._errors import first_line

from .. import gpu
from ..accuracy import error, fail, tolerance
from ..bounds import lower_bound
from ..timing import RULE, measure, speedup

TITLE = "Kernels: time, speedup, share of the machine's bound"
COLUMNS = [
    ("case", "case", "{}"),
    ("lifter", "lifter", "{}"),
    ("reference", "reference", "{}"),
    ("speedup", "speedup", "{}"),
    *gpu.COLUMNS,
    ("error", "error", "{:.1e}"),
    ("peers", "peers_text", "{}"),
    ("bound", "bound_kind", "{}"),
    ("share of bound", "share_of_bound", "{:.0%}"),
    ("", "note", "{}"),
]
SCREEN = ("case", "lifter", "reference", "speedup", "peers", "share of bound")
NOTES = [
    "Time: median per call ± half the distance between the quartiles, n samples, all implementations interleaved.",
    "Reference: plain PyTorch, step by step. Error: largest difference to it, relative to the largest value (of each "
    "gradient too); where it is too large no speedup is printed.",
    RULE,
    "Bound: what the machine needs for the products, exponentials and bytes of the op, timed in this run at the same "
    "size; its kind is the largest of them. Share: bound / time, on a GPU the device's.",
    *gpu.NOTES,
]
OURS = ("lifter", "reference")
# On a GPU, beside what is measured everywhere: many clips of these lengths, and the reference under torch.compile, which takes
# seconds to compile, of some of them.
LENGTHS, BATCHES = (27, 81, 243), (8, 64)
COMPILED = re.compile(r" T=243( B=64)?$")
USUAL = (27, 243)  # of a run that is not of everything


def sizes(setup, lengths, letter="T") -> list[tuple[str, int, int]]:
    """(label, length, batch) of an op's cases, as ("T=27 B=8", 27, 8)."""
    found = [(n, 1) for n in chosen(setup, lengths, USUAL)]
    if setup.device != "cpu" and setup.everything:
        many = [(n, batch) for batch in BATCHES for n in LENGTHS]
        found = many + [(n, 1) for n in sorted({*lengths, *LENGTHS})]
    return [(f"{letter}={n}{f' B={batch}' if batch > 1 else ''}", n, batch) for n, batch in found]


def chosen(setup, everything, usual) -> tuple:
    """The sizes of a run: of `everything`, of the `usual` ones, or if it is quick the first of those."""
    return everything if setup.everything else usual[:1] if setup.quick else usual


@dataclass(frozen=True)
class Case:
    """`call(**inputs)` on the kernels, the same call on the reference, and the `peers`, which take the same inputs."""

    name: str
    make: Callable  # (device, dtype) -> dict of arguments, seeded
    call: Callable
    peers: dict[str, Callable] = field(default_factory=dict)
    differentiable: bool = True
    backward: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    compared: Callable = lambda output: output  # what of an output is compared; it is not timed
    unrolls: bool = False  # torch.compile would unroll the steps of the reference
    compiled: bool = False  # whether the reference under torch.compile is one of the peers

    @cached_property
    def inputs(self) -> dict:
        torch.manual_seed(0)
        inputs = self.make(self.device, self.dtype)
        if self.backward:
            for x in self.leaves(inputs):
                x.requires_grad_()
        return inputs

    @staticmethod
    def leaves(inputs):
        return [x for x in inputs.values() if isinstance(x, torch.Tensor) and x.is_floating_point()]

    @cached_property
    def output_gradient(self):
        with torch.no_grad():
            return torch.randn_like(self.call(**self.inputs))

    def implementations(self) -> dict[str, Callable]:
        """name -> a call without arguments that gives the output, and the gradients of all inputs if `backward`."""
        found = {"lifter": partial(self._run, self.call), "reference": partial(self._run, self.call, "reference")}
        found |= {name: partial(self._run, peer) for name, peer in self.peers.items()}
        if self.compiled:
            torch.compiler.reset()  # what was compiled for other shapes would be tried first
            found["torch.compile"] = partial(self._run, torch.compile(self.call, dynamic=False), "reference")
        return found

    def _run(self, call, backend=None):
        with lifter.kernels.backend(backend) if backend else nullcontext():
            if not self.backward:
                with torch.no_grad():
                    return call(**self.inputs)
            output = call(**self.inputs)
            return output, *torch.autograd.grad(output, self.leaves(self.inputs), self.output_gradient)


def all_cases(setup) -> list[Case]:
    """Forward, and forward and backward, of what the files beside this one declare; the last of each in bfloat16 too, on a GPU
    all of them. A quick run has the last of each in float32 alone."""
    return [case for op in ops() for case in cases_of(op, setup)]


def ops() -> list[str]:
    """The files beside this one."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def cases_of(op, setup) -> list[Case]:
    found, on_gpu = [], setup.device != "cpu"
    declared = importlib.import_module(f"{__name__}.{op}").cases(setup)
    if on_gpu:
        declared = [replace(case, compiled=_compiles(case)) for case in declared if case.dtype == torch.float32]
    half = [replace(case, name=f"{case.name} bfloat16", dtype=torch.bfloat16) for case in declared]
    if setup.quick and not on_gpu:
        declared, half = declared[-1:], []
    for case in declared + half if on_gpu else declared:
        found.append(replace(case, name=f"{case.name} forward"))
        if case.differentiable:
            found.append(replace(case, name=f"{case.name} forward+backward", backward=True))
    if half and not on_gpu:
        found.append(replace(half[-1], name=f"{half[-1].name} forward"))
    return [replace(case, device=setup.device) for case in found]


def _compiles(case) -> bool:
    return bool(COMPILED.search(case.name)) and not case.unrolls


def cases(setup):
    """An op whose cases cannot be told is one case, which fails."""
    found = []
    for op in ops():
        try:
            found += [(case.name, partial(run, case, setup)) for case in cases_of(op, setup)]
        except Exception as failure:
            found.append((op, partial(fail, failure)))
    return found


def run(case: Case, setup) -> list[dict]:
    implementations, notes = case.implementations(), []
    for name in [name for name in implementations if name not in OURS]:
        try:
            implementations[name]()
        except Exception as failure:  # whatever it is, it is theirs
            notes.append(f"{name} fails: {first_line(failure)}")
            del implementations[name]
    timings, outputs = measure(implementations, case.device, setup.seconds)
    outputs = {name: case.compared(output) for name, output in outputs.items()}
    errors = {name: error(output, outputs["reference"]) for name, output in outputs.items()}
    ours = timings["lifter"].median
    apart = {
        name: gpu.apart(call, timings[name].median, case.dtype, case.device)
        for name, call in implementations.items()
        if name != "reference"
    }
    bound = lower_bound(implementations["lifter"], case.device)
    matches = errors["lifter"] <= tolerance(case.dtype)
    peers = {
        name: {
            "time": timings[name],
            "speedup": speedup(timings["lifter"], timings[name])
            if matches and errors[name] <= tolerance(case.dtype)
            else None,
            "error": errors[name],
            **apart[name],
        }
        for name in timings
        if name not in OURS
    }
    notes = ([] if matches else ["WRONG OUTPUT"]) + [apart["lifter"].pop("graph_note", "")] + notes
    return [
        {
            "case": case.name,
            "dtype": str(case.dtype).removeprefix("torch."),
            "lifter": timings["lifter"],
            "reference": timings["reference"],
            "speedup": speedup(timings["lifter"], timings["reference"]) if matches else None,
            **apart["lifter"],
            "error": errors["lifter"],
            "matches": matches,
            "peers": peers,
            "peers_text": ", ".join(f"{name} {p['speedup']}" for name, p in peers.items() if p["speedup"]),
            "bound": bound and bound.asdict(),
            "bound_kind": bound and bound.kind,
            "share_of_bound": bound and bound.seconds / apart["lifter"].get("device", ours),
            "note": "; ".join(filter(None, notes)),
        }
    ]
