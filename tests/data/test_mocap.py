"""Motion capture: CMU's files, BVH, virtual cameras, the noise of a detector, the synthetic gait."""

import json
from dataclasses import replace

import numpy as np
import pytest

import benchmarks.windows  # noqa: F401  (registers the form of cmu_pairs_small.npz)
from lifter.data import open_data
from lifter.data.cameras import Camera, around, denormalise, look_at, normalise
from lifter.data.formats import bvh
from lifter.data.formats.asf import Asf, open_asf
from lifter.data.mocap import film, rotation
from lifter.data.noise import FACTORS, detect
from lifter.data.sequence import Dataset
from lifter.data.synthetic import open_gait
from lifter.skeleton import H36M

from .conftest import assert_same


@pytest.fixture(scope="module")
def raw(shared):
    return shared / "data" / "cmu_raw"


def write_asf(folder, motion="1\nroot 0 1 0 0 0 0\nfemur 10\n2\nroot 0 1 0 0 90 0\nfemur 0\n", **change):
    lines = {
        "length": "length 1.0", "order": "order TX TY TZ RX RY RZ", "axis": "axis XYZ", "direction": "direction 0 -1 0",
        "dof": "dof rx", "bone axis": "axis 0 0 20 XYZ", "hierarchy": "root femur",
    } | change  # fmt: skip
    (folder / "01.asf").write_text(
        f":version 1.10\n:units\n mass 1\n {lines['length']}\n angle deg\n:root\n {lines['order']}\n {lines['axis']}\n"
        f" position 0 0 0\n orientation 0 0 0\n:bonedata\n begin\n id 1\n name femur\n {lines['direction']}\n length 2\n"
        f" {lines['bone axis']}\n {lines['dof']}\n limits (-160 20)\n end\n:hierarchy\n begin\n {lines['hierarchy']}\n end\n"
    )
    (folder / "01_01.amc").write_text(f"#!OML:ASF\n:FULLY-SPECIFIED\n:DEGREES\n{motion}")
    return folder


def test_kinematics(shared, raw):
    """Every joint of two clips within 0.01 mm, the importer's own words."""
    expected = np.load(shared / "data" / "expected_cmu_raw.npz")
    asf = Asf(raw / "02.asf")
    for clip in ("02_02", "02_03"):
        motion = asf.read(raw / f"{clip}.amc")
        ends = asf.ends(motion)
        ends = np.stack([ends[name] for name in expected["cmu_joint_names"]], 1)
        assert np.abs(ends - expected[f"{clip}/joints31"]).max() < 1e-5
        assert np.abs(asf.poses(motion) - expected[f"{clip}/joints17"]).max() < 1e-5
    assert [(s.name, len(s), s.fps, s.subject) for s in open_asf(raw)] == [
        ("02_02", 298, 120, "02"),
        ("02_03", 173, 120, "02"),
    ]
    assert open_data(raw / "02_03.amc").names == ["02_03"] and len(open_data(raw / "02.asf")) == 2


