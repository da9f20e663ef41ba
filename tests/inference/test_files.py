"""`lifter lift`: every file becomes its poses once, whatever is wrong with the others and whenever the run is killed."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lifter
from lifter.__main__ import main
from lifter.data import Sequence, open_data, save
from lifter.data.outputs import write
from lifter.data.registry import FORMATS, WRITERS
from lifter.data.synthetic import open_gait
from lifter.inference.files import Lift, lift_files
from lifter.inference.record import Record
from lifter.inference.sources import find_sources
from lifter.inference.windows import lift_sequence
from lifter.progress import Progress
from lifter.skeleton import LSP
from tests.data.conftest import save_json
from tests.data.test_detectors import people, write_alphapose, write_openpose
from tests.data.test_files import Run

SIZES = {"num_frames": 27, "dim": 16, "depth": 1}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return lifter.create_model("sasmamba", **SIZES).eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    lifter.save_pretrained(path, model, {"model": "sasmamba", "kwargs": SIZES})
    return str(path)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def lift(checkpoint, tmp_path, capsys):
    """`lifter lift ... -o tmp/out`: the exit status, the lines on stderr, the files in the folder but hidden ones."""

    def run(*arguments, out="out"):
        status = main(["lift", *map(str, arguments), "-o", str(tmp_path / out), "--checkpoint", checkpoint])
        files = [path for path in (tmp_path / out).rglob("*") if path.is_file() and path.name[0] != "."]
        return status, capsys.readouterr().err.splitlines(), sorted(p.relative_to(tmp_path / out).as_posix() for p in files)

    return run


def seen(name="clip", frames=30, first=0):
    """Part of a walk, seen by a camera."""
    return replace(next(iter(open_gait(1, 243))).take(slice(first, first + frames)), name=name)


def test_motion_capture(lift, model, shared, tmp_path):
    """All clips of a file: what the model makes of each, relative to the root, with keypoints and camera beside it."""
    path = shared / "data" / "cmu_h36m17.npz"
    data = open_data(path).select("S2/02_01/*", "S3/03_01/0")
    save(tmp_path / "some.npz", data)
    status, errors, files = lift(tmp_path / "some.npz", "--batch", "5")
    assert (status, errors) == (0, [])
    assert files == [f"some.npz_/{name}.npz" for name in data.names]
    for one in data:
        (got,) = open_data(tmp_path / "out" / f"some.npz_/{one.name}.npz")
        expected = lift_sequence(model, one.keypoints, stride=13, fade=True).numpy()
        expected[:, 0] = 0
        np.testing.assert_allclose(got.poses, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(got.keypoints, one.keypoints)
        assert (got.name, got.subject, got.action, got.fps) == (one.name, one.subject, one.action, one.fps)
        assert got.camera.as_dict() == one.camera.as_dict()


@pytest.mark.parametrize("format", [format for format in WRITERS if format in FORMATS])
def test_formats(lift, tmp_path, format):
    """One file with one sequence to one file, of every format that is read; keypoints tell that y is down in its poses."""
    save(tmp_path / "a.npz", [replace(seen(), camera=None)])
    status, _, files = lift(tmp_path / "a.npz", out=f"b.{format}")
    assert status == 0
    (got,) = open_data(tmp_path / f"b.{format}")
    assert lift(tmp_path / "a.npz")[2] == ["a.npz.npz"]
    (expected,) = open_data(tmp_path / "out" / "a.npz.npz")
    poses = expected.poses
    if format in ("trc", "bvh", "c3d"):
        x, y, z = np.moveaxis(poses, -1, 0)
        poses = np.stack((x, z, -y), -1)
    if format == "bvh":  # bones of one length, which those of random weights are not
        np.testing.assert_allclose(got.poses[:, 0], poses[:, 0], atol=1e-6)
    else:
        np.testing.assert_allclose(got.poses, poses, rtol=0, atol=2e-7)


class Knows(torch.nn.Module):
    """Gives the poses it was told."""

    def __init__(self, poses):
        super().__init__()
        self.num_frames, self.poses = len(poses), torch.from_numpy(poses)
        self.eval()

    def forward(self, keypoints):
        return self.poses.expand(len(keypoints), -1, -1, -1)


def test_place(tmp_path):
    """Exact poses and keypoints: the root is where it was. Without a camera nobody knows."""
    one = seen()
    save(tmp_path / "x.npz", [one, replace(one, name="blind", camera=None)])
    told = []
    options = Lift(tmp_path / "out", flip=False, place=True)
    lift_files(Knows(one.rooted()), find_sources([tmp_path / "x.npz"], "out"), options, lambda *event: told.append(event))
    (got,) = open_data(tmp_path / "out" / "x.npz_" / "clip.npz")
    np.testing.assert_allclose(got.poses, one.poses, rtol=0, atol=5e-4)
    assert ("failed", f"{tmp_path}/x.npz: blind: no camera that tells where the root is: lift it without --place") in told
    assert [what for what, _ in told].count("lifted") == 1


def test_folders(lift, tmp_path, rng):
    """Files of several formats at several depths; a folder of OpenPose is one; what is no data is not looked at."""
    write_openpose(tmp_path / "in" / "walk", people(rng, 4, 25))
    write_alphapose(tmp_path / "in" / "a", people(rng, 5))
    save(tmp_path / "in" / "a" / "x.npz", [seen()])
    save(tmp_path / "in" / "a_x.npz", [seen("1"), seen("../../2")])
    np.save(tmp_path / "in" / "x.npy", people(rng, 3))
    (tmp_path / "in" / "readme.txt").write_text("no keypoints")
    (tmp_path / "in" / ".hidden.json").write_text("{")
    for _ in range(2):  # what lies in OUT is not lifted
        status, errors, files = lift(tmp_path / "in", "--size", "640x480", out="in/out")
        assert (status, errors) == (0, [])
    openpose = {file for file in files if file.startswith("walk")}
    alphapose = {file for file in files if file.endswith("json.npz")}
    others = {"a/x.npz.npz", "a_x.npz_/1.npz", "a_x.npz_/%2E%2E/%2E%2E/2.npz", "x.npy.npz"}
    assert len(openpose) == len(alphapose) == 1 and set(files) == openpose | alphapose | others
    for file in files:
        (got,) = open_data(tmp_path / "in" / "out" / file)
        assert got.size == ((1000, 1002) if "x.npz" in file else (640, 480))  # --size is for files that do not tell it


def test_sources(tmp_path, monkeypatch):
    for name in ("a/b.json", "a/b/c.json", "a_b.json", "b/b.json", "b/B.NPZ", "f/1_keypoints.json", "f/2_keypoints.json"):
        save_json(tmp_path / name, {})
    places = lambda *paths, **options: [s.place for s in find_sources([tmp_path / p for p in paths], "none", **options)]
    assert places(".") == ["a/b/c.json", "a/b.json", "a_b.json", "b/B.NPZ", "b/b.json", "f"]
    assert places("a") == ["b/c.json", "b.json"] and places("a/b.json") == ["b.json"] and places("f") == ["f"]
    assert places("a/b.json", "b/b.json") == ["a/b.json", "b/b.json"]
    assert places("a/../a", "a/b.json", "a") == ["b/c.json", "b.json"]
    assert places("b", format="openpose") == ["b"] and len(places("f", format="alphapose")) == 2
    monkeypatch.chdir(tmp_path / "a")
    assert [s.place for s in find_sources(["."], "b")] == ["b.json"]
    for paths, message in ((["f", "f/1_keypoints.json"], "is part of"), (["none"], "no file or folder of that name")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            places(*paths)


def test_goes_on(lift, tmp_path):
    """Outputs that are there are left as they are, but for empty ones, and with --overwrite; a .part is nobody's output."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        save(tmp_path / "in" / f"{i}.npz", [seen()])
    lift(tmp_path / "in")
    first, second, third = ((tmp_path / "out" / f"{i}.npz.npz") for i in range(3))
    first.write_bytes(b"mine")
    second.write_bytes(b"")
    third.rename(third.with_name(".0123456789abcdef.part"))
    assert lift(tmp_path / "in") == (0, [], ["0.npz.npz", "1.npz.npz", "2.npz.npz"])
    assert first.read_bytes() == b"mine" and all(len(open_data(path)) == 1 for path in (second, third))
    lift(tmp_path / "in", "--overwrite")
    assert len(open_data(first)) == 1


