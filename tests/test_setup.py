"""Tests of setup.py: it finds the torch to build against, and puts the right files into a wheel."""

import importlib.util
import os
import runpy
import shutil
import site
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def find_torch(tmp_path, monkeypatch):
    """`find_torch` of setup.py where nothing is installed."""
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    spec = importlib.util.spec_from_file_location("lifter_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("path", []), ("prefix", str(tmp_path / "none")), ("base_prefix", str(tmp_path / "none"))):
        monkeypatch.setattr(sys, name, value)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
    monkeypatch.setattr(site, "USER_BASE", None)  # where `site` remembers the answer
    monkeypatch.setattr(site, "USER_SITE", None)
    return module.find_torch


def install(folder, version):
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "version.py").write_text(version)
    return folder / "torch"


def test_no_torch(find_torch):
    assert find_torch() is None


def test_odd_versions_are_passed_over(find_torch, tmp_path, monkeypatch):
    odd = ["", "from .generated import version", "__version__ = 'unknown'", "__version__ = '2.10.1'", 'version = "3"']
    folders = [tmp_path / str(i) for i in range(len(odd) + 1)]
    monkeypatch.setattr(sys, "path", list(map(str, folders)))
    for folder, version in zip(folders, odd):
        install(folder, version)
    assert find_torch() is None
    torch = install(folders[-1], "__version__ = \"2.13.0+cu126\"\ncuda: Optional[str] = '12.6'\n")
    assert find_torch() == (torch, "2.13.0+cu126", "12.6")


def test_torch_of_the_user(find_torch):
    """Build isolation hides it from sys.path."""
    torch = install(Path(site.getusersitepackages()), "__version__ = '2.11.0'\ncuda: Optional[str] = None\n")
    assert find_torch() == (torch, "2.11.0", "")


@pytest.mark.parametrize("platform, name", [("linux", "liblifter_ops.so"), ("darwin", "liblifter_ops.dylib")])
def test_library_of_the_platform(monkeypatch, platform, name):
    monkeypatch.setattr(sys, "platform", platform)
    assert runpy.run_path(str(ROOT / "lifter" / "_filename.py"))["LIBRARY"] == name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of these sources, without its library: no compiler is called."""
    sources = tmp_path_factory.mktemp("sources")
    for folder in ("lifter", "kernels"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so", "_build*"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, sources)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LIFTER_")}
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]  # CMake finds no CMakeLists.txt
    subprocess.run(command, cwd=sources, env=environment, check=True, capture_output=True)
    (file,) = (sources / "dist").iterdir()
    with zipfile.ZipFile(file) as opened:
        yield file.name, opened


def test_wheel_name(wheel):
    """The library loads in any Python, on one platform."""
    name, version, python, abi, platform = wheel[0].removesuffix(".whl").split("-")
    assert (name, python, abi) == ("pose_lifter", "py3", "none") and platform != "any"


def test_wheel_metadata(wheel):
    (file,) = (name for name in wheel[1].namelist() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(wheel[1].read(file).decode())
    assert metadata["Name"] == "pose-lifter" and metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra")) >= {"render", "train", "export", "detect", "data", "ray", "triton"}
    assert not [needed for needed in metadata.get_all("Requires-Dist") if needed.startswith("lifter")]


def test_wheel_contents(wheel):
    names = set(wheel[1].namelist())
    assert names >= {
        "lifter/py.typed",
        "lifter/kernels/retention.py",
        "lifter/kernels/triton/retention.py",
        *(f"lifter/render/viewer/{path.name}" for path in (ROOT / "lifter/render/viewer").iterdir()),
        "lifter/training/recipes/sasmamba.yaml",
        "lifter/weights/base.safetensors",
        "lifter/weights/small.safetensors",
    }
    assert not [name for name in names if not name.startswith(("lifter/", "pose_lifter-"))]
