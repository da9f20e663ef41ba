"""Every Triton kernel compiles for sm_80 and sm_90, without a GPU, and spills no register."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tempfile

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

ARCHITECTURES = (80, 90)


def modules():
    import lifter.kernels.triton as package

    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("module", modules())
def test_compiles_without_spills(module, arch):
    # In a process of its own: here the kernels may be interpreted.
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, __file__, module, str(arch)], env=environment, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def resources(ptx: str) -> tuple[int, int]:
    """Registers per thread, and bytes spilled, of a compiled kernel: what ptxas says of it."""
    from triton import knobs

    target = re.search(r"^\.target (\w+)", ptx, re.M).group(1)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.ptx")
        with open(path, "w") as file:
            file.write(ptx)
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", path, "-o", os.path.join(folder, "out")]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", text)))
    return int(re.search(r"Used (\d+) registers", text).group(1)), spilled


def compile_all(module: str, arch: int) -> bool:
    """Print what every kernel of the module takes; whether none spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    clean = True
    for name, kernel, signature, constexprs, options in importlib.import_module(
        f"lifter.kernels.triton.{module}"
    ).aot_cases():
        options = dict(options)
        source = ASTSource(kernel, signature, constexprs, options.pop("attrs", None))
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        registers, spills = resources(compiled.asm["ptx"])
        shared = compiled.metadata.shared
        clean &= spills == 0
        print(
            f"sm_{arch} {module} {name}: {registers} registers, {spills} bytes spilled, {shared} bytes shared, "
            f"{compiled.metadata.num_warps} warps",
            flush=True,
        )
    return clean


if __name__ == "__main__":
    sys.exit(0 if compile_all(sys.argv[1], int(sys.argv[2])) else 1)
