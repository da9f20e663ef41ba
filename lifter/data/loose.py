"""Poses in self-made files: decide whether coordinates are positions in an image or in a room."""

from collections import Counter
from functools import partial

import numpy as np

from lifter._notices import notice

from .axes import in_order, rows_in_order
from .detectors import Clip, detection, open_clips, person
from .detectors import body as body_of
from .keypoints import layout_of_names
from .keys import IMAGE, WORLD, plain, told_in
from .parts import part_of
from .plausible import PIXELS, SHARES, are_poses
from .results import in_frames, poses_of, without_gaps
from .sequence import Dataset
from .timeline import numbered
from .tracking import names_of


def open_loose(format, path, data, size=None, fps=None, layout=None, variant=None, shares=False, joints=None) -> Dataset:
    """The people in `data`, as keypoints or as 3D poses.

    Args:
        joints: their names, where the file tells them apart from the bodies.
        size, fps, layout, variant, shares: of `lifter.data.detectors.open_clips`.

    Raises:
        ValueError if there is no body that is understood.
    """
    data = _in_order(_with_head(data, path), path)
    told_size, told_fps, told_joints = told_in(data, path)
    root = part_of(data)
    found, rate = numbered(root, path)
    if not found:
        known = "expected x and y of 17 joints, or as many as a layout has"
        raise ValueError(f"{path}: no person in any frame, as far as it is understood; {known}")
    found, named = _alike(found, path)
    values, in_room = _columns([body for _, _, body in found], path)
    joints = joints or named or (told_joints if told_joints and len(told_joints) == values.shape[1] else None)
    told_fps = told_fps or rate
    if in_room:
        return _results(format, path, found, values, joints, told_fps or fps, layout)
    clips = {}
    for (video, number, body), keypoints in zip(found, values):
        clips.setdefault(video, []).append(detection(number, person(body.id), body_of(keypoints)))
    sure = root.depth == 1 and root.listed and all(body.id is None for *_, body in found)  # an array, a row for each frame
    clips = [Clip(each, video, told_size, told_fps, joints, sure) for video, each in clips.items()]
    return open_clips(format, path, clips, size, fps, layout, variant, shares)


def _with_head(data, where):
    """A list whose first entry tells of the video, and has nobody, as a dict."""
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, dict) and any(told_in(first, where)) and not part_of(first).full:
        return {**first, "frames": data[1:]}
    return data


def _in_order(data, where):
    """Bring the axes of arrays in the usual order."""
    if not isinstance(data, dict):
        return in_order(data, where)
    return {key: in_order(value, where) if plain(key) in (*IMAGE, *WORLD) else value for key, value in data.items()}


def _alike(found, where):
    """Those with as many joints as most have, and the joints' names; a joint that is named in others only is NaN."""
    names = tuple(dict.fromkeys(name for *_, body in found for name in body.joints))
    if names:
        found = [each for each in found if each[-1].joints]
        for *_, body in found:
            values = np.full((len(names), body.values.shape[1]), np.nan)
            values[[names.index(name) for name in body.joints]] = body.values
            body.values = values
        return found, names
    (shape, _), *_ = Counter(body.values.shape for *_, body in found).most_common(1)
    kept = [each for each in found if each[-1].values.shape == shape]
    if len(kept) < len(found):
        notice(f"{where}: {len(found) - len(kept)} people have not {shape[0]} joints, and are left out")
    return kept, None


# ---- what the numbers are --------------------------------------------------------------------------------------------


def _columns(bodies, where):
    """(keypoints (N, J, 2 or 3), False), or (poses (N, J, 3), True)."""
    values = np.stack([body.values for body in bodies])
    values = rows_in_order(values, where) if bodies[0].flat and not bodies[0].named else values
    if bodies[0].named or values.shape[2] > 3:
        return _named_columns(values, bodies[0])
    if values.shape[2] == 2:
        return values, False
    if values.shape[1] == 33 and _in_pixels(values):
        notice(f"{where}: third values of 33 joints in pixels: taken as MediaPipe's z and left out")
        return values[..., :2], False
    if bodies[0].world or _in_room(values):
        return values, True
    is_z = _in_image(values) and _has_negative(values[..., 2])
    return (values[..., :2] if is_z else values), False


