"""CSV files of others."""

import csv

import numpy as np
import pytest

from lifter.data import detect, open_data
from lifter.data.keypoints import COCO, LAYOUTS
from lifter.skeleton import H36M

from .test_detectors import expected
from .test_loose import POSES, SIZE, clip

ONE, BLAZE = clip(), clip(joints=33)
SHARES = BLAZE / (*SIZE, 1)
NAMES = [f"POINT_{number}" for number in range(33)]
for _name, _place in zip(COCO, LAYOUTS["mediapipe"].coco):
    NAMES[_place] = _name.upper()


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def wide(poses, names, axes="xyc", head=(), cells=lambda number: ()):
    """A row for each frame."""
    yield [*head, *(f"{name}_{axis}" if isinstance(name, str) else f"{axis}{name}" for name in names for axis in axes)]
    for number, pose in enumerate(poses):
        yield [*cells(number), *pose.reshape(-1).tolist()]


def with_z(poses):
    return np.insert(poses, 2, -0.1, axis=-1)


def long(poses, names, people=("",)):
    yield ["frame", "track_id", "keypoint", "x", "y", "confidence"]
    for number in range(len(poses[0])):
        for who, body in zip(people, poses):
            for name, joint in zip(names, body[number].tolist()):
                yield [number, who, name, *joint]


def deeplabcut(poses, names):
    yield ["scorer", *["net"] * 3 * len(names)]
    yield ["bodyparts", *(name for name in names for _ in range(3))]
    yield ["coords", *["x", "y", "likelihood"] * len(names)]
    for number, pose in enumerate(poses):
        yield [number, *pose.reshape(-1).tolist()]


def blank(rows):
    """Joints that were not found have no numbers."""
    rows = [list(row) for row in rows]
    for column in range(3):
        rows[2][len(rows[2]) - 1 - column] = ""
    return rows


COCO_FILES = {
    "names": wide(ONE, COCO, ("x", "y", "score")),
    "names and frames": wide(ONE, COCO, ("x", "y", "conf"), ("frame",), lambda number: (number,)),
    "names and times": wide(ONE, COCO, ("x", "y", "conf"), ("timestamp",), lambda number: (number / 25,)),
    "names after axes": ([c if "_" not in c else f"{c[-1]}_{c[:-2]}" for c in row] if not number else row
                         for number, row in enumerate(wide(ONE, COCO))),
    "numbers": wide(ONE, range(17), "xyc"),
    "numbers from 1": wide(ONE, range(1, 18), "xyv", ("class",), lambda number: ("squat",)),
    "names by number": wide(ONE, [f"kp{number}" for number in range(17)]),
    "a row for each joint": long([ONE], COCO),
    "a row for each number": long([ONE], range(17)),
    "DeepLabCut": deeplabcut(ONE, COCO),
    "without a header": (row for number, row in enumerate(wide(ONE, COCO)) if number),
    "frames without a header": (row for n, row in enumerate(wide(ONE, COCO, "xyc", ("f",), lambda number: (number,))) if n),
}  # fmt: skip
COCO_FILES = {form: list(rows) for form, rows in COCO_FILES.items()}


@pytest.mark.parametrize("form", COCO_FILES)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_coco(tmp_path, form, delimiter):
    path = write_csv(tmp_path / "walk.csv", COCO_FILES[form], delimiter)
    assert detect(path) == "table"
    (sequence,) = open_data(path, size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)
    assert sequence.start == 0 and sequence.fps == (25 if "times" in form else None)


MEDIAPIPE_FILES = {
    "names": wide(with_z(SHARES), NAMES, ("x", "y", "z", "visibility"), ("frame",), lambda number: (number,)),
    "numbers": wide(with_z(SHARES), range(33), "xyzv", ("class",), lambda number: ("up",)),
    "holistic": wide(np.concatenate((with_z(SHARES), np.zeros((4, 468, 4))), 1), range(1, 502), "xyzv"),
    "without a header": list(wide(with_z(SHARES), NAMES, "xyzv"))[1:],
    "pixels": wide(with_z(BLAZE), NAMES, ("x", "y", "z", "visibility")),
}  # fmt: skip
MEDIAPIPE_FILES = {form: list(rows) for form, rows in MEDIAPIPE_FILES.items()}


