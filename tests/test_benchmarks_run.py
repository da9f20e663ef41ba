"""A run of the benchmarks as a whole: failures, interruptions, its time, the screen."""

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import benchmarks.__main__ as command
from benchmarks import kernels, report, runner, stream, tables, timing
from benchmarks.kernels import deform_conv2d
from benchmarks.kernels import retention as kernels_retention


def run(*argv):
    return command.main([str(arg) for arg in argv])


def test_a_section_of_failures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tables, "count", lambda name, frames, **kwargs: 1 / 0)
    tables._counted.cache_clear()
    assert run("tables", "--only", "posemamba_s", "--out", tmp_path) == 1
    out = capsys.readouterr().out
    assert "posemamba_s (SasMamba, table 1)" in out and "FAILS: ZeroDivisionError" in out
    assert "FAILS" in (tmp_path / "report.md").read_text()


def test_no_folder_for_the_results(tmp_path, capsys):
    """Said before anything is measured."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        run("tables", "--out", tmp_path / "file" / "results")
    assert stop.value.code == 2 and "file" in capsys.readouterr().err


def test_an_interrupted_run_leaves_what_it_has_measured(monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "count", interrupted)
    tables._counted.cache_clear()
    assert run("tables", "--only", "posemamba_s", "--out", tmp_path) == 130
    assert "interrupted" in (tmp_path / "report.md").read_text()


def test_a_case_that_fails_is_a_row(monkeypatch, tmp_path, capsys):
    """A case that fails, called, built or planned, does not stop the others; the exit status is 1."""

    def broken(*args, **kwargs):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(kernels, "ops", lambda: ["deform_conv2d", "retention", "topk_temporal_mask"])
    monkeypatch.setattr(deform_conv2d, "ours", broken)
    monkeypatch.setattr(kernels_retention, "cases", broken)
    monkeypatch.setattr(stream, "cases", broken)
    assert run("stream", "kernels", "--quick", "--seconds", "0", "--out", tmp_path) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    notes = {row["case"]: row["note"] for row in results["stream"] + results["kernels"] if row["matches"] is False}
    assert notes.keys() == {
        "benchmarks.stream", "retention", "deform_conv2d T=27 forward", "deform_conv2d T=27 forward+backward",
    }  # fmt: skip
    assert set(notes.values()) == {"FAILS: RuntimeError: broken on purpose"}
    assert any(row["case"] == "topk_temporal_mask T=27 forward" and row["matches"] for row in results["kernels"])
    screen = capsys.readouterr().out
    assert screen.count("broken on purpose") == 8 and "\nReport    " in screen


def test_a_killed_run_leaves_what_it_has_measured(tmp_path):
    """At the third case, as by kill -9: the first two are on disk, and what is there is whole."""
    program = (
        "import os, signal; import benchmarks.__main__ as command; from benchmarks import tables; cases = tables.cases;"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL);"
        "tables.cases = lambda setup: [*cases(setup)[-2:], ('kill', kill)];"
        f"command.main(['tables', '--out', {str(tmp_path)!r}, '--json', {str(tmp_path / 'rows.json')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["tables"]) == 2 and results["measured"] == "2 of 3 cases"


def test_a_section_that_has_used_its_share_takes_fewer_samples(monkeypatch, capsys, tmp_path):
    """And fewer still the later the case; what it says of that is on the last screen."""
    given = []

    def case(setup):
        given.append((setup.seconds, setup.patience))
        time.sleep(0.06)
        return [{"case": "slow", "lifter": timing.Timing([0.06]), "reference": timing.Timing([0.06])}]

    monkeypatch.setattr(kernels, "cases", lambda setup: [(f"case {i}", partial(case, setup)) for i in range(3)])
    monkeypatch.setattr(command, "SHARES", {"default": {"kernels": 0.1}})
    assert run("kernels", "--out", tmp_path) == 0
    seconds, patience = zip(*given)
    assert patience[0] <= 0.1 / 3 and seconds[-1] == patience[-1] == runner.LEAST
    assert "used up before the last 1 of 3 cases" in " ".join(capsys.readouterr().out.split())


def test_the_screen_is_100_columns_wide():
    """Whatever the cells; none has more than two lines; notes stand below their row."""
    section = SimpleNamespace(
        TITLE="t", SCREEN=("case", "time", "text"), NOTES=["note " * 50],
        COLUMNS=[("case", "case", "{}"), ("time", "time", "{}"), ("text", "text", "{}"), ("left out", "more", "{}")],
    )  # fmt: skip
    rows = [{"case": "c" * 60, "time": timing.Timing([1.0, 2.0]), "text": "word " * 40, "more": 1, "note": "n " * 90}] * 2
    lines = report.text(section, rows).splitlines()
    assert max(map(len, lines)) <= 100 and not any("left out" in line for line in lines)
    begin = next(i for i, line in enumerate(lines) if line.startswith("ccc"))
    assert lines[begin + 2].startswith("    n n") and "..." in lines[begin + 1]


@pytest.mark.parametrize(
    "ours, other, expected",
    [
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "2x"),
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], "0.5x"),
        ([1.0, 1.0, 1.0], [1.02, 1.02, 1.02], "even"),  # by as much equal calls differ
        ([1.0, 1.5, 2.0, 2.5], [1.1, 1.9, 2.4, 3.0], "even"),  # the middle halves overlap
        ([0.9, 2.0, 2.0], [1.0, 1.0, 1.0], "even"),  # the fastest says the contrary
        ([1.0], [1.4], "even"),  # a single sample
        ([1.0], [1.6], "1.6x"),
    ],
)
def test_what_two_timings_tell(ours, other, expected):
    ratio = timing.speedup(timing.Timing(ours), timing.Timing(other))
    assert str(ratio) == expected and ratio.slower is (expected == "0.5x")
    assert timing.Timing([1.0, 1.0, 2.0, 2.0]).noisy and not timing.Timing([1.0, 1.1, 1.2]).noisy


def test_help_has_an_example_of_every_part(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    text = capsys.readouterr().out
    for part, (_, example, _) in command.PARTS.items():
        assert example.startswith(part) and f"python -m benchmarks {example}" in text
        *parts, only = example.split(" --only ") if " --only " in example else (example, "")
        re.compile(only)
