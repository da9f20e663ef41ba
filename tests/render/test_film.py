"""Films, read back."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

import lifter.render
from lifter.render import draw, render
from lifter.render.scene import compose
from lifter.video import Video
from tests.video.conftest import film  # noqa: F401

av = pytest.importorskip("av")

COLOURS = {name: np.array(to_rgb(colour)) * 255 for name, colour in {**draw.LIMBS, "truth": draw.TRUTH}.items()}


def share(picture, colour, within=40):
    return (np.abs(picture[..., :3] - COLOURS[colour]).max(-1) < within).mean()


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return pictures, stream.average_rate, stream.codec_context.name


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_mp4(tmp_path, truth, lifted, monkeypatch, codec):
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    path = tmp_path / "walk.mp4"
    assert render(path, {"one": lifted, "two": truth}, truth, fps=29.97, size=(641, 321)) == 13
    pictures, rate, name = decode(path)
    assert len(pictures) == 13 and name == codec and float(rate) == pytest.approx(29.97)
    assert pictures[0].shape == (322, 642, 3)
    assert all(share(picture, colour) > 1e-4 for picture in pictures[::6] for colour in COLOURS)
    assert np.median(pictures[0]) > 250  # on white
    assert [file.name for file in tmp_path.iterdir()] == ["walk.mp4"]


def test_the_colours_are_those_of_the_sides(truth):
    """Each half of the body alone is in its colour, in every panel."""
    sides = {"left": truth.skeleton.left, "right": truth.skeleton.right}
    for side, joints in sides.items():
        poses, keypoints = truth.poses.copy(), truth.keypoints.copy()
        others = [joint for joint in range(17) if joint not in joints]
        poses[:, others], keypoints[:, others] = poses[:, :1], keypoints[:, :1]
        scene = compose({"one": type(truth)("x", poses=poses, keypoints=keypoints)})
        picture = next(draw.frames(scene, (640, 320)))[:270]  # without the legend
        other = "left" if side == "right" else "right"
        for panel in (picture[:, :320], picture[:, 320:]):
            assert share(panel, side, 20) > 1e-3 and share(panel, other, 20) < 1e-5


def test_gif(tmp_path, lifted):
    """Every second frame of what is faster than gifs are, at the right speed."""
    for fps, count, rate in ((10, 13, 10), (25, 7, 12.5)):
        assert render(tmp_path / "walk.gif", {"one": lifted}, fps=fps, size=(320, 321)) == count
        pictures, got, name = decode(tmp_path / "walk.gif")
        assert len(pictures) == count and got == rate and name == "gif" and pictures[0].shape == (321, 320, 3)
        assert all(share(pictures[3], side) > 1e-4 for side in draw.LIMBS)


def test_camera_and_scale_stand_still(truth, lifted):
    """The same pose is the same picture, whatever is before and after; one buffer is all the memory."""
    again = np.array([0, 5, 0, 9, 5])
    scene = compose({"one": lifted.take(again), "two": truth.take(again)}, truth.take(again))
    buffers, pictures = [], []
    for picture in draw.frames(scene, (640, 320)):
        buffers.append(picture)
        pictures.append(picture[:280].copy())  # without the time
    assert (pictures[0] == pictures[2]).all() and (pictures[1] == pictures[4]).all()
    assert (pictures[0] != pictures[3]).any() and all(buffer is buffers[0] for buffer in buffers)


def test_a_picture_at_its_end(truth):
    """Frame numbers count from the start of the source, names of any letters are cut to what fits."""
    scene = compose({"model" * 40: truth, "\n\x00ß</b>": truth.take(slice(None))})
    later = compose({"model" * 40: truth.take(slice(5, None)), "\n\x00ß</b>": truth.take(slice(5, None))})
    assert later.start == 5
    one, other = list(map(np.copy, draw.frames(scene, (640, 320))))[5], next(draw.frames(later, (640, 320)))
    assert (one[300:] == other[300:]).all() and (one[300:] < 200).any()


def test_unsure_keypoints_are_pale(truth):
    surely = np.concatenate((truth.keypoints, np.ones((13, 17, 1), np.float32)), -1)
    surely[7, :, 2] = 0
    scene = compose({"one": type(truth)("x", poses=truth.poses, keypoints=surely)})
    pictures = [picture[:270, :320].copy() for picture in draw.frames(scene, (640, 320))]
    assert share(pictures[6], "left") > 1e-3 and share(pictures[7], "left") == 0


def test_on_the_video(tmp_path, truth, film):  # noqa: F811
    """The frames of the video are below the keypoints, from the clip's first one on; before the video begins it is white."""
    clip = Video(film(times=range(0, 80, 4)))
    red = lambda picture: ((picture[..., 0] > 150) & (picture[..., 1:3].max(-1) < 90))[:270, :320].mean()
    scene = compose({"one": replace(truth, start=2)}, video=clip)
    shares = [red(picture) for picture in draw.frames(scene, (640, 320))]
    assert len(shares) == 13 and min(shares) > 0.02 and max(shares) < 0.2
    assert max(red(picture) for picture in draw.frames(compose({"one": truth}), (640, 320))) < 0.001
    assert render(tmp_path / "walk.mp4", {"one": truth}, size=(320, 160), video=clip) == 13


def test_errors(tmp_path, lifted, monkeypatch):
    for message, name, options in (
        (r"expected a name that ends in \.mp4, \.gif, \.html", "walk.avi", {}),
        (r"expected a name that ends in", "walk", {}),
        (r"fps is -1, expected more than 0", "walk.mp4", {"fps": -1}),
        (r"fps is nan, expected more than 0", "walk.mp4", {"fps": float("nan")}),
        (r"size is \(1280, 0\), expected \(width, height\) of 64 to 8192", "walk.mp4", {"size": (1280, 0)}),
    ):
        with pytest.raises(ValueError, match=message):
            render(tmp_path / name, {"one": lifted}, **options)
    monkeypatch.setattr(draw.Painter, "text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(tmp_path / "walk.mp4", {"one": lifted})
    assert not list(tmp_path.iterdir())


def test_without_the_extra(tmp_path, lifted, monkeypatch):
    monkeypatch.delattr(lifter.render, "video", raising=False)
    monkeypatch.delitem(sys.modules, "lifter.render.video", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'walk.gif needs av: pip install -e "\.\[render\]"'):
        render(tmp_path / "walk.gif", {"one": lifted})
    assert render(tmp_path / "walk.html", {"one": lifted}) == 13
