"""Sequences written and read again in every format, under names that never meet."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifter.__main__ import main
from lifter.data import Sequence, open_data
from lifter.data.cameras import Camera
from lifter.data.formats.own import save_json
from lifter.data.outputs import LONGEST, output_path, write
from lifter.skeleton import H36M, MPI3DHP

from .conftest import assert_same

CAMERA = Camera(1000, 1002, 1145.0, 1143.0, 512.0, 515.0, distortion=(-0.2, 0.2, 0, -0.01, 0.01), id="a")


def sequence(rng, frames=7, skeleton=H36M, **more):
    arrays = {"poses": rng.normal(size=(frames, 17, 3)), "keypoints": rng.uniform(-1, 1, (frames, 17, 3))} | more
    return Sequence("clip", skeleton, **arrays, fps=29.97, start=3)


@pytest.mark.parametrize("frames", [1, 2, 30])
def test_json(tmp_path, rng, frames):
    known = {"camera": CAMERA, "subject": "S1", "action": 'Walking "1"', "valid": rng.random(frames) < 0.5}
    one = replace(sequence(rng, frames), **known, factor=rng.random(frames), name="../S1/ä\ud800", size=None)
    other = sequence(rng, 4, MPI3DHP, keypoints=rng.normal(size=(4, 17, 2)))
    assert save_json(tmp_path / "x.json", [one, other]) == 2
    data = open_data(tmp_path / "x.json")
    assert data.format == "json" and [file.name for file in tmp_path.iterdir()] == ["x.json"]
    for got, expected in zip(data, (one, other)):
        assert_same(got, expected, 1e-7)
    told = json.loads((tmp_path / "x.json").read_text())["sequences"][0]
    assert told["joints"] == list(H36M.joints) and np.shape(told["poses"]) == (frames, 17, 3)


@pytest.mark.parametrize("channels", [0, 2, 3])
@pytest.mark.parametrize("frames", [2, 30])
def test_csv(tmp_path, rng, frames, channels):
    keypoints = rng.uniform(-1, 1, (frames, 17, channels)) if channels else None
    one = sequence(rng, frames, MPI3DHP if channels == 2 else H36M, keypoints=keypoints)
    write(tmp_path / "new" / "clip.csv", one)
    (got,) = open_data(tmp_path / "new" / "clip.csv")
    assert_same(got, one, 2e-7)
    head = (tmp_path / "new" / "clip.csv").read_text().split("\n")[0]
    assert head.startswith("frame,time,") and f"{one.skeleton.joints[0]}_x" in head
    write(tmp_path / "clip.csv", replace(one, poses=None, fps=None, valid=np.ones(frames)) if channels else one)
    (got,) = open_data(tmp_path / "clip.csv")
    assert (got.poses is None) == bool(channels)


def test_trc(tmp_path, rng):
    """Poses of the world, z up, come back the same; those of a camera, y down, are turned about x. The header is OpenSim's."""
    world = sequence(rng, keypoints=None)
    for name, source in (("world", world), ("camera", replace(world, camera=CAMERA)), ("seen", sequence(rng))):
        write(tmp_path / f"{name}.trc", source)
        (got,) = open_data(tmp_path / f"{name}.trc")
        x, y, z = np.moveaxis(source.poses, -1, 0)
        expected = source.poses if name == "world" else np.stack((x, z, -y), -1)
        np.testing.assert_allclose(got.poses, expected, rtol=0, atol=2e-7)
        assert (got.fps, got.start, got.skeleton, got.name) == (29.97, 3, H36M, name)
    lines = [line.split("\t") for line in (tmp_path / "world.trc").read_text().split("\n")]
    assert lines[0] == ["PathFileType", "4", "(X/Y/Z)", "world.trc"]
    assert dict(zip(lines[1], lines[2])) == {
        "DataRate": "29.97", "CameraRate": "29.97", "NumFrames": "7", "NumMarkers": "17", "Units": "mm",
        "OrigDataRate": "29.97", "OrigDataStartFrame": "4", "OrigNumFrames": "7",
    }  # fmt: skip
    assert lines[3][:6] == ["Frame#", "Time", "Hip", "", "", "RHip"]
    assert lines[4][:6] == ["", "", "X1", "Y1", "Z1", "X2"] and lines[5] == [""] and lines[6][0] == "4"
    assert {len(line) for line in lines[3:5] + lines[6:-1]} == {2 + 3 * 17}
    up = float(lines[6][3]) / 1000
    assert up == pytest.approx(world.poses[0, 0, 2], abs=1e-7)


