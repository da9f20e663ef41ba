"""Files of one camera: Calib.toml of Pose2Sim, Sports2D and anipose."""

import numpy as np
import pytest

from lifter._notices import told
from lifter.data.calibrations import read_camera

TOML = """
[cam1]
name = "cam1"
size = [ 1768, 994]
matrix = [ [ 2520.5, 0.0, 884.0], [ 0.0, 2510.0, 497.0], [ 0.0, 0.0, 1.0]]
distortions = [ -0.1, 0.02, 0.001, 0.0]
rotation = [ 1.2, 1.2, -1.2]
translation = [ -3.5, 1.7, 10.0]
fisheye = false

[metadata]
error = 0.0
"""


def test_a_lens(tmp_path, capsys):
    """Size, focal lengths, centre, and radial distortion: in the file the tangential one follows k1 and k2."""
    path = tmp_path / "Calib.toml"
    path.write_text(TOML)
    with told():
        camera = read_camera(path)
    assert (camera.size, camera.fx, camera.fy, camera.cx, camera.cy) == ((1768, 994), 2520.5, 2510, 884, 497)
    np.testing.assert_array_equal(camera.distortion, [-0.1, 0.02, 0, 0, 0])
    assert "cam1: the tangential distortion is left out" in capsys.readouterr().err
    assert read_camera(f"{path}:cam1").fx == 2520.5


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("[cam1", ValueError, "Calib.toml: not TOML"),
        ("[metadata]\nerror = 0.0", ValueError, "0 cameras, expected"),
        (TOML.replace("size", "sizes"), KeyError, "cam1: a camera without size"),
        (TOML.replace("[ 1768, 994]", "[ 1768]"), ValueError, r"size and matrix have shapes \(1,\) and \(3, 3\)"),
        (TOML.replace("1768", '"wide"'), ValueError, "cam1: not a camera"),
        (TOML.replace("2520.5", "-1.0"), ValueError, "cam1: camera : width, height, fx, fy are"),
    ],
)
def test_what_is_no_camera(tmp_path, text, error, message):
    path = tmp_path / "Calib.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_camera(path)
