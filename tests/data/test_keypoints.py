"""Keypoints of detectors in Human3.6M's joints, without holes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lifter.data.keypoints import COCO, LAYOUTS, fill, layout_of, layout_of_names, missing, to_h36m
from lifter.skeleton import H36M

PERSON = np.array(  # COCO's joints of somebody who stands, in pixels
    [
        [500, 200], [510, 190], [488, 192], [525, 200], [476, 199], [540, 280], [460, 284], [560, 360], [445, 365],
        [570, 430], [430, 440], [525, 450], [470, 452], [530, 560], [468, 566], [528, 660], [465, 668],
    ],
    np.float64,
)  # fmt: skip
CONFIDENCE = np.linspace(0.5, 0.98, 17)
# What MHFormer's demo (demo/lib/preprocess.py, h36m_coco_format) makes of it.
MHFORMER = np.array(
    [
        [497.5, 451.0], [470.0, 452.0], [468.0, 566.0], [465.0, 668.0], [525.0, 450.0], [530.0, 560.0], [528.0, 660.0],
        [498.75, 366.5], [500.0, 260.667], [500.0, 220.5], [499.75, 182.0], [540.0, 280.0], [560.0, 360.0], [570.0, 430.0],
        [460.0, 284.0], [445.0, 365.0], [430.0, 440.0],
    ]
)  # fmt: skip
MHFORMER_CONFIDENCE = np.array(
    [0.845, 0.86, 0.92, 0.98, 0.83, 0.89, 0.95, 0.755, 0.665, 0.5, 0.575, 0.65, 0.71, 0.77, 0.68, 0.74, 0.8]
)


def clip():
    return np.concatenate((PERSON, CONFIDENCE[:, None]), -1)[None]


def joint(name):
    return H36M.joints.index(name)


def test_mhformer():
    got = to_h36m(clip(), "coco", "mhformer")[0]
    np.testing.assert_allclose(got[:, :2], MHFORMER, atol=1e-3)
    np.testing.assert_allclose(got[:, 2], MHFORMER_CONFIDENCE, atol=1e-6)
    np.testing.assert_array_equal(to_h36m(clip()[..., :2], "coco", "mhformer"), got[None, :, :2])


def test_mmpose():
    got = to_h36m(clip())[0]
    hips, shoulders, eyes = (clip()[0, part].mean(0) for part in ([11, 12], [5, 6], [1, 2]))
    expected = {"pelvis": hips, "thorax": shoulders, "spine": (hips + shoulders) / 2, "head": eyes}
    expected |= {"neck": clip()[0, 0], "left_wrist": clip()[0, 9], "right_ankle": clip()[0, 16]}
    for name, value in expected.items():
        np.testing.assert_allclose(got[joint(name)], value)


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.coco])
@pytest.mark.parametrize("variant", ["mmpose", "mhformer"])
def test_layouts_that_hold_coco(layout, variant):
    """Whatever is between COCO's joints does not count."""
    keypoints = np.full((1, LAYOUTS[layout].joints, 3), 1e6)
    keypoints[:, LAYOUTS[layout].coco] = clip()
    np.testing.assert_array_equal(to_h36m(keypoints, layout, variant), to_h36m(clip(), "coco", variant))


def test_names_of_detectors_joints():
    """OpenPose and MediaPipe by their documentation: nose, left and right wrist, left and right ankle."""
    for layout, order in (("body25", (0, 7, 4, 14, 11)), ("coco18", (0, 7, 4, 13, 10)), ("mediapipe", (0, 15, 16, 27, 28))):
        assert tuple(LAYOUTS[layout].coco[i] for i in (0, 9, 10, 15, 16)) == order


def test_halpe():
    keypoints = np.random.default_rng(0).uniform(0, 1000, (2, 26, 3))
    got = to_h36m(keypoints, "halpe")
    for name, index in {"pelvis": 19, "thorax": 18, "head": 17, "neck": 0, "right_hip": 12, "left_elbow": 7}.items():
        np.testing.assert_array_equal(got[:, joint(name)], keypoints[:, index])
    np.testing.assert_allclose(got[:, joint("spine")], (keypoints[:, 18] + keypoints[:, 19]) / 2)