def test_trc_of_others(tmp_path, rng):
    """A thousand times too large if its unit is right, in another order, with blanks at the ends of lines, without a joint."""
    write(tmp_path / "x.trc", sequence(rng))
    text = (tmp_path / "x.trc").read_text()
    (before,) = open_data(tmp_path / "x.trc")
    (tmp_path / "x.trc").write_text(text.replace("\tmm\t", "\tm\t").replace("\n", "\t\r\n"))
    with pytest.warns(UserWarning, match="m if the file's unit is right; taken as "):
        list(open_data(tmp_path / "x.trc"))
    (tmp_path / "x.trc").write_text(text.replace("Hip\t\t\tRHip", "RHip\t\t\tHip", 1))
    (swapped,) = open_data(tmp_path / "x.trc")
    np.testing.assert_array_equal(swapped.poses[:, [1, 0, 2]], before.poses[:, :3])
    for blank in ("", "nan"):
        (tmp_path / "x.trc").write_text(re.sub(r"\n5\t([^\t]*)\t[^\t]*", rf"\n5\t\1\t{blank}", text, count=1))
        (filled,) = open_data(tmp_path / "x.trc")
        assert filled.valid.tolist() == [True, False, *[True] * 5]
        np.testing.assert_allclose(filled.poses[1, 0], before.poses[[0, 2], 0].mean(0), atol=1e-6)
        np.testing.assert_array_equal(filled.poses[:, 1:], before.poses[:, 1:])


