"""The benchmark harness: exact counts, honest rows, clear errors. No timing is checked."""

import contextlib
import json
import math
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import benchmarks.__main__ as command
import lifter
from benchmarks import (
    bounds,
    contradictions,
    diffusion,
    frontier,
    headlines,
    huggingface,
    inputs,
    kernels,
    memory,
    models,
    published,
    report,
    runner,
    stream,
    tables,
    timing,
    zoo,
)
from benchmarks.kernels import selective_scan, selective_state_update
from lifter.kernels import axial_attention, pack_mask, retention
from lifter.kernels._op import registry

# What the official code has, T = 243: parameters, those that thop sees, thop's MACs, MACs of its products (10^9), GFLOP
# of its scans; from golden/README.md.
OFFICIAL = {
    "sasmamba": (951_351, 624_951, 2.604, 3.444, 3.07),
    "sasmamba_large": (5_572_459, 4_136_299, 17.179, 21.217, 12.27),
    "posemamba_s": (1_470_211, 859_651, 3.587, 5.173, 6.13),
    "posemamba_b": (4_742_659, 3_357_699, 13.943, 17.790, 12.27),
    "posemamba_l": (9_450_499, 6_713_859, 27.881, 35.578, 24.53),
    "mixste": (33_783_811, 33_650_691, 139.038, 147.423, 0),
    "motionbert": (42_466_317, 42_333_197, 174.751, 185.403, 0),
    "poseretnet": (35_749_443, 25_245_699, 104.385, 156.086, 0),
}


def run(*argv):
    return command.main([str(arg) for arg in argv])


def test_tables_json(tmp_path):
    assert run("tables", "--seconds", 1, "--json", tmp_path / "tables.json") == 0  # all rows, however slow the machine
    rows = json.loads((tmp_path / "tables.json").read_text())
    keys = "model frames params params_paper_convention macs macs_paper_convention published_params published_macs run"
    counted = [row for row in rows if "no public code" not in row["note"]]
    assert all(row.keys() >= set(keys.split()) for row in counted) and 0 < len(rows) - len(counted) < 9
    assert rows[0]["run"]["torch"] == torch.__version__ and rows[0]["run"]["commit"]
    plain = {row["model"]: row for row in counted if not row["kwargs"]}
    for name, (params, seen, macs, _, _) in OFFICIAL.items():
        assert (plain[name]["params"], plain[name]["params_paper_convention"]) == (params, seen), name
        assert round(plain[name]["macs_paper_convention"] / 1e9, 3) == macs, name
    # The paper's own kernel ablation, to the last digit that it prints.
    table_5 = [row for row in rows if row["source"] == published.TABLE_5]
    assert [row["kwargs"]["kernel_size"] for row in table_5] == [1, 3, 5, 7]
    assert {row[key] for row in table_5 for key in ("params_deviation", "macs_deviation")} == {"as printed"}


def test_a_quick_run_tells_which_rows_it_counts():
    plan = {tables: tables.cases(SETUP)}
    counted, known = len(plan[tables]), len(published.ROWS)
    assert 0 < counted < known
    told = command.announced(plan, SETUP, command.SHARES["quick"])
    assert f"{counted} of tables" in told and f"Of the {known} rows of the tables only the five architectures'" in told
    result = report.Report({"cpu": "", "threads": 1, "cpu_capability": "", "torch": ""}, "cpu", "", "quick")
    result.sections[tables] = [{"case": name} for name, _ in plan[tables]]
    assert f"; {known - counted} were not counted" in " ".join(headlines.headlines(result, [], 1).split())
    assert len(tables.cases(replace(SETUP, mode="default"))) == known