def test_one_bone(tmp_path):
    """Calculation by hand: a bone of two inches that points down, turned by 10 degrees about the x axis of its frame, which
    is turned by 20 about z; then the root by 90 about y."""
    write_asf(tmp_path)
    asf = Asf(tmp_path / "01.asf")
    ends = asf.ends(asf.read(tmp_path / "01_01.amc"))
    tilt = np.radians(20)
    frame = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    swing = np.radians(10)
    turn = np.array([[1, 0, 0], [0, np.cos(swing), -np.sin(swing)], [0, np.sin(swing), np.cos(swing)]])
    x, y, z = np.array([0, 1, 0]) + frame @ turn @ frame.T @ [0, -2, 0]
    np.testing.assert_allclose(ends["femur"][0], np.array([x, -z, y]) * 0.0254, atol=1e-12)
    np.testing.assert_allclose(ends["femur"][1], np.array([0, 0, 1 - 2]) * 0.0254, atol=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"motion": ""}, "01_01.amc: no frames"),
        ({"motion": "1\nroot 0 1 0\n"}, "01_01.amc: frame 0: root has 3 values, expected 6"),
        ({"motion": "1\nroot 0 1 0 0 0 0\n"}, "01_01.amc: frame 0: femur has 0 values, expected 1"),
        ({"motion": "1\nroot 0 1 0 0 0 x\nfemur 1\n"}, "01_01.amc: root: could not convert"),
        ({"motion": "1\nroot 0 1 0 0 0 0\nfemur nan\n"}, r"01_01.amc: frame 0: femur is \[nan\]"),
        (
            {"motion": "1\nroot 0 1 0 0 0 0\ntail 1\n"},
            "01_01.amc: line 6: 'tail 1', expected a frame's number or a bone of 01.asf",
        ),
        ({"motion": "root 0 1 0 0 0 0\n"}, "01_01.amc: line 4"),
        ({"length": "length none"}, "01.asf: units: length: 'none', expected a number"),
        ({"bone axis": "axis 0 0 20 ABC"}, "01.asf: femur: axis order 'ABC'"),
        ({"bone axis": "limits"}, "01.asf: a bone without axis"),
        ({"dof": "dof rx l"}, "01.asf: femur: degrees of freedom rx l"),
        ({"direction": "direction 0 1"}, "01.asf: femur: '0 1', expected three numbers"),
        ({"hierarchy": "root tail"}, "01.asf: hierarchy: 'root tail' names a bone that is not there"),
        ({"hierarchy": ""}, "01.asf: no bones"),
        ({}, "01.asf: no bone rhipjoint"),
    ],
)
def test_bad_asf(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        list(open_data(write_asf(tmp_path, **change)))


def test_asf_that_is_not_there(tmp_path):
    write_asf(tmp_path)
    (tmp_path / "02_01.amc").write_text("1\n")
    (tmp_path / "03.asf").write_text("")
    with pytest.raises(FileNotFoundError, match="02_01.amc: its skeleton 02.asf is not beside it"):
        open_asf(tmp_path)


# ---- BVH -------------------------------------------------------------------------------------------------------------

BVH = """HIERARCHY
ROOT Hips
{
    OFFSET 0 0 0
    CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
    JOINT Arm
    {
        OFFSET 0 10 0
        CHANNELS 3 Zrotation Xrotation Yrotation
        End Site
        {
            OFFSET 5 0 0
        }
    }
}
MOTION
Frames: 2
Frame Time: 0.04
1 2 3 0 0 0 0 0 0
0 0 0 90 0 0 0 0 90
"""


def test_bvh(tmp_path):
    """Calculation by hand: the root turned by 90 degrees about z lays the upper bone along -x, the arm's own turn about y
    brings its end from x to -z."""
    (tmp_path / "x.bvh").write_text(BVH)
    motion = bvh.read(tmp_path / "x.bvh")
    assert motion.names == ("Hips", "Arm", "Arm_end") and motion.parents == (-1, 0, 1) and motion.frame_time == 0.04
    expected = [[[1, 2, 3], [1, 12, 3], [6, 12, 3]], [[0, 0, 0], [-10, 0, 0], [-10, 0, -5]]]
    np.testing.assert_allclose(motion.positions(), expected, atol=1e-12)
    bvh.write(tmp_path / "y.bvh", motion)
    again = bvh.read(tmp_path / "y.bvh")
    assert (again.names, again.parents, again.channels) == (motion.names, motion.parents, motion.channels)
    np.testing.assert_array_equal(again.motion, motion.motion)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("HIERARCHY", "HIERARCHIES", "'HIERARCHIES', expected HIERARCHY"),
        ("Xposition", "Wposition", "Hips: channels Wposition, expected of"),
        ("0 10 0", "0 ten 0", "'ten', expected a number"),
        ("90 0 0 0 0 90", "90 0 0 0 0", "17 values of motion, expected 2 frames of 9 channels"),
        ("Frames: 2", "Frames: -2", "-2.0, expected a count"),
        ("0.04", "-1", "frame time -1.0"),
        ("90 0 0 0 0 90", "90 0 0 0 0 nan", "motion has values that are not finite"),
        ("90 0 0 0 0 90", "90 0 0 0 0 x", "motion: could not convert"),
        ("JOINT", "BONE", "'BONE' in Hips, expected JOINT"),
        (BVH[60:], "", "ends in the middle"),
        ("", "", "no joint for left_hip, .*, expected one called upleg or .*; it has Hips, Arm, Arm_end"),
    ],
)
def test_bad_bvh(tmp_path, old, new, message):
    (tmp_path / "x.bvh").write_text(BVH.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"x.bvh: {message}"):
        list(open_data(tmp_path / "x.bvh"))


