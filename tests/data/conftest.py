"""Fixtures of the tests of the readers."""

import json

import numpy as np
import pytest

from lifter.data.cameras import Camera
from lifter.data.sequence import FRAMEWISE


def save_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def objects(items):
    """A one-dimensional array of Python objects, as numpy makes of sequences of different lengths."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def assert_same(one, other, tolerance=0.0):
    """Two sequences hold the same, whatever their source."""
    for name in ("name", "subject", "action", "fps", "size", "start", "skeleton"):
        assert getattr(one, name) == getattr(other, name), name
    for name in FRAMEWISE:
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_allclose(left, right, rtol=0, atol=tolerance, err_msg=name)
    cameras = [camera.as_dict() if isinstance(camera, Camera) else None for camera in (one.camera, other.camera)]
    assert cameras[0] == cameras[1]


@pytest.fixture
def rng():
    return np.random.default_rng(0)