def test_contradictions():
    """Each has the printed figure and what our counts make of it."""
    rows = {name: case()[0] for name, case in contradictions.cases(SETUP)}
    assert "78,107 M / 243 = 321 M" in rows["frame against clip"]["note"]
    assert "139.06 G / 2 = 69.53 G; 2.60 G / 2 = 1.30 G" in rows["halves"]["note"]
    assert (
        "2 x 4.8" in rows["the length of MHFormer"]["note"] and "243 windows = 128." in rows["PoseFormerV2 four ways"]["note"]
    )


def test_the_figure_of_accuracy_against_cost(tmp_path):
    """A panel of operations, one of what was timed; a line through what none beats in both; no name covers another."""
    row = {"frames": 9, "kwargs": {}, "poses": 9, "macs": 9e6, "macs_of_pose": 1e6}
    rows = [
        row | {"model": "cheap", "name": "cheap", "mpjpe": 50.0},
        row | {"model": "beaten", "name": "beaten", "mpjpe": 51.0, "macs": 18e6, "macs_of_pose": 2e6},
        row | {"model": "best", "name": "best", "mpjpe": 40.0, "macs": 2.01e6, "macs_of_pose": 2.01e6, "poses": 1},
        row | {"model": "cheap", "name": "cheap x=2", "mpjpe": 45.0, "kwargs": {"x": 2}, "macs_of_pose": 3e6, "macs": 2.7e6},
        row | {"model": "no error", "name": "no error", "mpjpe": None},
    ]
    timed = {"frames": 9, "batch": 1, "time": {"median": 0.9}}
    zoo_rows = [timed | {"model": "cheap"}, timed | {"model": "best", "batch": 8}, timed | {"model": "beaten", "frames": 27}]
    found = frontier.points({"tables": rows, "zoo": zoo_rows})
    assert [point[0] for point in found] == ["cheap", "beaten", "best", "cheap x=2, 10 calls"]
    assert [point[4] for point in found] == [pytest.approx(0.1), None, None, None]
    assert {point[0]: list(frontier.KINDS).index(point[1]) for point in found}["best"] == 0
    assert [point[0] for point in frontier.best([point[:4] for point in found])] == ["cheap", "best"]

    figure = frontier.figure_of(found)
    operations, seconds = figure.axes
    assert sorted(text.get_text() for text in operations.texts) == sorted(point[0] for point in found)
    assert [text.get_text() for text in seconds.texts] == ["cheap"]
    line = next(line for line in operations.lines if line.get_drawstyle() == "steps-post")
    assert line.get_xydata().tolist() == [[1e6, 50.0], [2.01e6, 40.0]]
    boxes = [text.get_window_extent() for text in operations.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])

    for name, sections in (("tables", {"tables": rows}), ("timed", {"zoo": zoo_rows, "tables": []})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(sections))
    assert frontier.main([str(tmp_path / "both.svg"), str(tmp_path / "tables"), str(tmp_path / "timed")]) == 0
    drawn = (tmp_path / "both.svg").read_text()
    assert drawn.count("beaten") == 1 and drawn.count(">cheap<") == 2 and "seconds of a pose" in drawn
    assert not frontier.draw(tmp_path / "none.svg", {"tables": rows[-1:]}) and not (tmp_path / "none.svg").exists()


@pytest.mark.parametrize("name", OFFICIAL)
def test_all_operations(name):
    """In full: the official products and scans, and the sampling, which only our count has."""
    *_, products, scans = OFFICIAL[name]
    counts = tables.count(name, 243)
    by_op = counts["macs_by_op"]
    assert sum(by_op.values()) == counts["macs"]
    sampling = by_op.get("lifter.deform_conv2d", 0) * 4 // 5  # of five products per tap four interpolate
    assert (counts["macs"] - sampling) / 1e9 == pytest.approx(products + scans / 2, abs=0.006)


@pytest.mark.parametrize(
    "number, printed, expected",
    [(859_651, "0.9M", True), (624_951, "0.624M", True), (624_951, "0.625M", True), (624_951, "0.64M", False),
     (2.604e9, "1.3G", False)],
)  # fmt: skip
def test_as_printed(number, printed, expected):
    assert published.as_printed(number, printed) is expected


