"""The viewer: the page of the folder viewer, its style, scripts and a scene in one file that loads nothing."""

import base64
import json
from pathlib import Path

import numpy as np

from lifter.data.angles import joint_angles
from lifter.data.sequence import Sequence
from lifter.skeleton import H36M

from .pictures import jpegs
from .scene import View

SCRIPTS = ("scene", "film", "view", "draw", "room", "flat", "curves", "controls", "input")  # in this order
STEP = 1e-4  # metres, and for keypoints half widths of the image: both are stored as whole multiples
STEPS = 65000  # that fit into 16 bits; what is farther apart is stored in larger steps


def write(path, scene, size=None):
    """Write the viewer, and return its number of frames."""
    content = json.dumps(describe(scene), separators=(",", ":"), allow_nan=False)
    for letter in "<>&":  # no name ends the script that the data is in
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    Path(path).write_text(page().replace("@SCENE@", content), encoding="utf-8")
    return len(scene)


def page() -> str:
    """The page with its style and scripts, and @SCENE@ in place of the scene."""
    folder = Path(__file__).with_name("viewer")
    read = lambda name: (folder / name).read_text(encoding="utf-8")
    scripts = "\n".join(read(f"{name}.js") for name in SCRIPTS)
    return read("page.html").replace("@STYLE@", read("style.css")).replace("@SCRIPT@", scripts)


def describe(scene) -> dict:
    """A scene as JSON values."""
    errors, bodies = scene.errors, scene.bodies
    return {
        "name": scene.name,
        "fps": scene.fps,
        "start": scene.start,
        "frames": len(scene),
        "joints": scene.skeleton.num_joints,
        "bones": scene.skeleton.bones,
        "sides": scene.sides,
        "root": scene.skeleton.parents.index(-1),
        "floor": [float(x) for corner in scene.floor[:2] for x in corner] + [scene.floor[2]],
        "view": {"yaw": View.YAW, "pitch": View.PITCH, "distance": View.DISTANCE},
        "models": [
            {
                "name": name,
                "poses": pack(poses),
                "errors": pack_errors(errors[name]) if errors else None,
                "angles": [_angles(scene, poses[:, body]) for body in bodies],
            }
            for name, poses in scene.models.items()
        ],
        "truth": None if scene.truth is None else pack(scene.truth),
        "keypoints": None if scene.keypoints is None else pack(scene.keypoints),
        "people": [[body.start, body.stop] for body in bodies],
        "camera": None if scene.camera is None else _camera(scene.camera),
        "film": _film(scene),
    }


def _camera(camera):
    values = camera.as_dict()
    names = {"rotation": "R", "translation": "t"} | {name: name for name in ("fx", "fy", "cx", "cy", "width", "height")}
    return {name: values[key] for name, key in names.items()}


def _angles(scene, poses):
    """The angles of a person's joints in tenths of degrees, by name; none where the joints are not Human3.6M's."""
    if scene.skeleton.joints[: poses.shape[1]] != H36M.joints:
        return {}
    angles = joint_angles(Sequence("", poses=poses, up="z"))
    return {name: _base64(np.rint(10 * angle).astype("<i2")) for name, angle in angles.items()}


def _film(scene):
    """Frames of the video as small JPEGs, and the frames of the clip that they are of; None if there is none."""
    pictures = list(jpegs(scene))
    if not pictures:
        return None
    (width, height), (numbers, data) = scene.video.size, zip(*pictures)
    return {
        "width": width,
        "height": height,
        "numbers": [*numbers],
        "data": [base64.b64encode(each).decode() for each in data],
    }


def pack(array) -> dict:
    """An array (T, J, C) as 16-bit numbers in base64: value = origin[C] + step * number, the nearest to the true one."""
    low, high = array.reshape(-1, array.shape[-1]).min(0), array.reshape(-1, array.shape[-1]).max(0)
    origin = (low.astype(np.float64) + high) / 2
    step = max(STEP, float((high - low).max()) / STEPS)
    numbers = np.rint((array - origin) / step).astype("<i2")
    return {"step": step, "origin": origin.tolist(), "data": _base64(numbers)}


def pack_errors(errors) -> str:
    """(T,) millimetres as float32; NaN where there is none."""
    return _base64(errors.astype("<f4"))


def _base64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
