"""Whole files with one part of them replaced by something else: read, or refused with a message that names the file."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifter.data import open_data

from .conftest import objects, save_json
from .test_datasets import h36m_poses, motionbert, write_h36m
from .test_detectors import SIZE, WRITERS, people
from .test_mocap import BVH, write_asf

OTHER = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.sampled_from(["", "a", [], {}, [[]], [{}], [1], {"a": 1}])
)
ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.zeros((0, 17, 2)),
        np.zeros((3, 17, 0)),
        np.float64(1),
        np.full((4, 17, 3), np.nan),
        np.full((4, 32, 3), 1e30),
    ]
    + [np.array(["a"]), np.array(1j), objects([None, 1])]
)


def nodes(data, way=()):
    """The ways to every part of nested dicts and lists."""
    yield way
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from nodes(data[key], (*way, key))


def replaced(data, way, other):
    if not way:
        return other
    data = copy.deepcopy(data)
    inner = data
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = other
    return data


def check(path, name=None, **options):
    try:
        for sequence in open_data(path, **options):
            for array in (sequence.keypoints, sequence.poses, sequence.image_poses):
                assert array is None or np.isfinite(array).all()
    except (ValueError, KeyError, FileNotFoundError) as error:
        assert (name or path.stem) in str(error)


JSON_WRITERS = [
    (format, write) for format, layout, _, write in WRITERS if format not in ("npy", "vp3d-custom") and layout != "body25"
]


@pytest.mark.parametrize("format, write", JSON_WRITERS)
def test_json(tmp_path, format, write):
    joints = {"openpose": 18, "mediapipe": 33}.get(format, 17)
    path = write(tmp_path, people(np.random.default_rng(0), 2, joints))
    path = path if path.is_file() else min(path.iterdir())
    whole = json.loads(path.read_text())
    ways = list(nodes(whole))
    target = tmp_path / "damaged.json"

    @settings(max_examples=150)
    @given(st.sampled_from(ways), OTHER)
    def damaged(way, other):
        save_json(target, replaced(whole, way, other))
        check(target, format=format, size=SIZE)
        check(target, size=SIZE)

    damaged()


def test_archives(tmp_path):
    """VideoPose3D's, P-STMO's and DeciWatch's."""
    rng = np.random.default_rng(0)
    poses = {"S1": {"Eating": h36m_poses(rng, 3)}}
    pixels = write_h36m(tmp_path, poses)
    arrays = {"data_2d": rng.uniform(0, 2048, (3, 17, 2)), "data_3d": rng.normal(0, 500, (3, 17, 3))}
    images, joints = [["a/1.jpg", "a/2.jpg"], ["b/1.jpg"]], [np.zeros((2, 51)), np.zeros((1, 51))]
    custom = {"layout_name": "coco", "video_metadata": {"v": {"w": 640, "h": 480}}}
    files = {
        "data_3d_h36m": {"positions_3d": poses},
        "data_2d_h36m_gt": {"positions_2d": pixels, "metadata": {"layout_name": "h36m"}},
        "data_2d_custom_x": {"positions_2d": {"v": {"custom": [np.ones((2, 17, 2))]}}, "metadata": custom},
        "data_train_3dhp": {"data": {"S1 Seq1": [{"0": arrays}, 25]}},
        "data_test_3dhp": {"data": {"TS1": {**arrays, "valid": np.ones(3)}}},
        "pw3d_gt_test": {"imgname": images, "joints_3d": joints},
    }
    ways = [(name, way) for name, contents in files.items() for way in nodes(contents) if way]

    @settings(max_examples=400)
    @given(st.sampled_from(ways), OTHER | ARRAYS)
    def damaged(place, other):
        name, way = place
        path = tmp_path / f"{name}.npz"
        save(path, replaced(files[name], way, other))
        check(path, name="h36m" if "h36m" in name else name)  # poses and keypoints are read together
        save(path, files[name])

    damaged()


def save(path, contents):
    arrays = {key: np.empty((), dtype=object) for key in contents}
    for key, value in contents.items():
        arrays[key][()] = value
    np.savez(path, **arrays)


def test_motionbert(tmp_path):
    whole = {"train": motionbert(np.random.default_rng(0))}
    ways = list(nodes(whole))
    path = tmp_path / "damaged.pkl"

    @settings(max_examples=200)
    @given(st.sampled_from(ways), OTHER | ARRAYS)
    def damaged(way, other):
        path.write_bytes(pickle.dumps(replaced(whole, way, other)))
        check(path)

    damaged()


WORDS = st.sampled_from(
    ["", "0", "-1", "nan", "1e400", "x", "{", "}", ":", ":root", "JOINT", "End", "CHANNELS", "begin", "end", "TX", "XYZ", "#"]
)


@pytest.mark.parametrize("name", ["x.bvh", "01.asf", "01_01.amc"])
def test_motion(tmp_path, name):
    write_asf(tmp_path)
    (tmp_path / "x.bvh").write_text(BVH)
    words = re.split(r"(\s+)", (tmp_path / name).read_text())

    @settings(max_examples=200)
    @given(st.integers(0, len(words) - 1), WORDS)
    def damaged(index, word):
        (tmp_path / name).write_text("".join([*words[:index], word, *words[index + 1 :]]))
        check(tmp_path / name, name="x.bvh" if name == "x.bvh" else "01")

    damaged()