def test_only(capsys):
    assert run("tables", "--list", "--only", "posemamba_[sb]") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(names) == ["posemamba_b", "posemamba_b", "posemamba_s", "posemamba_s"]
    assert run("--only", "no such case") == 2
    assert "--list" in capsys.readouterr().err


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "arrays, expected",
    [
        ({"image_size": [1000, 1002]}, "no input_2d_det or input_2d_gt"),
        ({"input_2d_gt": np.zeros((2, 243, 17, 2))}, "no image_size"),
        ({"input_2d_gt": np.zeros((2, 243, 16, 2)), "image_size": [1, 1]}, "(2, 243, 16, 2), expected (clips"),
        ({"input_2d_gt": np.zeros((2, 81, 17, 2)), "image_size": [1, 1]}, "81 frames, expected at least 243"),
        ({"input_2d_gt": np.full((1, 243, 17, 2), np.nan), "image_size": [1, 1]}, "expected finite"),
        ({"input_2d_gt": np.zeros((1, 243, 17, 2)), "image_size": [0, 0]}, "image_size"),
    ],
)
def test_bad_input(tmp_path, capsys, arrays, expected):
    with pytest.raises(SystemExit) as stop:
        run("models", "--input", save(tmp_path / "bad.npz", **arrays))
    assert stop.value.code == 2 and expected in capsys.readouterr().err