def test_changes_are_lifted_again(checkpoint, tmp_path, capsys):
    """Outputs of other input, model or options are lifted again; others are left."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        save(tmp_path / "in" / f"{i}.npz", [seen()])
    other = tmp_path / "other.safetensors"
    lifter.save_pretrained(other, lifter.create_model("sasmamba", **SIZES), {"model": "sasmamba", "kwargs": SIZES})

    def run(*options, weights=checkpoint):
        assert main(["lift", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--checkpoint", str(weights), *options]) == 0
        return capsys.readouterr().out.partition(": ")[2].strip()

    again = "({} again: other input, model or options)"
    assert run() == "3 sequences lifted, 0 failed"
    assert run() == "0 sequences lifted, 3 were there (--overwrite lifts them again), 0 failed"
    save(tmp_path / "in" / "1.npz", [seen(first=9)])
    assert run() == f"1 sequences lifted {again.format(1)}, 2 were there (--overwrite lifts them again), 0 failed"
    for options, weights in (((), other), (("--no-flip",), other)):
        assert run(*options, weights=weights) == f"3 sequences lifted {again.format(3)}, 0 failed"
        assert "0 sequences lifted, 3 were there" in run(*options, weights=weights)
    record = tmp_path / "out" / ".lifted.jsonl"
    record.write_bytes(record.read_bytes()[:-5])  # the last line cut short: what was before it holds
    assert run("--no-flip", weights=other) == f"1 sequences lifted {again.format(1)}, 2 were there " + (
        "(--overwrite lifts them again), 0 failed"
    )


def test_a_record_that_was_cut_short_loses_no_other(lift, tmp_path):
    """A line is cut short, as on a disk that was full: the line after it is whole."""
    (tmp_path / "in").mkdir()
    put = lambda number, first=0: save(tmp_path / "in" / f"{number}.npz", [seen(first=first)])
    when = lambda: {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    put(0), put(1)
    lift(tmp_path / "in")
    record = tmp_path / "out" / ".lifted.jsonl"
    record.write_bytes(record.read_bytes()[:-5])
    put(2)
    lift(tmp_path / "in")
    before = when()
    put(2, first=9)
    lift(tmp_path / "in")
    assert [name for name, moment in when().items() if moment != before[name]] == ["2.npz.npz"]


def test_a_disk_that_is_full(lift, tmp_path, monkeypatch):
    """Outputs that cannot be written, or noted, are named; the others are lifted."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        save(tmp_path / "in" / f"{i}.npz", [seen()])
    full = iter((False, True, False, True))
    add = Record.add

    def noted(self, *arguments):
        if next(full):
            raise OSError(28, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(Record, "add", noted)
    status, errors, files = lift(tmp_path / "in")
    assert status == 1 and len(files) == 4
    assert [line.split(": ")[0] for line in errors] == [str(tmp_path / "in" / f"{i}.npz") for i in (1, 3)]


def test_two_at_once(checkpoint, tmp_path):
    """Two processes into one folder: every output is written by one of them."""
    (tmp_path / "in").mkdir()
    for i in range(16):
        save(tmp_path / "in" / f"{i:02}.npz", [seen(f"{i}", 20)])
    command = ["lift", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--checkpoint", checkpoint]
    both = [subprocess.Popen([sys.executable, "-m", "lifter", *command], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    lifted = [int(re.search(r"(\d+) sequences lifted", text)[1]) for text in said]
    assert sum(lifted) == 16 and [process.returncode for process in both] == [0, 0]
    assert len(list((tmp_path / "out").glob("*.npz"))) == 16


def bad_files(folder, made):
    """Writes bad files, whose pickles would make `made`. {name: what its line says}."""
    folder.mkdir()
    evil = {"positions_2d": Run(os.system, f"touch {made}")}
    save(folder / "cut.npz", [seen()])
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:3000])
    (folder / "evil.pkl").write_bytes(pickle.dumps(evil))
    np.savez(folder / "evil.npz", positions_2d=np.array(evil, dtype=object), metadata=np.array(evil, dtype=object))
    np.savez(folder / "evil2.npz", imgname=np.array([Run(eval, f"open({str(made)!r}, 'w')")], dtype=object))
    np.save(folder / "evil.npy", np.array([Run(os.system, f"touch {made}")], dtype=object))
    told = {"cut.npz": "not an npz file, or cut short", "evil2.npz": "pw3d_gt|the name is not|not a pickle"}
    told |= dict.fromkeys(("evil.pkl", "evil.npz", "evil.npy"), "it asks for posix.system, which is neither data")
    keypoints = np.random.default_rng(0).uniform(0, 1000, (4, 17, 3)) * (1, 1, 1e-3)
    for name, change, line in (
        ("joints", keypoints[:, :9], "9 joints, expected 17"),
        ("flat", keypoints[0, 0], "no person in any frame"),
        ("empty array", keypoints[:0], "no person in any frame"),
        ("never", keypoints * np.nan, "no joint in any of 4 frames"),
        ("infinite", keypoints + np.inf, "no joint in any of 4 frames"),
        ("huge", keypoints * (1e30, 1e30, 1), r"frame 0, joint 0 \(pelvis\) is .*expected finite numbers of at most 100"),
        ("huger", keypoints * (1e300, 1e300, 1), r"frame 0, joint 0 \(pelvis\) is .*expected finite numbers of at most 100"),
        ("text", np.array(["a"]), "no person in any frame"),
    ):
        np.save(folder / f"{name}.npy", change)
        told[f"{name}.npy"] = line
    for name, text, line in (
        ("cut.json", '[{"image_id": "1.jpg"', "not a JSON file"),
        ("deep.json", "[" * 99999, "not a JSON file"),
        ("nothing.json", "", "not a JSON file"),
        ("none.json", "[]", "an empty list"),
        ("other.json", '{"a": 1}', "JSON of no known format"),
        ("track.json", '[{"image_id": "x", "keypoints": [0, 0, 0]}]', "no number of a frame in 'x'"),
        ("nan.json", json.dumps([{"image_id": "1", "keypoints": [float("nan")] * 51}]), "no joint in any of 1 frames"),
        ("number.json", '{"lifter": 1, "sequences": [{"name": {}, "arrays": 7}]}', "no key 'subject'"),
        ("rows.csv", "frame,time\n1,2\n", "columns frame, time, ..., expected"),
        ("annot.mat", "MATLAB 5.0 and no more", "not a readable MATLAB file|reading it needs scipy"),
    ):
        (folder / name).write_text(text)
        told[name] = line
    save(folder / "poses.npz", [Sequence("only", poses=np.ones((3, 17, 3)))])
    save(folder / "jhmdb.npz", [Sequence("only", LSP, keypoints=np.ones((3, 14, 2)))])
    return told | {"poses.npz": "only: no keypoints to lift", "jhmdb.npz": "only: lsp has no pelvis, .*which h36m needs"}


def test_bad_files_among_good_ones(lift, tmp_path, rng):
    """Each is told in one line that names it, at the end; the good ones are lifted; nothing in them is run."""
    bad = bad_files(tmp_path / "in", tmp_path / "made")
    for name in ("a", "m", "z"):
        np.save(tmp_path / "in" / f"{name}-good.npy", people(rng, 3))
    holes = people(rng, 6)
    holes[2:4] = np.nan
    np.save(tmp_path / "in" / "holes.npy", holes)  # are filled
    (tmp_path / "in" / "empty.json").mkdir()
    status, errors, files = lift(tmp_path / "in", "--size", "1000x1000")
    assert status == 1 and files == ["a-good.npy.npz", "holes.npy.npz", "m-good.npy.npz", "z-good.npy.npz"]
    assert len(set(errors)) == len(bad), errors
    for name, line in bad.items():
        assert any(re.match(f"{tmp_path}/in/{name}: .*({line})", error) for error in errors), (name, errors)
    assert not (tmp_path / "made").exists()
    assert lift(tmp_path / "in", "--size", "1000x1000")[2] == files  # and again


def test_damaged_at_random(lift, tmp_path, rng):
    """Bytes changed, left out, cut off: a file is lifted, or there is a line."""
    (tmp_path / "in").mkdir()
    whole = [tmp_path / name for name in ("x.npz", "x.json", "x.csv")]
    for path in whole:
        write(path, seen(frames=5))
    for number in range(90):
        data = bytearray(whole[number % 3].read_bytes())
        at, count = rng.integers(len(data)), rng.integers(1, 4)
        data[at : at + count] = [b"", rng.bytes(count), data[at:at] + b"9" * 9][rng.integers(3)]
        (tmp_path / "in" / f"{number}{whole[number % 3].suffix}").write_bytes(data[: at if rng.random() < 0.2 else None])
    status, errors, files = lift(tmp_path / "in")
    failed = {line.split(":")[0] for line in errors}
    assert status == 1 and len(files) + len(failed) == 90 and len(failed) > 20 and len(files) > 10
    for file in files:
        assert np.isfinite(next(iter(open_data(tmp_path / "out" / file))).poses).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none"], "none: there is no file or folder of that name"),
        (["empty"], "empty: no file that ends in .csv, .json, .jsonl, .mat, .ndjson, .npy, .npz, .pkl"),
        (["in", "-o", "in/a.npz"], "in/a.npz: is to be lifted, expected another name"),
        (["in", "-o", "."], "in, which is to be lifted; expected another folder"),
        (["in", "-o", "empty/../in"], "in, which is to be lifted; expected another folder"),
        (["in", "-o", "in/text"], "text: is a file, expected a folder"),
        (["in", "-o", "x.cvs"], ".angles.csv, .bvh, .c3d, .csv, .glb, .json, .npz, .trc, or a folder: x.cvs/"),
        (["in", "-o", "x.csv", "--to", "trc"], "x.csv: expected a name that ends in .trc"),
        (["in", "-o", "x.csv"], "x.csv: 2 files to lift, expected a folder"),
        (["in/b.npz", "-o", "x.csv"], "2 sequences, expected one for"),
        (["in", "--checkpoint", "none.safetensors"], "no checkpoint at none.safetensors"),
        (["in", "--checkpoint", "in/a.npz"], "does not say which model"),
        (["in", "--num-frames", "9"], "name it with --model"),
        (["in", "--model", "cat"], "name is 'cat', expected one of"),
        (["in", "--model", "mixste", "--num-frames", "9"], "keys"),
        (["in", "--batch", "0"], "batch is 0, expected a positive integer"),
        (["in", "--stride", "28"], "stride is 28, expected 1 to window=27"),
        (["in", "--device", "cat"], "--device cat: "),
        (["in", "--format", "cat"], "format is 'cat'"),
        (["in", "--model", "mixsynthformer_h36m", "--num-frames", "9"], "num_frames"),
        (["in", "--engine", "ray"], 'needs ray: pip install -e ".[ray]"'),
    ],
)
def test_one_line_for_a_mistake(tmp_path, monkeypatch, checkpoint, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    Path("in").mkdir()
    Path("empty").mkdir()
    Path("in/text").touch()
    save("in/a.npz", [seen()])
    save("in/b.npz", [seen("1"), seen("2")])
    before = sorted(Path(".").rglob("*"))
    arguments = [*([] if "-o" in arguments else ["-o", "out"]), *arguments]
    assert main(["lift", "--checkpoint", checkpoint, *arguments]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert any(message in line for line in errors) and len(errors) <= 2 and "Traceback" not in str(errors)
    assert sorted(Path(".").rglob("*")) == before


def test_models(tmp_path, capsys):
    """Models of any length, in bfloat16, with a window that overlaps; one that does not lift is refused."""
    save(tmp_path / "x.npz", [seen(frames=40)])
    for name, sizes, status in (("poseretnet", {"dim": 16, "depth": 1}, 0), ("mixsynthformer_h36m", {}, 1)):
        weights = tmp_path / f"{name}.safetensors"
        lifter.save_pretrained(weights, lifter.create_model(name, **sizes), {"model": name, "kwargs": sizes})
        arguments = ["--checkpoint", str(weights), "--dtype", "bfloat16", "--stride", "9", "--no-flip"]
        out = tmp_path / f"{name}.npz"
        assert main(["lift", str(tmp_path / "x.npz"), "-o", str(out), *arguments]) == status
        assert out.exists() == (status == 0)
    assert "MixSynthFormer refines poses" in capsys.readouterr().err


def test_stopped(lift, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    save(tmp_path / "x.npz", [seen()])
    monkeypatch.setattr("lifter.commands._keypoints.lift_files", interrupted)
    assert lift(tmp_path / "x.npz")[:2] == (130, ["lifter lift: stopped; the same command goes on from here"])


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal, monkeypatch, capsys):
    monkeypatch.setattr("lifter.progress.SECONDS", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with Progress("files", 3) as progress:
        progress.step(0)  # nothing is done yet: who knows how long it takes
        for _ in range(3):
            progress.step(more=", 7 lifted")
    shown = capsys.readouterr().err
    assert ("3/3" in shown) if terminal else ("\n2 of 3 files, 7 lifted, " in shown)


def test_what_comes_before_the_first_step_is_not_its_speed(monkeypatch, capsys):
    now = iter((0, 100, 101, 102))  # the first step comes late
    monkeypatch.setattr("lifter.progress.time.monotonic", lambda: next(now))
    monkeypatch.setattr("lifter.progress.SECONDS", 0)
    with Progress("frames", 10) as progress:
        for _ in range(3):
            progress.step(2)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "4 of 10 frames, 2 a second, 3 s left", "6 of 10 frames, 2 a second, 2 s left",
    ]  # fmt: skip


def test_progress_within_a_file(lift, tmp_path, monkeypatch):
    """A long file with a large model: the frames are counted while it is lifted."""
    monkeypatch.setattr("lifter.progress.SECONDS", 0)
    save(tmp_path / "x.npz", [seen(frames=60)])
    _, errors, _ = lift(tmp_path / "x.npz", "--batch", "1")
    counted = [int(line.split(" and ")[1].split()[0]) for line in errors if " frames lifted" in line]
    assert counted == sorted(set(counted)) and len(counted) > 2 and counted[-1] == 60


def test_killed(lift, checkpoint, tmp_path, record_property):
    """kill -9 in the middle of many short files, and again: every output once, whole, and not written twice.
    LIFTER_FILES=10000 is what lifter promises."""
    count = int(os.environ.get("LIFTER_FILES", 200))
    (tmp_path / "in").mkdir()
    for i in range(count):
        save(tmp_path / "in" / f"{i:05}.npz", [seen(f"clip {i}", 20 + i % 30, i % 190)])
    expected = [f"{i:05}.npz.npz" for i in range(count)]
    command = ["lift", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--checkpoint", checkpoint]
    process = subprocess.Popen([sys.executable, "-m", "lifter", *command], stdout=subprocess.DEVNULL)
    while not (tmp_path / "out" / expected[count // 4]).exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob(".*.part"))) <= 1  # what it was writing
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    assert count // 4 <= len(times) < count
    began = time.perf_counter()
    status, errors, files = lift(tmp_path / "in")
    speed = (count - len(times)) / (time.perf_counter() - began)
    assert status == 0 and files == expected and not [line for line in errors if " of " not in line]
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    for i, file in enumerate(files):
        (got,) = open_data(tmp_path / "out" / file)
        assert (got.name, got.poses.shape) == (f"clip {i}", (20 + i % 30, 17, 3))
    told = f"killed after {len(times)} of {count} files, went on at {speed:.0f} a second: every output once, none broken"
    record_property("summary", f"lift: {told}")


def test_ray(lift, tmp_path, monkeypatch):
    """Two workers write the same files as without them, and tell the same of a bad one."""
    ray = pytest.importorskip("ray", reason="needs ray")
    monkeypatch.setattr("lifter.inference.ray.FILES", 13)
    (tmp_path / "in").mkdir()
    for i in range(24):
        save(tmp_path / "in" / f"{i}.npz", [seen(f"{i}", 3)])
    (tmp_path / "in" / "bad.npz").write_bytes(b"PK\x03\x04")
    expected = lift(tmp_path / "in", out="local")
    # Not niced by 15, as workers are: beside other tests they would hardly start.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config={"worker_niceness": 0})
    try:
        status, errors, files = lift(tmp_path / "in", "--engine", "ray", out="on ray")
    finally:
        ray.shutdown()
    assert (status, files) == (1, expected[2]) and len(files) == 24
    assert expected[1][0] in errors
    for file in files[::7]:
        (one,), (other,) = (open_data(tmp_path / out / file) for out in ("local", "on ray"))
        np.testing.assert_allclose(one.poses, other.poses, rtol=0, atol=1e-5)
