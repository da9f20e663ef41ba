"""Figures by viewpoint: of every model, from every view."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import viewpoints
from lifter.data import Dataset
from lifter.data.synthetic import open_gait
from lifter.models import LinearLifter
from lifter.skeleton import H36M


def test_of_every_model_from_every_view(tmp_path, capsys):
    poses = np.moveaxis(next(iter(open_gait(1, 60))).poses, -1, 0)
    world = np.stack((poses[0], poses[2], 1 - poses[1]), -1)
    np.savez(tmp_path / "a.npz", joint_names=H36M.joints, parents=H36M.parents, fps=50.0, **{"S1/a": world, "S2/a": world})
    argv = ("--data", tmp_path / "a.npz", "--select", "S1/*", "--pitch", 0, 40, "--roll", 0, "--json", tmp_path / "out.json")
    assert viewpoints.main(list(map(str, argv))) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["model"], row["pitch"]) for row in rows] == [("shipped", 0), ("shipped", 40)]
    assert all(0 < row["P-MPJPE"] < row["MPJPE"] and row["MPJVE"] > 0 for row in rows)
    assert capsys.readouterr().out.count("shipped") == 2


def test_what_is_measured():
    """The middle joints of the trunk and the head are not among the limbs, and the root counts as 0."""

    class Right(LinearLifter):
        def forward(self, keypoints):
            out = torch.zeros(*keypoints.shape[:3], 3)
            out[:, :, 0] = 1.0
            out[:, :, 8:11, 1] = 0.017
            return out

    still = next(iter(open_gait(1, 30)))
    view = replace(still, poses=np.zeros_like(still.poses))
    found = viewpoints.measure(Right(9).eval(), list(Dataset("", "", {"a": lambda: view})))
    assert found["MPJPE"] == pytest.approx(3.0, abs=1e-4)
    assert found["limbs MPJPE"] == pytest.approx(0, abs=1e-4) and found["MPJVE"] == pytest.approx(0, abs=1e-4)
