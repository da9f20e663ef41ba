"""Units and confidences that are found out, and frames and videos that names tell."""

import numpy as np
import pytest

from lifter._notices import told
from lifter.data import open_data
from lifter.data.frames import frames_of
from lifter.data.plausible import are_poses, in_pixels

from .test_detectors import flat, save_json

SIZE = (640, 480)


def people(frames=4, joints=17):
    rng = np.random.default_rng(0)
    pose = rng.uniform(50, 400, (joints, 3)) * (1, 1, 1 / 500) + np.arange(frames)[:, None, None] * (2, 0, 0)
    return pose


def checked(keypoints, **options):
    said = []
    with told(said.append):
        result = in_pixels(keypoints, SIZE, "file", **options)
    return result, " ".join(said)


def test_shares():
    pixels = people()
    shares = pixels / (*SIZE, 1)
    got, said = checked(shares)
    np.testing.assert_allclose(got, pixels)
    assert "read as shares" in said
    got, said = checked(shares, shares=True)
    np.testing.assert_allclose(got, pixels)
    assert not said
    got, said = checked(pixels, shares=True)
    np.testing.assert_allclose(got, pixels)
    assert "read as pixels" in said
    outside = shares + (0.6, 0.3, 0)
    got, said = checked(outside, shares=True)  # landmarks may be
    np.testing.assert_allclose(got, outside * (*SIZE, 1))
    assert not said


@pytest.mark.parametrize("factor", [-1 / 400, 1 / 100])
def test_neither_pixels_nor_shares(factor):
    with pytest.raises(ValueError, match="file: coordinates from .* no pixels"):
        in_pixels(people() * (factor, factor, 1), SIZE, "file")


@pytest.mark.parametrize(
    "third, wanted, message",
    [
        (np.array([0, 1, 2.0]), [0, 1, 1], ""),  # COCO's visibility
        (np.array([0.2, 0.9, 1.05]), [0.2, 0.9, 1], ""),  # the peaks of a heatmap
        (np.array([-1, 0.5, 1.0]), [-1, 0.5, 1], ""),  # not found
        (np.array([7.3, -1.5, 0.0]), [0.99932, 0.18243, 0], "logits"),
        (np.array([-0.3, 0.2, 0.1]), [1, 1, 1], "taken as a z"),
        (np.array([55.0, 90, 0]), [0.55, 0.9, 0], "percentages"),
    ],
)
def test_confidences(third, wanted, message):
    keypoints = people(4, 18)
    keypoints[..., 2] = np.tile(third, 6)
    got, said = checked(keypoints)
    np.testing.assert_allclose(got[0, :3, 2], wanted, atol=1e-5)
    assert message in said and bool(message) == bool(said)


def test_a_third_value_that_is_none():
    with pytest.raises(ValueError, match="third values up to .* 3D poses"):
        in_pixels(people() * (1, 1, 1000), SIZE, "file")


def test_outside_the_image():
    """Said once, with the largest coordinates; joints a little outside are no news."""
    assert checked(people() * (1.6, 1.1, 1))[1] == ""
    assert "x is up to 1" in checked(people() * (3, 1, 1))[1]
    turned = people() * (1, 1.5, 1)
    assert "are width and height exchanged?" in checked(turned)[1]


def test_poses():
    rng = np.random.default_rng(0)
    metres = rng.normal(size=(5, 17, 3)) * 0.4
    assert are_poses(metres) and are_poses(metres * 1000) and are_poses(metres + (0, 0, 4))
    keypoints = people()
    assert not are_poses(keypoints) and not are_poses(keypoints[..., :2])
    keypoints[..., 2] = 7.3
    assert not are_poses(keypoints)
    keypoints[:, 3] = -1
    assert not are_poses(keypoints) and not are_poses(keypoints * np.nan)


@pytest.mark.parametrize(
    "names, wanted",
    [
        (["0.jpg", "1.jpg", "10.jpg"], [("", 0), ("", 1), ("", 10)]),
        (["a/3.png"], [("", 3)]),
        ([5, 7], [("", 5), ("", 7)]),
        (["00001_cam1.png", "00002_cam1.png"], [("", 1), ("", 2)]),
        (["walk.0001", "walk.0002"], [("", 1), ("", 2)]),
        (["S1/take2/frame (7).png", "S1/take2/frame (8).png"], [("", 7), ("", 8)]),
        (["a_0", "a_1", "b_0"], [("a", 0), ("a", 1), ("b", 0)]),
        (["0_cam1", "1_cam1", "0_cam2", "1_cam2"], [("cam1", 0), ("cam1", 1), ("cam2", 0), ("cam2", 1)]),
        (["v1/f0", "v1/f1", "v1/f2", "v2/f0"], [("v1/f", 0), ("v1/f", 1), ("v1/f", 2), ("v2/f", 0)]),
        (["f_0001_t0033", "f_0002_t0066", "f_0003_t0100"], [("", 1), ("", 2), ("", 3)]),  # a number and a time
        (["12-59-967.png", "13-00-000.png", "13-00-033.png"], [("", 0), ("", 1), ("", 2)]),  # times
        (["cam2_1", "cam2_2", "cam1_3", "cam1_4"], [("cam2", 1), ("cam2", 2), ("cam1", 3), ("cam1", 4)]),
        (["video.mp4_7", "video.mp4_8"], [("", 7), ("", 8)]),
        (["20261130123456789_1.jpg", "20261130123456789_2.jpg"], [("", 1), ("", 2)]),
    ],
)
def test_names(names, wanted):
    assert frames_of(names, "file") == wanted


def test_names_without_a_number():
    with pytest.raises(ValueError, match="file: no number of a frame in 'photo.jpg'"):
        frames_of(["1.jpg", "photo.jpg"], "file")


def test_what_the_file_says(tmp_path):
    """Videos with frame rates and sizes of their own, ids in attributes, joints by name; the caller's words come second."""
    walk = people(3)
    names = ["head_top", "pelvis", "left_hip", "right_hip", *(f"{side}_{part}" for side in ("left", "right") for part in
             ("knee", "ankle", "shoulder", "elbow", "wrist")), "spine", "neck", "thorax"]  # fmt: skip
    data = {
        "videos": [{"id": 1, "name": "one", "fps": 25}, {"id": 2, "name": "two", "frame_rate": 50}],
        "images": [
            {"id": 10 * video + frame, "video_id": video, "frame_id": frame + 5, "width": 320 * video, "height": 640}
            for video in (1, 2)
            for frame in range(3)
        ],
        "annotations": [
            {"image_id": 10 * video + frame, "attributes": {"track_id": [[4]]}, "keypoints": flat(walk[frame])}
            for video in (1, 2)
            for frame in range(3)
        ],
        "categories": [{"name": "horse", "keypoints": ["hoof"]}, {"name": "person", "keypoints": names}],
    }
    path = save_json(tmp_path / "set.json", data)
    with pytest.warns(UserWarning, match="set.json: one: the file says that size is 320x640, which is used"):
        one, two = open_data(path, size=(640, 640), fps=10)
    assert [(s.name, s.fps, s.size, s.start) for s in (one, two)] == [
        ("set/one", 25, (320, 640), 5),
        ("set/two", 50, (640, 640), 5),
    ]
    np.testing.assert_allclose(two.pixels()[0, [10, 0, 7, 8], :2], walk[0, [0, 1, 14, 16], :2], atol=1e-3)
