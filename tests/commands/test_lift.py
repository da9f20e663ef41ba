"""`lifter lift` of videos, and to what is looked at: from the frames to the files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lifter.__main__ import main
from lifter.data import open_data, save
from lifter.data.synthetic import open_gait
from lifter.inference.files import Model
from lifter.video import detectors
from tests.video.conftest import SIZE, Knows, body, damage, film  # noqa: F401

TWO = lambda number: [body(number), body(number, at=40, size=10)]


@pytest.fixture(scope="module")
def loaded():
    """The model that ships, once for all tests."""
    return Model().load()


@pytest.fixture
def lift(film, monkeypatch, capsys, tmp_path, loaded):  # noqa: F811
    """lift(*arguments, of=...): `lifter lift walk.mp4 ...` in a folder; the exit status and the lines that were printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Model, "load", lambda self: loaded)
    film(times=range(0, 120, 4))

    def run(*arguments, of=TWO, inputs=("walk.mp4",)):
        monkeypatch.setitem(detectors.DETECTORS, "mediapipe", lambda weights, **_: Knows(of))
        status = main(["lift", *inputs, *arguments, "--detector", "mediapipe"])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return run


def scene(path):
    """Return the scene of a page."""
    text = path.read_text()
    return json.loads(text.partition('<script id="scene" type="application/json">')[2].partition("</script>")[0])


def test_several_outputs_of_two_people(lift, tmp_path):
    outs = ("walk.html", "walk.npz", "new/walk.json", "walk.glb", "walk.csv", "walk.trc", "walk.bvh", "walk.angles.csv")
    status, said, errors = lift(*(word for out in outs for word in ("-o", out)), "--rig", "mixamo")
    assert status == 0 and "64x48, 30 frames at 25 a second: 2 people found by knows" in errors[0]
    each = [f"walk.person{number}.{format}" for format in ("csv", "trc", "bvh", "angles.csv") for number in (1, 2)]
    assert [line.partition(":")[0] for line in said] == [*outs[:4], *each]
    assert len((tmp_path / "walk.person2.angles.csv").read_text().splitlines()) == 31
    assert (tmp_path / "walk.glb").read_bytes()[:4] == b"glTF" and b'"mixamorig:Hips"' in (tmp_path / "walk.glb").read_bytes()
    for name in outs[1:3]:
        data = open_data(name)
        assert data.names == ["walk/person1", "walk/person2"]
        assert all((s.fps, s.size, s.poses.shape, s.keypoints.shape) == (25, SIZE, (30, 17, 3), (30, 17, 3)) for s in data)
    for name in each[:6]:
        (one,) = open_data(name)
        assert one.fps == pytest.approx(25) and one.poses.shape == (30, 17, 3)
    page = scene(tmp_path / "walk.html")
    assert (page["frames"], page["joints"], len(page["bones"]), page["fps"]) == (30, 34, 32, 25)
    assert len(page["film"]["data"]) == 30 and page["people"] == [[0, 17], [17, 34]] and page["camera"]["width"] == 64


def test_who_is_there_for_a_while(lift, tmp_path):
    """The second comes after the first: before that they are a point on a page, and their files begin with them."""
    of = lambda number: TWO(number)[: 2 if number >= 10 else 1]
    assert lift("-o", "walk.html", "-o", "walk.npz", of=of)[0] == 0
    first, second = open_data("walk.npz")
    assert (first.start, len(first), second.start, len(second)) == (0, 30, 10, 20)
    assert scene(tmp_path / "walk.html")["frames"] == 30


@pytest.mark.parametrize("who, size", [("main", 12), ("2", 10), ("1", 12)])
def test_one_of_them(lift, who, size):
    assert lift("-o", "walk.bvh", "-o", "walk.npz", "--person", who)[0] == 0
    (one,) = open_data("walk.npz")
    assert np.ptp(one.pixels()[0, :, 0]) == pytest.approx(size, rel=0.2) and len(open_data("walk.bvh")) == 1


