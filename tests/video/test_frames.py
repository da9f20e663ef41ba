"""Frames are upright, and numbered by their times."""

import struct

import numpy as np
import pytest

from lifter.video import Video, is_video

from .conftest import SIZE, damage


def test_of_one_rate(film):
    video = Video(film())
    assert (video.size, video.fps, video.count) == (SIZE, 25, 10)
    frames = list(video)
    assert [number for number, _ in frames] == list(range(10)) == [number for number, _ in video]
    assert all(image.shape == (SIZE[1], SIZE[0], 3) and image.dtype == np.uint8 for _, image in frames)
    assert frames[0][1][:12, :12, 0].mean() > 200 > 60 > frames[0][1][24:, 24:].mean()


def test_of_varying_times(film):
    """Ten frames in 0.4 s: those after a gap have the numbers of their times."""
    video = Video(film(times=[0, 4, 8, 12, 16, 28, 29, 32, 36, 40]))
    numbers = [number for number, _ in video]
    expected = [round(time / 100 * video.fps) for time in (0, 4, 8, 12, 16, 28, 29, 32, 36, 40)]
    assert numbers == sorted(set(expected)) and len(set(np.diff(numbers))) > 1


@pytest.mark.parametrize("turn, corner", [(90, (0, -12)), (180, (-12, -12)), (270, (-12, 0))])
def test_of_a_turned_phone(film, turn, corner):
    """The file says that it is to be turned clockwise for who looks at it: the red corner moves with it."""
    path = film()
    data = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    video = Video(path)
    assert video.size == (SIZE if turn == 180 else SIZE[::-1])
    (_, image), *_ = video
    row, column = corner
    (_, small), *_ = video.pictures(max(SIZE) // 2)
    assert [each.shape[1::-1] for each in (image, small)] == [video.size, tuple(side // 2 for side in video.size)]
    for picture, part in ((image, 1), (small, 2)):
        at, end = np.array([row, column]) // part, 12 // part
        corner = picture[at[0] : at[0] + end or None, at[1] : at[1] + end or None, 0]
        assert corner.mean() > 180 > 60 > picture[..., 0].mean()


@pytest.mark.parametrize("is_cut, why", [(True, "the file is cut off"), (False, "Invalid data found")])
def test_broken(film, is_cut, why):
    """The frames before the damage, and where it is; in small pictures, too."""
    video = Video(film(times=range(0, 120, 4)))
    assert len(list(video)) == 30 and video.broken is None
    damage(video.path, is_cut)
    count = len(list(video))
    assert 5 < count < 20 and len(list(video.pictures(16))) == count
    assert f"walk.mp4: broken after {count} of 30 frames, {count / 25:.2f} s ({why}" in video.broken


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts"])
def test_broken_without_an_error(film, suffix):
    """FFmpeg reads these to where they end. It is said of those that are cut, not of whole ones, whenever their frames are."""
    av = pytest.importorskip("av")
    for times in (range(0, 240, 4), np.cumsum([4] * 20 + [40, 8] * 5), [0, 100, 200, 300]):
        video = Video(film(f"whole.{suffix}", times))
        assert len(list(video)) == len(times) and video.broken is None
    path = film(f"cut.{suffix}", range(0, 240, 4))
    with av.open(path) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    cut = [(data[: place + 10], count) for place, count in zip((places[40], places[20]), (40, 20))]
    holed = data[: places[20]] + bytes(len(data) - places[20])  # as a download may leave it
    for contents, expected in cut if suffix == "ts" else [*cut, (holed, 20)]:
        path.write_bytes(contents)
        video = Video(path)
        count = len(list(video))
        assert abs(count - expected) < 2 and f"cut.{suffix}: broken after {count} " in video.broken
        assert f" {0.04 * (count - 1) + 0.01:.2f} s (the file " in video.broken
        assert video.broken.endswith(("is cut off)", "tells of 2.37 s)"))


def test_what_is_no_video(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "no.mp4").write_text("no video")
    (tmp_path / "folder.mp4").mkdir()
    for name, error in (("no.mp4", ValueError), ("none.mp4", FileNotFoundError), ("folder.mp4", ValueError)):
        with pytest.raises(error, match=name):
            Video(tmp_path / name)
    assert is_video("A.MOV") and not is_video("a.json") and not is_video("folder")
