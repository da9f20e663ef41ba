"""`lifter data inspect` and `lifter data convert`."""

import subprocess
import sys

import numpy as np
import pytest

from lifter.__main__ import main
from lifter.data import open_data, save
from lifter.data.sequence import Sequence

from .conftest import assert_same, save_json
from .test_datasets import h36m_poses, write_h36m
from .test_detectors import SIZE, flat, people, write_alphapose, write_openpose


def test_inspect(shared, tmp_path, rng, capsys):
    write_h36m(tmp_path, {"S1": {"Eating": h36m_poses(rng, 6)}})
    path = write_alphapose(tmp_path / "wild", people(rng, 5, 26))
    assert main(["data", "inspect", str(tmp_path), str(path), str(shared / "data" / "cmu_raw")]) == 0
    out = capsys.readouterr().out
    for line in (
        f"{tmp_path}: h36m, Human3.6M",
        "sequences: 4, 0 of them broken",
        "frames: 24, 6 to 6 in a sequence",
        "image size: 1000x1002, 1000x1000",
        f"{path}: alphapose, ",
        "image size: not in the file, pass --size WxH to use it",
        "arrays: poses",
        "frames per second: 120",
    ):
        assert line in out
    assert main(["data", "inspect", str(path), "--size", "640x480", "--fps", "25"]) == 0
    assert "image size: 640x480" in capsys.readouterr().out


def test_inspect_what_is_broken(tmp_path, rng, capsys):
    """The first sequence is whole, the second is not: both are told, and the status is 1."""
    one, other = people(rng, 2)
    other[0] = 1e12
    entries = [{"image_id": "0.jpg", "idx": i, "keypoints": flat(pose)} for i, pose in enumerate((one, other))]
    path = save_json(tmp_path / "x.json", entries)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    assert (
        main(["data", "inspect", str(path), str(tmp_path / "empty"), str(tmp_path / "cut.npz"), str(tmp_path / "none")]) == 1
    )
    out = capsys.readouterr().out
    for line in (
        "sequences: 2, 1 of them broken",
        f"{path}: x/1: keypoints: frame 0, joint 9 (neck) is",
        "empty: a folder of no known format; it has nothing",
        "cut.npz: not an npz file, or cut short",
        "none: there is no file or folder of that name",
    ):
        assert line in out


def test_convert(tmp_path, rng, capsys):
    keypoints = people(rng, 4, 25)
    folder = write_openpose(tmp_path, keypoints)
    arguments = ["data", "convert", str(folder), str(tmp_path / "out.npz"), "--size", "640x480", "--variant", "mhformer"]
    assert main(arguments) == 0 and "out.npz: 1 sequences" in capsys.readouterr().out
    (one,), (other,) = open_data(tmp_path / "out.npz"), open_data(folder, size=SIZE, variant="mhformer")
    assert_same(one, other)


def test_convert_human36m(tmp_path, rng):
    poses = {"S1": {"Eating": h36m_poses(rng, 3)}, "S9": {"Walking": h36m_poses(rng, 4), "Walking 1": h36m_poses(rng, 2)}}
    write_h36m(tmp_path, poses)
    assert main(["data", "convert", str(tmp_path), str(tmp_path / "o.npz"), "--select", "S9/Walking/*", "S1/*"]) == 0
    data = open_data(tmp_path / "o.npz")
    assert len(data) == 8 and {sequence.action for sequence in data} == {"Walking", "Eating"}
    for one in data:
        assert_same(one, open_data(tmp_path)[one.name])
    cameras = (tmp_path / "camera-parameters.json").rename(tmp_path / "other.json")
    assert main(["data", "inspect", str(tmp_path)]) == 1
    assert main(["data", "inspect", str(tmp_path), "--cameras", str(cameras)]) == 0