def test_varying_times(lift, film):  # noqa: F811
    film("b.mp4", times=[*range(0, 60, 4), *range(80, 120, 4)])
    status, _, errors = lift("-o", "b.npz", "--person", "main", inputs=("b.mp4",))
    assert status == 0 and "are not there, for times vary: filled in" in errors[0]
    (one,) = open_data("b.npz")
    assert len(one) / one.fps == pytest.approx(1.2, abs=0.1)


def test_folders(lift, film, tmp_path):  # noqa: F811
    """Several videos, of which one is bad, to a folder; what is there already is not lifted again."""
    film("b.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    status, said, errors = lift("-o", "out/", "--to", "html", inputs=("walk.mp4", "bad.mp4", "b.mp4"))
    assert status == 1 and errors[-1].startswith("bad.mp4: not a video that can be read")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lifted.jsonl", "b.mp4.html", "walk.mp4.html"]
    status, said, errors = lift("-o", "out/", "--to", "html", inputs=("walk.mp4", "b.mp4"))
    assert (status, said) == (0, []) and errors == ["lifter: 2 of 2 files were lifted already (--overwrite lifts them again)"]


def test_a_folder_of_videos(lift, film, tmp_path):  # noqa: F811
    """With folders in it, one of them that of the outputs: every video once; what failed is told at the end."""
    for folder in ("in/more", "in/out"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("in/a.mp4", "in/more/a.mov", "in/.hidden.mp4", "in/out/film.mp4"):
        film(name, times=(0, 4, 8))
    (tmp_path / "in" / "bad.mp4").write_text("no video")
    run = lambda *options: lift("-o", "in/out", *options, inputs=("in",))
    status, said, errors = run()
    assert status == 1 and sorted(map(str, Path("in/out").rglob("*.npz"))) == ["in/out/a.mp4.npz", "in/out/more/a.mov.npz"]
    assert errors[-2] == "lifter: 1 of 3 files failed:" and errors[-1].startswith("in/bad.mp4: not a video that can be read")
    (tmp_path / "in" / "bad.mp4").unlink()
    already = "lifter: 2 of 2 files were lifted already (--overwrite lifts them again)"
    assert run() == (0, [], [already])
    film("in/a.mp4", times=(0, 4, 8, 12))
    status, said, errors = run()
    assert [line.partition(": ")[0] for line in said] == ["in/out/a.mp4.npz"] and "1 of 2 files were lifted already" in errors[
        0
    ]
    assert len(run("--person", "main", "--raw")[1]) == 2


def test_people_of_a_folder_are_not_lifted_again(lift, tmp_path):
    """People have a file each: when one is missing, and after Ctrl-C, the video is lifted again."""

    def stops(number):
        if number == 20:
            raise KeyboardInterrupt
        return TWO(number)

    run = lambda of=TWO: lift("-o", "out/", "--to", "bvh", "--raw", "--no-flip", of=of)
    assert run(stops)[0] == 130 and run()[0] == 0
    files = sorted(tmp_path.glob("out/*.bvh"))
    assert [path.name for path in files] == ["walk.mp4.person1.bvh", "walk.mp4.person2.bvh"]
    assert [len(next(iter(open_data(path)))) for path in files] == [30, 30] and run()[1] == []
    files[1].unlink()
    assert len(run()[1]) == 2 and files[1].exists()


def test_a_detector_that_fails(lift, film):  # noqa: F811
    """It does not end the other videos."""
    film("b.mp4")

    def of(number):
        if number == 15:  # which b.mp4 has not
            raise RuntimeError("no more memory")
        return [body(number)]

    status, said, errors = lift("-o", "out/", inputs=("walk.mp4", "b.mp4"), of=of)
    assert status == 1 and errors[-1] == "walk.mp4: RuntimeError: no more memory"
    assert [line.partition(": ")[0] for line in said] == ["out/b.mp4.npz"]


def test_a_folder_of_both(lift, film, tmp_path):  # noqa: F811
    """A video beside what may hold keypoints: nobody knows which is meant. By --format it is the keypoints."""
    (tmp_path / "in").mkdir()
    film("in/a.mp4")
    save("in/a.npz", [next(iter(open_gait(1, 40)))])
    status, _, errors = lift("-o", "out/", inputs=("in",))
    assert status == 1 and "a.mp4 is a video" in errors[0] and "a.npz may hold keypoints: expected folders of one" in errors[0]
    assert not (tmp_path / "out").exists()
    assert lift("-o", "out/", "--format", "lifter", inputs=("in",))[0] == 0
    assert [path.name for path in tmp_path.glob("out/*.npz")] == ["a.npz.npz"]


def test_keypoints_to_look_at(lift, tmp_path):
    """A file of keypoints goes the same way, without a detector; with `--finish` also to what is not looked at."""
    gait = next(iter(open_gait(1, 40)))
    save("gait.npz", [gait])
    assert lift("-o", "gait.html", inputs=("gait.npz",))[0] == 0
    assert scene(tmp_path / "gait.html")["frames"] == 40
    assert lift("-o", "raw.bvh", inputs=("gait.npz",))[0] == lift("-o", "done.bvh", "--finish", inputs=("gait.npz",))[0] == 0
    raw, done = (next(iter(open_data(name))).poses for name in ("raw.bvh", "done.bvh"))
    assert not raw[:, 0].any() and 0.5 < done[:, 0, 2].mean() < 1.5
    save("timeless.npz", [replace(gait, fps=None)])
    assert "taken as 30" in lift("-o", "x.npz", "--finish", inputs=("timeless.npz",))[2][0]
    assert lift("-o", "x.npz", "--finish", "--raw", inputs=("timeless.npz",))[2] == []
    save("sizeless.npz", [replace(gait, camera=None, size=None)])
    assert "the size of the image is not known" in lift("-o", "x.html", "--fov", "60", inputs=("sizeless.npz",))[2][-1]
    save("crowd.npz", [replace(gait, name=f"{number}") for number in range(21)])
    assert "21 sequences, expected the people of one clip" in lift("-o", "crowd.html", inputs=("crowd.npz",))[2][-1]
    for option in (["--place"], ["--engine", "ray"]):
        assert "--place and --engine are for files of keypoints" in lift("-o", "x.html", *option, inputs=("gait.npz",))[2][-1]


def test_what_was_done_is_told(lift, tmp_path):
    """Each step in a line; raw poses are relative to the root."""
    _, _, errors = lift("-o", "walk.npz", "--person", "main", "--fov", "90")
    told = ("exchanged", "jumped", "confidence", "bones keep", "focal length 32 pixels, as said", "floor under")
    assert all(any(word in line for line in errors) for word in told), errors
    (one,) = open_data("walk.npz")
    assert one.camera.fx == pytest.approx(32) and one.poses[:, 0, 2].min() > 0.4
    (tmp_path / "camera.json").write_text('{"width": 64, "height": 48, "fx": 50, "fy": 50, "cx": 32, "cy": 24}')
    _, _, errors = lift("-o", "walk.npz", "--camera", "camera.json")
    assert any("focal length 50 pixels, as the file says" in line for line in errors)
    (tmp_path / "camera.json").write_text('{"width": 48, "height": 64, "fx": 50, "fy": 50, "cx": 32, "cy": 24}')
    assert "a camera of (48.0, 64.0) pixels, expected (64, 48)" in lift("-o", "x.npz", "--camera", "camera.json")[2][-1]
    _, _, errors = lift("-o", "walk.npz", "--raw", "--person", "main")
    (raw,) = open_data("walk.npz")
    assert len(errors) == 1 and raw.camera is None and not raw.poses[:, 0].any()


def test_progress(lift, monkeypatch):
    """Frames are counted while the detector looks at them, and while the model lifts them."""
    monkeypatch.setattr("lifter.progress.SECONDS", 0)
    _, _, errors = lift("-o", "walk.npz")
    assert any(line.startswith("30 of 30 frames of walk.mp4, ") and line.endswith(" s left") for line in errors)
    assert any(line.startswith("60 of 60 frames of walk.mp4 lifted, ") for line in errors)  # of two people


def test_stopped(lift):
    """Ctrl-C keeps what is done."""

    def of(number):
        if number == 20:
            raise KeyboardInterrupt
        return [body(number)]

    status, _, errors = lift("-o", "walk.npz", of=of)
    assert status == 130 and any("stopped after 20 frames; what was found until then is written" in line for line in errors)
    assert [len(sequence) for sequence in open_data("walk.npz")] == [20]


def test_broken(lift, tmp_path):
    """The frames before a video breaks are written, pictures with them; the status says that they are not all."""
    damage(tmp_path / "walk.mp4")
    status, said, errors = lift("-o", "walk.npz", "-o", "walk.html", "--raw", "--no-flip")
    (length,) = {len(sequence) for sequence in open_data("walk.npz")}
    assert status == 1 and 5 < length < 20 and scene(tmp_path / "walk.html")["frames"] == length
    start = f"walk.mp4: broken after {length} of 30 frames, {length / 25:.2f} s ("
    assert errors[-1].startswith(start) and errors[-1].endswith("); what was found before that is written")
    assert main(["detect", "walk.mp4", "-o", "k.csv", "--detector", "mediapipe"]) == 1 and Path("k.person1.csv").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "x.cvs"], "x.cvs: expected a name that ends in .mp4, .gif, .html, .rrd, .angles.csv, .bvh"),
        (["-o", "walk.mp4/x.npz"], "walk.mp4: is no folder that can be written to"),
        (["-o", "x.html", "--to", "npz"], "x.html: expected a name that ends in .npz, or no --to"),
        (["-o", "x.html", "--person", "3"], "walk.mp4: --person is 3, but 2 were found"),
        (["none.mp4", "-o", "x/"], "none.mp4: there is no file"),
        (["-o", "x/", "-o", "y/"], "y: a second folder, expected one for all outputs"),
        (["-o", "x.html", "-o", "y.npz", "--checkpoint", "none"], "no checkpoint at none"),
        (["-o", "x.html", "-o", "./walk.mp4"], "walk.mp4: is to be lifted, expected another name for its poses"),
        (["-o", "x.html", "-o", "./x.html"], "x.html: named twice as an output"),
        (["-o", "x.html", "--fps", "50"], "--fps is for files of keypoints; videos tell it themselves"),
        (["-o", "x.html", "--camera", "none.json"], "none.json: there is no file"),
        (["-o", "x.html", "--camera", "../camera.json"], "camera.json: a camera of (640.0, 480.0) pixels, expected (64, 48)"),
        (["-o", "x.html", "--camera", "../Calib.toml"], "Calib.toml: 2 cameras, expected ../Calib.toml:NAME, of: a, b"),
        (["-o", "x.html", "--camera", "../Calib.toml:c"], "Calib.toml: has no camera 'c', expected one of: a, b"),
        (["-o", "x.html", "--camera", "../Calib.toml:b"], "Calib.toml: b: a fisheye lens"),
        (["-o", "x.html", "--camera", "../Calib.toml:a"], "a camera of (640.0, 480.0) pixels, expected (64, 48)"),
        (["-o", "x.html", "--fov", "180"], "--focal is None, --fov is 180.0, expected more than 0 pixels, 0 to 180 degrees"),
    ],
)
def test_one_line_for_a_mistake(lift, tmp_path, arguments, message):
    camera = {"width": 640, "height": 480, "fx": 500, "fy": 500, "cx": 320, "cy": 240}
    (tmp_path.parent / "camera.json").write_text(json.dumps(camera))
    lens = "size = [640, 480]\nmatrix = [[500, 0, 320], [0, 510, 240], [0, 0, 1]]\n"
    (tmp_path.parent / "Calib.toml").write_text(f"[a]\n{lens}[b]\n{lens}fisheye = true\n[metadata]\nerror = 0.0\n")
    status, _, errors = lift(*arguments)
    assert status == 1 and message in errors[-1] and sorted(path.name for path in tmp_path.iterdir()) == ["walk.mp4"]
