"""Count the machine instructions of the Triton kernels, compiled for a GPU that need not be here.

    python -m benchmarks.sass --only '^(selective|skeleton)_scan'     # print what these ops would launch, and the times
    python -m benchmarks.sass --write                                 # all of them, into benchmarks/results/sass
    python -m benchmarks.sass FILE.cubin                              # the kernels of other compilers

The calls are those of `python -m benchmarks kernels --device cuda`, on meta tensors. A loop of a program counts as often as
TRIPS says, all else once. An element is an exponential that the op cannot avoid, where it has some (a state and step of a
scan, a pair of an attention), else a number that it writes. Predicted times are issue slots over IPC, which is assumed until
a GPU has measured it: trust their ratios.
"""

import argparse
import collections
import contextlib
import io
import json
import math
import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lifter._io import whole
from lifter.kernels._op import _kernels

from . import kernels

RESULTS = Path(__file__).parent / "results" / "sass"
# Of an H100 or H200 (sm_90) and an A100 (sm_80), as reached, not as printed. Products of float32 are three of TF32.
GPUS = {
    90: {"multiprocessors": 132, "clock": 1.98e9, "shared": 228, "bytes": 4.3e12, "half": 700e12, "single": 130e12},
    80: {"multiprocessors": 108, "clock": 1.41e9, "shared": 164, "bytes": 1.7e12, "half": 250e12, "single": 45e12},
}
CASES = r"[TL]=243 B=64 |_scan [TL]=(243|4131) f|_scan [TL]=243 B=8 f|causal_conv1d L=4096|h36m N=256|update B=64"
IPC = 0.6  # instructions per cycle and scheduler, of which a multiprocessor has four, when all of them have work
WARP_IPC = 0.25  # of one warp alone
MUFU_CYCLES = 8  # of a scheduler, for an instruction of 32 lanes
CLASSES = {
    "float": "FADD|FMUL|FFMA|FSETP|FSEL|FMNMX|FSET|FCHK|HADD|HMUL|HFMA|HMNMX|HSETP|F2F|DADD|DMUL|DFMA",
    "mufu": "MUFU",
    "shared": "LDS|STS|STSM|LDSM",
    "global": "LDG|STG|LD|ST|LDGSTS|ATOM|RED|UTMA",
    "shuffle": "SHFL|REDUX|VOTE",
    "tensor": "HMMA|HGMMA|IMMA|QGMMA",
    "wait": "BAR|DEPBAR|LDGDEPBAR|WARPSYNC|WARPGROUP|NANOSLEEP|SYNCS|MEMBAR|ERRBAR|YIELD",
    "control": "BRA|EXIT|RET|CALL|BSSY|BSYNC|NOP|BREAK",
}  # and all others: "integer"


