"""The README and the pages of docs/: their Python runs, their commands and links exist, their figures are in a file.

Each page runs in a folder that holds the files it names, and its blocks share one namespace.
"""

import copy
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from benchmarks import model_page
from lifter import kernels
from lifter._extras import is_installed
from lifter.commands import options, train
from lifter.data import FORMATS, registry, write
from lifter.data.synthetic import open_gait
from lifter.registry import MODELS

ROOT = Path(__file__).parents[1]
DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
# Blocks of these pages are files of such a package.
FILES_OF = {"CONTRIBUTING.md": ("lifter.models", "lifter.data.formats")}


def blocks(page, language):
    """The fenced blocks of a page in a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page):
    """The words of every command in a page's blocks of shell, up to where its output goes."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|;&")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words = list(lexer)
            end = next((i for i, word in enumerate(words) if word in ("<", ">", "|")), len(words))
            if words[:end]:
                yield words[:end]


def named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.fixture
def registries():
    """Forget what a page registers."""
    known = MODELS, FORMATS, registry.WRITERS
    before = [copy.copy(each) for each in known]
    yield
    for each, items in zip(known, before):
        each.clear()
        each.update(items)


@pytest.mark.parametrize("page", named(page for page in PAGES if blocks(page, "python")))
def test_python_runs(page, tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    for name in ("keypoints.json", "poses.npz", "clips.npz"):
        write(name, next(iter(open_gait(1, 30))))
    packages = FILES_OF.get(page.name)
    names = {"__name__": "__docs__"}
    torch.manual_seed(0)
    for i, block in enumerate(blocks(page, "python")):
        names = {"__name__": f"{packages[i]}.page", "__package__": packages[i]} if packages else names
        exec(compile(block, f"{page.name}, block {i + 1}", "exec"), names)


@pytest.mark.parametrize("page", named(sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))))
def test_notebooks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for i, cell in enumerate(json.loads(page.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{page.name}, cell {i + 1}", "exec"), names)


@pytest.mark.parametrize("page", named(page for page in PAGES if blocks(page, "sh")))
def test_commands_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("model: sasmamba\ndata: h36m")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for program, *words in commands(page):
        if program == "lifter":
            parse(words)
        elif program == "make":
            assert words[0] in targets, words
        else:
            assert program == "pip", f"{program} {words}"
            assert set(",".join(re.findall(r"\[(.*)\]", " ".join(words))).split(",")) <= {"", *extras}, words


def parse(argv):
    """Exit where there is no such command or option."""
    if argv[0] != "train":
        options.parse(argv)
    elif is_installed("jsonargparse"):
        train._parser(argv[1:]).parse_args(argv[1:])


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("section, file, unit", [
    ("Speed", "benchmarks/results/epyc-avx2-2cores/report.md", " ms"),
    ("Accuracy", "lifter/weights/MODEL_CARD.md", ""),
])  # fmt: skip
def test_figures_of_the_readme_are_in_a_file(section, file, unit):
    text = (ROOT / "README.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    figures = re.findall(rf"(?<=\| )[\d.]+(?={unit or ' '})", text)
    known = re.findall(rf"(?<![\d.])[\d.]+\d(?={unit})", (ROOT / file).read_text())
    assert len(figures) >= 10 and set(figures) <= set(known)


def test_page_of_models_is_current():
    """`python -m benchmarks.model_page` writes it. Counting takes time, so that of the figures a few are compared."""
    text = model_page.PAGE.read_text()
    names = [name for names in model_page.modules().values() for name in names]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == names
    assert text.endswith("".join(map(model_page.paper, model_page.modules())))
    for name in ("linear", "smoothnet", "videopose3d", "mixste"):
        assert model_page.row(name) in text


def test_page_of_ops_has_all_functions():
    functions = [getattr(kernels, name) for name in kernels.__all__ if not name.endswith("_ref") and name != "backend"]
    named = set(re.findall(r"^::: kernels\.(.*)$", (ROOT / "docs" / "ops.md").read_text(), re.MULTILINE))
    wanted = {f"{f.__module__}.{f.__name__}".removeprefix("lifter.kernels.") for f in functions if not isinstance(f, type)}
    assert named - {"_op.backend"} == wanted
