"""Films: motion capture by other bodies, seen by any camera, found by any detector."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifter.data import Camera, Dataset, Sequence
from lifter.data import cameras as pinhole
from lifter.data.films import Bodies, Cameras, Detectors, Films, Motions
from lifter.data.films.detectors import HABITS, filled
from lifter.data.films.draw import Draw
from lifter.data.films.faces import FLIP, POINTS, with_face
from lifter.data.films.mixing import mixed
from lifter.data.keypoints import fill, to_h36m
from lifter.data.synthetic import open_gait
from lifter.skeleton import H36M

EXACT = Detectors(noise=(1e-9, 1e-9), defined=0, hidden=0, swapped=0, thrown=0, sure=1, habits={"h36m": 1})
FIRST = torch.zeros(64, dtype=torch.long)  # the first habit for each clip
JOINT, PARENT = (list(side) for side in zip(*H36M.bones))


@pytest.fixture(scope="module")
def people():
    """Three people who walk in the world, of 90, 60 and 20 frames."""
    items = {}
    for name, frames, gait in zip(("S1/a", "S2/a", "S3/a"), (90, 60, 20), open_gait(3, 90)):
        x, y, z = np.moveaxis(gait.poses[:frames], -1, 0)
        motion = Sequence(name, poses=np.stack((x, z, 1 - y), -1), fps=50)
        items[name] = lambda motion=motion: motion
    return Dataset("motions", "people", items)


@pytest.fixture(scope="module")
def world(people):
    return Motions(people).clips(Draw(64, 0), 27, (25, 100))[0]


def test_a_batch_follows_from_its_number(people):
    films, again = (Films(people, 27, 8, seeds=(3,)) for _ in range(2))
    films[0]
    keypoints, poses = films[5]
    assert keypoints.shape == (8, 27, 17, 3) and poses.shape == (8, 27, 17, 3)
    assert keypoints.isfinite().all() and poses.isfinite().all() and (poses[:, :, 0] == 0).all()
    assert ((keypoints[..., 2] >= 0) & (keypoints[..., 2] <= 1)).all()
    for one, other in zip((keypoints, poses), again[5]):
        assert torch.equal(one, other)
    assert not torch.equal(films[6][1], poses) and not torch.equal(Films(people, 27, 8, seeds=(4,))[5][1], poses)


def test_what_exact_detectors_find(people):
    """Keypoints are where a camera sees the poses: from afar they are these but for their size, x right and y down."""
    afar = Cameras(distance=(40.0, 41.0), fov=(30.0, 30.1), distortion=0.0, following=0.0, moving=0.0, shaking=0.0)
    keypoints, poses = Films(people, 27, 64, cameras=afar, detectors=EXACT, centred=False)[0]
    assert (keypoints[..., 2] == 1).float().mean() > 0.9  # the others are out of the image
    expected = poses[..., :2] / (40.5 * np.tan(np.radians(15)))
    error = (keypoints[..., :2] - keypoints[:, :, :1, :2] - expected)[keypoints[..., 2] == 1].abs()
    assert error.mean() < 0.1 * expected.abs().mean()


def test_cameras(world):
    """Within their ranges, and what they see is what `lifter.data.Camera` sees."""
    kind = Cameras(height=(0.5, 3.0), pitch=(-10.0, 25.0), roll=(10.0, 20.0), distortion=0.0, shaking=0.0, moving=0.0)
    shots = kind(Draw(64, 1), world)
    identity = shots.rotation @ shots.rotation.mT
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
    assert torch.allclose(torch.linalg.det(shots.rotation), torch.tensor(1.0), atol=1e-5)
    floor = world[..., 2].flatten(1).amin(1) - 0.05
    height = shots.position[:, 0, 2] - floor
    assert (height > 0.49).all() and (height < 3.01).all() and height.std() > 0.5
    pitch = torch.asin((-shots.rotation[:, :, 2, 2]).clamp(-1, 1)).rad2deg()
    assert pitch.min() > -10.1 and pitch.max() < 25.1 and pitch.std() > 5
    roll = torch.asin((shots.rotation[:, :, 0, 2] / pitch.deg2rad().cos()).clamp(-1, 1)).rad2deg()
    assert 5 < roll.std() < 12 and roll.abs().max() < 20.1
    found = shots.project(shots.to_camera(world))
    assert shots.inside(found).float().mean() > 0.9
    for i in (0, 17):
        width, height = 1000.0, 1000.0 * shots.height[i].item()
        focal = width / 2 / shots.half_width[i].item()
        rotation = shots.rotation[i, 0].double().numpy()
        position = shots.position[i, 0].double().numpy()
        camera = Camera(width, height, focal, focal, width / 2, height / 2, rotation, -rotation @ position)
        expected = camera.project(camera.to_camera(world[i, 0].double().numpy()))
        np.testing.assert_allclose(found[i, 0], pinhole.normalise(expected, camera.size), atol=1e-4)


def test_cameras_that_move(world):
    """Some turn after the person, some go along, the others stand still."""
    share = lambda **kind: Cameras(**({"shaking": 0.0, "following": 0.0, "moving": 0.0} | kind))(Draw(64, 2), world)
    moves = lambda x: (x - x[:, :1]).flatten(1).abs().amax(1) > 1e-4
    still, follow, along, shake = share(), share(following=1.0), share(moving=1.0), share(shaking=1.0)
    assert not moves(still.rotation).any() and not moves(still.position).any()
    assert moves(follow.rotation).any() and not moves(follow.position).any()
    assert moves(along.position).any()
    assert moves(shake.rotation).all() and not moves(shake.position).any()


def test_bodies(world, people):
    """Bones point where they did, have one length each, left as right; the lowest joint is as high as it was."""
    bones = Motions(people).bones
    own = (world[:, :, JOINT] - world[:, :, PARENT]).norm(dim=-1).mean(1)
    other = Bodies()(Draw(64, 3), world, bones)
    before, after = (x[:, :, JOINT] - x[:, :, PARENT] for x in (world, other))
    lengths = after.norm(dim=-1)
    cosine = (before * after).sum(-1) / before.norm(dim=-1) / lengths
    assert (cosine > 0.999).all()
    left, right = ([JOINT.index(joint) for joint in side] for side in (H36M.left, H36M.right))
    torch.testing.assert_close(lengths.mean(1)[:, left], lengths.mean(1)[:, right], rtol=0.02, atol=0)
    assert 0.05 < (lengths.mean(1) / own).log().std() < 0.2
    torch.testing.assert_close(other[..., 2].flatten(1).amin(1), world[..., 2].flatten(1).amin(1), atol=1e-4, rtol=0)
    same = Bodies(mixed=0.0, each=0.0, size=0.0)(Draw(64, 3), world, bones)
    torch.testing.assert_close(same, world, atol=1e-3, rtol=0)  # the gait's own sides are alike


def test_upper_bodies_of_others(world):
    """The legs stay, the rest is that of the clip before, as its hips see it; not of clips that do not stay upright."""
    lying = world.clone()
    lying[7] = lying[7].roll(1, -1)
    out = mixed(Draw(64, 0), lying, 1.0)
    assert torch.equal(out[:, :, :7], lying[:, :, :7]) and torch.equal(out[7:9], lying[7:9])
    rest = torch.ones(64, dtype=torch.bool)
    rest[7:9] = False
    pelvis = lambda poses: poses[:, :, 7:] - poses[:, :, :1]
    now, before = pelvis(out)[rest], pelvis(lying.roll(1, 0))[rest]
    torch.testing.assert_close(now.norm(dim=-1), before.norm(dim=-1), atol=1e-5, rtol=0)
    across = lambda poses: (poses[:, :, 4] - poses[:, :, 1])[:, :, None, :2]
    along = lambda upper, hips: (upper[..., :2] * hips / hips.norm(dim=-1, keepdim=True)).sum(-1)
    sideways = along(now, across(lying)[rest]), along(before, across(lying.roll(1, 0))[rest])
    torch.testing.assert_close(*sideways, atol=1e-4, rtol=0)
    assert torch.equal(mixed(Draw(64, 0), lying, 0.0), lying)


def test_frame_rates():
    """A point on a straight way goes as far in a second, however many frames that is; a short motion runs back."""
    way = np.zeros((101, 17, 3), np.float32)
    way[..., 0] = np.arange(101)[:, None] / 50  # 1 m/s
    way[..., 1] = np.linspace(0, 0.1, 17)
    motions = Motions(Dataset("", "", {"a": lambda: Sequence("a", poses=way, fps=50)}))
    clips, chosen = motions.clips(Draw(32, 0), 21, (25, 100))
    steps = clips[:, :, 0, 0].diff(dim=1)
    assert (steps[:, 1:-1] - steps[:, 1:2]).abs().max() < 1e-4 and (chosen == 0).all()
    assert steps.amax() < 1 / 24 and steps[:, 2].amin() > 1 / 101 and steps[:, 2].std() > 0.005
    long, _ = motions.clips(Draw(4, 0), 301, (50, 50))
    torch.testing.assert_close(long[:, :101, 0, 0], long[:, 200:, 0, 0], atol=1e-3, rtol=0)
    torch.testing.assert_close(long[:, :101, 0, 0], long[:, 100:201, 0, 0].flip(1), atol=1e-3, rtol=0)


def test_weights(people):
    """Motions count by their seconds, or as is said."""
    chosen = Motions(people).clips(Draw(4000, 0), 2, (50, 50))[1].bincount(minlength=3) / 4000
    torch.testing.assert_close(chosen, torch.tensor([90.0, 60, 20]) / 170, atol=0.05, rtol=0)
    chosen = Motions(people, {"S1/*": 0.0, "S2/*": 0.5}).clips(Draw(4000, 0), 2, (50, 50))[1].bincount(minlength=3) / 4000
    torch.testing.assert_close(chosen, torch.tensor([0.0, 30, 20]) / 50, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "kind, match",
    [
        (lambda people: Films(people, frames=0), "Films: frames is 0, expected a number of at least 1"),
        (lambda people: Films(people, fps=25), "Films: fps is 25, expected two numbers from 1 on, the smaller one first"),
        (lambda people: Films(people, fps=(60, 30)), "Films: fps is .60, 30., expected two numbers"),
        (lambda people: Films(people, mixed=2), "Films: mixed is 2, expected a number of at least 0 and at most 1"),
        (lambda people: Films(people, weights={"S1/*": -1}), "weights: S1/. is -1, expected a number of at least 0"),
        (lambda people: Films(people, weights={"*": 0}), "by which no motion of people counts"),
        (lambda people: Cameras(fov=(35, 200)), "Cameras: fov is .35, 200., expected two numbers from 1 to 170"),
        (lambda people: Cameras(following="yes"), "Cameras: following is 'yes', expected a number"),
        (lambda people: Bodies(size=-0.1), "Bodies: size is -0.1"),
        (lambda people: Detectors(noise=(0, 0.1)), "Detectors: noise is .0, 0.1."),
        (lambda people: Detectors(habits={"openpose": 1}), "habits is .'openpose': 1., expected weights of h36m, mmpose"),
    ],
)
def test_options(people, kind, match):
    with pytest.raises(ValueError, match=match):
        kind(people)


def test_errors(people):
    for match, change in (("without a camera", {"camera": Camera(9, 9, 9, 9, 5, 5)}), ("frames per second", {"fps": None})):
        motion = replace(people["S1/a"], **change)
        with pytest.raises(ValueError, match=match):
            Motions(Dataset("", "", {"a": lambda motion=motion: motion}))


def test_the_face(world):
    """Nose and eyes are before the head, the left eye on the left side; `FLIP` exchanges the sides."""
    points = with_face(Draw(64, 0), world, turned=0.0)
    at = lambda name: points[:, :, POINTS.index(name)]
    left = at("left_shoulder") - at("right_shoulder")
    for part in ("eye", "ear"):
        assert (((at(f"left_{part}") - at(f"right_{part}")) * left).sum(-1) > 0).all()
    up = at("head") - at("neck")
    ahead = torch.linalg.cross(left, up)
    assert (((at("nose") - at("neck")) * ahead).sum(-1) > 0).all()
    assert [POINTS[i] for i in FLIP] == [
        name.replace("left", "?").replace("right", "left").replace("?", "right") for name in POINTS
    ]


def exact_points(clips=64, frames=27):
    draw = Draw(clips, 9)
    return 0.2 * draw.normal(1, len(POINTS), 2) + 0.02 * draw.slow(frames, 6, 1, 2), torch.ones(clips, frames, len(POINTS)) > 0


def test_noise_and_confidence():
    """Noise is as large as told, and slow in part; the worse a joint is found the less sure is the detector."""
    exact, inside = exact_points()
    find = lambda **kind: replace(EXACT, **kind).find(Draw(64, 1), exact, inside, FIRST)
    size = (exact - exact[:, :, :1]).norm(dim=-1).amax(2).mean(1)[:, None, None]
    assert (find()[..., :2] - exact[:, :, :17]).abs().max() < 1e-6 and (find()[..., 2] == 1).all()
    error = (find(noise=(0.01, 0.01), sure=0.0)[..., :2] - exact[:, :, :17]) / size[..., None]
    hips, wrists = error[:, :, [0]].square().mean().sqrt(), error[:, :, [13, 16]].square().mean().sqrt()
    assert 0.006 < hips < 0.014 and 1.4 < wrists / hips < 1.8
    slow = (error[:, 1:] * error[:, :-1]).mean() / error.square().mean()
    assert 0.4 < slow < 0.9
    found = find(noise=(0.02, 0.02), hidden=0.3, sure=0.0)
    there = found[..., 2] > 0
    assert 0.02 < 1 - there.float().mean() < 0.2
    error = ((found[..., :2] - exact[:, :, :17]).norm(dim=-1) / size)[there]
    assert torch.corrcoef(torch.stack((error, found[..., 2][there])))[0, 1] < -0.3


def test_exchanged_sides():
    exact, inside = exact_points()
    found = replace(EXACT, swapped=1.0).find(Draw(64, 1), exact, inside, FIRST)[..., :2]
    joints = torch.tensor(H36M.left)
    mirrored = exact[:, :, list(FLIP)][:, :, :17]
    swapped = ((found - mirrored)[:, :, joints].abs().amax(-1) < 1e-6).float().mean((0, 1))
    kept = ((found - exact[:, :, :17])[:, :, joints].abs().amax(-1) < 1e-6).float().mean((0, 1))
    assert torch.allclose(swapped + kept, torch.ones(6)) and (swapped > 0.05).all() and (swapped < 0.4).all()


@pytest.mark.parametrize("habit", ["mmpose", "mhformer", "motionbert"])
def test_habits(habit):
    """The conversions are those that a detector's files go through."""
    exact, inside = exact_points(2)
    found = replace(EXACT, habits={habit: 1.0}).find(Draw(2, 1), exact, inside, FIRST[:2])[..., :2]
    at = {name: exact[:, :, i] for i, name in enumerate(POINTS)}
    coco = exact[:, :, [*range(17, 22), 11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3]]
    if habit == "motionbert":
        for joint in ("thorax", "pelvis"):
            assert torch.allclose(found[:, :, H36M.joints.index(joint)], at[joint], atol=1e-5)
    else:
        expected = to_h36m(coco.flatten(0, 1).numpy(), "coco", habit)
        np.testing.assert_allclose(found.flatten(0, 1), expected, atol=1e-5)
    assert torch.allclose(found[:, :, 9], at["nose"], atol=1e-5) == (habit != "mhformer")


