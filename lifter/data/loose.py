"""Poses as people save them themselves: the frames that `parts` are of, and whether their numbers are places in an image or in
a room."""

from collections import Counter
from functools import partial

import numpy as np

from lifter._notices import notice

from .detectors import Clip, detection, open_clips, rate_of_times
from .detectors import body as body_of
from .frames import frames_of, has_number
from .keypoints import layout_of_names
from .parts import array_of, part_of, told_in
from .plausible import PIXELS, SHARES, are_poses
from .results import poses_of
from .sequence import Dataset

SAME = 0.25  # bodies that are nearer than that, in their extents, are in one place


# ---- frames ----------------------------------------------------------------------------------------------------------


def _frames(root, where):
    """[(label or None, time or None, bodies)] of the frames in a part."""
    while (depth := root.depth) > 2:
        root = root.parts[0] if len(root.parts) == 1 else _without_wrappers(root)
        if root.depth == depth:
            break
    if root.depth > 2:
        raise ValueError(f"{where}: lists of lists of lists of people, expected frames of people")
    if root.depth == 0:
        return [(root.frame, root.time, [root])]
    if root.depth == 2:
        if _inner_is_time(root):
            names = lambda part, number: part.key if part.key is not None else number
            found = {}
            for who, part in enumerate(root.parts):
                for number, body in enumerate(part.bodies()):
                    body.id = names(part, who)
                    found.setdefault(names(body, number), []).append(body)
            return [(frame, None, bodies) for frame, bodies in found.items()]
        for body in root.bodies():
            body.id = body.key if body.id is None else body.id
        return [(_label(part), part.time, part.bodies()) for part in root.parts]
    labelled = any(_label(part) is not None or part.time is not None for part in root.parts)
    if labelled or root.listed or any(part.listed or not part.full for part in root.parts):
        return [(_label(part), part.time, part.bodies()) for part in root.parts]
    return [(None, None, bodies) for bodies in _images(root.parts, where)]


def _without_wrappers(part):
    """The same without lists around one body."""
    if part.values is not None:
        return part
    if len(part.parts) == 1 and part.parts[0].values is not None:
        (body,) = part.parts
        for name in ("frame", "time", "key", "id"):
            if getattr(body, name) is None:
                setattr(body, name, getattr(part, name))
        return body
    part.parts = [_without_wrappers(inner) for inner in part.parts]
    return part


def _label(part):
    return part.key if part.frame is None else part.frame


def _inner_is_time(root):
    """Whether the outer parts are people, whose bodies stay in one place from one to the next."""
    keyed = all(part.key is not None for part in root.parts) and all(
        b.key is not None for part in root.parts for b in part.parts
    )
    if not (root.listed or keyed):
        return False
    steps = [_apart(one, two) for part in root.parts for one, two in zip(part.bodies(), part.bodies()[1:])]
    return bool(steps) and np.median(steps) < SAME


def _images(bodies, where):
    """Bodies in a row, without numbers of frames, by frames: one in the place of another is in the next frame."""
    images = [[]]
    for body in bodies:
        ids = [other.id for other in images[-1]]
        if body.id is not None and body.id in ids or any(_apart(body, other) < SAME for other in images[-1]):
            images.append([])
        images[-1].append(body)
    if len(images) > 1 and where:
        notice(f"{where}: {len(bodies)} people without numbers of frames: read as {len(images)} frames in a row")
    return images


def _apart(one, two):
    """How far apart two bodies are, in their extents."""
    if one.values.shape != two.values.shape:
        return np.inf
    one, two = (np.where((body.values[:, :2] == 0).all(1, keepdims=True), np.nan, body.values[:, :2]) for body in (one, two))
    both = np.isfinite(one + two).all(1)
    if not both.any():
        return np.inf
    extent = max(np.ptp(one[both], axis=0).max(), np.ptp(two[both], axis=0).max())
    return np.linalg.norm(one[both] - two[both], axis=1).mean() / extent if extent > 0 else np.inf