def test_input_that_is_no_archive(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no archive")
    for path, expected in ((tmp_path / "text.npz", "not an npz"), (tmp_path / "none.npz", "there is no file")):
        with pytest.raises(SystemExit):
            run("models", "--input", path)
        assert expected in capsys.readouterr().err


def test_inputs(tmp_path):
    pixels = np.random.default_rng(0).uniform(0, 1000, (2, 9, 17, 3)).astype(np.float32)
    pixels[..., 2] /= 1000
    clips = inputs.load(save(tmp_path / "good.npz", input_2d_det=pixels, image_size=np.array([1000, 1002])))
    np.testing.assert_allclose(clips.keypoints[..., 0], pixels[..., 0] / 500 - 1, atol=1e-6)
    np.testing.assert_allclose(clips.keypoints[..., 1], pixels[..., 1] / 500 - 1.002, atol=1e-6)
    assert torch.equal(clips.batch(3, 5)[2], clips.keypoints[0, :5])

    gait = inputs.synthetic_gait().keypoints
    assert gait.shape == (8, 243, 17, 2) and gait.abs().max() < 1
    assert torch.equal(gait, inputs.synthetic_gait().keypoints)
    assert (gait[..., 10, 1] < gait[..., 0, 1]).all() and (gait[..., 3, 1] > gait[..., 0, 1]).all()  # y points down
    assert (gait.diff(dim=1).norm(dim=-1) < 0.05).all()  # nothing jumps


SETUP = command.Setup("cpu", inputs.synthetic_gait(1), "quick", seconds=0.01, patience=0.0)


@pytest.mark.parametrize(
    "name, error",
    [
        ("selective_scan L=27 forward+backward", 1e-5),
        ("selective_state_update B=1 forward", 1e-5),
        ("selective_state_update B=64 bfloat16 forward", 1e-2),
        ("deform_conv2d T=243 bfloat16 forward", 1e-2),
    ],
)
def test_kernel_row(name, error):
    case = next(case for case in kernels.all_cases(replace(SETUP, mode="default")) if case.name == name)
    (row,) = kernels.run(case, SETUP)
    assert row["matches"] and row["speedup"] > 0 and row["error"] < error
    assert row["dtype"] == ("bfloat16" if "bfloat16" in name else "float32")


def test_every_op_has_cases():
    quick, names = ([case.name for case in kernels.all_cases(replace(SETUP, mode=mode))] for mode in ("quick", "default"))
    assert len(set(names)) == len(names)
    for op in registry():
        assert any(re.fullmatch(rf"{op} .* forward", name) for name in quick), op
        assert any(re.fullmatch(rf"{op} .*\d forward", name) for name in names), op
        assert any(re.fullmatch(rf"{op} .* bfloat16 forward", name) for name in names), op
    assert not any(name.startswith("selective_state_update") and "backward" in name for name in names)


def test_a_benchmarked_state_stays_what_it_is():
    inputs = selective_state_update.inputs(2, "cpu", torch.float32)
    state = inputs["state"].clone()
    for _ in range(100):
        selective_state_update.ours(**inputs)
    torch.testing.assert_close(inputs["state"], state)


@pytest.mark.parametrize("broken", [lambda y: y * 1.01, lambda y: y * float("nan")])
def test_no_speedup_for_wrong_output(tmp_path, monkeypatch, broken):
    ours = selective_scan.ours
    monkeypatch.setattr(selective_scan, "ours", lambda **inputs: wrong(ours(**inputs)))
    wrong = lambda y: y if kernels_forced() else broken(y)
    assert run("kernels", "--quick", "--only", "selective_scan L=27 forward$", "--json", tmp_path / "rows.json") == 1
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["matches"] is False and row["speedup"] is None and row["note"].startswith("WRONG OUTPUT")


def kernels_forced():
    from lifter.kernels import _op

    return _op._forced.get() == "reference"


@pytest.fixture
def small(monkeypatch):
    """`create_model` of the smallest networks of their classes: all else is as in earnest."""
    sizes = [
        {"dim": 16, "depth": 1, "num_heads": 2},
        {"dim": 16, "depth": 6, "num_heads": 2},
        {"dim": 16, "depth": 1},
        {"dim": 16},
        {},
    ]
    create, fitting = lifter.create_model, {}

    def create_small(name, *frames, **kwargs):
        for i in [fitting[name]] if name in fitting else range(len(sizes)):
            try:
                model = create(name, *frames, **sizes[i] | kwargs)
            except (TypeError, ValueError) as error:  # no such size, or it is too small
                failure = error
                continue
            fitting[name] = i
            return model
        raise failure

    monkeypatch.setattr(lifter, "create_model", create_small)
    for function in (models.build, models.described, models.fixed, stream.implementations):
        function.cache_clear()
    yield
    for function in (models.build, models.described, models.fixed, stream.implementations):
        function.cache_clear()


def test_model_rows(small):
    """Slow references are left out and said to be; what is compared then is a shorter clip."""
    rows = models.run("sasmamba", 9, 1, replace(SETUP, patience=1e9))
    ours = ["lifter", "lifter frozen"]
    assert [row["implementation"] for row in rows] == [*ours, "reference"]
    assert all(row["matches"] and row["speedup"] for row in rows)
    for row in rows[:2]:
        assert row["times_bound"] > 0 and row["bound"].keys() >= {"products", "exponentials", "bytes"}
    assert rows[1]["bound"]["products"] > 0

    rows = models.run("sasmamba", 9, 8, SETUP)
    assert "left out" in rows[2]["note"] and "time" not in rows[2]
    assert rows[0]["matches"] and rows[0]["error"] < 1e-4 and rows[0]["speedup"] is None


def test_the_models_of_a_run():
    """One size of the five architectures and the wide hosts; everything, which has them too."""
    usual, quick = (models.planned(replace(SETUP, mode=mode)) for mode in ("default", "quick"))
    assert usual.keys() == models.CLIPS.keys() and all(len(clips) == 1 for clips in usual.values())
    assert usual.keys() - quick.keys() == {"mixste", "motionbert"}
    assert models.planned(replace(SETUP, mode="full")) is models.CLIPS


@pytest.mark.parametrize(
    "name, expected",
    [("mixste", (27, 81, 243)), ("mixsynthformer_h36m", (101, 243)), ("mixsynthformer_lifter", (101,)),
     ("mixsynthformer_jhmdb", (11, 27, 81, 243)), ("motionagformer_b", (27, 81, 243))],
)  # fmt: skip
def test_a_model_gets_the_frames_that_it_takes(name, expected):
    assert models.lengths(name, models.FRAMES) == expected


def test_sampler_rows(small, monkeypatch):
    monkeypatch.setattr(diffusion, "FRAMES", 27)
    ((name, case),) = diffusion.cases(SETUP)
    assert re.search("htp|d3dp|ktpformer", name)
    rows = {row["implementation"]: row for row in case()}
    assert rows.keys() == {model + suffix for model in diffusion.NAMES for suffix in ("", " bfloat16")}
    for label, row in rows.items():
        assert row["frames_per_second"] == pytest.approx(20 * row["frames_per_second_h20_k1"])
        assert row["matches"] is (None if label.startswith("htp") and "bfloat16" in label else True), (label, row["error"])
    assert rows["d3dp"]["by_d3dp"] == 1 and rows["htp n=1"]["printed_by_d3dp_k1"] == pytest.approx(2277.5 / 772.7)


def test_report(tmp_path):
    assert run("kernels", "--quick", "--only", "conv2d T=27 forward$", "--out", tmp_path / "results") == 0
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {"torch", "commit", "threads", "input", "ceilings", "kernels"} <= results.keys()
    assert {row["dtype"] for row in results["kernels"]} == {"float32"}
    report = (tmp_path / "results" / "report.md").read_text()
    assert "synthetic gait" in report and "| deform_conv2d T=27 forward |" in report
    assert (tmp_path / "results" / "speed.png").exists()


def test_timing():
    clock = []
    calls = {"a": lambda: clock.append("a"), "b": lambda: clock.append("b") or 1}
    timings, outputs = timing.measure(calls, rounds=3, sample=0)
    most = timing.WARM_UPS + 2
    assert re.fullmatch(f"a{{2,{most}}}b{{2,{most}}}(ab){{3}}", "".join(clock)) and outputs == {"a": None, "b": 1}
    assert len(timings["a"].seconds) == 3
    assert timing.Timing([1.0, 2.0, 3.0]).median == 2.0 and timing.Timing([1.0, 2.0, 3.0]).spread == 0.25


def test_a_cold_first_call_is_no_sample():
    calls = []

    def call():
        time.sleep(0 if calls else 1.5 * timing.SHORT)
        calls.append(1)

    (measured,) = timing.measure({"a": call}, budget=0.01, rounds=9)[0].values()
    assert measured.median < timing.SHORT and len(measured.seconds) == 9


def test_bound_sees_every_product():
    """Inference mode hands a linear layer over whole; it counts all the same."""
    layer, x = torch.nn.Linear(8, 4), torch.randn(3, 5, 8)
    convolution, image = torch.nn.Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), bounds._Recorder() as work:
            layer(x), convolution(image)
        assert dict(work.products) == {(1, 15, 8, 4, torch.float32): 1, (1, 9, 18, 3, torch.float32): 1}


