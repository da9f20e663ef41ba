"""Poses as turns of the bones of a rig, written as BVH."""

from dataclasses import replace

import numpy as np
import pytest

from lifter.data import Sequence, open_data, write
from lifter.data.bones import RIGS, motion_of
from lifter.data.formats import bvh
from lifter.data.mocap import y_up
from lifter.data.synthetic import open_gait
from lifter.skeleton import H36M


@pytest.fixture(scope="module")
def gait():
    return next(iter(open_gait(clips=1, frames=60)))


@pytest.mark.parametrize("rig", RIGS)
def test_bvh(tmp_path, gait, rig):
    """Bones of one length: joints are in the file where the poses have them to 0.01 mm, and a T-pose at rest."""
    write(tmp_path / "x.bvh", gait, rig=rig)
    file = bvh.read(tmp_path / "x.bvh")
    where = [file.names.index(name) for name in RIGS[rig].names]
    np.testing.assert_allclose(file.positions(where) / 100, RIGS[rig].places(y_up(gait)), rtol=0, atol=1e-5)
    (again,) = open_data(tmp_path / "x.bvh")
    if rig == "h36m":
        x, y, z = np.moveaxis(y_up(gait), -1, 0)
        np.testing.assert_allclose(again.poses, np.stack((x, -z, y), -1), rtol=0, atol=1e-5)
    leaves = set(range(len(file.names))) - set(file.parents)
    assert all(file.channels[joint] == () for joint in leaves), "the last joints end in End Sites"
    moving = [channels for channels in file.channels if channels]
    assert moving[0][:3] == ("Xposition", "Yposition", "Zposition")
    assert {channels[-3:] for channels in moving} == {("Zrotation", "Xrotation", "Yrotation")}


@pytest.mark.parametrize("rig", RIGS)
def test_at_rest(gait, rig):
    """Arms out, legs down, left is x; each limb is straight and symmetric to a millimetre for a body that is."""
    motion = motion_of(gait, rig)
    rest, ours = motion.rest(), [joint[2] if joint[2] == joint[3] else "" for joint in RIGS[rig].joints]
    at = {name: rest[number] for number, name in enumerate(ours) if name}
    for side, sign in (("left", 1), ("right", -1)):
        shoulder, elbow, wrist = (at[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle = (at[f"{side}_{part}"] for part in ("hip", "knee", "ankle"))
        assert sign * (wrist - shoulder)[0] > 0.4 and np.abs((wrist - shoulder)[1:]).max() < 1e-9 and sign * shoulder[0] > 0.1
        assert (hip - ankle)[1] > 0.7 and np.abs((hip - ankle)[[0, 2]]).max() < 1e-9 and sign * hip[0] > 0.05
        assert sign * (elbow - shoulder)[0] > 0.2 and (hip - knee)[1] > 0.3
    assert at["head"][1] > at["neck"][1] > at["thorax"][1] > at["spine"][1] > 0
    assert motion.ends.keys() == set(range(len(rest))) - set(motion.parents)


def test_knees_and_elbows_bend_about_one_axis():
    """A thigh is turned so that the knee bends about x, and an upper arm so that the elbow bends about y."""
    rng = np.random.default_rng(0)
    poses = np.zeros((20, 17, 3))
    for joint, parent in H36M.bones:
        bones = rng.normal(size=(20, 3))
        poses[:, joint] = poses[:, parent] + 0.3 * bones / np.linalg.norm(bones, axis=-1, keepdims=True)
    motion = motion_of(Sequence("x", poses=poses, fps=1.0, up="y"))
    for name, axis in (("left_knee", 0), ("right_knee", 0), ("left_elbow", 1), ("right_elbow", 1)):
        turn = motion.turns[:, motion.names.index(name)]
        bend = np.linalg.norm(np.cross(*(poses[:, b] - poses[:, a] for a, b in _around(name))), axis=-1) / 0.09
        wobble = np.abs(turn[:, axis] - np.eye(3)[axis]).max(-1)
        assert (bend > 0.6).sum() > 5 and (wobble < 0.3)[bend > 0.6].all(), name


def _around(name):
    joint = H36M.joints.index(name)
    return (H36M.parents[joint], joint), (joint, joint + 1)


def test_lengths_that_change_are_not_summed_up(gait):
    """Each bone points to where the next joint is: a wrist is off by no more than its own bones are."""
    stretched = replace(gait, poses=(gait.poses * np.linspace(0.98, 1.02, 60)[:, None, None]).astype(np.float32))
    places = motion_of(stretched).places
    off = np.linalg.norm(bvh.of_sequence(stretched).positions()[:, -2] / 100 - y_up(stretched)[:, 16], axis=-1)
    assert places.shape == (60, 3) and off.max() < 0.02


def test_what_does_not_fit(gait):
    with pytest.raises(ValueError, match="rig is 'smpl', expected h36m or mixamo"):
        motion_of(gait, "smpl")
    with pytest.raises(ValueError, match="expected poses of Human3.6M's joints"):
        motion_of(replace(gait, poses=None))
