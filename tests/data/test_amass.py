"""AMASS's motions with a body model that is made here: a skeleton of a few vertices."""

import numpy as np
import pytest

from lifter.data import detect, open_data
from lifter.skeleton import H36M

PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
REST = np.array(
    [
        (0, 0, 0), (0.07, -0.08, 0), (-0.07, -0.08, 0), (0, 0.1, 0), (0.1, -0.45, 0), (-0.1, -0.45, 0), (0, 0.24, 0),
        (0.1, -0.85, 0), (-0.1, -0.85, 0), (0, 0.3, 0), (0.12, -0.9, 0.1), (-0.12, -0.9, 0.1), (0, 0.5, 0), (0.08, 0.42, 0),
        (-0.08, 0.42, 0), (0, 0.58, 0.02), (0.17, 0.45, 0), (-0.17, 0.45, 0), (0.43, 0.44, 0), (-0.43, 0.44, 0),
        (0.68, 0.44, 0), (-0.68, 0.44, 0),
    ]
)  # fmt: skip
OF_H36M = {"pelvis": 0, "left_hip": 1, "right_hip": 2, "left_knee": 4, "spine": 6, "thorax": 12, "neck": 15, "left_wrist": 20}
CROWN = np.array((0, 0.75, 0.03))


@pytest.fixture
def model(tmp_path):
    """Two vertices around each joint, and the crown; betas stretch the body."""
    rng = np.random.default_rng(0)
    apart = rng.uniform(0.01, 0.03, REST.shape) * (1, 0, 1)
    points = np.concatenate((REST + apart, REST - apart, CROWN[None]))
    regressor = np.zeros((22, 45))
    regressor[np.arange(22), np.arange(22)] = regressor[np.arange(22), np.arange(22) + 22] = 0.5
    weights = np.zeros((45, 22))
    weights[:44] = np.tile(np.eye(22), (2, 1))
    weights[44, 15] = 1
    tree = np.stack((np.array(PARENTS), np.arange(22))).astype(np.uint32)
    path = tmp_path / "models" / "smplh" / "male" / "model.npz"
    path.parent.mkdir(parents=True)
    shapes = np.stack((points, np.zeros_like(points)), -1)
    np.savez(path, v_template=points, shapedirs=shapes, J_regressor=regressor, kintree_table=tree, weights=weights)
    (path.parents[1] / "female").mkdir()
    (path.parents[1] / "female" / "model.npz").write_bytes(path.read_bytes())
    return path


def write_amass(path, turns, place, **more):
    """Write a file as AMASS has it: 52 joints of SMPL-H, 16 betas."""
    poses = np.zeros((len(turns), 52, 3))
    poses[:, :22] = turns
    known = {"betas": np.zeros(16), "gender": np.array("male"), "mocap_framerate": np.array(120.0), "dmpls": np.zeros((1, 8))}
    np.savez(path, poses=poses.reshape(len(turns), -1), trans=place, **known | more)
    return path


def test_rest_and_turns(tmp_path, model):
    """Upright by a turn of the root; a bent knee; a stretched body; the place."""
    turns = np.zeros((3, 22, 3))
    turns[:, 0, 0] = np.pi / 2  # y up, as at rest, becomes z up
    turns[1, 4, 0] = np.pi / 2  # the left knee
    place = np.array([(0, 0, 0), (0, 0, 0), (1, 2, 3.0)])
    path = write_amass(tmp_path / "walk_poses.npz", turns, place, betas=np.array([0.1, 0.0]))
    (sequence,) = open_data(path, body_model=model)
    assert detect(path) == "amass" and (sequence.fps, sequence.up, sequence.keypoints) == (120, "z", None)
    upright = lambda points: np.stack((points[..., 0], -points[..., 2], points[..., 1]), -1) * 1.1
    got = {joint: sequence.poses[:, number] for number, joint in enumerate(H36M.joints)}
    for joint, number in OF_H36M.items():
        np.testing.assert_allclose(got[joint][0], upright(REST[number]), atol=1e-6)
        np.testing.assert_allclose(got[joint][2], upright(REST[number]) + (1, 2, 3), atol=1e-6)
    np.testing.assert_allclose(got["head"][0], upright(CROWN), atol=1e-6)
    shin = REST[7] - REST[4]  # (0, -0.4, 0), turned about x by 90 degrees to (0, 0, -0.4)
    np.testing.assert_allclose(got["left_ankle"][1], upright(REST[4] + (0, 0, shin[1])), atol=1e-6)
    np.testing.assert_allclose(got["right_ankle"][1], upright(REST[8]), atol=1e-6)