def test_motion_as_bvh(raw, tmp_path):
    """Written and read again: off by as much as the lengths of bones change, which is a few millimetres."""
    sequence = open_asf(raw)["02_02"]
    for name, source in (("world", sequence), ("camera", next(iter(film(open_asf(raw)))))):
        bvh.write(tmp_path / f"{name}.bvh", bvh.of_sequence(source))
        (again,) = open_data(tmp_path / f"{name}.bvh")
        assert len(again) == len(source) and again.fps == pytest.approx(120)
        if name == "world":
            error = np.linalg.norm(again.poses - source.poses, axis=-1)
            assert error.mean() < 0.004 and error.max() < 0.02
        assert (again.poses[:, 10, 2] - again.poses[:, 3, 2]).min() > 1.2  # the head is above the foot
    with pytest.raises(ValueError, match="expected poses of Human3.6M's joints"):
        bvh.of_sequence(replace(sequence, poses=None, valid=np.ones(298)))


def test_bvh_with_names_of_others(tmp_path):
    """Names of Mixamo and CMU's BVH: neck is the thorax here, head the neck, the head's end the head."""
    sides = [("UpLeg", "Leg", "Foot"), ("Arm", "ForeArm", "Hand")]
    lines = ["HIERARCHY", "ROOT mixamorig:Hips { OFFSET 0 100 0 CHANNELS 3 Xposition Yposition Zposition"]
    chain = lambda names, x: "".join(
        f"JOINT mixamorig:{n} {{ OFFSET {x} {-10 * (i > 0)} 0 CHANNELS 0 " for i, n in enumerate(names)
    )
    close = "End Site { OFFSET 0 0 1 } } } }"
    lines += [chain([side + name for name in sides[0]], x) + close for side, x in (("Left", 10), ("Right", -10))]
    lines += ["JOINT mixamorig:Spine { OFFSET 0 20 0 CHANNELS 0"]
    lines += [chain([side + name for name in sides[1]], x) + close for side, x in (("Left", 15), ("Right", -15))]
    lines += ["JOINT mixamorig:Neck { OFFSET 0 30 0 CHANNELS 0 JOINT mixamorig:Head { OFFSET 0 10 0 CHANNELS 0"]
    lines += ["End Site { OFFSET 0 20 0 } } } } }", "MOTION", "Frames: 1", "Frame Time: 0.04", "0 100 0"]
    (tmp_path / "x.bvh").write_text("\n".join(lines))
    (sequence,) = open_data(tmp_path / "x.bvh", unit=0.01)
    heights = dict(zip(H36M.joints, sequence.poses[0, :, 2].tolist()))
    wanted = {"pelvis": 1.0, "spine": 1.2, "thorax": 1.5, "neck": 1.6, "head": 1.8, "left_ankle": 0.8, "right_wrist": 1.0}
    assert {name: round(heights[name], 5) for name in wanted} == wanted
    assert sequence.poses[0, 11, 0] > 0 > sequence.poses[0, 14, 0]


# ---- cameras and noise -----------------------------------------------------------------------------------------------