@pytest.mark.filterwarnings("ignore:.*read as shares")
@pytest.mark.parametrize("form", MEDIAPIPE_FILES)
def test_mediapipe(tmp_path, form):
    """z is no confidence, and no third dimension."""
    (sequence,) = open_data(write_csv(tmp_path / "walk.csv", MEDIAPIPE_FILES[form]), size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(BLAZE, "mediapipe", size=SIZE), atol=1e-5)


def test_pixels_without_visibility(tmp_path):
    path = write_csv(tmp_path / "walk.csv", wide(np.insert(BLAZE[..., :2], 2, -0.1, axis=-1), NAMES, "xyz"))
    (sequence,) = open_data(path, size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(BLAZE, "mediapipe", size=SIZE)[..., :2], atol=1e-5)


def test_people(tmp_path):
    """Rows of two people by their ids; one is away in a frame."""
    other = clip(offset=250)
    rows = [row for row in long([ONE, other], COCO, (5, 8)) if row[:2] != [2, 8]]
    people = open_data(write_csv(tmp_path / "walk.csv", rows), size=SIZE)
    assert people.names == ["walk/5", "walk/8"]
    np.testing.assert_allclose(people["walk/5"].keypoints, expected(ONE, size=SIZE), atol=1e-6)
    np.testing.assert_allclose(people["walk/8"].keypoints[[0, 1, 3]], expected(other, size=SIZE)[[0, 1, 3]], atol=1e-6)


def test_blank(tmp_path):
    (sequence,) = open_data(write_csv(tmp_path / "walk.csv", blank(wide(ONE, COCO))), size=SIZE)
    lost = H36M.joints.index("right_ankle")
    np.testing.assert_allclose(sequence.keypoints[..., :2], expected(ONE, size=SIZE)[..., :2], atol=1e-6)
    assert (sequence.keypoints[1, :, 2] == 0).tolist() == [joint == lost for joint in range(17)]


def test_freemocap(tmp_path):
    """Millimetres, z up, with hands beside the body; in wide and in long form."""
    body = POSES[..., [0, 2, 1]] * (1000, 1000, -1000) + (0, 0, 900)
    at = {joint: body[:, number] for number, joint in enumerate(H36M.joints)}
    points = {f"body_{name}": at.get(name, at["neck"]) for name in COCO}
    points |= {"right_hand_wrist": at["left_wrist"] * 0, "left_hand_wrist": at["left_wrist"] * 0}
    rows = [[f"{name}_{axis}" for name in points for axis in "xyz"]]
    rows += [np.concatenate([point[frame] for point in points.values()]).tolist() for frame in range(5)]
    tidy = [["frame", "timestamp", "model", "keypoint", "x", "y", "z"]]
    for frame in range(5):
        tidy += [[frame, frame / 30, "mediapipe_body", n[5:], *p[frame]] for n, p in points.items() if n.startswith("body")]
        tidy += [[frame, frame / 30, "mediapipe_hand", "right_wrist", 0, 0, 0]]
    for name, table in (("wide", rows), ("tidy", tidy)):
        (sequence,) = open_data(write_csv(tmp_path / f"{name}.csv", table))
        assert sequence.keypoints is None and sequence.up == "z"
        limbs = [number for number, joint in enumerate(H36M.joints) if joint.endswith(("knee", "ankle", "elbow", "wrist"))]
        np.testing.assert_allclose(sequence.poses[:, limbs], body[:, limbs] / 1000, atol=1e-5)
    assert sequence.fps == 30


@pytest.mark.parametrize(
    "rows, message",
    [
        ([["frame", "value"], [1, 2]], "x.csv: columns frame, value, ..., expected x and y of joints"),
        ([[1, 2, 3], [4, 5, 6]], "x.csv: 3 columns without names, expected 34"),
        ([["scorer", "a"], ["bodyparts", "b"]], "x.csv: a row 'scorer' without 'bodyparts' and 'coords'"),
        ([["a_x", "a_y"], [1, 2]], "x.csv: no person in any frame"),
    ],
)
def test_bad(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        list(open_data(write_csv(tmp_path / "x.csv", rows), size=SIZE))
