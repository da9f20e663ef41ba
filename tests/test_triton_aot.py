"""Every Triton kernel compiles for sm_80 and sm_90, without a GPU, and spills no register; pytest's summary says how many it
takes, a failure or `python tests/test_triton_aot.py MODULE 90` says it of each kernel."""

import contextlib
import importlib
import io
import os
import pkgutil
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

ARCHITECTURES = {80: 2, 90: 1}  # every case for the second, every other for the first: the whole takes minutes


def modules():
    import lifter.kernels.triton as package

    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("module", modules())
def test_compiles_without_spills(module, arch, record_property):
    # In a process of its own: here the kernels may be interpreted.
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, __file__, module, str(arch), str(ARCHITECTURES[arch])],
        env=environment, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    registers = [int(number) for number in re.findall(r": (\d+) registers, 0 bytes spilled", done.stdout)]
    assert registers, "nothing was compiled"
    kernels = f"{len(registers)} kernels without spills, {min(registers)} to {max(registers)} registers"
    record_property("summary", f"sm_{arch} {module}: {kernels}")  # conftest.py prints it


def compile_all(module: str, arch: int, step: int = 1) -> bool:
    """Print what ptxas says of every kernel of the module, or of every `step`-th; whether none spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    triton.knobs.nvidia.dump_ptxas_log = triton.knobs.compilation.always_compile = True
    clean = True
    cases = list(importlib.import_module(f"lifter.kernels.triton.{module}").aot_cases())
    for name, kernel, signature, constexprs, options in cases[::step]:
        options = dict(options)
        source = ASTSource(kernel, signature, constexprs, options.pop("attrs", None))
        with contextlib.redirect_stdout(io.StringIO()) as log:
            compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        registers = re.search(r"Used (\d+) registers", log.getvalue()).group(1)
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue())))
        clean &= spilled == 0
        print(
            f"sm_{arch} {module} {name}: {registers} registers, {spilled} bytes spilled, "
            f"{compiled.metadata.shared} bytes shared, {compiled.metadata.num_warps} warps",
            flush=True,
        )
    return clean


if __name__ == "__main__":
    sys.exit(0 if compile_all(sys.argv[1], *map(int, sys.argv[2:])) else 1)
