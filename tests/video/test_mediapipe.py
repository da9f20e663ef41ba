"""The real MediaPipe on a real video: Sports2D's demonstration. `make test` puts both into build/mediapipe."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lifter.data import open_data

PACKAGES = Path(__file__).parents[2] / "build" / "mediapipe"
FRAMES = 24
SEEN = {"head": (632, 130), "pelvis": (636, 295), "right_ankle": (546, 432), "left_ankle": (714, 436)}  # by eye, in the last


@pytest.fixture
def clip(tmp_path):
    """The first frames of the video, its packets as they are."""
    if not (PACKAGES / "installed").exists():
        missing = "MediaPipe is not in build/mediapipe: make build/mediapipe/installed"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    av = pytest.importorskip("av")
    path = tmp_path / "demo.mp4"
    with av.open(PACKAGES / "Sports2D" / "Demo" / "demo.mp4") as whole, av.open(path, "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet, _ in zip(whole.demux(video=0), range(FRAMES)):
            packet.stream = stream
            cut.mux(packet)
    return path


def test_somebody_on_a_roof(clip, tmp_path):
    """Joints are where one sees them, to a tenth of the body. In a process of its own: MediaPipe has its own protobuf."""
    (tmp_path / "cv2.py").touch()  # OpenCV, with which MediaPipe draws, but does not detect
    paths = os.pathsep.join(map(str, (tmp_path, PACKAGES)))
    command = [sys.executable, "-m", "lifter", "detect", str(clip), "-o", "k.npz", "--detector", "mediapipe"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = open_data(tmp_path / "k.npz")
    assert {(person.size, person.fps) for person in data} == {((1768, 994), 30)}
    last = [person for person in data if person.start + len(person) == FRAMES]
    joints = [last[0].skeleton.joints.index(joint) for joint in SEEN]
    apart = [np.linalg.norm(person.pixels()[-1, joints, :2] - [*SEEN.values()], axis=-1).max() for person in last]
    assert min(apart) < 40, apart
