"""`lifter info`."""

import importlib.metadata

import lifter
from lifter.__main__ import main
from lifter.info import environment
from lifter.kernels._op import registry


def test_the_version_is_that_of_the_code(monkeypatch):
    """An editable checkout moves on, and what pip noted does not."""
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.0.0")
    assert environment()["lifter"] == lifter.__version__ != environment()["triton"] == "0.0.0"


def test_every_op_is_listed(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (titles,) = (line for line in lines if line.startswith("op "))
    assert titles.split() == ["op", "reference", "cpu", "triton", "cuda", "runs"]
    for op in registry():
        (row,) = (line.split() for line in lines if line.startswith(f"{op} "))
        assert set(row[1:5]) <= {"yes", "no"} and row[5] in ("reference", "cpu")
