"""Training on films: every batch is new, and an interrupted training goes on bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifter.__main__ import main
from lifter.data import open_data
from lifter.data.synthetic import open_gait
from lifter.pretrained import load_pretrained
from lifter.skeleton import H36M
from lifter.training import FilmedClips, Recipe, checkpoints, split, train, watched

from .conftest import CPU

FILMED = Recipe(
    num_frames=9, network={"dim": 16, "depth": 2, "interval": 2, "steps": 4, "in_channels": 3}, batch_size=4, lr=1e-2,
    centred=True, film={"weights": {"S3/*": 0.5}, "cameras": {"roll": [5.0, 10.0]}}, ema=0.9, max_steps=4,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    arrays = {}
    for name, gait in zip(("S1/a", "S2/a", "S3/a"), open_gait(3, 60)):
        x, y, z = np.moveaxis(gait.poses, -1, 0)
        arrays[name] = np.stack((x, z, 1 - y), -1)
    (tmp_path / "mocap").mkdir()
    np.savez(tmp_path / "mocap/a.npz", joint_names=H36M.joints, parents=H36M.parents, fps=50.0, **arrays)
    return tmp_path / "mocap"


def test_resumes(folder, tmp_path, one_thread):
    training, held_out = split(open_data(folder), validate=("S2/*",))
    run = lambda out, recipe, **options: train(
        "mixsynthformer_lifter", recipe, training, watched(held_out), tmp_path / out, save_every=2, validate_every=3, **CPU,
        **options,
    )  # fmt: skip
    whole = run("whole", FILMED)
    run("parts", replace(FILMED, max_steps=2))
    assert run("parts", FILMED, resume=True) == whole and whole["P1"] > 0
    one, other = (checkpoints.newest(tmp_path / out / "checkpoints", pytest.fail) for out in ("whole", "parts"))
    assert one["step"] == other["step"] == 4
    assert all(torch.equal(value, other["average"][key]) for key, value in one["average"].items())
    with pytest.raises(ValueError, match="trained with other film"):
        run("parts", replace(FILMED, film={}), resume=True)


def test_starts_from_weights(folder, tmp_path):
    """The average of the weights starts there too. A training that is resumed does not go back to them."""
    data = open_data(folder)
    run = lambda out, steps, **options: train(
        "mixsynthformer_lifter", replace(FILMED, max_steps=steps), data, None, tmp_path / out, **options, **CPU
    )
    run("first", 2)
    begun = tmp_path / "first" / "best.safetensors"
    run("second", 1, start=begun)
    one, other = (load_pretrained(tmp_path / out / "best.safetensors").model for out in ("first", "second"))
    moved = [float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters())]
    assert 0 < max(moved) < 0.05  # a step of Adam is about lr = 0.01
    steps = checkpoints.newest(tmp_path / "second" / "checkpoints", pytest.fail)
    run("second", 2, start=begun, resume=True)
    assert steps["step"] == 1 and checkpoints.newest(tmp_path / "second" / "checkpoints", pytest.fail)["step"] == 2
    with pytest.raises(FileNotFoundError, match="nosuch"):
        run("third", 1, start=tmp_path / "nosuch.safetensors")


def test_processes_share_a_batch(folder):
    data = open_data(folder)
    halves = [FilmedClips(data, FILMED, (0, rank), 2)[0][0] for rank in range(2)]
    assert [len(half) for half in halves] == [2, 2] and not torch.equal(*halves)


def test_what_watches(folder):
    """Every motion once, from other heights and other ways up."""
    views = list(watched(open_data(folder)))
    assert [view.name for view in views] == ["S1/a/0", "S2/a/1", "S3/a/2"]
    pitches = [np.degrees(np.arcsin(-view.camera.rotation[2, 2])) for view in views]
    np.testing.assert_allclose(pitches, (0, 20, 40), atol=1e-3)


def test_command(folder, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        "model: linear\nnum_frames: 9\nbatch_size: 4\nmax_steps: 2\nfilm: {fps: [30, 60]}\n"
        "validate: ['S2/*']\nvalidate_every: 1\n"
    )
    argv = ("--config", tmp_path / "a.yaml", "--data", folder, "--out", tmp_path / "out", "--accelerator", "cpu")
    status = main(["train", *map(str, argv), "--devices", "1"])
    assert status == 0, capsys.readouterr().err
    assert "best.safetensors, P1 " in capsys.readouterr().out