def test_bound_of_attention_is_its_products_and_exponentials():
    qkv = torch.randn(2, 5, 3, 3, 4, 8, requires_grad=True)
    q, k, v = qkv.unbind(3)
    first = pack_mask(torch.arange(5) < 2).expand(1, 1, 5, 1)  # all see two frames
    with bounds._Recorder() as work:
        torch.autograd.grad(axial_attention(qkv, "frame").sum(), qkv)
        axial_attention(qkv.detach(), "frame", first)
        retention(q, k, v, chunk_size=2, causal=False)
    forward, backward, masked, chunked = work.ops
    shapes = lambda products: [shape[:4] for shape in products]
    assert shapes(forward[0]) == [(24, 5, 8, 5), (24, 5, 5, 8)] and forward[1] == backward[1] == 24 * 5 * 5
    assert sum(b * m * k * n for b, m, k, n in shapes(backward[0])) == 5 * 24 * 5 * 5 * 8
    assert shapes(masked[0]) == [(24, 5, 8, 2), (24, 5, 2, 8)] and masked[1] == 24 * 5 * 2
    inside = [(24, 1, 8, 1), (24, 1, 1, 8), (48, 2, 8, 2), (48, 2, 2, 8)]
    assert shapes(chunked[0]) == inside + [(24, 1, 8, 8), (24, 2, 8, 8), (48, 8, 2, 8)]


