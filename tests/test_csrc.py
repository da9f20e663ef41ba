"""Foundations of the C++ kernels, without torch: the vectors of csrc/cpu/simd.h, and how the compiled objects meet."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lifter import _library

ROOT = Path(__file__).parents[1]
CAPABILITIES = ["baseline", "avx2", "avx512"]  # in the order in which machines have them
STRIDE = 997  # every so many-th float; `simd_test 1` takes all of them, in a quarter of an hour

needs_build = pytest.mark.skipif(not _library.loaded, reason="the C++ kernels are not built here")


def tool(name):
    """A program of the system or of this environment."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"))))
    return path or pytest.skip(f"needs {name}")


def build(folder, target, *definitions):
    """Build a program of CMakeLists.txt in an empty folder."""
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    subprocess.run(
        [tool("cmake"), "-G", "Ninja", "-S", ROOT, "-B", folder, ninja, "-DLIFTER_TESTS=1", *definitions], check=True
    )
    subprocess.run([tool("cmake"), "--build", folder, "--target", target], check=True)
    return folder / target


@needs_build
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_simd(capability, tmp_path):
    if capability not in _library._C.build_info()["capabilities"]:
        pytest.skip(f"{capability} is not built here")
    program = build(tmp_path, f"simd_test_{capability}")
    best = _library._C.max_cpu_capability().removesuffix("_bf16")
    if CAPABILITIES.index(capability) > CAPABILITIES.index(best):
        pytest.skip(f"{capability} was compiled, but this machine cannot run it")
    subprocess.run([program, str(STRIDE)], check=True)


def test_simd_on_arm(tmp_path):
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64-static")
    arm = ("SYSTEM_NAME=Linux", "SYSTEM_PROCESSOR=aarch64", f"CXX_COMPILER={compiler}", "EXE_LINKER_FLAGS=-static")
    program = build(tmp_path, "simd_test_baseline", *(f"-DCMAKE_{value}" for value in arm))
    subprocess.run([emulator, program, str(20 * STRIDE)], check=True)


@needs_build
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_weak_symbols_stay_in_their_namespace(capability):
    """A weak symbol of which each capability has a copy is linked once: it may be the copy that this machine cannot run."""
    build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}" / "CMakeFiles"
    objects = list(build.glob(f"cpu_{capability}.dir/**/*.o"))
    if not objects:
        pytest.fail(f"no objects in {build}") if os.environ.get("CI") else pytest.skip("lifter was not built in this folder")
    listed = subprocess.run([tool("nm"), "-C", *objects], check=True, capture_output=True, text=True).stdout
    symbols = re.findall(r"^[0-9a-f]+ ([A-Za-z]) (.+)$", listed, re.M)
    assert any(f"lifter::{capability}::" in name for _, name in symbols)
    weak = [name for kind, name in symbols if kind in "WVu" and not name.startswith("DW.ref.")]  # those are no code
    assert [name for name in weak if f"lifter::{capability}::" not in name] == []
