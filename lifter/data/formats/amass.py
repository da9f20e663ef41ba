"""Motions as parameters of a body of the SMPL family, as AMASS and others have them: an npz of poses, trans, betas, gender.

They have no joints. Those follow with the body model, a file that its makers give to those who ask: an npz with v_template,
shapedirs, J_regressor and kintree_table, as smplh/male/model.npz or SMPLX_NEUTRAL.npz.
"""

import re
from functools import partial

import numpy as np

from lifter.skeleton import H36M

from ..files import Npz, existing, numbers
from ..registry import register_format
from ..results import SMPL, way_up
from ..sequence import Dataset, Sequence

JOINTS = 22  # of the body, the same in SMPL, SMPL-H and SMPL-X: hands and face come after them
_POSES = (("poses",), ("root_orient", "pose_body"), ("global_orient", "body_pose"), ("smpl_poses",), ("pose",))
_PLACES, _RATES = ("trans", "transl", "smpl_trans"), ("mocap_framerate", "mocap_frame_rate", "fps", "frame_rate")


def _sniff(file):
    places = not file.arrays.isdisjoint(_PLACES)
    return places and any(file.arrays.issuperset(keys) for keys in _POSES) and "lifter" not in file.arrays


@register_format("amass", "motions as SMPL parameters, as AMASS has them (npz); needs the body model", sniff=_sniff)
def open_amass(path, body_model=None, fps=None) -> Dataset:
    """The motion as one sequence of Human3.6M's joints in the world, in metres.

    Args:
        body_model: the file of the body model; or a folder, in which the one of the motion's gender is looked for.
        fps: frames per second, where the file does not tell it.
    """
    path = existing(path)
    return Dataset("amass", path, {path.stem: partial(_read, path, body_model, fps)})


def _read(path, body_model, fps) -> Sequence:
    archive = Npz(path)
    if body_model is None:
        raise ValueError(
            f"{path}: parameters of a body, which has joints with its model alone: pass body_model=, or --body-model FILE "
            "with a model of the SMPL family (an npz)"
        )
    turns = np.concatenate([_rows(archive, key) for key in next(keys for keys in _POSES if set(archive.keys) >= set(keys))], 1)
    if turns.shape[1] < 3 * JOINTS:
        raise ValueError(f"{path}: poses of {turns.shape[1]} numbers, expected {3 * JOINTS} or more, three for each joint")
    turns = turns[:, : 3 * JOINTS].reshape(len(turns), JOINTS, 3)
    place = _rows(archive, next(key for key in _PLACES if key in archive))
    if place.shape != (len(turns), 3):
        raise ValueError(f"{path}: trans of shape {place.shape}, expected ({len(turns)}, 3) as the poses")
    told = str(archive["gender"]).lower() if "gender" in archive else ""
    gender = next((word for word in ("female", "male") if word in told), "neutral")
    betas = numbers(archive["betas"], None, f"{path}: betas").reshape(-1) if "betas" in archive else np.zeros(0)
    body = _Body(_model_file(existing(body_model), gender), betas)
    poses = body.poses(turns, place)
    rate = next((float(numbers(archive[key], None, f"{path}: {key}").reshape(-1)[0]) for key in _RATES if key in archive), fps)
    return Sequence(path.stem, poses=poses, fps=rate, up=way_up(poses) or "z", source=str(path))


def _rows(archive, key):
    """The array (T, n) of a key."""
    values = numbers(archive[key], None, f"{archive.path}: {key}")
    if values.ndim < 2 or not np.isfinite(values).all():
        raise ValueError(f"{archive.path}: {key}: shape {values.shape}, expected finite numbers, a row for each frame")
    return values.reshape(len(values), -1)


def _model_file(path, gender):
    """The file, or in a folder the one npz of this gender."""
    if path.is_file():
        return path
    words = lambda file: re.findall("[a-z]+", file.relative_to(path).as_posix().lower())
    found = sorted(file for file in path.rglob("*.npz") if gender in words(file))
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(path)) for file in found[:5]) or "none"
        raise ValueError(f"{path}: {names}: expected one npz of a {gender} body; name the file")
    return found[0]


class _Body:
    """A body's joints at rest, and how they hang together."""

    def __init__(self, path, betas):
        archive = Npz(path)
        get = lambda key, shape: numbers(archive[key], shape, f"{path}: {key}")
        points = get("v_template", (None, 3))
        shapes = get("shapedirs", (len(points), 3, None))
        count = min(len(betas), shapes.shape[2])
        points = points + shapes[..., :count] @ betas[:count]
        regressor = get("J_regressor", (None, len(points)))
        tree = get("kintree_table", (2, len(regressor))).astype(np.int64)
        self.rest, self.parents = (regressor @ points)[:JOINTS], [-1, *tree[0, 1:JOINTS].tolist()]
        if len(self.rest) < JOINTS or any(not 0 <= parent < joint for joint, parent in enumerate(self.parents) if joint):
            raise ValueError(f"{path}: no model of the SMPL family, expected {JOINTS} joints or more, in a tree")
        head = SMPL["neck"]
        weights = get("weights", (len(points), None))[:, head] if "weights" in archive else np.zeros(len(points))
        crown = points[weights > 0.5]
        above = self.rest[head] - self.rest[SMPL["thorax"]]
        self.crown = crown[crown[:, 1].argmax()] - self.rest[head] if len(crown) else 1.5 * above  # y is up at rest

    def poses(self, turns, place):
        """(T, 17, 3) of the turns (T, 22, 3) of all joints, axis times angle, and the place (T, 3)."""
        rotations = _rotations(turns)
        points, frames = [], []
        for joint, parent in enumerate(self.parents):
            if parent < 0:
                points.append(np.broadcast_to(self.rest[joint], place.shape))
                frames.append(rotations[:, joint])
            else:
                points.append(points[parent] + frames[parent] @ (self.rest[joint] - self.rest[parent]))
                frames.append(frames[parent] @ rotations[:, joint])
        at = {part: points[joint] for part, joint in SMPL.items()}
        at["head"] = at["neck"] + frames[SMPL["neck"]] @ self.crown
        return np.stack([at[joint] for joint in H36M.joints], 1) + place[:, None]


def _rotations(vectors):
    """(..., 3, 3) of turns about vectors (..., 3) by their lengths."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors / np.maximum(angle[..., 0], 1e-12), -1, 0)
    none = np.zeros_like(x)
    cross = np.stack((none, -z, y, z, none, -x, -y, x, none), -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
