"""Detectors: which one is taken, what is said where there is none, and the real one where it is installed."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from lifter._notices import Notice
from lifter.video import DETECTORS, Video, find_detector, find_people

MODE = {"balanced": {"det": "a/d.zip", "det_input_size": (1, 2), "pose": "a/p.zip", "pose_input_size": (3, 4)}}


@pytest.fixture
def rtmlib(monkeypatch, tmp_path):
    """A stand-in that keeps what it was made with, and a cache without weights."""
    Body = type("Body", (), {"MODE": MODE, "__init__": lambda self, **options: made.append(options)})
    made = []
    monkeypatch.setitem(sys.modules, "rtmlib", types.SimpleNamespace(Body=Body))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return made


def test_none_is_installed(monkeypatch):
    for name in DETECTORS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=f"the detector {name} needs {name}: pip install"):
            find_detector(name)
    with pytest.raises(ImportError, match=r"\[video\].*\[detect\].*lifter lift keypoints.json"):
        find_detector()
    with pytest.raises(ValueError, match="detector is 'cat', expected auto, mediapipe or rtmlib"):
        find_detector("cat")


def test_weights_of_rtmlib(rtmlib, monkeypatch, tmp_path):
    """From a folder, or from its cache; it is said if they have to be loaded."""
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.warns(Notice, match="from the network"):
        assert find_detector(backend="opencv").layout == "coco"
    cache = tmp_path / "hub" / "checkpoints"
    with pytest.raises(FileNotFoundError, match="d.onnx"):
        find_detector("rtmlib", cache)
    cache.mkdir(parents=True)
    for name in ("d.onnx", "p.onnx"):
        (cache / name).touch()
    find_detector()
    find_detector(weights=cache)
    options = {"mode": "balanced", "backend": "onnxruntime", "device": "cpu"}
    files = {"det": str(cache / "d.onnx"), "pose": str(cache / "p.onnx"), "det_input_size": (1, 2), "pose_input_size": (3, 4)}
    assert rtmlib == [options | {"backend": "opencv"}, options, options | files]


def test_mediapipe_on_a_real_video():
    """Pose2Sim's demonstration, 100 frames of one who balances on a leg before a wall: `pip install pose2sim --no-deps`."""
    pytest.importorskip("mediapipe", reason='needs mediapipe: pip install -e ".[video]"')
    spec = importlib.util.find_spec("Pose2Sim") or pytest.skip("needs the video of pose2sim: pip install --no-deps pose2sim")
    (folder,) = spec.submodule_search_locations
    path = Path(folder, "Demo_SinglePerson", "videos", "cam01.mp4")
    video = Video(path)
    assert (video.size, video.fps, video.count) == ((1080, 1920), 60, 100)
    found = find_people(video, find_detector("mediapipe"))
    person = found.people[0]
    assert len(person) > 95 and person.keypoints[..., 2].mean() > 0.7
    pixels = person.pixels()[50]
    assert np.ptp(pixels[:, 1]) > 600 and (pixels[10, 1] < pixels[0, 1] < pixels[[3, 6], 1]).all()  # head, pelvis, feet