def test_rotations():
    angle = np.array([[0.3, -0.7, 1.1]])
    turn = rotation("xyz", angle)[0]
    separate = [rotation(axis, angle[:, i : i + 1])[0] for i, axis in enumerate("xyz")]
    np.testing.assert_allclose(turn, separate[2] @ separate[1] @ separate[0])


def test_normalise():
    size = (1000, 1002)
    pixels = np.random.default_rng(0).uniform(0, 1000, (4, 17, 3))
    keypoints = normalise(pixels, size)
    np.testing.assert_allclose(keypoints[..., 0], pixels[..., 0] / 1000 * 2 - 1)
    np.testing.assert_allclose(keypoints[..., 1], pixels[..., 1] / 1000 * 2 - 1.002)
    np.testing.assert_allclose(denormalise(keypoints, size), pixels)
    assert normalise(pixels.astype(np.float32), size).dtype == np.float32
    whole = np.array([[500, 400]])  # pixels that are whole numbers, and a camera's centre
    np.testing.assert_allclose(normalise(whole, size), normalise(whole.astype(float), size))
    np.testing.assert_allclose(denormalise(whole, size), denormalise(whole.astype(float), size))
    assert (Camera(1000, 800, 900, 900, 500, 400).normalised[2:4] == 0).all()


def test_look_at():
    camera = look_at((3.0, -4.0, 2.0), (0.0, 0.0, 1.0))
    np.testing.assert_allclose(camera.position, (3, -4, 2))
    np.testing.assert_allclose(camera.project(camera.to_camera(np.array([0.0, 0, 1]))), (500, 501))
    assert camera.project(camera.to_camera(np.array([0.0, 0, 1.5])))[1] < 501  # what is above is up
    assert np.linalg.det(camera.rotation) == pytest.approx(1)
    with pytest.raises(ValueError, match="straight above"):
        look_at((0.0, 0, 5), (0.0, 0, 1))
    with pytest.raises(ValueError, match="depth -.* expected points before the camera"):
        camera.project(np.array([[0.0, 0, -1]]))
    with pytest.raises(ValueError, match="rotation is no rotation matrix"):
        Camera(1, 1, 1, 1, 0, 0, rotation=np.ones((3, 3)))


def test_cameras_of_the_motion_capture(shared):
    """Ours stand where those of cmu_h36m17.npz stand, which were made by the same rule."""
    with np.load(shared / "data" / "cmu_h36m17.npz") as archive:
        world, cameras = archive["S2/02_01"], json.loads(str(archive["cameras_json"]))["clips"]["S2/02_01"]
    for ours, theirs in zip(around(world), cameras):
        np.testing.assert_allclose(ours.position, theirs["position"], atol=2e-3)
        np.testing.assert_allclose(ours.rotation, theirs["R"], atol=2e-3)


def test_cmu(shared):
    """The windows are cut from the clips: exact projections and poses of both files agree."""
    clips = open_data(shared / "data" / "cmu_h36m17.npz")
    assert (clips.format, len(clips)) == ("cmu", 112)
    cameras = np.load(shared / "data" / "cmu_pairs_small.npz")["camera"]
    for window, camera in list(zip(open_data(shared / "data" / "cmu_pairs_small.npz"), cameras))[::5]:
        clip = clips[f"{window.subject}/{window.action}/{camera}"].take(slice(window.start, window.start + 243))
        assert clip.start == window.start and window.keypoints.shape == (243, 17, 3)
        np.testing.assert_allclose(clip.keypoints, window.keypoints_true, atol=1e-6)
        np.testing.assert_allclose(clip.poses, window.poses, atol=1e-5)


def statistics(exact, found, outlier):
    error = np.linalg.norm(found[..., :2] - exact, axis=-1)
    axis = (found[..., :2] - exact) / FACTORS[:, None]
    quiet = ~outlier[:, 1:] & ~outlier[:, :-1]
    lag = np.corrcoef(axis[:, 1:][quiet].ravel(), axis[:, :-1][quiet].ravel())[0, 1]
    relation = np.corrcoef(error.ravel(), found[..., 2].ravel())[0, 1]
    return [error.mean(), np.median(error), axis[~outlier].std(), lag, outlier.mean(), relation, found[..., 2].mean()]


