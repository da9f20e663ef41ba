"""How setup.py finds the torch to build against. That it builds, every other test shows."""

import importlib.util
import site
import sys
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")


@pytest.fixture
def find_torch(tmp_path, monkeypatch):
    """`find_torch` of setup.py where nothing is installed."""
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    spec = importlib.util.spec_from_file_location("lifter_setup", Path(__file__).parents[1] / "setup.py")
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