def _numbered(frames, where):
    """[(video, number, bodies)] of frames, and the frames per second that their times say."""
    labels, times = [label for label, _, _ in frames], [time for _, time, _ in frames]
    by_time = _by_time(times)
    if all(label is not None and has_number(str(label)) for label in labels):
        told = frames_of([int(label) if isinstance(label, float) else label for label in labels], where)
    else:
        told = [("", number) for number in (range(len(frames)) if by_time is None else by_time)]
    timed = [(number, time) for (_, number), time in zip(told, times) if isinstance(time, (int, float))]
    fps = rate_of_times(*zip(*timed)) if len(timed) > 1 else None
    return [(*place, bodies) for place, (_, _, bodies) in zip(told, frames)], fps


def _by_time(times):
    """The numbers of frames that lie evenly in time, None if these do not."""
    if len(times) < 2 or not all(isinstance(time, (int, float)) for time in times):
        return None
    times = np.array(times, np.float64)
    steps = np.diff(times)
    if not (np.isfinite(times).all() and (steps > 0).all()):
        return None
    numbers = np.rint((times - times[0]) / np.median(steps)).astype(int)
    return numbers.tolist() if (np.diff(numbers) > 0).all() and numbers[-1] < 100 * len(times) else None


def is_a_frame(data) -> bool:
    """Whether there are people of one image in a value, and no numbers of frames."""
    root = part_of(data)
    frames = _frames(root, "") if root.full and root.depth <= 2 else []
    return len(frames) == 1 and frames[0][0] is None


# ---- what the numbers are --------------------------------------------------------------------------------------------


def open_loose(format, path, data, size=None, fps=None, layout=None, variant=None, shares=False, joints=None) -> Dataset:
    """The people in `data`, as keypoints or as 3D poses.

    Args:
        joints: their names, where the file tells them apart from the bodies.
        size, fps, layout, variant, shares: of `lifter.data.detectors.open_clips`.

    Raises:
        ValueError if there is no body that is understood.
    """
    data = _of_movenet(_with_head(data, path), path)
    told_size, told_fps, told_joints = told_in(data, path)
    root = part_of(data)
    frames, rate = _numbered(_frames(root, path), path)
    found = [(video, number, body) for video, number, bodies in frames for body in bodies]
    if not found:
        known = "expected x and y of 17 joints, or as many as a layout has"
        raise ValueError(f"{path}: no person in any frame, as far as it is understood; {known}")
    found, named = _alike(found, path)
    values, in_room = _columns([body for _, _, body in found])
    joints = joints or named or (told_joints if told_joints and len(told_joints) == values.shape[1] else None)
    told_fps = told_fps or rate
    if in_room:
        return _results(format, path, found, values, joints, told_fps or fps, layout)
    clips = {}
    for (video, number, body), keypoints in zip(found, values):
        clips.setdefault(video, []).append(detection(number, _who(body), body_of(keypoints)))
    sure = root.depth == 1 and root.listed and all(body.id is None for *_, body in found)  # an array, a row for each frame
    clips = [Clip(each, video, told_size, told_fps, joints, sure) for video, each in clips.items()]
    return open_clips(format, path, clips, size, fps, layout, variant, shares)


def _with_head(data, where):
    """A list whose first entry tells of the video, and has nobody, as a dict."""
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, dict) and any(told_in(first, where)) and not part_of(first).full:
        return {**first, "frames": data[1:]}
    return data


def _of_movenet(data, where):
    """The outputs (1, 1, 17, 3) of MoveNet have y before x."""
    array = array_of(data)
    if array is None or array.ndim not in (4, 5) or array.shape[-4:] != (1, 1, 17, 3):
        return data
    notice(f"{where}: outputs of shape (1, 1, 17, 3), as MoveNet's, in which y comes before x")
    return array.reshape(-1, 17, 3)[..., [1, 0, 2]]


