"""Every Triton kernel compiles for sm_80 and sm_90, without a GPU, spills no register, fits in a multiprocessor, and has the
instructions that it should have: for sm_80 by the Triton that is installed, for sm_90 by the oldest that pyproject.toml
allows, which `make` puts in OLDEST. pytest's summary says how many registers it takes, a failure or
`python tests/test_triton_aot.py MODULE` (`make aot`: of every module) says all of each kernel."""

import contextlib
import importlib
import io
import multiprocessing
import os
import pkgutil
import re
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from benchmarks import sass

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# The first case of every kernel, and each 144th or 48th: all of them (`make aot`) take minutes.
ARCHITECTURES = {80: 144, 90: 48}
OLDEST = Path(__file__).parents[1] / "build" / "oldest-triton"
# Of a multiprocessor, which must hold a block.
SHARED, REGISTERS = {80: 163 * 1024, 90: 227 * 1024}, 65536
# Kernels that read no rows of channels: what lies together is a clip's frames, of any number, or a sequence's steps; and the
# scans' forward, a lane of which has a channel. All others must read 16 bytes at once in some case.
NARROW = {
    "density_peak_prune": {"measure", "score", "select"},
    "topk_temporal_mask": {"symmetrise"},
    "selective_scan": {"local_states", "outputs", "local_adjoints", "gradients"},
    "skeleton_scan": {"gather_rows", "local_states", "outputs"},
    "causal_conv1d": {"steps"},
}


def modules():
    import lifter.kernels.triton as package

    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


@pytest.fixture(scope="session")
def compilers():
    """A process for each architecture, in which nothing is interpreted and the oldest Triton can be imported."""
    assert OLDEST.is_dir() or not os.environ.get("CI"), f"there is no {OLDEST}, which `make test` makes"
    first = {80: [], 90: [str(OLDEST)]}
    start = "import os, sys; os.environ['TRITON_INTERPRET'] = '0'; sys.path[:0] = {}"
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = lambda arch: ProcessPoolExecutor(1, spawn, exec, (start.format(first[arch]),))
        yield {arch: stack.enter_context(pool(arch)) for arch in ARCHITECTURES}


@pytest.mark.parametrize("module", modules())
def test_compiles_without_spills(module, compilers, record_property):
    told = []
    runs = {arch: compilers[arch].submit(said, module, arch, step) for arch, step in ARCHITECTURES.items()}
    for arch, run in runs.items():
        clean, log = run.result()
        assert clean, log
        registers = [int(number) for number in re.findall(r": (\d+) registers, 0 bytes spilled", log)]
        assert registers, f"nothing was compiled for sm_{arch}"
        version = re.search(r"Triton (\S+)", log)[1]
        range_of = f"{min(registers)} to {max(registers)} registers"
        told.append(f"{len(registers)} kernels for sm_{arch} by Triton {version}, {range_of}")
    record_property("summary", f"{module}: {'; '.join(told)}; no spills")  # conftest.py prints it


@pytest.mark.parametrize("op, length", [("selective_scan", "L"), ("skeleton_scan", "T")])
def test_no_more_instructions_than_the_table_has(op, length, compilers):
    """Two kernels, of the version of Triton that the table is of; `python -m benchmarks.sass` counts all."""
    if not (OLDEST / "triton").is_dir():
        pytest.skip(f"there is no Triton in {OLDEST}, where `make test` puts it")
    run = compilers[90].submit(sass.worse_than_table, f"{op} {length}=243 B=64 forward+backward", f"{op}.outputs")
    assert run.result() == []


@pytest.mark.parametrize(
    "change, found",
    [
        ({"registers": 109, "per element": {"float": 10.9}}, 0),
        ({"registers": 111}, 1),
        ({"per element": {"float": 8.0, "integer": 3.1}}, 1),
        ({"spilled": 4}, 1),
    ],
)
def test_a_tenth_more_is_worse(change, found):
    row = {"op": "scan", "kernel": "outputs", "per element": {"float": 8.0, "integer": 2.0}, "registers": 100, "spilled": 0}
    assert len(sass.worse([row | change], [row])) == found


