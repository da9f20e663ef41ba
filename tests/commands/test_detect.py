"""`lifter detect` with a stand-in for rtmlib, whose weights are the user's to load."""

import sys
import types

import numpy as np
import pytest

from lifter.__main__ import main
from lifter.data import normalise, open_data
from lifter.data.keypoints import to_h36m

av = pytest.importorskip("av")

FRAMES, SIZE = 7, (64, 48)


def person(frame, at):
    """(17, 2) pixels: two who walk side by side."""
    return np.random.default_rng(3).uniform(0, 12, (17, 2)) + (at + frame, 10)


class Body:
    """Finds two people, of whom the second is there from frame 2 to 4; else joints of nobody, as rtmlib does."""

    def __init__(self, mode, backend, device):
        assert (mode, backend, device) == ("lightweight", "onnxruntime", "cpu")
        self.frame = -1

    def __call__(self, image):
        assert image.shape == (SIZE[1], SIZE[0], 3) and image.dtype == np.uint8
        assert abs(image[..., 2].mean() - 200) < 20 and image[..., 0].mean() < 40  # red in BGR
        self.frame += 1
        second = 2 <= self.frame <= 4
        people = [person(self.frame, 5), person(self.frame, 35)]
        return np.array(people[::-1]), np.stack((np.full(17, 0.8 if second else 0.1), np.full(17, 0.9)))


@pytest.fixture
def video(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", types.SimpleNamespace(Body=Body))
    with av.open(tmp_path / "walk.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        image[..., 0] = 200
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return tmp_path / "walk.mp4"


@pytest.mark.parametrize("variant", [None, "mhformer"])
def test_people_in_a_video(video, capsys, variant):
    out = video.with_name("out.npz")
    options = ["--detector", "rtmlib", *([] if variant is None else ["--variant", variant])]
    assert main(["detect", str(video), "-o", str(out), "--mode", "lightweight", *options]) == 0
    assert "2 people" in capsys.readouterr().out
    first, second = open_data(out)
    assert (first.start, len(first), second.start, len(second)) == (0, FRAMES, 2, 3)
    assert first.size == SIZE and first.fps == 25
    for sequence, at, score in ((first, 5, 0.9), (second, 35, 0.8)):
        pixels = np.stack([person(sequence.start + i, at) for i in range(len(sequence))])
        pixels = np.concatenate((pixels, np.full((*pixels.shape[:2], 1), score)), -1)
        expected = normalise(to_h36m(pixels, "coco", variant), SIZE)
        np.testing.assert_allclose(sequence.keypoints, expected, atol=1e-5)


def test_errors(video, tmp_path, monkeypatch, capsys):
    command = ["detect", "-o", str(tmp_path / "out.npz"), "--mode", "lightweight", "--detector", "rtmlib"]
    (tmp_path / "no.mp4").write_text("no video")
    assert main([*command, str(tmp_path / "no.mp4")]) == 1
    assert main([*command, str(tmp_path / "none.mp4")]) == 1
    monkeypatch.setattr(Body, "__call__", lambda self, image: (np.zeros((1, 17, 2)), np.zeros((1, 17))))
    assert main([*command, str(video)]) == 1
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    assert main([*command, str(video)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "no.mp4" in lines[0] and "none.mp4" in lines[1] and "no person in any frame" in lines[2]
    assert lines[3] == 'lifter detect: the detector rtmlib needs rtmlib: pip install -e ".[detect]"'
    assert main(["detect", str(video), "-o", str(tmp_path / "out.bvh")]) == 1
    assert "out.bvh: .bvh holds poses, expected NAME.npz, .json or .csv" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*command, str(video), "--backend", "cat"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["no.mp4", "walk.mp4"]
