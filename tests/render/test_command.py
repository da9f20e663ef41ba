"""`lifter render`."""

from dataclasses import replace

import numpy as np
import pytest

from lifter.__main__ import main
from lifter.data import open_data, save


@pytest.fixture
def files(tmp_path, truth, lifted, monkeypatch):
    """truth.npz and two.npz have two sequences, one.npz has one; seen.npy holds keypoints in pixels."""
    monkeypatch.chdir(tmp_path)
    other = replace(truth.take(slice(5)), name="1")
    save("truth.npz", [truth, other])
    save("one.npz", [lifted])
    save("two.npz", [replace(lifted, name="0"), replace(lifted.take(slice(5)), name="1")])
    save("short.npz", [lifted.take(slice(4))])
    save("seen.npz", [replace(truth, poses=None)])
    np.save("seen.npy", truth.pixels())
    return tmp_path


def test_films_and_pages(files, capsys):
    assert main(["render", "one.npz", "-o", "a.html"]) == 0
    assert capsys.readouterr().out == "a.html: 13 frames\n"
    assert main(["render", "one.npz", "two.npz", "--truth", "truth.npz", "-o", "b.html", "--names", "our model", "x"]) == 0
    text = (files / "b.html").read_text()
    assert '"our model"' in text and '"x"' in text and '"truth":{' in text and '"keypoints":{' in text
    assert main(["render", "two.npz", "--select", "1", "-o", "c.gif", "--size", "200x100", "--fps", "10"]) == 0
    assert main(["render", "one.npz", "--keypoints", "seen.npz", "-o", "d.mp4", "--size", "201x101", "--root-relative"]) == 0
    assert "c.gif: 5 frames\nd.mp4: 13 frames\n" in capsys.readouterr().out
    assert main(["render", "one.npz", "--keypoints", "seen.npz", "--video", "d.mp4", "-o", "e.html"]) == 0
    assert '"film":{' in (files / "e.html").read_text() and '"film":null' in text
    assert not list(files.glob("*.part"))


def test_real_motion(shared, tmp_path, capsys):
    """Human beings in the room: upright, on the floor, of a human being's size."""
    source = shared / "data" / "cmu_h36m17.npz"
    name = next(name for name in open_data(source).names if name.startswith("S2/02_01"))
    assert main(["render", str(source), "--select", name, "-o", str(tmp_path / "a.html")]) == 0
    from lifter.render.scene import compose

    poses = compose({"": open_data(source)[name]}).models[""]
    assert 0 <= poses[..., 2].min() < 0.1 and 1.3 < poses[:, 10, 2].mean() < 1.8
    assert (poses[:, [3, 6], 2].min(1) < 0.35).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["one.npz", "-o", "out.avi"], "path is out.avi, expected a name that ends in .mp4, .gif, .html, .rrd"),
        (["none.npz", "-o", "out.mp4"], "none.npz: there is no file or folder of that name"),
        (["two.npz", "-o", "out.mp4"], "two.npz has 2 sequences: choose one by --select, as 0, 1"),
        (["two.npz", "--select", "x", "-o", "out.mp4"], "two.npz: no sequence 'x', it has 0, 1"),
        (["seen.npz", "-o", "out.html"], "seen.npz: 0 has no poses"),
        (["seen.npy", "-o", "out.html"], "seen.npy: the size of its image is not known: `lifter data convert --size"),
        (["one.npz", "short.npz", "-o", "out.mp4"], "short has 4 frames, expected 13 as one"),
        (["one.npz", "--keypoints", "one.npz", "-o", "out.mp4"], "one.npz: 0 has no keypoints"),
        (["one.npz", "two.npz", "--names", "a", "-o", "out.mp4"], "--names has 1 names, expected 2"),
        (["one.npz", "one.npz", "-o", "out.mp4"], "two models are called 'one': name them by --names"),
        (["one.npz", "--fps", "0", "-o", "out.mp4"], "fps is 0.0, expected more than 0"),
        (["one.npz", "--video", "none.mp4", "-o", "out.mp4"], "no video at none.mp4"),
        (["one.npz", "-o", "nowhere/out.mp4"], "nowhere/out.mp4: there is no folder nowhere"),
    ],
)
def test_errors(files, capsys, arguments, message):
    """One line on stderr, after what is said of a file as it is read; status 1, and nothing is left behind."""
    before = sorted(files.iterdir())
    assert main(["render", *arguments]) == 1
    *said, error = capsys.readouterr().err.splitlines()
    assert error.startswith("lifter render: ") and message in error
    assert all(line.startswith("lifter: seen.npy: ") for line in said) and len(said) <= 1
    assert sorted(files.iterdir()) == before
