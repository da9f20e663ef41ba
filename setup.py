"""Drives CMake over csrc/. An install without compiler succeeds too, and leaves the reason for `lifter info`."""

import os
import re
import runpy
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = runpy.run_path(str(ROOT / "lifter" / "_filename.py"))["LIBRARY"]


class BuildError(Exception):
    pass


def find_torch():
    """Return (folder, version, CUDA version or "") of a torch with usable headers, or None.

    Read from its files: pip's build isolation hides the environment's torch from `import`, but not from the disk.
    """
    folders = list(sys.path)
    for prefix in filter(None, (sys.prefix, os.environ.get("VIRTUAL_ENV"), sys.base_prefix)):
        scheme = {"base": prefix, "platbase": prefix}
        folders += [sysconfig.get_path(kind, vars=scheme) for kind in ("purelib", "platlib")]
    folders += filter(None, [site.getusersitepackages()])
    for folder in (Path(entry, "torch") for entry in folders):
        if (folder / "version.py").is_file():
            text = (folder / "version.py").read_text(errors="replace")
            values = dict(re.findall(r"""^(__version__|cuda)\b.*= ['"](.*)['"]""", text, re.M))
            version = values.get("__version__", "")  # somebody else's module of that name has none
            if tuple(map(int, re.findall(r"\d+", version)[:2])) >= (2, 11):
                return folder, version, values.get("cuda", "")
    return None


def run(*command):
    """Run, print the output, and raise with its first error in one line."""
    plain = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=plain)
    print(result.stdout, flush=True)
    if result.returncode:
        lines = [line.strip() for line in result.stdout.replace(f"{ROOT}/", "").splitlines() if line.strip()]
        lines = lines or [f"error: {command[0]} failed and said nothing"]
        first = next((i for i, line in enumerate(lines) if "error" in line.lower()), -1)
        is_cmake = lines[first].startswith("CMake Error")  # which says where, and what in the lines that follow
        raise BuildError(" ".join(lines[first + 1 : first + 4]) if is_cmake else lines[first])


class CMakeBuild(build_ext):
    def run(self):
        package = ROOT / "lifter" if self.inplace else Path(self.build_lib, "lifter")
        package.mkdir(parents=True, exist_ok=True)
        failure = package / "_build_failure.txt"
        try:
            built = self.compile()
        except BuildError as error:
            if "1" in (os.environ.get("LIFTER_REQUIRE_BUILD"), os.environ.get("LIFTER_BUILD_CUDA")):
                raise
            (package / LIBRARY).unlink(missing_ok=True)  # kernels of older sources would be worse than none
            failure.write_text(f"{error}\n")
            print(f"\nWARNING: lifter is installed without its CPU kernels and will run slowly: {error}\n", flush=True)
            return
        new = package / f"{LIBRARY}.new"  # renamed into place: a running process keeps the file that it has mapped
        shutil.copy2(built / LIBRARY, new)
        os.replace(new, package / LIBRARY)
        failure.unlink(missing_ok=True)

    def compile(self):
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")))
        tools = {name: shutil.which(name, path=path) for name in ("cmake", "ninja")}
        if missing := [name for name, found in tools.items() if not found]:
            raise BuildError(f"{' and '.join(missing)} not found (pip install {' '.join(missing)})")
        if (torch := find_torch()) is None:
            raise BuildError("no torch >= 2.11 found to build against")

        folder, version, cuda = torch
        sanitize = os.environ.get("LIFTER_SANITIZE", "0")
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}{'-sanitize' if sanitize == '1' else ''}"
        definitions = {
            "CMAKE_MAKE_PROGRAM": tools["ninja"],
            "TORCH_DIR": folder,
            "TORCH_VERSION": version,
            "TORCH_CUDA": cuda,
            "LIFTER_BUILD_CUDA": os.environ.get("LIFTER_BUILD_CUDA", "auto"),
            "LIFTER_SANITIZE": sanitize,
        }
        try:
            run(tools["cmake"], "-G", "Ninja", "-S", ROOT, "-B", build, *(f"-D{k}={v}" for k, v in definitions.items()))
        except BuildError:
            shutil.rmtree(build, ignore_errors=True)  # CMake would remember the compiler that failed
            raise
        run(tools["cmake"], "--build", build)
        return build


class Wheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]  # the library is no Python extension: any Python loads it


setup(
    packages=find_packages(include=["lifter", "lifter.*"])
    + ["lifter.kernels"]
    + [f"lifter.kernels.{name}" for name in find_packages("kernels")],
    package_dir={"lifter": "lifter", "lifter.kernels": "kernels"},
    ext_modules=[Extension("lifter.lifter_ops", [])],  # makes setuptools build, and name a platform
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel},
    # A torch that is there is used where it is: build isolation must not fetch gigabytes for its headers.
    setup_requires=[] if find_torch() else ["torch>=2.11"],
)