def test_h36m_as_it_is():
    keypoints = np.random.default_rng(0).normal(size=(2, 17, 2))
    assert (to_h36m(keypoints, "h36m") == keypoints).all()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((np.zeros((1, 18, 3)), "coco"), r"\(1, 18, 3\), expected \(T, 17, 2 or 3\) of coco"),
        ((np.zeros((17, 3)), "coco"), r"\(17, 3\), expected"),
        ((np.zeros((1, 17, 3)), "human"), "layout is 'human', expected coco or halpe"),
        ((np.zeros((1, 17, 3)), "coco", "motionbert"), "variant is 'motionbert', expected for coco: mmpose or mhformer"),
    ],
)
def test_what_is_no_layout(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        to_h36m(*arguments)


def test_layout_by_its_joints():
    assert [layout_of(n, "") for n in (17, 26, 25, 18, 33)] == ["coco", "halpe", "body25", "coco18", "mediapipe"]
    with pytest.raises(ValueError, match="file: 21 joints, expected 17"):
        layout_of(21, "file")


def test_layout_by_the_names_of_joints():
    """Names of any spelling are known; other words tell nothing, and names of half a body not enough."""
    assert layout_of_names(["Nose", "L_Eye", *COCO[2:]], "") == "coco" and layout_of_names(H36M.joints, "") == "h36m"
    assert layout_of_names(map(str, range(17)), "") is None
    keypoints = np.random.default_rng(0).uniform(0, 100, (2, 17, 3))
    order = np.random.default_rng(1).permutation(17)
    mixed = layout_of_names([COCO[joint] for joint in order], "")
    np.testing.assert_allclose(to_h36m(keypoints[:, order], mixed), to_h36m(keypoints), atol=1e-12)
    with pytest.raises(ValueError, match="file: no joint for pelvis, right_hip, .*; it has nose, left eye"):
        layout_of_names(COCO[:11], "file")


def test_holes_are_filled_in_time():
    """On the line in between, still before and after; confidence 0; what was there is not touched."""
    whole = np.zeros((7, 17, 3)) + np.arange(7.0)[:, None, None]
    whole[..., 2] = 0.5
    holes = whole.copy()
    holes[[0, 3, 4, 6], 2, :2] = np.nan
    holes[[0, 3, 4, 6], 2, 2] = 0
    filled = fill(holes)
    np.testing.assert_allclose(filled[:, 2, 0], [1, 1, 2, 3, 4, 5, 5])
    np.testing.assert_array_equal(filled[:, 2, 2], [0, 0.5, 0.5, 0, 0, 0.5, 0])
    other = np.delete(np.arange(17), 2)
    np.testing.assert_array_equal(filled[:, other], whole[:, other])
    assert fill(whole) is whole


def test_a_joint_that_is_never_there():
    keypoints = np.random.default_rng(0).uniform(0, 100, (3, 17, 3)) + 1
    keypoints[:, [0, 1, 2, 3, 4, 5, 6, 7]] = np.nan  # only the upper body is in the image
    filled = fill(keypoints)
    assert np.isfinite(filled).all() and (filled[:, :8, 2] == 0).all()
    np.testing.assert_array_equal(filled[:, 3, :2], keypoints[:, joint("thorax"), :2])  # the nearest along the skeleton
    with pytest.raises(ValueError, match="somebody: no joint in any of 2 frames"):
        fill(np.full((2, 17, 2), np.nan), "somebody")


@given(arrays(np.float64, (5, 17, 3), elements=st.sampled_from([0.0, 1.0, 7.5, np.nan, np.inf])))
def test_filled_is_whole(keypoints):
    lost = missing(keypoints)
    if lost.all():
        return
    filled = fill(keypoints)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~lost], keypoints[~lost])
    there = keypoints[~lost][:, :2]
    assert filled[..., :2].min() >= there.min() and filled[..., :2].max() <= there.max()
    np.testing.assert_array_equal(fill(filled)[..., :2], filled[..., :2])
