"""Angles of joints, of bodies whose angles are known."""

import numpy as np
import pytest

from lifter.data import Sequence, write
from lifter.data.angles import joint_angles
from lifter.data.mocap import rotation
from lifter.skeleton import H36M

DOWN = np.array([0, -1.0, 0])


def body(hip=0.0, knee=0.0, shoulder=0.0, elbow=0.0, out=0.0):
    """(17, 3) with y up, looking along z; limbs bent by so many degrees, and lifted to the side by `out`."""
    at = dict.fromkeys(H36M.joints, np.zeros(3))
    at |= {
        "spine": np.array([0, 0.25, 0]),
        "thorax": np.array([0, 0.5, 0]),
        "neck": np.array([0, 0.6, 0]),
        "head": np.array([0, 0.7, 0]),
    }
    for side, sign in (("left", 1), ("right", -1)):
        at[f"{side}_hip"], at[f"{side}_shoulder"] = np.array([0.1 * sign, 0, 0]), np.array([0.2 * sign, 0.5, 0])
        for joints, first, second in (
            (("hip", "knee", "ankle"), hip, -knee),
            (("shoulder", "elbow", "wrist"), shoulder, elbow),
        ):
            for (one, other), angle in zip(zip(joints, joints[1:]), (first, first + second)):
                bone = (
                    rotation("zx", np.radians([sign * out, -angle])) @ DOWN
                    if not angle
                    else rotation("x", np.radians([-angle])) @ DOWN
                )
                at[f"{side}_{other}"] = at[f"{side}_{one}"] + 0.4 * bone
    return np.stack([at[joint] for joint in H36M.joints])


def angles(turn=None, **bent):
    poses = body(**bent)[None]
    return {
        name: float(value[0])
        for name, value in joint_angles(Sequence("x", poses=poses if turn is None else poses @ turn.T, up="y")).items()
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_known_angles(side):
    """Sports2D's: flexion is positive ahead, knees and elbows are 0 when straight, whichever way the body looks."""
    turned = rotation("xyz", np.radians([10, 130, 20]))
    for turn in (None, turned):
        got = angles(turn, hip=30, knee=70, shoulder=-20, elbow=90)
        expected = {"hip_flexion": 30, "knee_flexion": 70, "shoulder_flexion": -20, "elbow_flexion": 90, "hip_abduction": 0}
        for name, value in expected.items():
            assert got[f"{side}_{name}"] == pytest.approx(value, abs=1e-3), name
        got = angles(turn, out=40)
        assert got[f"{side}_hip_abduction"] == pytest.approx(40, abs=1e-3)
        assert got[f"{side}_shoulder_abduction"] == pytest.approx(40, abs=1e-3)
        assert got[f"{side}_knee_flexion"] == pytest.approx(0, abs=0.05)
    assert angles(shoulder=170)[f"{side}_shoulder_flexion"] == pytest.approx(170, abs=1e-3)


def test_csv(tmp_path):
    """A column for each angle, in degrees, beside the frame and its time."""
    poses = np.stack([body(knee=angle) for angle in (0, 30, 60)])
    write(tmp_path / "walk.angles.csv", Sequence("x", poses=poses, up="y", fps=50.0, start=7))
    head, *rows = (line.split(",") for line in (tmp_path / "walk.angles.csv").read_text().splitlines())
    assert (
        head[:2] == ["frame", "time"] and len(head) == 14 and all(name.endswith(("flexion", "abduction")) for name in head[2:])
    )
    values = np.array(rows, float)
    np.testing.assert_allclose(values[:, 0], [7, 8, 9])
    np.testing.assert_allclose(values[:, 1], [0.14, 0.16, 0.18])
    np.testing.assert_allclose(values[:, head.index("left_knee_flexion")], [0, 30, 60], atol=0.05)
    with pytest.raises(ValueError, match="expected poses of Human3.6M's joints"):
        write(tmp_path / "y.angles.csv", Sequence("x", keypoints=np.zeros((1, 17, 2))))
