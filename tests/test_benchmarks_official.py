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


def test_layouts():
    """An official network is called with what ours takes, and gives what ours gives."""
    clips, given = torch.zeros(2, 51, 14, 3), []
    poses = official.call("mixsynthformer_3dpw", lambda *inputs: given.extend(inputs) or inputs[0], [clips])()
    assert poses.shape == given[0].shape == (2, 51, 42)
    assert official.call("d3dp", lambda *inputs: inputs, [clips, clips])()[1] is clips

    keypoints = torch.arange(2 * 9 * 17 * 2.0).view(2, 9, 17, 2)
    echo = lambda x, *others: given.append(x.shape) or x
    both = lambda x: (echo(x), None)
    for name, network, sent in (
        ("ftcm", echo, (2, 2, 9, 17, 1)),
        ("pstmo", both, (2, 2, 9, 17, 1)),
        ("hdformer", echo, (2, 2, 9, 17)),
    ):
        assert torch.equal(official.call(name, network, [keypoints])(), keypoints)
        assert given[-1] == sent
    assert torch.equal(official.call("mhformer", echo, [keypoints])(), keypoints[:, 4:5])