def test_zoo_rows(small, monkeypatch):
    """Calls that take too long are named."""
    for name in ("sasmamba", "d3dp", "mixsynthformer_jhmdb"):
        (row,) = zoo.run(name, 27, 2, SETUP)
        assert row["matches"] and row["speedup"] > 0 and row["time"].seconds, name
    monkeypatch.setattr(zoo, "LONGEST", {"lifter": 0, "reference": 0})
    assert "left out" in zoo.run("sasmamba", 27, 1, SETUP)[0]["note"]
    assert zoo.run("sasmamba", 3, 1, replace(SETUP, patience=math.inf))[0]["time"]


def test_a_slower_row_fails_the_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(zoo, "cases", lambda setup: [("zoo", lambda: [{"case": "a model", "slower": True, "matches": True}])])
    assert run("zoo", "--json", tmp_path / "rows.json") == 1
    assert "Slower    a model" in capsys.readouterr().out


def test_stream_rows(small, tmp_path):
    only = "^(poseretnet|mixste) chunk (1|9)$"
    assert run("stream", "--quick", "--only", only, "--out", tmp_path) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["stream"]
    names = {(row["model"], row["chunk_size"], row["dtype"]) for row in rows}
    assert ("mixste", 9, "float32") in names and ("poseretnet", 1, "bfloat16") in names
    for row in rows:
        assert row["waited"] == (row["chunk_size"] - 1) / 50 and row["time"]["median"] > 0
        assert row["live"] == (row["frames_per_second"] >= 50)
        window = 4 * 17 * 2 * 243 if row["model"] == "mixste" else 4 * 17 * 2 * 8 * 8
        assert window < row["state_bytes"] < 1.2 * window
    assert "| mixste chunk 9 |" in (tmp_path / "report.md").read_text() and (tmp_path / "speed.png").exists()


def test_streams_are_no_part_of_a_plain_run(capsys):
    assert run("--list") == 0
    assert " chunk 9\n" not in capsys.readouterr().out


def test_huggingface(monkeypatch):
    """Both kinds of calls and dtypes of a small model; a wrong output has no speedup."""

    def forget_models():
        for function in (huggingface.build, huggingface.build_optimized, huggingface.exact_logits):
            function.cache_clear()

    pytest.importorskip("transformers")
    config = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    monkeypatch.setattr(huggingface, "CONFIG", config)
    monkeypatch.setattr(huggingface, "LENGTHS", (8,))
    monkeypatch.setitem(sys.modules, "kernels", None)
    forget_models()
    setup = command.Setup("cpu", None, "quick", seconds=1e-3, patience=1)
    rows = [row for _, case in huggingface.cases(setup) for row in case()]
    assert [row["case"] for row in rows[::2]] == [
        "prefill L=8 float32", "decode L=16 float32", "prefill L=8 bfloat16", "decode L=16 bfloat16",
    ]  # fmt: skip
    assert all(row["matches"] and row["speedup"] > 0 for row in rows)
    torch.nn.init.zeros_(huggingface.build_optimized("float32", "cpu").backbone.layers[0].mixer.out_proj.weight)
    wrong = huggingface.cases(setup)[0][1]()
    assert [(row["matches"], row["speedup"] is None) for row in wrong] == [(True, False), (False, True)]
    forget_models()