@pytest.mark.parametrize(
    "format, old, new, message",
    [
        ("csv", "_x", "_X", "columns frame, time, pelvis_X"),
        ("csv", "pelvis_x,", "", "columns frame, time, pelvis_y"),
        ("csv", "\n4,", "\n9,", "numbers of frames are not in a row"),
        ("csv", "\n4,", "\n4,0,", "line 3: 105 columns, expected 104"),
        ("csv", "\n4,", "\nx,", "line 3: could not convert"),
        ("csv", "\n4,", "\nnan,", "not in a row"),
        ("csv", re.compile(r"\n(.|\n)*"), "\n", "no frames"),
        ("csv", re.compile(r"(.|\n)*"), "", "columns"),
        ("trc", "PathFileType", "Path", "not a TRC file"),
        ("trc", re.compile(r"\n4\t(.|\n)*"), "\n", "no frames"),
        ("trc", "\tmm\t", "\tfeet\t", "line 3 is .*Units of m, cm, mm"),
        ("trc", "RHip", "bone", "no right hip among the names Hip, bone"),
        ("json", '"skeleton": "h36m"', '"skeleton": []', "no key '\\[\\]'"),
        ("json", '"start": 3', '"start": 1e999', "start is inf"),
        ("json", '"size": null', '"size": 5', "image size: shape"),
        ("json", '"poses": [[[', '"poses": [[[[1], ', "poses: not an array of numbers"),
        ("json", '"poses": [[[', '"poses": [[[NaN, ', "poses: not an array of numbers"),
        ("json", '"arrays": [', '"arrays": [{}, ', "arrays are"),
        ("json", '"sequences": [', '"sequences": {}, "x": [', "a dict, expected a list"),
        ("json", "\n]}", "", "not a JSON file"),
    ],
)  # fmt: skip
def test_damaged(tmp_path, rng, format, old, new, message):
    path = tmp_path / f"x.{format}"
    write(path, sequence(rng))
    text = path.read_text()
    changed = text.replace(old, new, 1) if isinstance(old, str) else old.sub(lambda _: new, text, count=1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises((ValueError, KeyError), match=f"x.{format}: .*{message}"):
        list(open_data(path, format))


def test_convert(tmp_path, rng, capsys):
    """From each format to the next, and of several sequences a file each."""
    one = sequence(rng)
    write(tmp_path / "a.npz", one)
    for source, target in zip("abcd", ("b.json", "c.csv", "d.trc", "e.bvh")):
        (path,) = tmp_path.glob(f"{source}.*")
        assert main(["data", "convert", str(path), str(tmp_path / target)]) == 0
    (got,) = open_data(tmp_path / "c.csv")
    np.testing.assert_allclose(got.keypoints, one.keypoints, rtol=0, atol=2e-7)
    save_json(tmp_path / "two.json", [replace(one, name=name) for name in ("../x", "a/b")])
    assert main(["data", "convert", str(tmp_path / "two.json"), str(tmp_path / "out"), "--to", "csv"]) == 0
    assert {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*.csv")} == {
        "%2E%2E/x.csv", "a/b.csv",
    }  # fmt: skip
    assert main(["data", "convert", str(tmp_path / "two.json"), str(tmp_path / "two.csv")]) == 1
    assert main(["data", "inspect", *map(str, tmp_path.glob("*.*"))]) == 0


def test_nothing_is_left_of_what_failed(tmp_path, rng):
    (tmp_path / "x.trc").write_text("before")
    for format in ("csv", "trc", "bvh"):
        with pytest.raises(ValueError, match="clip: "):
            write(tmp_path / f"x.{format}", sequence(rng, poses=None, keypoints=None, valid=np.ones(7)))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.trc", "before")]


NAMES = [
    None, "a", "a/b", "a.npz/b", "a.npz", "a.npz_/b", "a.npz_", "", "/", "//", "..", "../..", "/etc/passwd", ".", "%2E%2E",
    "%", "a\\b", "A", "ä", "a\u0308", "x" * 300, "x" * 301, "x" * LONGEST, "ä" * 200, "\0", "\ud800", "a b", " a", "\n",
    "%%",
]  # fmt: skip
PLACES = ["a.json", "a.npy", "a.npz", "b/a.json", "a_b.json", "b_a.json", "b.npz/a.json", "b.npz_/a.json", "y" * 255]


def check_names(pairs):
    out = Path("/out")
    paths = [output_path(out, place, name, "npz") for place, name in pairs]
    for path in paths:
        assert path.is_relative_to(out) and ".." not in path.parts and "\0" not in str(path)
        assert max(len(bytes(Path(part))) for part in path.parts) <= 250
        assert path.suffix == ".npz"
    folders = {parent for path in paths for parent in path.parents}
    assert len(set(paths)) == len(paths) and folders.isdisjoint(paths)


def test_names_never_meet():
    check_names([(place, name) for place in PLACES for name in NAMES])
    hashed = output_path("out", "x.json", "x" * 300, "npz").stem
    assert output_path("out", "x.json", hashed, "npz").stem != hashed  # somebody may choose such a name
    assert output_path("out", "a/b.json", None, "npz") == Path("out/a/b.json.npz")
    assert output_path("out", "m.npz", "S1/01 01/0", "npz") == Path("out/m.npz_/S1/01 01/0.npz")
    assert output_path("out", "m.npz", "S1/01 01/0", "csv") == Path("out/m.npz/S1/01 01/0.csv")


@given(st.lists(st.text("a./%_~\u00e4\0n" + "pz"), max_size=12, unique=True))
def test_any_names(names):
    check_names([("x.npz", name) for name in names])
