"""Rows beside the official code, for which our own models stand in. No timing is checked."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

pytest.importorskip("rich")

import benchmarks.__main__ as command
import lifter
from benchmarks import comparison, inputs, official
from lifter.models import PoseRetNet

SETUP = command.Setup("cpu", inputs.synthetic_gait(), "quick", seconds=1e-3, patience=1)


class Official(PoseRetNet):
    """Called as the official one is."""

    def forward(self, x, state=None, number=None):
        return super().forward(x) if number is None else super().forward(x, state, return_state=True)


def create(name, frames, **changes):
    torch.manual_seed(5)
    return Official(frames, dim=16, depth=2, num_heads=2, **changes)


@pytest.fixture
def small(monkeypatch):
    create_model = lifter.create_model
    tiny = lambda name, *frames, **changes: create_model(name, *frames, dim=16, depth=2, num_heads=2, **changes)
    monkeypatch.setattr(lifter, "create_model", tiny)
    monkeypatch.setattr(official, "build", create)


def rows(name, monkeypatch, tmp_path):
    (tmp_path / "official").mkdir(exist_ok=True)
    monkeypatch.setattr(official, "PEERS", tmp_path)
    (case,) = (case for found, case in comparison.cases(SETUP) if found.startswith(name))
    return {row["implementation"]: row for row in case()}


@pytest.mark.parametrize("name", ["poseretnet T=27", "poseretnet chunk 9"])
def test_rows(small, monkeypatch, tmp_path, name):
    """All have the official weights; the first call of a stream is compared, and a wrong output has no speedup."""
    found = rows(name, monkeypatch, tmp_path)
    ours = ["lifter", "lifter bfloat16", "lifter frozen", "lifter frozen bfloat16"]
    assert [*found] == ["official", *(["official autocast"] if "T=" in name else []), *ours]
    assert found["official"]["speedup"] == 1 and all(found[which]["matches"] for which in ours)
    assert 0 < found["lifter bfloat16"]["error"] and found["lifter"]["error"] < 1e-5

    monkeypatch.setattr(lifter, "load_checkpoint", lambda *args: None)
    wrong = rows(name, monkeypatch, tmp_path)
    assert wrong["lifter"]["note"] == "WRONG OUTPUT" and "speedup" not in wrong["lifter"]


def test_official_code_that_fails(monkeypatch, tmp_path):
    found = rows("posemamba_s", monkeypatch, tmp_path)
    assert [*found] == ["official"] and "fails: LookupError: no PoseMamba in" in found["official"]["note"]


def test_nothing_fetched(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(official, "PEERS", tmp_path)
    with pytest.raises(SystemExit):
        command.main(["official"])
    assert "python -m benchmarks.peers fetch" in capsys.readouterr().err


def test_inputs_of_mixsynthformer():
    clips = torch.zeros(2, 51, 14, 3)
    assert official.inputs("mixsynthformer_3dpw", [clips])[0].shape == (2, 51, 42)
    assert official.inputs("d3dp", [clips, clips])[1] is clips
