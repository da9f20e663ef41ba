"""Poses of a clip in a room: what is known is found again, bones and feet stay, and each step can be left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifter.data import Camera, normalise
from lifter.data.synthetic import open_gait
from lifter.geometry import recover_root
from lifter.inference.finish import (
    ANKLES,
    HEEL,
    STEPS,
    bend,
    constant_bones,
    finish,
    in_room,
    lengths_of,
    on_one_floor,
    pinned,
    sliding,
    standing,
    variation,
)

TURNED = np.radians([14.0, -9.0])  # down, and rolled


def rotation(down, roll):
    """From the room (z up) to a camera that is turned so."""
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    cos, sin = np.cos((down, roll)), np.sin((down, roll))
    turn = np.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
    return np.array([[cos[1], -sin[1], 0], [sin[1], cos[1], 0], [0, 0, 1]]) @ turn @ level


@pytest.fixture(scope="module")
def walk():
    """(T, 17, 3) in a room: somebody who goes along x, z up, whose feet stand still in turn, on the ground."""
    gait = next(iter(open_gait(1, 200, seed=1))).poses.astype(np.float64)
    points = np.stack((gait[..., 0], gait[..., 2] - 5, -gait[..., 1]), -1)
    points -= points[:, :1] * [1, 1, 0]
    low = points[:, ANKLES, 2].argmin(1)
    feet = points[:, ANKLES, :2]
    steps = [feet[t, low[t]] - feet[t + 1, low[t]] for t in range(len(points) - 1)]
    points[..., :2] += np.concatenate(([[0.0, 0.0]], np.cumsum(steps, 0)))[:, None]
    points[..., 2] += HEEL - np.median(points[:, ANKLES, 2].min(1))
    return points


def filmed(points, down=0.0, roll=0.0, focal=1000.0, name="walk"):
    """A sequence as the model gives it, poses relative to the root, of what a camera sees at a height of 1.5 m."""
    turn = rotation(down, roll)
    middle = points.reshape(-1, 3).mean(0)
    position = middle + [0, -7.0, 7.0 * np.tan(down)]
    camera = Camera(1000, 1000, focal, focal, 500, 500, rotation=turn, translation=-turn @ position)
    seen = camera.to_camera(points)
    keypoints = np.concatenate((normalise(camera.project(seen), camera.size), np.full((*points.shape[:2], 1), 0.9)), -1)
    base = next(iter(open_gait(1, 2)))
    return replace(base, name=name, keypoints=keypoints, poses=seen - seen[:, :1], camera=None, size=camera.size, fps=50.0)


def test_a_walk_before_a_turned_camera(walk):
    """With the focal length, from exact poses: the turn of the camera, distances, the ground, and feet that stand."""
    (person,), lines = finish([filmed(walk, *TURNED)], focal=1000)
    assert len(lines) == 4 and lines[1] == "focal length 1000 pixels, as said" and "a guess" in lines[2]
    up = person.camera.rotation[:, 2]
    assert np.degrees(np.arccos(up @ rotation(*TURNED)[:, 2])) < 4
    found = in_room(person).poses.astype(np.float64)
    assert (person.camera is not None, in_room(person).up, in_room(person).keypoints) == (True, "z", None)
    along = lambda points: np.linalg.norm(points[-20:, 0, :2].mean(0) - points[:20, 0, :2].mean(0))
    assert along(found) == pytest.approx(along(walk), rel=0.1)
    assert abs(np.median(found[:, ANKLES, 2].min(1)) - HEEL) < 0.02
    apart = np.linalg.norm((found - found[:, :1]) - (walk - walk[:, :1]), axis=-1)
    assert np.median(apart) < 0.08


def test_a_camera_that_is_known(walk):
    """Poses come to where they were."""
    middle = walk.reshape(-1, 3).mean(0)
    turn, position = rotation(*TURNED), middle + [1, -7, 2]
    camera = Camera(1000, 1000, 900, 900, 500, 500, rotation=turn, translation=-turn @ position)
    seen = camera.to_camera(walk)
    person = replace(filmed(walk), keypoints=normalise(camera.project(seen), camera.size), poses=seen, camera=camera)
    (found,), lines = finish([person])
    assert lines[1:3] == ["focal length 900 pixels, as the file says", "room and floor as the file's camera says"]
    assert np.median(np.linalg.norm(in_room(found).poses - walk, axis=-1)) < 0.05


def test_feet_that_stand_do_not_slide(walk):
    """With a wrong focal length and noisy depths, too; both are told in mm."""
    person = filmed(walk, *TURNED)
    noise = np.cumsum(np.random.default_rng(0).normal(0, 0.004, (len(walk), 1, 3)), 0)
    person = replace(person, poses=person.poses * (1 + noise))
    (fixed,), lines = finish([person])
    (slid,), _ = finish([person], skip=["feet"])
    stands = [standing(slid.poses.astype(np.float64), slid)]
    assert stands[0].mean() > 0.2
    before, after = (sliding([in_room(each).poses.astype(np.float64)], stands) for each in (slid, fixed))
    assert before > 0.01 > 0.003 > after
    assert lines[-1].startswith("feet that stand slid by ") and "a guess" in lines[1]


def test_bones(walk):
    """Bones get one length, left as right; poses with such bones stay as they are, others move as much as bones vary."""
    exact = walk - walk[:, :1]
    np.testing.assert_allclose(constant_bones(exact), exact, atol=1e-6)
    noisy = exact + np.random.default_rng(0).normal(0, 0.02, exact.shape)
    fixed = constant_bones(noisy)
    assert variation(noisy) > 0.05 and variation(fixed) < 1e-9
    lengths = lengths_of(fixed)[0]
    np.testing.assert_allclose(lengths[:3], lengths[3:6])  # the right leg's, the left leg's
    assert np.linalg.norm(fixed - noisy + noisy[:, :1], axis=-1).mean() < 0.05


def test_bend(walk):
    """A leg keeps its lengths and reaches its target, or as far as it goes."""
    poses = walk.copy()
    target = poses[:, 3] + [0.05, -0.02, 0.06]
    bend(poses, (1, 2, 3), target)
    np.testing.assert_allclose(poses[:, 3], target, atol=1e-6)
    np.testing.assert_allclose(lengths_of(poses), lengths_of(walk), atol=1e-6)
    bend(poses, (1, 2, 3), poses[:, 1] + [0, 0, -9])
    np.testing.assert_allclose(lengths_of(poses), lengths_of(walk), atol=1e-6)
    assert np.isfinite(poses).all()


def test_no_leg_is_stretched_to_the_floor(walk):
    """Of who leans to a side one foot is too high: the body comes down, no knee gets straight, both feet are on the floor."""
    lean = np.radians(25)
    turn = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])  # who goes along x
    poses = np.repeat((walk[:1] - walk[:1, :1]) @ turn.T + walk[:1, :1], 40, 0)
    out = pinned(poses, np.ones((40, 2), bool), 50)
    np.testing.assert_allclose(out[:, ANKLES, 2], HEEL, atol=0.005)
    for hip, knee, ankle in ((1, 2, 3), (4, 5, 6)):
        straight = [apart(each, hip, ankle) / (apart(each, hip, knee) + apart(each, knee, ankle)) for each in (poses, out)]
        assert straight[1].max() < max(0.991, straight[0].max() + 1e-6)


def apart(poses, one, other):
    return np.linalg.norm(poses[:, one] - poses[:, other], axis=-1)


def test_feet_do_not_sink(walk):
    """Between times in which feet stand, too; bones keep their lengths."""
    stands = np.zeros((len(walk), 2), bool)
    stands[:20, 0] = True
    out = pinned(walk - [0, 0, 0.1], stands, 50)
    assert out[:, ANKLES, 2].min() > HEEL - 1e-6
    np.testing.assert_allclose(lengths_of(out), lengths_of(walk), atol=1e-6)


def test_all_stand_on_one_floor():
    """People whose sizes are told wrongly are brought to the same floor; who is on a roof, or never stands, stays."""
    down = (1.6, 1.3, 0.4, -0.5, 1.5)  # of the feet, below the camera
    poses = [np.zeros((20, 17, 3)) for _ in down]
    for each, y in zip(poses, down):
        each[:, ANKLES] = 0, y, 4
    stands = [np.ones((20, 2), bool)] * 4 + [np.zeros((20, 2), bool)]
    sizes = on_one_floor(poses, stands, np.array([0.0, -1.0, 0.0]))
    assert abs(sizes[0] * down[0] - sizes[1] * down[1]) < 0.05 and sizes[0] < 1 < sizes[1]
    np.testing.assert_array_equal(sizes[2:], 1)
    np.testing.assert_array_equal(on_one_floor(poses[:1], stands[:1], np.array([0.0, -1.0, 0.0])), 1)


def test_several_people_share_a_room(walk):
    """One is behind the other, as far as they were apart."""
    both = np.concatenate((walk, walk + [0.5, 2.0, 0]), 1)
    turn, middle = rotation(*TURNED), both.reshape(-1, 3).mean(0)
    position = middle + [0, -8.0, 8.0 * np.tan(TURNED[0])]
    camera = Camera(1000, 1000, 1000, 1000, 500, 500, rotation=turn, translation=-turn @ position)
    people = []
    for number, points in enumerate(np.split(both, 2, 1)):
        seen = camera.to_camera(points)
        keypoints = normalise(camera.project(seen), camera.size)
        one = filmed(walk, name=f"walk/person{number + 1}")
        people.append(replace(one, keypoints=keypoints, poses=seen - seen[:, :1]))
    first, second = (in_room(person).poses for person in finish(people, focal=1000)[0])
    apart = np.median(second[:, 0] - first[:, 0], axis=0)
    np.testing.assert_allclose(apart, [0.5, 2.0, 0], atol=0.25)


def test_steps(walk):
    person = filmed(walk)
    lines = finish([person])[1]
    assert len(lines) == len(STEPS) and len(finish([person], ["bones"])[1]) == 3 and len(finish([person], ["feet"])[1]) == 3
    assert "rolled by 0 degrees, as said" in finish([person], ["floor"])[1][2]
    (same,), none = finish([person], STEPS)
    assert none == [] and same.camera is None
    np.testing.assert_allclose(same.poses, person.poses, atol=1e-6)
    (one,), lines = finish([person.take(slice(0, 1))])
    assert one.poses.shape == (1, 17, 3) and np.isfinite(one.poses).all()
    with pytest.raises(ValueError, match="skip is cat, expected bones or place or floor or feet"):
        finish([person], ["cat"])
    with pytest.raises(ValueError, match="walk: expected keypoints and poses"):
        finish([replace(person, keypoints=None)])


def test_weights_of_recover_root(walk):
    """A joint of no weight does not count; equal weights are as none."""
    person = filmed(walk)
    camera = torch.tensor([2.0, 2.0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    poses, keypoints = (torch.from_numpy(x.astype(np.float64))[None] for x in (person.poses, person.keypoints[..., :2]))
    exact = recover_root(poses, keypoints, camera)
    torch.testing.assert_close(recover_root(poses, keypoints, camera, torch.full(keypoints.shape[:3], 0.3)), exact)
    wrong, weights = keypoints.clone(), torch.ones(keypoints.shape[:3], dtype=torch.float64)
    wrong[:, :, 16] += 0.3
    weights[:, :, 16] = 0
    torch.testing.assert_close(recover_root(poses, wrong, camera, weights), exact, atol=2e-3, rtol=0)
    assert (recover_root(poses, wrong, camera) - exact).abs().max() > 0.1
