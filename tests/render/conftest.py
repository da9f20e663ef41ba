"""Fixtures of the tests of films and of the viewer."""

from dataclasses import replace

import pytest

from lifter.data.synthetic import open_gait


@pytest.fixture(scope="session")
def truth():
    """Somebody who walks on the spot, 5 m before the camera."""
    return open_gait(clips=1, frames=13, seed=3)["0"]


@pytest.fixture(scope="session")
def lifted(truth):
    """The same as a model gives it: relative to the root, the left wrist 170 mm too low in every second frame."""
    poses = truth.rooted()
    poses[1::2, 13, 1] += 0.17
    return replace(truth, poses=poses, keypoints=None, camera=None)
