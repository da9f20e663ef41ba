"""Files of one camera, as `lifter lift --camera` takes them."""

from pathlib import Path

import numpy as np

from lifter._io import regular
from lifter._notices import notice

from .cameras import Camera
from .files import decoded, read_bytes, read_json


def read_camera(path) -> Camera:
    """Read a camera.

    Args:
        path: JSON with width, height, fx, fy, cx, cy and perhaps R, t and distortion; or TOML of Pose2Sim, Sports2D or anipose
            (Calib.toml), of which the lens alone is taken. A TOML file of several cameras: FILE.toml:NAME.

    Raises:
        FileNotFoundError, KeyError, ValueError that name the file, what is there and what was expected.
    """
    file, _, name = str(path).partition(".toml:")
    if name or str(path).endswith(".toml"):
        return _of_toml(Path(f"{file}.toml" if name else path), name)
    values = read_json(path)
    return Camera.of_dict({"R": np.eye(3), "t": np.zeros(3)} | values if isinstance(values, dict) else values, path)


def _of_toml(path, name):
    try:
        import tomllib
    except ModuleNotFoundError:
        raise ImportError(f"{path}: TOML is read by Python 3.11 and later") from None
    try:
        sections = tomllib.loads(decoded(read_bytes(regular(path, "camera"))))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not TOML ({error})") from None
    cameras = {key: values for key, values in sections.items() if isinstance(values, dict) and "matrix" in values}
    names = ", ".join(cameras) or "none"
    if name and name not in cameras:
        raise KeyError(f"{path}: has no camera {name!r}, expected one of: {names}")
    if not name and len(cameras) != 1:
        raise ValueError(f"{path}: {len(cameras)} cameras, expected {path}:NAME, of: {names}")
    return _lens(cameras[name or next(iter(cameras))], f"{path}: {name or next(iter(cameras))}")


def _lens(values, where):
    if values.get("fisheye"):
        raise ValueError(f"{where}: a fisheye lens, expected one that keeps straight lines nearly straight")
    try:
        size, matrix = (np.array(values[key], np.float64) for key in ("size", "matrix"))
        distortion = np.array([*values.get("distortions", ()), *[0.0] * 5][:5], np.float64)
    except KeyError as error:
        raise KeyError(f"{where}: a camera without {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a camera ({error})") from None
    if size.shape != (2,) or matrix.shape != (3, 3):
        raise ValueError(f"{where}: size and matrix have shapes {size.shape} and {matrix.shape}, expected (2,) and (3, 3)")
    k1, k2, p1, p2, k3 = distortion.tolist()
    (fx, _, cx), (_, fy, cy), _ = matrix.tolist()
    if p1 or p2:
        notice(f"{where}: the tangential distortion is left out")
    try:
        return Camera(*size.tolist(), fx, fy, cx, cy, distortion=(k1, k2, k3, 0, 0))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
