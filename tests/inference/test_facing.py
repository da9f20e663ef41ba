"""Poses of models of centred clips, turned to where the person is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifter.data import Camera, Dataset, normalise
from lifter.data.synthetic import open_gait
from lifter.geometry import towards
from lifter.inference.clip import STEPS, lift_people
from lifter.inference.facing import faced
from lifter.inference.windows import lift_sequence
from lifter.metrics.protocols import evaluate_model
from lifter.models import LinearLifter

CAMERA = Camera(1280, 720, 900.0, 880.0, 600.0, 380.0, distortion=np.array([0.05, -0.02, 0.0, 0.001, -0.001]))


@pytest.fixture(scope="module")
def aside():
    """A walk up to 40 degrees beside the optical axis, with its keypoints, and poses in the camera."""
    gait = next(iter(open_gait(1, 60, seed=2)))
    time = np.linspace(-1, 1, len(gait))[:, None]
    places = np.concatenate((3.0 * time, 0.3 + 0 * time, 4.0 + 0 * time), 1)
    poses = gait.rooted().astype(np.float64)
    seen = poses + places[:, None]
    keypoints = normalise(CAMERA.project(seen), CAMERA.size)
    return replace(gait, keypoints=keypoints, poses=seen, camera=CAMERA, size=CAMERA.size, fps=50.0)


class Centred(LinearLifter):
    """The right poses of the clip's first frames, as a camera sees them that looks straight at the root's mean place."""

    centred = True

    def __init__(self, sequence, frames):
        super().__init__(frames)
        ahead = torch.from_numpy(sequence.poses[:frames, 0] / sequence.poses[:frames, 0, 2:]).mean(0)
        self.poses = torch.from_numpy(sequence.rooted())[:frames] @ towards(ahead)

    def forward(self, keypoints):
        return self.poses.expand(len(keypoints), *self.poses.shape)


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


def test_poses_are_turned_to_the_person(aside):
    """Exactly, but for the mean of the places in the image, which is not that of the room's."""
    first = aside.take(slice(0, 20))
    model = Centred(aside, 20).eval()
    given = torch.from_numpy(first.keypoints)
    error = lambda poses, truth: (poses - torch.from_numpy(truth.rooted())).norm(dim=-1).mean().item()
    assert error(faced(model.poses, given, CAMERA), first) < 1e-3
    with_confidence = torch.cat((given, torch.ones(20, 17, 1)), -1)
    assert torch.equal(faced(model.poses, with_confidence, CAMERA), faced(model.poses, given, CAMERA))
    plain, turned = (lift_sequence(model, first.keypoints, flip=None, camera=camera) for camera in (None, CAMERA))
    assert error(plain, first) > 0.05 and error(turned, first) < 1e-3


def test_other_models_know_where_the_person_is(aside):
    model = Centred(aside, 60).eval()
    model.centred = False
    poses = lift_sequence(model, aside.keypoints, flip=None, camera=CAMERA)
    assert torch.equal(poses, model.poses)


def test_each_window_has_a_direction_of_its_own(aside):
    """A person who walks by is seen in one direction after another."""
    still = Centred(aside, 10).eval()
    still.poses = torch.tensor([0.0, 0.0, 1.0]).expand(10, 17, 3)
    poses = lift_sequence(still, aside.keypoints, flip=None, camera=CAMERA)[::10, 0]
    places = torch.from_numpy(aside.poses[:, 0] / aside.poses[:, 0, 2:]).unflatten(0, (6, 10)).mean(1)
    torch.testing.assert_close(poses, places / places.norm(dim=-1, keepdim=True), atol=1e-3, rtol=0)


def test_evaluation_and_lifting_turn_them(aside):
    first = aside.take(slice(0, 20))
    model = Centred(first, 20).eval()
    (result,) = evaluate_model(model, Dataset("gait", "gait", {first.name: lambda: first}), flip=None)
    assert result.metrics["MPJPE"] < 1
    unknown = replace(first, poses=None, camera=None)
    error = lambda people: np.linalg.norm(people[0].rooted() - first.rooted(), axis=-1).mean()
    lifted = lambda skip: error(lift_people(model, [unknown], flip=False, stride=20, focal=890.0, skip=skip))
    raw, placed = lifted(STEPS), lifted([step for step in STEPS if step != "place"])
    assert raw > 0.05 and placed < 0.2 * raw
