"""Tests of the scene, before it is drawn."""

from dataclasses import replace

import numpy as np
import pytest

from lifter.data.cameras import look_at
from lifter.data.sequence import Sequence
from lifter.render.scene import View, compose
from lifter.skeleton import MPI3DHP


def test_errors_and_places(truth, lifted):
    """A pose without a place stands where the truth is; the error is in mm, the root aside, and none where nothing is true."""
    valid = np.arange(13) != 4
    scene = compose({"one": lifted, "two": truth}, replace(truth, valid=valid))
    assert scene.errors["one"] == pytest.approx([np.nan if i == 4 else i % 2 * 10 for i in range(13)], nan_ok=True, abs=1e-4)
    assert np.nanmax(scene.errors["two"]) == 0
    np.testing.assert_allclose(scene.models["one"][::2], scene.truth[::2], atol=1e-5)
    wrist = scene.truth[1::2, 13] - scene.models["one"][1::2, 13]
    np.testing.assert_allclose(wrist, np.tile([0, 0, 0.17], (6, 1)), atol=1e-5)
    assert compose({"one": lifted}).errors == {}
    np.testing.assert_allclose(compose({"one": lifted}).models["one"][:, 0, :2], 0, atol=1e-6)  # nobody has a place


def test_the_motion_is_kept(truth):
    """Metres walked are metres in the room, or none with `root_relative`."""
    walk = np.linspace(0, 3, 13, dtype=np.float32)[:, None, None] * np.array([1, 0, 0.5], np.float32)
    walker = replace(truth, poses=truth.poses + walk)
    moved = compose({"one": walker}).models["one"][-1, 0] - compose({"one": walker}).models["one"][0, 0]
    assert moved[:2] == pytest.approx([3, 1.5], abs=1e-5)
    still = compose({"one": walker}, root_relative=True).models["one"][:, 0]
    np.testing.assert_allclose(still, np.tile(still[0], (13, 1)), atol=1e-6)


@pytest.mark.parametrize("height", [0.5, 1.6, 4.0])
def test_upright(truth, height):
    """Whatever the camera's tilt: heights are those of the world, whose ground is the floor if the feet are near it."""
    world = np.stack((truth.poses[..., 0], truth.poses[..., 2], -truth.poses[..., 1]), -1).astype(np.float64)
    world[..., 2] -= world[..., 2].min() + 0.09
    camera = look_at(np.array([0.0, 0.5, height]), np.array([0.0, 5.0, 1.0]))
    seen = Sequence("x", poses=camera.to_camera(world), camera=camera)
    in_room, of_world = (compose({"one": each}).models["one"] for each in (seen, Sequence("x", poses=world)))
    for poses in (in_room, of_world):
        np.testing.assert_allclose(poses[..., 2], world[..., 2], atol=1e-5)
    raised = Sequence("x", poses=world + [0, 0, 1])
    assert compose({"one": raised}).models["one"][..., 2].min() == 0
    y_up = Sequence("x", poses=world @ np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    turned = compose({"one": y_up}).models["one"]
    np.testing.assert_allclose(turned[..., 2], of_world[..., 2], atol=1e-5)
    left, right = of_world[:, 11], of_world[:, 14]
    sides = np.cross([0, 0, 1], left - right)  # ahead, of the person: no mirror image
    assert (np.sign(sides[:, 1]) == np.sign(np.cross([0, 0, 1], world[:, 11] - world[:, 14])[:, 1])).all()


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_view(spread):
    """All points are in the box and fill it; farther is smaller; right, up and ahead are as in the room."""
    points = np.random.default_rng(0).normal(size=(500, 3)) * spread + [3, 8, 1]
    view = View(points, (100, 50, 300, 200))
    pixels, _ = view(points)
    assert (pixels >= [99.9, 49.9]).all() and (pixels <= [400.1, 250.1]).all()
    if spread > 0.1:
        assert (np.ptp(pixels, axis=0) / [300, 200]).max() == pytest.approx(1)
    middle = view.centre
    (x, y), depth = view(middle)
    (right, _), _ = view(middle + [0.1 * spread, 0, 0])
    (_, up), _ = view(middle + [0, 0, 0.1 * spread])
    assert right > x and up < y and view(middle + [0, 0.1 * spread, 0])[1] > depth


def test_what_does_not_fit(truth, lifted):
    other = Sequence("x", MPI3DHP, poses=truth.poses)
    seen = Sequence("seen", keypoints=truth.keypoints, source="seen.json")
    for message, arguments in (
        ("no sequences", ({},)),
        ("one has 5 frames, expected 13 as the truth", ({"one": lifted.take(slice(5))}, truth)),
        ("two has 1 frames, expected 13 as one", ({"one": lifted, "two": truth.take(slice(1))},)),
        ("the keypoints has 2 frames, expected 13 as one", ({"one": lifted}, None, truth.take(slice(2)))),
        ("two has the joints of mpi3dhp, expected those of h36m as one", ({"one": lifted, "two": other},)),
        ("seen.json: seen has no poses", ({"one": seen},)),
        ("seen.json: seen has no poses", ({"one": lifted}, seen)),
        ("0 has no keypoints", ({"one": truth}, None, lifted)),
    ):
        with pytest.raises(ValueError, match=message):
            compose(*arguments)
