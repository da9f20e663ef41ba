"""Sequences, sets of them, windows, and lifter's own file."""

import json
import multiprocessing
import tracemalloc
import zipfile
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifter.data import Camera, Dataset, Sequence, open_data, save, windows
from lifter.data.cameras import look_at
from lifter.skeleton import H36M, MPI3DHP, PW3D, SKELETONS

from .conftest import assert_same


def full(name="S1/Walking/0", frames=5, skeleton=H36M, seed=0):
    """A sequence with all that a sequence can have."""
    rng = np.random.default_rng(seed)
    draw = lambda channels: rng.normal(size=(frames, skeleton.num_joints, channels))
    camera = replace(look_at((3.0, 2, 1), (0.0, 0, 1)), distortion=(0.1, -0.2, 0.3, 0.01, 0.02), id="a")
    return Sequence(
        name, skeleton, keypoints=draw(3), keypoints_true=draw(2), poses=draw(3), estimates=draw(3), image_poses=draw(3),
        factor=rng.uniform(1, 2, frames), valid=rng.random(frames) < 0.5, fps=50.0, camera=camera, subject="S1",
        action="Walking", start=7, source="somewhere",
    )  # fmt: skip


ONES = np.ones((4, 17, 3))


def with_value(value, frame=2, joint=5):
    array = ONES.copy()
    array[frame, joint, 1] = value
    return array


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "file: x: neither keypoints nor poses"),
        ({"poses": ONES[:, :16]}, r"file: x: poses has shape \(4, 16, 3\) of float64, expected numbers \(4, 17, 3\)"),
        ({"poses": ONES[..., :2]}, r"expected numbers \(4, 17, 3\)"),
        ({"keypoints": ONES, "poses": ONES[:3]}, r"poses has shape \(3, 17, 3\) of float64, expected numbers \(4, 17, 3\)"),
        ({"poses": ONES.astype(complex)}, "complex128"),
        ({"poses": ONES[:0]}, "poses has no frames"),
        (
            {"poses": with_value(np.nan)},
            r"poses: frame 2, joint 5 \(left_knee\) is \[1.0, nan, 1.0\], expected finite numbers",
        ),
        ({"poses": with_value(np.inf)}, r"frame 2, joint 5 \(left_knee\)"),
        ({"poses": with_value(-1e300)}, "expected finite numbers of at most 100"),
        ({"poses": ONES, "valid": [True]}, r"valid has shape \(1,\), expected \(4,\)"),
        ({"poses": ONES, "size": (0, 5)}, r"image size \(0, 5\)"),
        ({"poses": ONES, "fps": -1.0}, "-1.0 frames per second"),
    ],
)
def test_what_is_no_sequence(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sequence("x", source="file", **arguments)


def test_take():
    sequence = full(frames=6)
    part = sequence.take(slice(2, 5))
    assert len(part) == 3 and part.start == 9
    np.testing.assert_array_equal(part.poses, sequence.poses[2:5])
    np.testing.assert_array_equal(part.valid, sequence.valid[2:5])
    np.testing.assert_array_equal(sequence.take([4, 4, 0]).factor, sequence.factor[[4, 4, 0]])
    assert part.keypoints.dtype == part.factor.dtype == np.float32


def test_joints_by_name():
    sequence = full(skeleton=MPI3DHP)
    again = sequence.to(H36M).to(MPI3DHP)
    assert_same(again, sequence)
    np.testing.assert_array_equal(sequence.to(H36M).poses[:, 3], sequence.poses[:, 10])  # right ankle
    with pytest.raises(ValueError, match="lsp has no pelvis, spine, neck, which h36m needs"):
        full(skeleton=SKELETONS["lsp"]).to(H36M)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_skeletons(skeleton):
    """A tree, and every left joint has its right one."""
    assert skeleton.parents.count(-1) == 1 and len(skeleton.parents) == skeleton.num_joints == len(set(skeleton.joints))
    for joint in range(skeleton.num_joints):
        for _ in range(skeleton.num_joints):
            joint = skeleton.parents[joint] if joint >= 0 else joint
        assert joint == -1
    pairs = [(skeleton.joints[left], skeleton.joints[right]) for left, right in skeleton.flip_pairs]
    assert all(left == right.replace("right", "left") and left != right for left, right in pairs)
    assert len(pairs) == sum(joint.startswith("left") for joint in skeleton.joints)


def test_rooted():
    sequence = full(skeleton=PW3D)
    np.testing.assert_array_equal(sequence.rooted(), sequence.poses - sequence.poses[:, :1])
    with pytest.raises(ValueError, match="no poses"):
        replace(sequence, poses=None).rooted()
    with pytest.raises(ValueError, match="no image size"):
        replace(sequence, camera=None, size=None).pixels()


@given(st.integers(1, 50), st.integers(1, 20), st.data())
def test_windows(frames, length, data):
    """Every frame is new once; a window's frames are the sequence's, one after another, the last one repeated."""
    stride = data.draw(st.integers(1, length))
    sequence = Sequence("x", keypoints=np.arange(frames, dtype=np.float32)[:, None, None] * np.ones((1, 17, 2)) / 50)
    fresh = []
    parts = list(windows(sequence, length, stride))
    for part in parts:
        assert len(part.sequence) == length
        numbers = np.arange(part.sequence.start, part.sequence.start + length)
        np.testing.assert_array_equal(part.sequence.keypoints, sequence.keypoints[np.minimum(numbers, frames - 1)])
        fresh += numbers[part.fresh].tolist()
    assert fresh == list(range(frames))
    starts = [part.sequence.start for part in parts]
    assert starts[:-1] == list(range(0, stride * (len(parts) - 1), stride))


@pytest.mark.parametrize("length, stride", [(0, None), (3, 0), (3, 4), (-1, None)])
def test_no_windows(length, stride):
    with pytest.raises(ValueError, match="windows: length"):
        list(windows(full(), length, stride))


def test_datasets():
    read = []

    def reader(name):
        return lambda: read.append(name) or full(name)

    data = Dataset("x", "file", {name: reader(name) for name in ("S1/Walking/0", "S1/Eating/0", "S9/Walking 1/2")})
    assert len(data) == 3 and read == []
    assert next(iter(data)).name == "S1/Walking/0" and read == ["S1/Walking/0"]
    assert data.select("S1/*", "nothing").names == ["S1/Walking/0", "S1/Eating/0"]
    assert data.select("*/Walking*/*").names == ["S1/Walking/0", "S9/Walking 1/2"]
    for call, error, message in (
        (lambda: data["S5"], KeyError, "file: no sequence 'S5', it has S1/Walking/0"),
        (lambda: data.select("S5/*"), KeyError, r"file: no sequence matches S5/\*"),
        (lambda: Dataset("x", "file", {}), ValueError, "file: x without any sequence"),
    ):
        with pytest.raises(error, match=message):
            call()


# ---- lifter's own file -----------------------------------------------------------------------------------------------


def test_own(tmp_path):
    sequences = [full(f"S1/{skeleton.name}/0", 4 + i, skeleton, i) for i, skeleton in enumerate(SKELETONS.values())]
    sequences.append(Sequence("plain", poses=ONES))
    assert save(tmp_path / "x.npz", iter(sequences)) == len(sequences)
    data = open_data(tmp_path / "x.npz")
    assert data.format == "lifter" and data.names == [sequence.name for sequence in sequences]
    for one, other in zip(data, sequences, strict=True):
        assert_same(one, other)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:  # anybody can read it
        np.testing.assert_array_equal(archive["0/poses"], sequences[0].poses)


def test_own_appears_when_it_is_whole(tmp_path):
    def fail():
        yield full()
        raise ValueError("broken")

    for sequences, message in (
        (fail(), "broken"),
        ([full(), full()], "two sequences are called 'S1/Walking/0'"),
        ([], "no sequences"),
    ):
        with pytest.raises(ValueError, match=message):
            save(tmp_path / "x.npz", sequences)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("skeleton"), "sequence 0: no key 'skeleton'"),
        (lambda s: s.update(skeleton="cat"), "sequence 0: skeletons: no key 'cat', it has h36m"),
        (lambda s: s.update(arrays=["poses", "code"]), "arrays are .*expected some of keypoints"),
        (lambda s: s.update(arrays=5), "arrays are 5"),
        (lambda s: s.update(camera={"width": 1}), "a camera without height"),
        (lambda s: s.update(fps="fast"), "sequence 0: "),
        (lambda s: s.update(size=[1]), "image size"),
        (lambda s: s.update(arrays=["factor", "estimates"]), "no key '0/factor'"),
    ],
)
def test_bad_own(tmp_path, change, message):
    path = tmp_path / "x.npz"
    save(path, [Sequence("x", poses=ONES)])
    with np.load(path) as archive:
        arrays = dict(archive)
    described = json.loads(str(arrays["lifter"]))
    change(described["sequences"][0])
    np.savez(path, **arrays | {"lifter": json.dumps(described)})
    with pytest.raises((ValueError, KeyError), match=f"x.npz: .*{message}|x.npz: {message}"):
        list(open_data(path))


