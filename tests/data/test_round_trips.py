"""Tables and archives that are written, read by other packages: pandas and numpy. C3D is in test_c3d.py."""

import io

import numpy as np
import pytest

from lifter.data import Sequence, save, write
from lifter.data.markers import OPENSIM
from lifter.skeleton import H36M

from .test_loose import POSES

WORLD = POSES[..., [0, 2, 1]] * (1, 1, -1) + (0, 0, 1.0)  # z up


@pytest.fixture
def walk():
    keypoints = np.random.default_rng(0).uniform(-1, 1, (5, 17, 3)).astype(np.float32)
    return Sequence("walk", poses=WORLD, keypoints=keypoints, fps=25.0, start=3)


def test_csv(tmp_path, walk):
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "walk.csv", walk)
    table = pandas.read_csv(tmp_path / "walk.csv")
    assert table["frame"].tolist() == [3, 4, 5, 6, 7] and table["time"].tolist() == pytest.approx(
        [0.12, 0.16, 0.2, 0.24, 0.28]
    )
    for number, joint in enumerate(H36M.joints):
        columns = [f"{joint}_{axis}" for axis in ("x", "y", "z", "u", "v", "confidence")]
        wanted = np.concatenate((walk.poses[:, number], walk.keypoints[:, number]), 1)
        np.testing.assert_allclose(table[columns].to_numpy(), wanted, atol=1e-7)


def test_trc(tmp_path, walk):
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "walk.trc", Sequence("walk", poses=WORLD, fps=25.0, start=3))
    lines = (tmp_path / "walk.trc").read_text().split("\n")
    head = pandas.read_csv(io.StringIO("\n".join(lines[1:3])), sep="\t")
    assert head.iloc[0].to_dict() == {
        "DataRate": 25, "CameraRate": 25, "NumFrames": 5, "NumMarkers": 17, "Units": "mm", "OrigDataRate": 25,
        "OrigDataStartFrame": 4, "OrigNumFrames": 5,
    }  # fmt: skip
    assert [name for name in lines[3].split("\t")[2:] if name] == list(OPENSIM)
    table = pandas.read_csv(io.StringIO("\n".join(lines[5:])), sep="\t", header=None).to_numpy()
    np.testing.assert_allclose(table[:, :2], np.stack((np.arange(4, 9), np.arange(5) / 25), 1), atol=1e-9)
    y_up = WORLD[..., [0, 2, 1]] * (1, 1, -1)
    np.testing.assert_allclose(table[:, 2:].reshape(5, 17, 3), y_up * 1000, atol=1e-4)


def test_npz(tmp_path, walk):
    save(tmp_path / "walk.npz", [walk])
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["0/poses"], walk.poses)
        np.testing.assert_array_equal(archive["0/keypoints"], walk.keypoints)