def cdiv(a, b):
    return -(-a // b)


# How often a program of a kernel runs its loops, by what it was launched with: the outer ones, and those inside them.
TRIPS = {
    "selective_scan.outputs": lambda p: (cdiv(min(p.span, p.L), p.SUB), 1),
    "selective_scan.local_states": lambda p: (cdiv(p.span, p.SUB),),
    "selective_scan": lambda p: (cdiv(min(p.CHUNK, p.L), p.SUB),),
    "skeleton_scan.gather_rows": lambda p: (),
    "skeleton_scan.outputs": lambda p: (cdiv(min(p.span, p.T * p.J), p.SUB), 1),
    "skeleton_scan.local_states": lambda p: (cdiv(p.span, p.SUB),),
    "skeleton_scan": lambda p: (cdiv(min(p.CHUNK, p.T * p.J), p.SUB),),
    "skeleton_scan.ungather": lambda p: (p.S * (1 if p.PER_DIRECTION else p.K), 1, p.J),
    "_scan.carry": lambda p: (cdiv(p.chunks, p.SUB),),
    "axial_attention": lambda p: (cdiv(p.N, p.WALK),),
    "retention.carry": lambda p: (cdiv(p.T, p.length), cdiv(p.length, p.BM)),
    "retention.outputs": lambda p: (cdiv(min(p.length, p.T), p.BM),),
    "retention": lambda p: (cdiv(p.V, p.BV), cdiv(min(p.length, p.T), p.BM)),
    "temporal_graph_conv.scores": lambda p: (cdiv(p.T, 32), cdiv(p.C, p.BLOCK)),
    "temporal_graph_conv.weights": lambda p: (cdiv(p.T, 32), cdiv(p.C, p.BLOCK)),
    "temporal_graph_conv.edges": lambda p: (cdiv(p.problems, p.parts),),
    "temporal_graph_conv": lambda p: (cdiv(p.T, p.WALK),),
    "topk_temporal_mask.select": lambda p: (cdiv(p.T, p.BITS), cdiv(p.C, p.BLOCK)),
    "temporal_topk_graph_conv.choose": lambda p: (cdiv(p.base, p.BITS), cdiv(p.C, p.BLOCK)),
    "temporal_topk_graph_conv": lambda p: (cdiv(p.D, p.BLOCK_D), 1),
    "density_peak_prune.products": lambda p: (cdiv(p.C, p.BLOCK),),
    "density_peak_prune.measure": lambda p: (p.k,),
    "density_peak_prune.select": lambda p: (32,),
    "deform_conv2d._forward_kernel": lambda p: (p.taps,),
    "deform_conv2d._places_kernel": lambda p: (p.taps, cdiv(p.group_channels, p.BLOCK_C)),
    "deform_conv2d._input_kernel": lambda p: (p.taps,),  # about: as many pixels read a pixel as it has taps
    "causal_conv1d.steps": lambda p: (p.L,),
    "skeleton_graph_conv.outputs": lambda p: (p.D,),
    "skeleton_graph_conv.gradients": lambda p: (p.J, p.D),
}


# ---- what is launched ------------------------------------------------------------------------------------------------


class _Launches(TorchDispatchMode):
    """Runs the ops' Triton functions on meta tensors: (op, arguments, results, launches) of every call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("lifter::")
        if name == func._schema.name or _kernels[name].triton is None:
            return func(*args, **(kwargs or {}))
        from lifter.kernels.triton._aot import launches

        with launches() as made:
            out = _kernels[name]._run_triton(*args)
        self.calls.append((name, args, out, made))
        return out


def calls(case):
    """The ops that the `Case` calls: (name, arguments, results, launches)."""
    with _Launches() as mode, torch.device("meta"):
        output = case.call(**case.inputs)
        if case.backward:
            torch.autograd.grad(output, case.leaves(case.inputs), torch.empty_like(output))
    return mode.calls


def work(name, args, out, gpu) -> dict:
    """The microseconds that an op cannot avoid, by kind, and its elements."""
    cost = _kernels[name].cost(*args)
    tensors = [x for x in tree_leaves((args, out)) if isinstance(x, torch.Tensor)]
    size = sum(min(x.numel() * x.itemsize, x.untyped_storage().nbytes()) for x in tensors)
    dtype = next(x.dtype for x in tensors)
    rate = gpu["single"] if dtype == torch.float32 else gpu["half"]
    bound = {
        "bytes": size / gpu["bytes"],
        "products": 2 * sum(math.prod(shape) for shape in cost.products) / rate,
        "exponentials": cost.exponentials * MUFU_CYCLES / 32 / (4 * gpu["multiprocessors"] * gpu["clock"]),
    }
    written = max((x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)), default=1)
    return {kind: 1e6 * seconds for kind, seconds in bound.items()}, cost.exponentials or written


# ---- what it is compiled to ------------------------------------------------------------------------------------------


def compiled(kernel, signature, constexprs, options, arch):
    """A kernel as Triton compiles it, and the registers and spilled bytes that ptxas reports."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = dict(options)
    source = ASTSource(kernel, signature, constexprs, options.pop("attrs", None))
    triton.knobs.nvidia.dump_ptxas_log = triton.knobs.compilation.always_compile = True
    with contextlib.redirect_stdout(io.StringIO()) as log:
        made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    said = log.getvalue()
    return made, int(re.search(r"Used (\d+) registers", said)[1]), sum(map(int, re.findall(r"(\d+) bytes spill", said)))


def listing(cubin: bytes) -> dict[str, list[tuple]]:
    """The instructions of every kernel of a cubin, as (opcode, number of the one it jumps to or None, conditional)."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [Path(triton.knobs.nvidia.nvdisasm.path), "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernels, labels = {}, {}
    for line in text.splitlines():
        if found := re.match(r"\.text\.(\S+):", line):
            code = kernels[found[1]] = []
        elif found := re.match(r"(\.L_x_\d+):", line):
            labels[found[1]] = len(code)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Z0-9]*)(.*)", line):
            target = re.search(r"`\((\.L_x_\d+)\)", found[3]) if found[2] == "BRA" else None
            conditional = found[1] or re.match(r"\S*\s+!?U?P\d", found[3])  # as BRA.U !UP0, `(.L_x_1)
            code.append((found[2], target[1] if target else "", bool(conditional)))
    for code in kernels.values():
        code[:] = [(op, labels.get(target), conditional) for op, target, conditional in code]
        while code and (code[-1][0] == "NOP" or code[-1][:2] == ("BRA", len(code) - 1)):  # what fills the end
            code.pop()
    return kernels


def depths(code) -> list[int]:
    """Return how many loops every instruction is in: cycles of the control flow, and those left without their entries."""
    after = [set() for _ in code]
    for i, (op, target, conditional) in enumerate(code):
        ends = not conditional and (op in ("EXIT", "RET") or op == "BRA" and target is not None)
        after[i] = {n for n in (target, None if ends else i + 1) if n is not None and n < len(code)}
    found, nodes = [0] * len(code), set(range(len(code)))
    while nodes:
        inside = set()
        for cycle in _cycles(after, nodes):
            entries = {n for i in range(len(code)) if i not in cycle for n in after[i] & cycle}
            for n in cycle:
                found[n] += 1
            inside |= cycle - (entries or {min(cycle)})
        nodes = inside
    return found


def _cycles(after, nodes):
    """The strongly connected parts among `nodes` that have more than one (Tarjan's algorithm)."""
    number, low, stack, parts = {}, {}, [], []
    for root in sorted(nodes):
        todo = [] if root in number else [(root, None)]
        while todo:
            n, rest = todo.pop()
            if rest is None:
                number[n] = low[n] = len(number)
                stack.append(n)
                rest = iter(after[n] & nodes)
            for m in rest:
                if m not in number:
                    todo += [(n, rest), (m, None)]
                    break
                if m in stack:
                    low[n] = min(low[n], number[m])
            else:
                if low[n] == number[n]:
                    part = set(stack[stack.index(n) :])
                    del stack[stack.index(n) :]
                    parts.append(part)
                if todo:
                    low[todo[-1][0]] = min(low[todo[-1][0]], low[n])
    return [part for part in parts if len(part) > 1]


def classes(code, trips=()) -> collections.Counter:
    """Instructions of a warp by class; those in loops `trips` times, one number for every depth."""
    known = {name: re.compile(f"({names})(?![A-Z])") for name, names in CLASSES.items()}
    total = collections.Counter()
    for (op, *_), depth in zip(code, depths(code), strict=True):
        kind = next((name for name, pattern in known.items() if pattern.match(op)), "integer")
        total[kind] += math.prod(trips[:depth]) if trips else 1
    return total


# ---- what that predicts ----------------------------------------------------------------------------------------------


def counted(launch, arch, elements, launches, ipc=IPC) -> dict:
    """A row of the table: a kernel that is launched so many times, compiled for an architecture."""
    gpu = GPUS[arch]
    made, registers, spilled = compiled(launch.kernel, launch.signature, launch.constexprs, launch.options, arch)
    trips = TRIPS.get(launch.name) or TRIPS.get(launch.name.split(".")[0])
    ((_, code),) = listing(made.asm["cubin"]).items()
    trips = trips(SimpleNamespace(**launch.arguments)) if trips else ()
    by_class = classes(code, (*trips, 1, 1, 1))
    warps, shared = made.metadata.num_warps, made.metadata.shared
    by_registers = 65536 // (cdiv(registers, 8) * 256 * warps)
    resident = min(by_registers, 64 // warps, 32, int(gpu["shared"] / (shared / 1024 + 1)))
    schedulers = 4 * gpu["multiprocessors"]
    rate = min(ipc, WARP_IPC * min(launch.programs, resident * gpu["multiprocessors"]) * warps / schedulers)
    issued = launch.programs * warps / schedulers / gpu["clock"]
    threads = 32 * warps * launch.programs * launches
    return {
        "kernel": launch.name,
        "launches": launches,
        "programs": launch.programs,
        "warps": warps,
        "registers": registers,
        "spilled": spilled,
        "shared": shared,
        "programs per SM": resident,
        "per element": {kind: round(n * threads / elements, 3) for kind, n in by_class.items()},
        "us": round(1e6 * launches * issued * max(by_class.total() / rate, by_class["mufu"] * MUFU_CYCLES), 1),
    }


def rows(case, arch, ipc=IPC, only="") -> list[dict]:
    """What a case launches, op by op, with the bound of the op; of the kernels that have `only` in their names."""
    found = []
    for name, args, out, made in calls(case):
        bound, elements = work(name, args, out, GPUS[arch])
        times = collections.Counter(launch.key for launch in made)
        for launch in {launch.key: launch for launch in made}.values():
            if only in launch.name:
                row = counted(launch, arch, elements, times[launch.key], ipc)
                found.append({"op": name, **row, "bound": {kind: round(us, 1) for kind, us in bound.items()}})
    return found


def total(row) -> float:
    return sum(row["per element"].values())


def worse(now: list[dict], before: list[dict]) -> list[str]:
    """The kernels that spill, or that take a tenth more instructions or registers than they did."""
    found, known = [], {(row["op"], row["kernel"]): row for row in before}
    for row in now:
        old = known[row["op"], row["kernel"]]
        if row["spilled"] or total(row) > 1.1 * total(old) or row["registers"] > 1.1 * old["registers"]:
            what = "{total:.1f} instructions an element, {registers} registers, {spilled} bytes spilled".format
            found.append(f"{row['kernel']}: {what(total=total(row), **row)}, before {what(total=total(old), **old)}")
    return found


def worse_than_table(case: str, only: str, arch=90) -> list[str]:
    """Count what the table has of a case again, in a process of its own: `worse` of both."""
    (found,) = [each for each in cases() if each.name == case]
    return worse(rows(found, arch, only=only), table(arch)[case])


def table_file(arch) -> Path:
    """A version of Triton has a table of its own: another counts otherwise."""
    import triton

    return RESULTS / f"sm_{arch}-triton-{triton.__version__}.json"


def table(arch) -> dict:
    file = table_file(arch)
    return json.loads(file.read_text()) if file.exists() else {}


def write(counts: dict, arch):
    """The table of an architecture, a line for a kernel."""
    lines = lambda found: ",\n".join(f"  {json.dumps(row)}" for row in found)
    text = ",\n".join(f" {json.dumps(name)}: [\n{lines(found)}\n ]" for name, found in counts.items())
    with whole(table_file(arch)) as path:
        path.write_text(f"{{\n{text}\n}}\n")


def print_row(row):
    per = sorted(row["per element"].items(), key=lambda item: -item[1])
    kind, bound = max(row["bound"].items(), key=lambda item: item[1])
    print(
        f"  {row['kernel']:36} x{row['launches']:<3} {row['programs']:7} programs of {row['warps']} warps, "
        f"{row['registers']:3} registers, {row['spilled']} spilled, {row['shared']:6} shared, "
        f"{row['programs per SM']:2} per SM | "
        f"{total(row):7.1f} an element: {' '.join(f'{name} {n:.1f}' for name, n in per if n >= 0.05)} | "
        f"{row['us']} us, bound {bound} ({kind})",
        flush=True,
    )


def cases():
    """Of every op many clips and one, as `python -m benchmarks kernels` has them on a GPU."""
    setup = SimpleNamespace(device="meta", everything=True, quick=False)
    found = [case for case in kernels.all_cases(setup) if re.search(CASES, case.name)]
    both = {case.name.replace("forward+backward", "forward") for case in found if case.backward}
    return [case for case in found if case.backward or case.name not in both]


def main(argv=None):
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sass", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cubins", nargs="*", metavar="FILE.cubin", help="count the instructions of these instead, loops once")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases with this regular expression in their name")
    parser.add_argument("--arch", type=int, default=90, choices=GPUS)
    parser.add_argument("--ipc", type=float, default=IPC, help="instructions per cycle and scheduler (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table, of the cases that run")
    args = parser.parse_args(argv)
    for file in args.cubins:
        for name, code in listing(Path(file).read_bytes()).items():
            inside = collections.Counter(depths(code))
            print(f"{file} {name}: {dict(classes(code))}, by depth of loops {dict(inside)}")
    if args.cubins:
        return
    for case in cases():
        if re.search(args.only, case.name):
            print(case.name, flush=True)
            found = rows(case, args.arch, args.ipc)
            for row in found:
                print_row(row)
            if args.write:
                write(table(args.arch) | {case.name: found}, args.arch)


if __name__ == "__main__":
    main()