def test_streaming(tmp_path):
    """No more than a few of forty sequences are in memory, written or read."""
    shape = (2000, 17, 3)
    size = 4 * np.prod(shape)
    sequences = (Sequence(str(i), poses=np.full(shape, i, np.float32)) for i in range(40))
    tracemalloc.start()
    save(tmp_path / "x.npz", sequences)
    total = sum(sequence.poses[0, 0, 0] for sequence in open_data(tmp_path / "x.npz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == sum(range(40))
    assert peak < 8 * size, f"{peak / size:.1f} sequences in memory"


def first_pose(read):
    return float(read().poses[0, 0, 0])


def test_other_processes(tmp_path):
    """Forked or not, all read at once from a file that is open already, as the workers of a DataLoader do."""
    save(tmp_path / "x.npz", (Sequence(str(i), poses=np.full((200, 17, 3), i % 50, np.float32)) for i in range(60)))
    data = open_data(tmp_path / "x.npz")
    assert first_pose(data.items["3"]) == 3
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(first_pose, data.items.values(), chunksize=1) == [i % 50 for i in range(60)]


def test_many_sequences_take_linear_time(tmp_path):
    """The archive's list of contents is read once, not for every array."""
    save(tmp_path / "x.npz", (Sequence(str(i), poses=ONES) for i in range(300)))
    with mock.patch.object(zipfile, "ZipFile", wraps=zipfile.ZipFile) as opened:
        assert sum(len(sequence) for sequence in open_data(tmp_path / "x.npz", format="lifter")) == 1200
    assert opened.call_count == 1


def test_cameras_are_written_whole():
    camera = full().camera
    again = Camera.of_dict(json.loads(json.dumps(camera.as_dict())), "file")
    assert again.as_dict() == camera.as_dict() and again.distortion[0] == 0.1
    for values, error in (({"width": 1}, KeyError), ({**camera.as_dict(), "R": "x"}, ValueError), (5, ValueError)):
        with pytest.raises(error, match="file: "):
            Camera.of_dict(values, "file")