@pytest.mark.parametrize(
    "jumps, expected",
    [
        ({2: 1}, [0, 1, 1, 0]),
        ({3: 2, 4: 1}, [0, 1, 2, 2, 1, 0]),
        ({0: -2, 3: 1}, [0, 1, 1, 1, 0]),  # entered in the middle
        ({1: 4, 5: -2}, [0, 0, 0, 0, 0, 0]),  # a detour behind the end
    ],
)
def test_loops_of_machine_code(jumps, expected):
    """A negative target is of a jump without a condition."""
    code = [("BRA", abs(jumps[i]), jumps[i] > 0) if i in jumps else ("FADD", None, False) for i in range(len(expected))]
    code[3 if 5 in jumps else -1] = ("EXIT", None, False)
    assert sass.depths(code) == expected


def said(*args) -> tuple[bool, str]:
    with contextlib.redirect_stdout(io.StringIO()) as log:
        clean = compile_all(*args)
    return clean, log.getvalue()


def compile_all(module: str, arch: int, step: int = 1) -> bool:
    """Print what the compilers say of every case of the module's kernels, or of each `step`-th; whether nothing is wrong."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    triton.knobs.nvidia.dump_ptxas_log = triton.knobs.compilation.always_compile = True
    clean, wide, met = True, {}, Counter()
    print(f"Triton {triton.__version__}")
    for name, kernel, signature, constexprs, options in importlib.import_module(f"lifter.kernels.triton.{module}").aot_cases():
        met[kernel.__name__] += 1
        if (met[kernel.__name__] - 1) % step:
            continue
        options = dict(options)
        source = ASTSource(kernel, signature, constexprs, options.pop("attrs", None))
        with contextlib.redirect_stdout(io.StringIO()) as log:
            compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        registers = re.search(r"Used (\d+) registers", log.getvalue()).group(1)
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue())))
        shared, threads = compiled.metadata.shared, 32 * compiled.metadata.num_warps
        wrong = missing_instructions(compiled.asm["ttir"], compiled.asm["ptx"])
        if shared > SHARED[arch] or int(registers) * threads > REGISTERS:
            wrong.append("too large for a multiprocessor")
        clean &= spilled == 0 and not wrong
        wide[kernel.__name__] = wide.get(kernel.__name__, False) or reads_widely(compiled.asm["ptx"])
        print(
            f"sm_{arch} {module} {name}: {registers} registers, {spilled} bytes spilled, "
            f"{shared} bytes shared, {threads // 32} warps{''.join(f', {what.upper()}' for what in wrong)}",
            flush=True,
        )
    # With every case at hand; vectors depend on sizes, not on the architecture.
    narrow = {name for name, some in wide.items() if not some and step == 1} - NARROW.get(module, set())
    if narrow:
        print(f"sm_{arch} {module}: never 16 bytes at once: {', '.join(sorted(narrow))}")
    return clean and not narrow


def missing_instructions(ttir: str, ptx: str) -> list[str]:
    """List what a kernel computes without the instruction for it."""
    missing = []
    # Of float32 as such products are not for tensor cores.
    products = [line for line in ttir.splitlines() if " tt.dot " in line]
    wanted = any("tf32" in line or re.search(r"xb?f16>", line) for line in products)
    if wanted and not re.search(r"wgmma\.mma_async|mma\.sync", ptx):
        missing.append("no tensor cores")
    if re.search(r"math\.exp2? .*f32", ttir) and "ex2.approx" not in ptx:
        missing.append("no ex2")
    return missing


def reads_widely(ptx: str) -> bool:
    return bool(re.search(r"ld\.global\S*\.v[48]|cp\.async\.cg|ld\.global\S*\.v2\.b64", ptx))


def test_missing_instructions_are_seen():
    half = "%a = tt.dot %x, %y, %z : tensor<16x16xbf16> * tensor<16x16xbf16> -> tensor<16x16xf32>"
    exact = half.replace("bf16", "f32")
    assert missing_instructions(half, "fma.rn.f32") == ["no tensor cores"]
    assert missing_instructions(exact.replace(" :", ", inputPrecision = tf32 :"), "") == ["no tensor cores"]
    assert missing_instructions(exact, "fma.rn.f32") == missing_instructions(half, "mma.sync.aligned") == []
    assert missing_instructions("%b = math.exp2 %a : tensor<8xf32>", "") == ["no ex2"]
    assert reads_widely("ld.global.v4.b32 {") and not reads_widely("ld.global.v2.b32 {")


if __name__ == "__main__":
    architectures = [map(int, each.split(":")) for each in sys.argv[2:] or map(str, ARCHITECTURES)]
    sys.exit(not all([compile_all(sys.argv[1], *each) for each in architectures]))