@pytest.mark.parametrize("habit", HABITS)
def test_targets_are_the_joints_that_are_marked(people, habit):
    """Without noise the keypoints are where the camera sees the targets; "mhformer" estimates motion capture's."""
    films = Films(people, 27, 32, mixed=0, detectors=replace(EXACT, habits={habit: 1.0}), cameras=Cameras(distortion=0.0))
    keypoints, poses = films[0]
    draw = Draw(8, 2)
    points = with_face(draw, 0.3 * draw.normal(27, 17, 3))
    targets = films.detectors.targets(points, FIRST[:8])
    if habit in ("h36m", "mhformer"):
        assert torch.equal(targets, points[:, :, :17])
    else:
        found = films.detectors.find(draw, points[..., :2], torch.ones(8, 27, len(POINTS)) > 0, FIRST[:8])
        assert torch.allclose(found[..., :2], targets[..., :2], atol=1e-5)
        assert not torch.allclose(targets[:, :, 9], points[:, :, 9], atol=0.01)
    assert keypoints.isfinite().all() and (poses[:, :, 0] == 0).all()


def test_out_of_the_image():
    """Less sure, or not found at all, and no joint is where nothing is known of it."""
    exact, inside = exact_points()
    inside[:, :, [3, 6]] = False
    found = replace(EXACT, sure=0.0).find(Draw(64, 1), exact, inside, FIRST)
    feet, rest = found[:, :, [3, 6], 2], found[:, :, [0, 1, 2, 4, 5], 2]
    assert feet.mean() < 0.3 * rest.mean() and (feet == 0).any() and (feet > 0).any() and found.isfinite().all()


def test_filled():
    """Gaps are filled as by `lifter.data.keypoints.fill`, clip by clip: between, before and after, and never there."""
    draw = Draw(6, 4)
    keypoints = torch.cat((draw.normal(12, 17, 2), draw.share(12, 17, 1).clamp(min=0.1)), -1)
    keypoints[..., 2][draw.chance(0.4, 12, 17)] = 0
    keypoints[0, :, 3, 2] = keypoints[1, :, [1, 2, 3], 2] = 0
    for one, clip in zip(filled(keypoints), keypoints):
        np.testing.assert_allclose(one, fill(clip.double().numpy()), atol=1e-5)
