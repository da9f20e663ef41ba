"""Recordings for Rerun, of which a stand-in tells what was said to it: the package itself is large."""

import sys
from collections import defaultdict
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import lifter.render
from lifter.render import render
from lifter.render.people import together
from lifter.render.scene import compose
from lifter.video import Video
from tests.video.conftest import film  # noqa: F401


class Recording:
    """{path: [(frame, what was logged)]}, None as the frame of what is always there."""

    last = None

    def __init__(self, application):
        Recording.last, self.frame, self.told = self, None, defaultdict(list)

    def save(self, path):
        open(path, "w").close()

    def set_time(self, timeline, sequence=None, duration=None):
        self.frame = sequence if timeline == "frame" else self.frame
        self.seconds = duration

    def log(self, path, what, static=False):
        self.told[path].append((None if static else self.frame, what))

    def flush(self):
        self.is_whole = True

    disconnect = flush


@pytest.fixture
def rerun(monkeypatch):
    module = ModuleType("rerun")
    kinds = "LineStrips3D LineStrips2D Points3D Pinhole Transform3D Scalars EncodedImage Clear"
    for kind in kinds.split():
        setattr(module, kind, lambda *values, kind=kind, **named: SimpleNamespace(kind=kind, values=values, **named))
    module.ViewCoordinates = SimpleNamespace(RIGHT_HAND_Z_UP="z up", RDF="right, down, forward")
    module.RecordingStream = Recording
    monkeypatch.setitem(sys.modules, "rerun", module)
    monkeypatch.delitem(sys.modules, "lifter.render.recording", raising=False)
    monkeypatch.delattr(lifter.render, "recording", raising=False)
    yield
    sys.modules.pop("lifter.render.recording", None)  # which knows the stand-in


def test_what_is_recorded(tmp_path, rerun, truth, lifted, film):  # noqa: F811
    people = [replace(truth, name="x/a"), replace(truth.take(slice(3, 9)), name="x/b")]
    people = [replace(person, start=person.start + 1) for person in people]
    clip = Video(film(times=range(0, 80, 4)))
    assert render(tmp_path / "x.rrd", {"walk": together(people)}, video=clip) == 13
    told, scene = Recording.last.told, compose({"walk": together(people)})
    joints = told["world/walk/person1/joints"]
    assert [frame for frame, _ in joints] == list(range(1, 14))
    np.testing.assert_array_equal([what.values[0] for _, what in joints], scene.models["walk"][:, :17])
    assert [frame for frame, _ in told["world/walk/person2/joints"]] == list(range(4, 10))
    assert [frame for frame, _ in told["world/walk/person2"]] == [1, 2, 3, 10, 11, 12, 13]
    assert len(told["angles/walk/person1/left_knee_flexion"]) == 13 and len(told["world/camera/image/keypoints"]) == 13
    pictures = [what for frame, what in told["world/camera/image"] if frame is not None]
    assert len(pictures) == 13 and all(what.contents[:2] == b"\xff\xd8" for what in pictures)
    ((_, place),), (_, pinhole) = told["world/camera"], told["world/camera/image"][0]
    seen = (scene.models["walk"][0, 0] - place.translation) @ place.mat3x3
    x, y, depth = pinhole.image_from_camera @ seen
    np.testing.assert_allclose([x / depth, y / depth], truth.pixels()[0, 0, :2] * 64 / 1000, atol=0.01)

    assert render(tmp_path / "y.rrd", {"one": lifted}, truth) == 13
    assert {"world/truth/bones", "world/one/bones", "errors/one"} <= set(Recording.last.told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk.mp4", "x.rrd", "y.rrd"]


def test_without_the_extra(tmp_path, lifted, monkeypatch):
    monkeypatch.delattr(lifter.render, "recording", raising=False)
    monkeypatch.delitem(sys.modules, "lifter.render.recording", raising=False)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match=r'walk.rrd needs rerun: pip install -e "\.\[rerun\]"'):
        render(tmp_path / "walk.rrd", {"one": lifted})
    assert not list(tmp_path.iterdir())
