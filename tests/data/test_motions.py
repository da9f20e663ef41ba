"""Motion capture in the world as npz, in one file or in a folder of them."""

import numpy as np
import pytest

from lifter.data import detect, open_data
from lifter.data.mocap import film, middle
from lifter.skeleton import H36M


def write(path, **clips):
    arrays = {f"{name.replace('_', '/', 1)}": value for name, value in clips.items()}
    np.savez(path, joint_names=np.array(H36M.joints), parents=np.array(H36M.parents), fps=50.0, **arrays)


def test_files_and_folders(tmp_path, rng):
    motion = rng.random((100, 17, 3)).astype(np.float32)
    write(tmp_path / "a.npz", s1_walk=motion)
    write(tmp_path / "b.npz", s2_run=motion[:30], s2_jump=motion[:40])
    np.savez(tmp_path / "bodies.npz", lengths=np.ones(3))
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04")
    assert detect(tmp_path / "a.npz") == detect(tmp_path) == "motions"
    walk = open_data(tmp_path / "a.npz")["s1/walk"]
    assert np.array_equal(walk.poses, motion) and (walk.fps, walk.subject, walk.action, walk.up) == (50, "s1", "walk", "z")
    assert open_data(str(tmp_path)).names == ["s1/walk", "s2/run", "s2/jump"]
    write(tmp_path / "c.npz", s1_walk=motion)
    with pytest.raises(ValueError, match="c.npz: s1/walk is in another file of"):
        open_data(tmp_path)


def test_wrong_shapes(tmp_path):
    write(tmp_path / "a.npz", s1_walk=np.zeros((4, 16, 3)))
    with pytest.raises(ValueError, match="a.npz: s1/walk: shape .4, 16, 3., expected .n, 17, 3."):
        open_data(tmp_path / "a.npz")["s1/walk"]


def test_the_middle(tmp_path, rng):
    motion = rng.random((100, 17, 3)).astype(np.float32)
    write(tmp_path / "a.npz", s1_walk=motion, s1_hop=motion[:20])
    cut = middle(open_data(tmp_path / "a.npz"), 0.5)
    assert np.array_equal(cut["s1/walk"].poses, motion[37:63])
    assert np.array_equal(cut["s1/hop"].poses, motion[:20])


def test_cameras_that_look_down_and_are_rolled(tmp_path, rng):
    """The camera looks down and is rolled as told; the middle of the motion is in the middle of the image."""
    write(tmp_path / "a.npz", s1_walk=1 + 0.3 * rng.random((10, 17, 3)))
    motions = open_data(tmp_path / "a.npz")
    middle_of = motions["s1/walk"].poses.reshape(-1, 3).mean(0)
    for sequence in film(motions, pitch=25.0, roll=20.0):
        right, down, forward = sequence.camera.rotation
        assert np.degrees(np.arcsin(-forward[2])) == pytest.approx(25, abs=1e-3)
        assert np.degrees(np.arctan2(right[2], -down[2])) == pytest.approx(-20, abs=1e-3)
        seen = sequence.camera.project(sequence.camera.to_camera(middle_of[None].astype(np.float64)))
        np.testing.assert_allclose(seen[0], (sequence.camera.cx, sequence.camera.cy), atol=0.01)
        np.testing.assert_allclose(sequence.poses, sequence.camera.to_camera(motions["s1/walk"].poses), atol=1e-5)
