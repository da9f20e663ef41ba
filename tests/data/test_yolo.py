"""YOLO's labels as ultralytics writes them with save_txt=True, of a video and of images."""

import numpy as np
import pytest

from lifter.data import detect, open_data

from .test_detectors import expected
from .test_loose import SIZE, clip


def write_labels(folder, poses, name="clip_{}", first=1, end="", columns=3):
    """A file for each frame in which there are people."""
    folder.mkdir(exist_ok=True)
    for number, people in enumerate(poses, first):
        lines = []
        for who, pose in enumerate(people, 1):
            joints = (pose / (*SIZE, 1))[:, :columns].reshape(-1)
            more = {"": [], "conf": [0.875], "id": [who], "both": [0.875, who]}[end]
            lines.append(" ".join(f"{value:g}" for value in (0, 0.5, 0.5, 0.1, 0.2, *joints, *more)))
        if lines:
            (folder / f"{name.format(number)}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("end", ["", "conf", "id", "both"])
@pytest.mark.parametrize("columns", [2, 3])
def test_video(tmp_path, end, columns):
    """Two people, in whose second frame nobody is; the confidence of a person is no id, and the id no confidence."""
    one, other = clip(), clip(offset=250)
    poses = [list(pair) for pair in zip(one, other)]
    poses[1] = []
    if end in ("", "conf"):
        poses[2] = poses[2][::-1]  # the order does not tell who is who
    folder = write_labels(tmp_path / "labels", poses, end=end, columns=columns)
    assert detect(folder) == "yolo"
    data = open_data(folder, size=SIZE)
    assert data.names == (["labels/0", "labels/1"] if end in ("", "conf") else ["labels/1", "labels/2"])
    for sequence, wanted in zip(data, (one, other)):
        assert sequence.start == 1 and len(sequence) == 4
        np.testing.assert_allclose(sequence.keypoints[..., :2], expected(wanted, size=SIZE)[..., :2], atol=2e-5)


def test_images_and_a_file(tmp_path):
    folder = write_labels(tmp_path / "labels", [[pose] for pose in clip()], name="frame_{:04}", first=0)
    (sequence,) = open_data(folder, size=SIZE)
    assert sequence.start == 0 and len(sequence) == 4
    (single,) = open_data(folder / "frame_0002.txt", size=SIZE)
    np.testing.assert_allclose(single.keypoints, sequence.keypoints[2:3], atol=1e-6)


def test_bad_lines(tmp_path):
    folder = write_labels(tmp_path / "labels", [[pose] for pose in clip()])
    (folder / "clip_3.txt").write_text("0 0.5 0.5\n")
    with pytest.warns(
        UserWarning, match="labels: 1 of 4 lines left out; the first: .*clip_3.txt: line 1: 3 numbers, expected 39"
    ):
        (sequence,) = open_data(folder, size=SIZE)
    assert len(sequence) == 4 and (sequence.keypoints[2, :, 2] == 0).all()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("some words")
    with pytest.raises(ValueError, match="notes: a folder of no known format"):
        open_data(tmp_path / "notes")
