"""Imports of lifter's modules: downwards, without a circle, at their top; and the cost of `import lifter`."""

import ast
import functools
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lifter

ROOT = Path(__file__).parents[1]
CORE = {*sys.stdlib_module_names, "lifter", "torch", "numpy", "safetensors"}  # the rest is optional
BELOW = {  # what these may import beside themselves
    "kernels": {"_library"},
    "layers": {"kernels"},
    "models": {"kernels", "layers", "skeleton"},
}
LATE = {
    ("lifter.commands.verify", "lifter.verify"),  # which sets what triton reads when it is first imported
    ("lifter.commands.lift", "lifter.commands._keypoints"),  # torch, which takes seconds, after the checks
    ("lifter.commands._clips", "lifter.commands._people"),
}


def _imports(name, path):
    """(module, whether it is imported in a function) for all that a file imports."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    late = {node for function in functions for node in ast.walk(function)}
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for full in (f"{source}.{alias.name}" for alias in node.names):
                yield full if full in MODULES else source, node in late


def _modules():
    for folder, package in ((ROOT / "lifter", "lifter"), (ROOT / "kernels", "lifter.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


MODULES = dict(_modules())


@functools.cache
def _edges():
    """List (module, what it imports, whether in a function), and those within lifter alone."""
    edges = [(name, imported, late) for name, path in MODULES.items() for imported, late in _imports(name, path)]
    return edges, [edge for edge in edges if edge[1] in MODULES]


def _room(name):
    return name.split(".")[1] if "." in name else "lifter"


@pytest.mark.parametrize("of", [str, _room], ids=["modules", "rooms"])
def test_no_circle(of):
    graph = {}
    for name, imported, _ in _edges()[1]:
        if of(name) != of(imported) or of is str:
            graph.setdefault(of(name), set()).add(of(imported))
    assert len(graph) > 10
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_imports_go_down():
    rooms = {(_room(name), _room(imported)) for name, imported, _ in _edges()[1]}
    for room, below in BELOW.items():
        assert {imported for name, imported in rooms if name == room} <= below | {room}
    assert {name for name, imported in rooms if imported == "commands"} <= {"commands", "__main__"}


def test_late_imports_are_of_what_needs_an_optional_package():
    edges, ours = _edges()
    optional = {name for name, imported, late in edges if not late and imported.split(".")[0] not in CORE}
    for _ in range(10):
        optional |= {name for name, imported, late in ours if not late and imported in optional}
    late = {(name, imported) for name, imported, late in ours if late} - LATE
    assert not [f"{name} imports {imported} in a function" for name, imported in late if imported not in optional]


def test_import_is_cheap():
    """And what `lifter --help` needs: not even torch or numpy."""
    code = (
        "import sys, lifter, lifter.__main__; heavy = {'torch', 'numpy', 'triton', 'matplotlib', 'lightning', 'safetensors', "
        "'lifter.models', 'lifter.kernels'} & set(sys.modules); sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["diffusion", "evaluation", "losses", "protocols", "streaming"])
def test_short_names(name):
    module = importlib.import_module(f"lifter.{name}")
    assert module is getattr(lifter, name) is sys.modules[f"lifter.{name}"]
    assert module is importlib.import_module(module.__name__) and module.__spec__.name == module.__name__ != f"lifter.{name}"


def test_late_names():
    assert set(lifter.__all__) <= set(dir(lifter)) and all(hasattr(lifter, name) for name in lifter.__all__)
    assert not hasattr(lifter, "no_such_name")


def test_modules_without_an_import_of_their_own():
    code = "import lifter; lifter.data.FORMATS, lifter.registry.create_model, lifter.kernels.backend, lifter.layers.Mamba"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="'lifter' has no attribute 'nothing'"):
        lifter.nothing  # noqa: B018
