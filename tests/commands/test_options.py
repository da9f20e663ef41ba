"""The options of the commands: described without torch, and all that the library knows."""

import argparse
import importlib
import subprocess
import sys

import pytest

from lifter.__main__ import main
from lifter._extras import is_installed
from lifter._library import BACKENDS
from lifter.commands import COMMANDS, _plan, options
from lifter.data.registry import WRITERS
from lifter.inference import clean, clip
from lifter.video import DETECTORS, detectors


def test_help_needs_neither_torch_nor_numpy():
    assert _imported_by_help([name for name in COMMANDS if name != "train"], "torch", "numpy") == []


def test_help_of_train_does_not_need_torch():
    if not (is_installed("jsonargparse") and is_installed("lightning")):  # without importing them
        pytest.skip('needs lightning: pip install -e ".[train]"')
    assert _imported_by_help(["train"], "torch", "lightning", "numpy") == []


def test_refusals_do_not_need_torch(tmp_path):
    """A wrong command line is refused before torch, which takes seconds, is imported."""
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "k.json").write_text("[]")
    refused = {
        "detect nosuch.mp4 -o k.npz": "lifter detect: no video at nosuch.mp4",
        "lift nosuch.mp4 -o k.npz": "nosuch.mp4: there is no file or folder of that name",
        "lift bad.mp4 -o k.html": "bad.mp4: not a video that can be read",
        "lift k.json -o k.cvs": "k.cvs: expected a name that ends in",
        "lift k.json -o k.npz --checkpoint none": "no checkpoint at none",
        "lift k.json -o k.html --camera none.json": "none.json: there is no file or folder of that name",
        "lift k.json -o k.npz --rig mixamo": "--rig is for .bvh and .glb alone",
    }
    code = "import sys; from lifter.__main__ import main; [main(line.split()) for line in sys.argv[1:]]; "
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *refused], cwd=tmp_path, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert len(lines) == len(refused) and all(text in line for text, line in zip(refused.values(), lines)), lines
    assert done.returncode == 0


def _imported_by_help(commands, *packages):
    """Return those of `packages` that another Python has imported once it has printed the help of the commands."""
    code = """import contextlib, sys, lifter.__main__
for command in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        lifter.__main__.main([command, "--help"])
print(*sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, check=True)
    *help, imported = done.stdout.splitlines()
    assert [line.split()[2] for line in help if line.startswith("usage: lifter")] == commands
    return sorted(set(packages) & set(imported.split()))


def test_every_command_is_described_and_runs():
    for name in COMMANDS:
        module = importlib.import_module(f"lifter.commands.{name}")
        assert callable(module.main if name == "train" else module.run)
    assert options.OPTIONS.keys() <= COMMANDS.keys()


@pytest.mark.parametrize(
    "command, option, known",
    [
        ("lift", "--detector", ("auto", *DETECTORS)),
        ("lift", "--mode", detectors.MODES),
        ("lift", "--backend", detectors.BACKENDS),
        ("lift", "--skip", clip.STEPS),
        ("lift", "--smooth", clean.FILTERS),
        ("verify", "--backend", BACKENDS),
    ],
)
def test_choices_are_those_of_the_library(command, option, known):
    parser = argparse.ArgumentParser()
    options.OPTIONS[command](parser)
    (choices,) = (action.choices for action in parser._actions if option in action.option_strings)
    assert tuple(choices) == tuple(known)


def test_help_names_every_format(capsys):
    for command, known in (["lift"], _plan.KNOWN), (["data", "convert"], WRITERS):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        help = capsys.readouterr().out
        assert [suffix for suffix in known if f".{suffix}" not in help] == []


def test_a_format_that_is_none(capsys, tmp_path):
    for command in (["lift", "x.json", "-o", str(tmp_path / "out")], ["data", "convert", "x.json", str(tmp_path / "out")]):
        assert main([*command, "--to", "cat"]) == 1
        error = capsys.readouterr().err
        assert "to is 'cat', expected" in error and error.count("\n") == 1 and not any(tmp_path.iterdir())