def test_zoo_measures_again_what_seems_slower(small, monkeypatch):
    """And a choice that rounding decides is no wrong output, where the reference in float64 chooses as ours."""
    calls = []

    def measured(calls_, device, budget, rounds):
        calls.append(rounds)
        seconds = {"lifter": 2.0 if len(calls) == 1 else 0.9, "reference": 1.0}
        outputs = {name: call() for name, call in calls_.items()}
        return {name: timing.Timing([seconds[name]] * rounds) for name in calls_}, outputs

    monkeypatch.setattr(zoo, "measure", measured)
    (row,) = zoo.run("sasmamba", 9, 1, SETUP)
    assert calls == [zoo.SAMPLES, 3 * zoo.SAMPLES] and not row["slower"] and len(row["time"].seconds) == sum(calls)

    model = lifter.create_model("sasmamba", 9).eval()
    given = [torch.randn(1, 9, 17, model.in_channels)]
    with torch.no_grad():
        out = model(*given)
        call = partial(model, *given)
        assert models.near_in_float64(call, out, out + 1)[0] and not models.near_in_float64(call, out + 1, out)[0]


def plan_of(mode, section):
    """(name, case) of a section in a run, the setup of which gives every call once."""
    setup = replace(SETUP, mode=mode, seconds=0.0, patience=math.inf)
    modules = [command.PARTS[part][0] for part in (command.EVERYTHING if mode == "full" else command.USUAL)]
    return [case for module in modules if report.name_of(module) == section for case in module.cases(setup)]


SECTIONS = ("models", "zoo", "diffusion", "memory", "scaling", "stream", *(f"kernels.{op}" for op in kernels.ops()))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_case_runs(section, small, monkeypatch, request):
    """Build and call once all cases of the quick, the default and the full plan, by networks of the smallest width and depth
    that their classes have; of cases that differ by their sizes alone, the smallest.

    The kernels stand for the reference, which takes minutes at these lengths. The rates of the machine are not measured,
    nothing is compiled, and memory is that of this process. The tables measure nothing and have a test of their own.
    """
    monkeypatch.setattr(lifter.kernels, "backend", lambda name: contextlib.nullcontext())
    monkeypatch.setattr(bounds, "best_seconds", lambda call, device: 1.0)
    monkeypatch.setattr(bounds, "exponential_seconds", lambda *size: 1.0)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(timing, "SHORT", 0)
    monkeypatch.setattr(timing, "LONG", 0)  # budgets: all calls are long, and called once
    monkeypatch.setattr(memory, "_in_a_process", lambda *case: 1 + memory.peak(*case))  # which may be none here
    monkeypatch.setitem(memory.CASES, memory.STEP, (partial(memory.training_step, 1, 27), ("lifter",)))
    monkeypatch.setattr(published, "FPS", {(1, 1): published.FPS[20, 1]})  # hypotheses and steps of a sampler
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)  # with one there is nothing to scale
    section, _, op = section.partition(".")
    if op:
        monkeypatch.setattr("benchmarks.kernels.USUAL", (27, 81))
        for sizes, fewer in {"FRAMES": (27, 81), "SIMILAR": (6, 3), "LONG": 300}.items():
            monkeypatch.setattr(f"benchmarks.kernels.{op}.{sizes}", fewer, raising=False)
    kinds = {}
    for mode in ("quick", "default", "full"):
        for name, case in plan_of(mode, section):
            if not op or name.split()[0] == op:
                kinds.setdefault(re.sub(r"(=|batch |chunk )\d+", r"\1n", name), {})[name] = case
    assert kinds
    for cases in kinds.values():
        name, case = min(cases.items(), key=lambda item: [int(size) for size in re.findall(r"\d+", item[0])])
        for row in runner.survived(name, case):
            assert row.get("matches") is not False, (name, row.get("note"))