def _who(body):
    who = body.id
    if isinstance(who, str) and who.isdigit():
        return int(who)
    return None if isinstance(who, (int, float)) and who < 0 else who


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


def _columns(bodies):
    """(keypoints (N, J, 2 or 3), False), or (poses (N, J, 3), True)."""
    values = np.stack([body.values for body in bodies])
    named, width = bodies[0].named, values.shape[2]
    if not named and width == 2:
        return values, False
    if not named and width == 3:
        if bodies[0].world or _in_room(values):
            return values, True
        z = _in_image(values) and ((values[..., 2] < 0) & (values[..., 2] != -1)).any()
        return (values[..., :2] if z else values), False
    z, scores = values[..., 2], values[..., 3]
    has_z, has_scores = np.isfinite(z).any() and not _is_flat(values), np.isfinite(scores).any()
    image = _in_image(values)
    apart = bodies[0].scored and not (image and values.shape[1] == 33) or not has_scores and not image  # MediaPipe's have a z
    placed = np.isfinite(z).any() and bodies[0].world or has_z and (apart or _centred(values))
    if placed:
        return values[..., :3], True
    return (values[..., [0, 1, 3]] if has_scores else values[..., :2]), False


def _in_room(values):
    """Whether x, y and a third value are places in a room."""
    if _in_image(values):
        return False
    given = values[np.isfinite(values).all(-1)]
    small = len(given) > 0 and np.abs(given[:, :2]).max() <= PIXELS
    far = len(given) > 0 and given[:, 2].min() < -30  # what no logit is
    smpl = values.shape[1] in (22, 24)  # joints, which no detector in images has
    return smpl or far or small and ((given[:, 2] < 0) & (given[:, 2] != -1)).any() or are_poses(values)


def _in_image(values):
    """Whether x and y are shares of an image: nearly all of them in 0..1."""
    xy = values[..., :2][np.isfinite(values[..., :2]).all(-1)]
    return len(xy) > 0 and np.abs(xy).max() <= 2 * SHARES and ((xy >= -0.02) & (xy <= 1.02)).mean() > 0.8


def _is_flat(values):
    """Whether z is in another unit than x and y, as MediaPipe's beside pixels."""
    spread = lambda axis: np.nanmax(values[..., axis]) - np.nanmin(values[..., axis])
    return spread(2) < 0.02 * max(spread(0), spread(1))


def _centred(values):
    """Whether bodies are in metres about the middle of their hips, as MediaPipe's in the world."""
    xy = values[..., :2][np.isfinite(values[..., :2]).all(-1)]
    return len(xy) > 0 and np.abs(xy).max() <= 2 * SHARES and ((xy < 0).mean(0) > 0.1).all()


def _results(format, path, found, poses, joints, fps, layout):
    """Poses in 3D, a sequence for each person by ids, or by their order in a frame."""
    people = {}
    seen = Counter()
    for (video, number, body), pose in zip(found, poses):
        who = _who(body)
        if who is None:
            who = seen[video, number]
            seen[video, number] += 1
        people.setdefault((video, who), {}).setdefault(number, pose)
    items = {}
    for (video, who), by_number in people.items():
        name = "/".join([path.stem, *([video] if video else []), *([str(who)] if len(people) > 1 else [])])
        items[name] = partial(_result, name, by_number, joints, layout, fps, path)
    return Dataset(format, path, items)


def _result(name, by_number, joints, layout, fps, path):
    where = f"{path}: {name}"
    first = min(by_number)
    points = np.full((max(by_number) - first + 1, *next(iter(by_number.values())).shape), np.nan)
    if len(points) > 1000 + 100 * len(by_number):
        raise ValueError(f"{where}: seen in {len(by_number)} of {len(points)} frames; are these the numbers of frames?")
    for number, pose in by_number.items():
        points[number - first] = pose
    points = points[:, : len(body_of(points[0]))]
    layout = layout_of_names(joints, where) if joints else layout
    return poses_of(name, points, where, layout=layout, fps=fps, start=first, source=str(path))
