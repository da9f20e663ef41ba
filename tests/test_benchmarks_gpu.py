"""Parts of the round on a GPU that need none: its cases, its summary, its steps, the code of others."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import benchmarks.__main__ as command
import lifter
from benchmarks import comparison, inputs, kernels, official, peers, runner, summary, zoo
from lifter.kernels._op import registry
from lifter.registry import official_model

SETUP = command.Setup("cuda", inputs.synthetic_gait(1), "default", seconds=0.01, patience=0.0)


def on_a_gpu():
    return [name for name, op in registry().items() if op.triton]


def test_cases_on_a_gpu():
    """Every op in both dtypes, forward and backward, for single clips and many."""
    on_gpu = kernels.all_cases(SETUP)
    names = {case.name for case in on_gpu}
    assert len(names) == len(on_gpu)
    steps_and_sizes_of_their_own = {
        "selective_state_update", "mixsynth_encoder", "density_peak_prune", "causal_conv1d", "causal_conv1d_update",
    }  # fmt: skip
    for op in set(on_a_gpu()) - steps_and_sizes_of_their_own:
        for size in ("[LT]=27 B=8", "[LT]=243 B=64", "[LT]=81"):
            for dtype in ("", " bfloat16"):
                assert any(re.fullmatch(rf"{op} (\w+ )*{size}{dtype} forward", name) for name in names), (op, size, dtype)
    assert {case.device for case in on_gpu} == {"cuda"} and any(case.compiled for case in on_gpu)
    assert not any(case.compiled for case in on_gpu if "_scan" in case.name)
    assert any(name.endswith("T=243 batch 64") for name, _ in zoo.cases(SETUP))


@pytest.mark.parametrize(
    "op", ["deform_conv2d", "selective_scan", "skeleton_graph_conv", "topk_temporal_mask", "density_peak_prune"]
)
def test_many_clips(op):
    case = next(case for case in kernels.all_cases(SETUP) if re.fullmatch(rf"{op} [LT]=27 B=8 forward", case.name))
    case = replace(case, device="cpu")
    (row,) = kernels.run(case, SETUP)
    assert row["matches"] and next(iter(case.inputs.values())).shape[0] == 8


def test_a_case_that_fails_is_a_row():
    def case():
        raise MemoryError("none left")

    assert runner.survived("a case", case) == [{"case": "a case", "matches": False, "note": "FAILS: MemoryError: none left"}]


def test_summary(tmp_path, capsys):
    """One row of each kind of shortcoming, beside a row that has none."""
    peer = lambda ratio, device: {"time": {"median": ratio}, "speedup": ratio, "device": device}
    row = {"matches": True, "bound_kind": "bytes", "device": 1.0, "note": ""}
    ops = [
        row | {"case": "good B=64", "peers": {"theirs": peer(2.0, 2.0), "copies + theirs": peer(9.0, 4.0)}},
        row | {"case": "slow", "peers": {"theirs": peer(0.5, 2.0), "wrong": {"speedup": None, "device": 0.1}}},
        row | {"case": "copies", "peers": {"copies + theirs": peer(9.0, 2.5)}},
        row | {"case": "loose B=64", "peers": {}, "share_of_bound": 0.5},
        row | {"case": "wrong", "matches": False, "peers": {}},
        row | {"case": "eager", "note": "no graph: RuntimeError; theirs fails: ImportError", "peers": {}},
    ]
    model = {"matches": True, "batch": 1, "time": {"median": 1.0}}
    models_of_zoo = [
        model | {"case": "fast", "official": {"median": 2.1}, "bfloat16_graph": 0.5},
        model | {"case": "slow", "official": {"median": 1.5}, "bfloat16_graph": 0.5, "slower": True},
    ]
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "results.json").write_text(json.dumps({"kernels": ops, "torch": "2"}))
    (tmp_path / "results.json").write_text(json.dumps({"zoo": models_of_zoo}))
    assert summary.main(tmp_path) == 1
    found = {title: [line.split(":")[0] for line in lines] for title, lines in summary.summary(summary.read(tmp_path)).items()}
    assert list(found.values()) == [
        ["wrong"], ["slow"], ["eager"], ["eager"], ["slow"], ["copies"], ["loose B=64"], ["slow"], ["slow"],
    ]  # fmt: skip
    assert "0.50x of theirs" in capsys.readouterr().out and "Failed: 1" in (tmp_path / "summary.md").read_text()
    assert summary.main(tmp_path / "nothing") == 1


@pytest.mark.parametrize("name", [
    "mixste", "hot_mixste", "poseretnet", "motionagformer_xs", "sasmamba", "posemamba_s",
    *(name for name in official.CODE if name.startswith("mixsynthformer")),
])  # fmt: skip
def test_official_sizes(name):
    """The official network that is built stands for our model of that name."""
    _, path, arguments = official.CODE[name]
    frames = comparison.FRAMES.get(name, 27)
    given = arguments(frames)
    given |= vars(given.pop("args")) if "args" in given else {}
    with torch.device("meta"):
        theirs, ours = official_model(path).build(**given), lifter.create_model(name, frames)
    shapes = lambda model: {key: x.shape for key, x in model.state_dict().items()}
    assert shapes(theirs) == shapes(ours)


def test_official_codes_do_not_meet(tmp_path, monkeypatch):
    """Both have a package of the same name, one of them a regular one that adds itself to the path."""
    for repository, init in (("One", "import sys; sys.path.append(__path__[0] + '/..')"), ("Two", None)):
        folder = tmp_path / "official" / repository / "model"
        folder.mkdir(parents=True)
        if init:
            (folder / "__init__.py").write_text(init)
        (folder / f"{repository}.py").write_text(
            "from fvcore.nn import nothing\nfrom torch import nn\nclass Net(nn.Linear):\n"
            f"    def __init__(self, frames): super().__init__(frames, {len(repository + 'x' * (init is None))})\n"
        )
    code = {name: (name.title(), f"model.{name.title()}.Net", lambda frames: {"frames": frames}) for name in ("one", "two")}
    monkeypatch.setattr(official, "CODE", code)
    monkeypatch.setattr(official, "PEERS", tmp_path)
    before, path = set(sys.modules), list(sys.path)
    assert [official.build(name, 5).out_features for name in ("one", "two", "one")] == [3, 4, 3]
    assert set(sys.modules) - before == set() and sys.path == path
    with pytest.raises(LookupError, match="no public code"):
        official.build("masc_pose", 5)


def test_stand_ins(monkeypatch, tmp_path):
    """Whole packages that are not installed; nothing that an installed one looks for in vain."""
    (tmp_path / "thop").mkdir()
    (tmp_path / "thop" / "__init__.py").write_text("try:\n    from . import fast\nexcept ImportError:\n    fast = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    with official._imports_from(tmp_path):
        import thop
        from dc1d.nn import Anything

        assert thop.fast is None and isinstance(Anything, type)
        del sys.modules["thop"]
    assert not [name for name, module in sys.modules.items() if isinstance(module, official.StandIn)]


def test_peers_are_fetched(tmp_path, monkeypatch, capfd):
    """From a repository that stands for the real one, the parts that are named."""
    source = tmp_path / "source"
    git = partial(subprocess.run, check=True, capture_output=True, text=True, cwd=source)
    (source / "fla" / "ops").mkdir(parents=True)
    (source / "fla" / "ops" / "__init__.py").write_text("VALUE = 7")
    (source / "unwanted.txt").write_text("")
    git(["git", "init", "-q"]), git(["git", "add", "."])
    git(["git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"])
    commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    options = {
        f"url.file://{source}.insteadOf": "https://github.com/a/fla", "url.file:///none.insteadOf": "https://github.com/a/gone",
        "uploadpack.allowAnySHA1InWant": "true", "uploadpack.allowFilter": "true",
    }  # fmt: skip
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(options)))
    for i, (key, value) in enumerate(options.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{i}", key), monkeypatch.setenv(f"GIT_CONFIG_VALUE_{i}", value)
    monkeypatch.setattr(peers, "PEERS", tmp_path / "peers")
    monkeypatch.setattr(peers, "SOURCES", {"a/fla": (commit, "fla"), "a/gone": (commit, "x")})
    monkeypatch.setattr(peers, "PACKAGES", {"a/fla": "fla"})
    assert peers.fetch() == 1 and "1 of 2 repositories" in capfd.readouterr().out
    assert (tmp_path / "peers/python/fla/ops/__init__.py").read_text() == "VALUE = 7"
    assert [path.name for path in (tmp_path / "peers/official").rglob("*")] == ["fla", "fla", "ops", "__init__.py"]


def test_the_round_measures_everything_once(tmp_path):
    """Its steps, with programs that only write down how they are called."""
    log = tmp_path / "log"
    for name, line in {"nvidia-smi": "echo NVIDIA H200", "python": f'echo "$@" >> {log}'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
    environment |= {"RESULTS": str(tmp_path / "results")}
    root = Path(command.__file__).parent
    done = subprocess.run([root / "gpu_round.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = re.findall(r"benchmarks (\w+) .*--only (.*) --device cuda --out", log.read_text())
    assert "benchmarks models diffusion memory --seconds" in log.read_text()
    for part, section in (("kernels", kernels), ("zoo", zoo)):
        patterns = [re.compile(only.replace(",", "|"), re.IGNORECASE) for of, only in calls if of == part]
        names = [name for name, _ in section.cases(SETUP)]
        assert len(names) > 100 and len(patterns) >= 2
        assert {sum(bool(pattern.search(name)) for pattern in patterns) for name in names} == {1}
    for op in on_a_gpu():
        assert f"--only ^{op} \n" in log.read_text()
    failed = subprocess.run([root / "gpu_round.sh", "nothing"], env=environment, capture_output=True, text=True)
    assert failed.returncode == 1 and "no step nothing" in failed.stderr