def test_convert_motion_capture(shared, tmp_path):
    raw = str(shared / "data" / "cmu_raw")
    assert main(["data", "convert", raw, str(tmp_path / "o.npz"), "--virtual-cameras", "--noise", "1"]) == 0
    assert open_data(tmp_path / "o.npz").names[0] == "02_02/0"
    assert main(["data", "convert", raw, str(tmp_path / "motions")]) == 0
    assert sorted(file.name for file in (tmp_path / "motions").iterdir()) == ["02_02.bvh", "02_03.bvh"]
    assert main(["data", "convert", raw, str(tmp_path / "one.bvh"), "--select", "02_03"]) == 0
    assert len(next(iter(open_data(tmp_path / "one.bvh")))) == 173


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["out.txt"], "out.txt: expected a name that ends in .angles.csv, .bvh, .c3d, .csv, .glb, .json, .npz, .trc"),
        (["in.npz"], "in.npz: is what is read, expected another name"),
        (["../" + "{folder}" + "/in.npz"], "in.npz: is what is read, expected another name"),
        (["out.bvh"], "has 2 sequences: choose one by --select, or name a folder"),
        (["out.npz", "--select", "x"], "no sequence matches x"),
        (["out.npz", "--skeleton", "cat"], "skeleton is 'cat', expected h36m or"),
        (["out.npz", "--format", "cat"], "format is 'cat', expected 3dhp or"),
        (["out.npz", "--layout", "coco"], "lifter knows no layout"),
        (["out.npz", "--format", "bvh"], "expected HIERARCHY"),
    ],
)
def test_no_conversion(tmp_path, capsys, arguments, message):
    """One line on stderr, status 1, and nothing is left behind."""
    save(tmp_path / "in.npz", [Sequence(name, poses=np.ones((2, 17, 3))) for name in "ab"])
    out, *rest = arguments
    out = out.format(folder=tmp_path.name)
    assert main(["data", "convert", str(tmp_path / "in.npz"), str(tmp_path / out), *rest]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["in.npz"]


def test_convert_what_is_sound(tmp_path, capsys):
    """One sequence that is broken does not lose the rest: it is told, and the status is 1."""
    good = people(np.random.default_rng(0), 2)
    entries = [
        {"image_id": "0.jpg", "idx": i, "keypoints": flat(good[0] * factor)} for i, factor in enumerate((1, (1e12, 1e12, 1)))
    ]
    path = save_json(tmp_path / "x.json", entries)
    assert main(["data", "convert", str(path), str(tmp_path / "y.npz"), "--size", "640x480"]) == 1
    out, error = capsys.readouterr()
    assert "y.npz: 1 sequences" in out and "x/1: keypoints: frame 0" in error
    assert open_data(tmp_path / "y.npz").names == ["x/0"]


def test_select_with_brackets(tmp_path):
    """In a name they stand for themselves, in a pattern they are a set too."""
    names = ["clip [1]/0", "clip [1]/1", "S1/a", "S9/a"]
    save(tmp_path / "in.npz", [Sequence(name, poses=np.ones((2, 17, 3))) for name in names])
    data = open_data(tmp_path / "in.npz")
    assert data.select("clip [1]/0").names == names[:1] and data.select("clip [1]/*").names == names[:2]
    assert data.select("S[19]/*").names == names[2:]


def test_who_reads_no_more(tmp_path):
    """A pipe that is closed, as by `head`, is no error to talk about."""
    save(tmp_path / "in.npz", [Sequence("a", poses=np.ones((2, 17, 3)))])
    command = [sys.executable, "-m", "lifter", "data", "inspect", *[str(tmp_path / "in.npz")] * 50]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


@pytest.mark.parametrize("size", ["640", "0x480", "axb", "640x480x3", "-1x5"])
def test_sizes_that_are_none(tmp_path, size, capsys):
    with pytest.raises(SystemExit):
        main(["data", "inspect", "x", f"--size={size}"])
    assert "expected WIDTHxHEIGHT" in capsys.readouterr().err


def test_import_is_light():
    """Reading data needs numpy only: no scipy, h5py, matplotlib, triton."""
    code = "import sys, lifter.data; print(*({'scipy', 'h5py', 'matplotlib', 'triton', 'rich'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
