"""The comparison of trainings: all rows and files are there, and an interrupted run goes on."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

pytest.importorskip("rich")
pytest.importorskip("lightning.fabric")

from benchmarks import training
from lifter import load_pretrained
from lifter.data.cameras import around
from lifter.data.synthetic import open_gait


@pytest.fixture
def motions(tmp_path):
    """Three people in the form of cmu_h36m17.npz."""
    arrays, cameras = {"fps": np.float64(50)}, {}
    for name, sequence in zip(("S1/a", "S2/a", "S3/a"), open_gait(3, 30)):
        x, y, z = np.moveaxis(sequence.poses, -1, 0)
        arrays[name] = np.stack((x, z, 1 - y), -1)
        cameras[name] = [camera.as_dict() for camera in around(arrays[name])]
    np.savez(tmp_path / "motions.npz", cameras_json=json.dumps({"clips": cameras}), **arrays)
    return tmp_path / "motions.npz"


def test_all_of_it(motions, tmp_path, monkeypatch):
    networks = {"sasmamba": {"dim": 8, "depth": 1}, "htp": {"dim": 8, "depth": 3, "num_heads": 1}}
    recipes = {
        name: replace(training.RECIPES[name], network=network, num_frames=9, batch_size=2)
        for name, network in networks.items()
    }
    for name, value in (("FRAMES", 9), ("BUDGET", 0.05), ("RECIPES", recipes)):
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(training, "PROTOCOL", replace(training.PROTOCOL, window=9, stride=9))
    run = lambda *argv: training.main(["--data", str(motions), "--out", str(tmp_path / "out"), *argv])
    assert run("--steps", "2", "--models", "sasmamba") == 0
    assert run("--steps", "2", "--models", "sasmamba", "htp") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["name"]: row for row in results["training"]}
    assert list(rows) == ["mean pose", "linear", "sasmamba", "htp"]
    assert rows["linear"]["params"] == 1785 and rows["linear"]["macs_per_frame"] == 34 * 51
    for name in ("linear", "sasmamba", "htp"):
        assert rows[name]["frames_per_second"] > 0 and 0 < rows[name]["P-MPJPE"] < rows[name]["MPJPE"]
        about = load_pretrained(tmp_path / "out" / f"{name}.safetensors").about
        assert about["model"] == name and about["kwargs"]["num_frames"] == 9
        assert name == "linear" or about["figures"]["MPJPE"] == rows[name]["MPJPE"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| mean pose |" in report and "![learning curves](curves.png)" in report
    assert (tmp_path / "out" / "curves.png").read_bytes()[:4] == b"\x89PNG"
