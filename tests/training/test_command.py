"""`lifter train`: what of the recipe, the configuration and the command line holds, and one line for what does not fit."""

import json
import sys

import pytest

from lifter import load_pretrained
from lifter.__main__ import main
from lifter.data import save


@pytest.fixture
def run(gait, tmp_path, monkeypatch, capsys):
    """The exit status, and what was written to stdout and stderr, of a training in an empty folder with gait.npz."""
    monkeypatch.chdir(tmp_path)
    save("gait.npz", gait)

    def call(*argv, data="gait.npz"):
        status = main(["train", "--accelerator", "cpu", "--devices", "1", *(("--data", data) if data else ()), *argv])
        return status, *capsys.readouterr()

    return call


SMALL = (
    "--network.dim", "16", "--network.depth=2", "--network.num_heads", "2", "--num_frames", "9", "--batch_size", "4",
    "--max_steps", "2",
)  # fmt: skip


def test_recipe_configuration_command_line(run, tmp_path):
    """Each overrides the one before it, also entries of the network and of the loss."""
    (tmp_path / "mine.yaml").write_text("model: mixste\nlr: 0.5\nlr_decay: 0.9\nloss: {mpjpe: 1.0, velocity: 3.0}\n")
    chosen = ("--config", "mine.yaml", "--lr", "1e-3", "--loss.velocity", "7", "--train", "S1/a", "S2/*", "--validate", "S1/b")
    status, out, err = run(*chosen, *SMALL, "--out", "run")
    assert status == 0 and "run/best.safetensors, P1 " in out, err
    about = load_pretrained("run/best.safetensors").about
    recipe = about["recipe"]
    assert about["kwargs"] == {"num_frames": 9, "dim": 16, "depth": 2, "num_heads": 2} and about["data"] == "gait.npz"
    assert (recipe["lr"], recipe["lr_decay"], recipe["weight_decay"]) == (1e-3, 0.9, 0.1)
    assert recipe["loss"] == {"mpjpe": 1.0, "velocity": 7.0} and recipe["loss_is_gradient"]
    assert json.dumps(about) and (tmp_path / "run" / "tensorboard").is_dir()
    assert "loss" in (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").read_text()

    status, out, err = run(*chosen, *SMALL, "--out", "run")
    assert status == 1 and err.count("\n") == 1 and "run: has the checkpoints of a training" in err
    status, out, err = run(*chosen, *SMALL, "--max_steps", "3", "--out", "run", "--resume")
    assert status == 0 and "goes on after step 2" in out


def test_virtual_cameras_and_noise(run):
    """Views of motions in the world; the noise has confidences, which the model drops."""
    world = ["--virtual-cameras", "--noise", "0", "--validate", "S2/a/3", "--model", "linear", "--epochs", "0"]
    status, _, err = run(*world, data="gait.npz")
    assert status == 1 and "expected poses of Human3.6M's joints in the world, without a camera" in err


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--model", "mixste", "--lr", "fast"], "lr"),
        (["--model", "mixste", "--no_such", "1"], "no_such"),
        (["--model", "mixste", "--loss.p1", "1"], "loss has the terms"),
        (["--model", "finepose"], "it reads the features of a text"),
        (["--model", "nothing", *SMALL], "name is 'nothing', expected one of"),
        (["--model", "mixste", *SMALL, "--network.dim", "0"], "dim is 0, expected a positive integer"),
        (["--model", "mixste", *SMALL, "--network.breadth", "3"], "breadth"),
        (["--model", "mixste", *SMALL, "--train", "S9/*"], "no sequence matches S9/*"),
        (["--model", "mixste", *SMALL, "--batch_size", "400"], "14 clips, expected at least one batch of 400"),
        (["--model", "mixste", *SMALL, "--noise", "0"], "lifter knows no noise"),
        (["--model", "mixste", "--config", "none.yaml"], "none.yaml"),
        (["--model", "mixste", *SMALL, "--precision", "7"], "Precision '7' is invalid"),
        (["--model", "mixste", *SMALL, "--accelerator", "abacus"], "abacus"),
        ([], "model"),
    ],
)
def test_one_line(argv, said, run):
    status, _, err = run(*argv)
    lines = [line for line in err.splitlines() if line.startswith("lifter train: ")]
    assert status == 1 and said in lines[-1] and "Traceback" not in err, err


def test_no_such_file(run):
    status, _, err = run("--model", "mixste", data="nowhere.npz")
    assert (status, err) == (1, "lifter train: nowhere.npz: there is no file or folder of that name\n")


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--model", "sasmamba", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "--batch_size BATCH_SIZE" in text and "default: 150" in text


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert main(["train", "--model", "linear"]) == 1
    assert capsys.readouterr().err == 'lifter train needs lightning: pip install -e ".[train]"\n'