def test_noise(shared):
    """Figures of the noise: mean and median error, spread, correlation in time, outliers, confidence."""
    with np.load(shared / "data" / "cmu_pairs_small.npz") as pairs:
        exact, theirs, outlier = pairs["input_2d_gt"].astype(np.float64), pairs["input_2d_det"], pairs["outlier"]
    ours = [detect(window, (1000, 1002), seed) for seed, window in enumerate(exact)]
    mine = statistics(exact, np.stack([found for found, _ in ours]), np.stack([outlier for _, outlier in ours]))
    given = statistics(exact, theirs, outlier)
    np.testing.assert_allclose(mine, given, rtol=0.06, atol=0.003)


def test_outliers():
    """A quarter of them take the place of the mirrored joint, the others, and all in the middle, move by 25 to 90 pixels."""
    exact = np.zeros((20000, 17, 2)) + np.arange(17)[:, None] * 1000.0
    found, outlier = detect(exact, (17000, 17000), 0)
    moved = np.linalg.norm(found[..., :2] - exact, axis=-1)
    pairs = [joint for joint in range(17) if H36M.flip[joint] != joint]
    middle = [joint for joint in range(17) if H36M.flip[joint] == joint]
    to_mirrored = np.linalg.norm(found[..., :2] - exact[:, list(H36M.flip)], axis=-1) < 100
    assert to_mirrored[:, pairs][outlier[:, pairs]].mean() == pytest.approx(0.25, abs=0.03)
    assert moved[:, middle].max() < 250 and np.median(moved[:, middle][outlier[:, middle]]) == pytest.approx(57, abs=5)
    assert not to_mirrored[:, pairs][~outlier[:, pairs]].any()


def test_noise_is_seeded():
    exact = np.random.default_rng(0).uniform(0, 1000, (50, 17, 2))
    (one, _), (again, _), (other, _) = (detect(exact, (1000, 1000), seed) for seed in ((1, "a"), (1, "a"), (1, "b")))
    assert (one == again).all() and (one != other)[..., :2].all()
    with pytest.raises(ValueError, match=r"\(50, 16, 2\), expected \(T, 17, 2\)"):
        detect(exact[:, 1:], (1000, 1000), 0)


def test_film(raw):
    exact, noisy = (film(open_asf(raw), noise) for noise in (None, 3))
    assert exact.names == [f"{clip}/{i}" for clip in ("02_02", "02_03") for i in range(4)]
    for one, other, again in zip(exact, noisy, film(open_asf(raw), 3)):
        np.testing.assert_array_equal(one.keypoints, other.keypoints_true)
        assert other.keypoints.shape[-1] == 3 and np.abs(one.keypoints).max() < 2
        assert_same(other, again)
        np.testing.assert_allclose(one.camera.project(one.poses), one.pixels(), atol=1e-2)
    with pytest.raises(ValueError, match="expected poses of Human3.6M's joints in the world"):
        list(film(Dataset("x", "x", {"x": lambda: next(iter(exact))})))


def test_gait():
    gait = list(open_gait(clips=2, frames=50))
    assert len(gait) == 2 and gait[0].keypoints.shape == (50, 17, 2)
    for sequence, again in zip(gait, open_gait(clips=2, frames=50)):
        assert_same(sequence, again)
        np.testing.assert_allclose(sequence.camera.project(sequence.poses), sequence.pixels(), atol=1e-2)
        bones = np.stack([sequence.poses[:, j] - sequence.poses[:, p] for j, p in H36M.bones], 1)
        assert np.linalg.norm(bones, axis=-1).std(0).max() < 1e-5  # nobody stretches
    assert np.abs(gait[0].poses - gait[1].poses).max() > 0.1