def _named_columns(values, body):
    """Choose the columns of x, y, z and confidences, NaN where there are none; `body` is one of the bodies."""
    if body.world and not np.isfinite(values[..., 2]).any():  # [x, y, z] by names
        values = values[..., [0, 1, 3, 2]]
    z, scores = values[..., 2], values[..., 3]
    has_scores = np.isfinite(scores).any()
    in_image = _in_image(values)
    is_apart = body.scored and not (in_image and values.shape[1] == 33)  # MediaPipe's have a z
    is_room = is_apart or not has_scores and not in_image or _centred(values)
    has_z = np.isfinite(z).any()
    if has_z and (body.world or is_room and not _is_flat(values)):
        return values[..., :3], True
    return (values[..., [0, 1, 3]] if has_scores else values[..., :2]), False


def _has_negative(values):
    """Return whether some are negative, but for -1, with which some write that a joint was not found."""
    return bool(((values < 0) & (values != -1)).any())


def _in_pixels(values):
    """Return whether x and y are pixels, next to a third value that may be negative."""
    given = values[np.isfinite(values).all(-1)]
    return len(given) > 0 and given[:, :2].max() > PIXELS and (given[:, :2] >= 0).mean() > 0.9 and _has_negative(given[:, 2])


def _in_room(values):
    """Return whether x, y and a third value are places in a room."""
    if _in_image(values):
        return False
    given = values[np.isfinite(values).all(-1)]
    small = len(given) > 0 and np.abs(given[:, :2]).max() <= PIXELS
    far = len(given) > 0 and given[:, 2].min() < -30  # what no logit is
    smpl = values.shape[1] in (22, 24)  # joints, which no detector in images has
    return smpl or far or small and _has_negative(given[:, 2]) or are_poses(values)


def _in_image(values):
    """Return whether x and y are shares of an image: nearly all of them in 0..1."""
    xy = values[..., :2][np.isfinite(values[..., :2]).all(-1)]
    return len(xy) > 0 and np.abs(xy).max() <= 2 * SHARES and ((xy >= -0.02) & (xy <= 1.02)).mean() > 0.8


def _is_flat(values):
    """Return whether z is in another unit than x and y, as MediaPipe's beside pixels."""
    spread = lambda axis: np.nanmax(values[..., axis]) - np.nanmin(values[..., axis])
    return spread(2) < 0.02 * max(spread(0), spread(1))


def _centred(values):
    """Return whether bodies are in metres about the middle of their hips, as MediaPipe's in the world."""
    xy = values[..., :2][np.isfinite(values[..., :2]).all(-1)]
    return len(xy) > 0 and np.abs(xy).max() <= 2 * SHARES and ((xy < 0).mean(0) > 0.1).all()


# ---- poses in 3D -----------------------------------------------------------------------------------------------------


def _results(format, path, found, poses, joints, fps, layout):
    """Return 3D poses as sequences: one per person, by id or by order in the frame, and per part without a long gap."""
    people, seen = {}, Counter()
    for (video, number, body), pose in zip(found, poses):
        who = person(body.id)
        if who is None:
            who = seen[video, number]
            seen[video, number] += 1
        people.setdefault(video, {}).setdefault(who, {}).setdefault(number, pose)
    items = {}
    for video, each in people.items():
        where = f"{path}: {video}" if video else f"{path}"
        pieces = [(who, piece) for who, by_number in each.items() for piece in without_gaps(by_number)]
        for who, (_, by_number) in zip(names_of(pieces, where), pieces):
            name = "/".join([path.stem, *([video] if video else []), *([str(who)] if len(people) * len(pieces) > 1 else [])])
            items[name] = partial(_result, name, by_number, joints, layout, fps, path)
    return Dataset(format, path, items)


def _result(name, by_number, joints, layout, fps, path):
    where = f"{path}: {name}"
    start, points = in_frames(list(by_number), np.stack(list(by_number.values())))
    points = points[:, : len(body_of(points[0]))]
    layout = layout_of_names(joints, where) if joints else layout
    return poses_of(name, points, where, layout=layout, fps=fps, start=start, source=str(path))