def test_turns_by_steps(tmp_path, model):
    """Any turns: joint after joint by Rodrigues' formula for vectors."""
    rng = np.random.default_rng(0)
    turns, place = rng.normal(0, 1, (4, 22, 3)), rng.normal(0, 1, (4, 3))

    def turned(vector, frame, joint):
        while joint >= 0:
            angle = np.linalg.norm(turns[frame, joint])
            axis = turns[frame, joint] / angle
            cross, along = np.cross(axis, vector), axis * (axis @ vector)
            vector = vector * np.cos(angle) + cross * np.sin(angle) + along * (1 - np.cos(angle))
            joint = PARENTS[joint]
        return vector

    def position(frame, joint):
        if joint == 0:
            return REST[0] + place[frame]
        parent = PARENTS[joint]
        return position(frame, parent) + turned(REST[joint] - REST[parent], frame, parent)

    (sequence,) = open_data(write_amass(tmp_path / "x.npz", turns, place), body_model=model)
    for frame in range(4):
        for joint, number in OF_H36M.items():
            got = sequence.poses[frame, H36M.joints.index(joint)]
            np.testing.assert_allclose(got, position(frame, number), atol=1e-6)


def test_other_forms(tmp_path, model):
    """A folder of models, of which gender says which; SMPL's 24 joints; parts apart; bytes for the gender."""
    turns, place = np.zeros((2, 22, 3)), np.zeros((2, 3))
    (expected,) = open_data(write_amass(tmp_path / "a.npz", turns, place), body_model=model)
    for number, arrays in enumerate(
        (
            {"poses": np.zeros((2, 72)), "trans": place, "gender": b"female", "betas": np.zeros((1, 10))},
            {"root_orient": np.zeros((2, 3)), "pose_body": np.zeros((2, 63)), "trans": place, "gender": "male"},
        )
    ):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        (sequence,) = open_data(tmp_path / f"{number}.npz", body_model=tmp_path / "models", fps=30)
        np.testing.assert_allclose(sequence.poses, expected.poses, atol=1e-6)
        assert sequence.fps == 30


@pytest.mark.parametrize("joints", [22, 24])
def test_joints_alone(tmp_path, joints):
    """Files of programs that make motions: y up, no parameters."""
    poses = np.zeros((3, joints, 3))
    poses[:, :22] = REST + np.arange(3)[:, None, None] * (0, 0, 0.1)
    np.save(tmp_path / "x.npy", poses)
    (sequence,) = open_data(tmp_path / "x.npy")
    assert sequence.up == "y"
    for joint, number in OF_H36M.items():
        np.testing.assert_allclose(sequence.poses[:, H36M.joints.index(joint)], poses[:, number], atol=1e-6)


def test_refused(tmp_path, model):
    turns, place = np.zeros((2, 22, 3)), np.zeros((2, 3))
    path = write_amass(tmp_path / "a.npz", turns, place)
    with pytest.raises(ValueError, match="a.npz: parameters of a body, which has joints with its model alone: .*--body-model"):
        list(open_data(path))
    with pytest.raises(ValueError, match="models: .*expected one npz of a neutral body"):
        list(open_data(write_amass(tmp_path / "b.npz", turns, place, gender="neutral"), body_model=tmp_path / "models"))
    with pytest.raises(KeyError, match="no key 'v_template'"):
        list(open_data(path, body_model=path))
    with pytest.raises(ValueError, match=r"trans of shape \(3, 3\), expected \(2, 3\)"):
        list(open_data(write_amass(tmp_path / "c.npz", turns, np.zeros((3, 3))), body_model=model))
    with pytest.raises(ValueError, match="poses of 30 numbers, expected 66"):
        np.savez(tmp_path / "d.npz", poses=np.zeros((2, 30)), trans=place)
        list(open_data(tmp_path / "d.npz", body_model=model))
