"""Poses of models of centred clips, turned to where the person is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifter.data import Camera, Dataset, normalise
from lifter.data.synthetic import open_gait
from lifter.geometry import towards
from lifter.inference.facing import directions, directions_for, faced
from lifter.inference.finish import finish
from lifter.metrics.protocols import evaluate_model
from lifter.models import LinearLifter

CAMERA = Camera(1280, 720, 900.0, 880.0, 600.0, 380.0, distortion=np.array([0.05, -0.02, 0.0, 0.001, -0.001]))


@pytest.fixture(scope="module")
def aside():
    """A walk up to 40 degrees beside the optical axis, with its keypoints, poses in the camera, and its places."""
    gait = next(iter(open_gait(1, 60, seed=2)))
    time = np.linspace(-1, 1, len(gait))[:, None]
    places = np.concatenate((3.0 * time, 0.3 + 0 * time, 4.0 + 0 * time), 1)
    poses = gait.rooted().astype(np.float64)
    seen = poses + places[:, None]
    keypoints = normalise(CAMERA.project(seen), CAMERA.size)
    return replace(gait, keypoints=keypoints, poses=seen, camera=CAMERA, size=CAMERA.size, fps=50.0)


class Centred(LinearLifter):
    """The right poses, as a camera sees them that looks straight at the root."""

    centred = True

    def __init__(self, sequence):
        super().__init__(len(sequence))
        poses = torch.from_numpy(sequence.rooted())
        self.poses = torch.einsum("tji,tpj->tpi", towards(torch.from_numpy(sequence.poses[:, 0])), poses).float()

    def forward(self, keypoints):
        return self.poses.expand(*keypoints.shape[:-1], 3)


def test_towards():
    directions = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions[:, 2] = directions[:, 2].abs()
    turns = towards(directions)
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(turns @ turns.mT, identity.expand_as(turns))
    torch.testing.assert_close(turns[:, :, 2], directions / directions.norm(dim=-1, keepdim=True))
    across = torch.linalg.cross(identity[2].expand_as(directions), directions)  # the axis of the shortest way
    torch.testing.assert_close((turns @ across[..., None])[..., 0], across)
    torch.testing.assert_close(towards(torch.tensor([0.0, 0.0, 2.0])), torch.eye(3))


def test_the_root_is_in_these_directions(aside):
    found = directions(aside.keypoints, CAMERA)
    expected = torch.from_numpy(aside.poses[:, 0] / aside.poses[:, 0, 2:]).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with_confidence = np.concatenate((aside.keypoints, np.ones((60, 17, 1))), -1)
    assert torch.equal(directions(with_confidence, CAMERA), found)


def test_poses_are_turned_back(aside):
    poses = Centred(aside).poses
    wrong = (poses - torch.from_numpy(aside.rooted())).norm(dim=-1).mean()
    right = (faced(poses, directions(aside.keypoints, CAMERA)) - torch.from_numpy(aside.rooted())).norm(dim=-1).mean()
    assert wrong > 0.05 and right < 1e-5
    assert faced(poses, None) is poses


def test_which_poses_are_turned(aside):
    """Those of models of centred clips, where the camera is known."""
    model = Centred(aside).eval()
    assert torch.equal(directions_for(model, aside), directions(aside.keypoints, CAMERA))
    assert directions_for(model, replace(aside, camera=None)) is None
    assert directions_for(LinearLifter(60), aside) is None


def test_evaluation_and_finishing_turn_them(aside):
    model = Centred(aside).eval()
    data = Dataset("gait", "gait", {aside.name: lambda: aside})
    (result,) = evaluate_model(model, data, flip=None)
    assert result.metrics["MPJPE"] < 0.01
    given = replace(aside, poses=model.poses.numpy(), camera=None)
    options = {"focal": 900.0, "skip": ("bones", "floor", "feet")}
    error = lambda people: np.linalg.norm(people[0].rooted() - aside.rooted(), axis=-1).mean()
    turned, plain = (error(finish([given], centred=centred, **options)[0]) for centred in (True, False))
    assert turned < 0.2 * plain
