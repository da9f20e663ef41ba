"""BVH files read by us and by bvhio, a package that knows nothing of ours: every joint is in the same place."""

from dataclasses import replace

import numpy as np
import pytest

from lifter.data import Sequence
from lifter.data.formats import bvh
from lifter.data.mocap import upright
from lifter.skeleton import H36M

bvhio = pytest.importorskip("bvhio", reason="bvhio, the independent reader, is not installed")

ORDERS = ("ZXY", "XYZ", "YZX", "ZYX")  # of the channels, one for each joint


def places(path, frames, names=None):
    """(T, J, 3) of the joints, or of these, by bvhio, without end sites, which it does not count."""
    root = bvhio.readAsHierarchy(str(path))
    result = []
    for frame in range(frames):
        root.loadPose(frame)
        at = {joint.Name: [*joint.PositionWorld] for joint, _, _ in root.layout()}
        result.append([at[name] for name in names or at])
    return np.array(result)


def write_chain(path, positions):
    """Four joints in a chain with channels in different orders; with `positions` all of them have some."""
    rng = np.random.default_rng(0)
    rotations = [tuple(f"{axis}rotation" for axis in order) for order in ORDERS]
    moving = ("Xposition", "Yposition", "Zposition")
    channels = [(*moving, *turns) if positions or not joint else turns for joint, turns in enumerate(rotations)]
    motion = rng.uniform(-80, 80, (3, sum(map(len, channels))))
    names, parents = ("a", "b", "c", "d", "d_end"), (-1, 0, 1, 2, 3)
    chain = bvh.Bvh(names, parents, rng.uniform(-30, 30, (5, 3)), (*channels, ()), motion, 0.04)
    bvh.write(path, chain)


@pytest.mark.parametrize("positions", [False, True])
def test_kinematics(tmp_path, positions):
    """Position channels replace OFFSET, of the root as of others, and turns are in the order of the channels."""
    write_chain(tmp_path / "x.bvh", positions)
    ours = bvh.read(tmp_path / "x.bvh").positions()[:, :4]
    np.testing.assert_allclose(ours, places(tmp_path / "x.bvh", 3), atol=1e-3)


def test_what_we_write(tmp_path):
    """A pose that is moved along is there again, in centimetres, y up."""
    rng = np.random.default_rng(0)
    still = Sequence("walk", poses=np.cumsum(rng.uniform(0.02, 0.2, (17, 3)), 0)[None].repeat(4, 0), fps=25.0)
    moving = replace(still, poses=still.poses + np.linspace(0, 1, 4, dtype=np.float32)[:, None, None])
    bvh.write_sequence(tmp_path / "walk.bvh", moving)
    found = upright(places(tmp_path / "walk.bvh", 4, H36M.joints), "y") / 100
    np.testing.assert_allclose(found, moving.poses, atol=1e-3)
