"""People by frames, of the parts (`parts`) of a file of others: which are frames, which are people, and when they are."""

import datetime
import re

import numpy as np

from lifter._notices import notice

from .detectors import rate_of_times
from .files import integer
from .frames import frames_of, has_number
from .keys import WHO
from .parts import Part, part_of

_FILE = re.compile(r"\.[A-Za-z]\w{1,4}$")  # how the name of a file ends
SAME = 0.25  # bodies that are nearer than that, in their extents, are in one place


def numbered(root, where):
    """([(video, number of the frame, body)], the frames per second that the times say, None if they do not)."""
    frames = _frames(root, where)
    if any(label is not None for label, _, _ in frames):
        frames = [frame for frame in frames if frame[0] is not None or frame[2]]
    labels, times = [label for label, _, _ in frames], [_seconds(time) for _, time, _ in frames]
    by_time = _by_time(times)
    if all(label is not None and has_number(str(label)) for label in labels):
        whole = [integer(label) for label in labels]
        told = frames_of(whole if None not in whole else labels, where)
    else:
        if without := sum(label is None for label in labels) % len(frames):
            notice(f"{where}: {without} of {len(frames)} frames have no number: all are counted")
        told = [("", number) for number in (range(len(frames)) if by_time is None else by_time)]
    timed = [(number, time) for (_, number), time in zip(told, times) if time is not None]
    fps = rate_of_times(*zip(*timed)) if len(timed) > 1 else None
    return [(*place, body) for place, (_, _, bodies) in zip(told, frames) for body in bodies], fps


def is_a_frame(data) -> bool:
    """Return whether there are people of one image in a value, and no numbers of frames."""
    root = part_of(data)
    frames = _frames(root, "") if root.full and root.depth <= 2 else []
    return len(frames) == 1 and frames[0][0] is None


# ---- frames and people -----------------------------------------------------------------------------------------------


def _frames(root, where):
    """[(label or None, time or None, bodies)] of the frames in a part."""
    root = _shallow(root, where)
    if root.depth == 0:
        return [(root.frame, root.time, [root])]
    if root.depth == 2 and _are_people(root):
        return _of_people(root)
    if root.depth == 2:
        for body in root.bodies():
            body.id = body.key if body.id is None else body.id
        return [frame for part in root.parts for frame in _by_labels(part)]
    labelled = any(_label(part) is not None or part.time is not None for part in root.parts)
    if labelled or root.listed or any(part.listed or not part.full for part in root.parts):
        return [(_label(part), part.time, part.bodies()) for part in root.parts]
    return [(None, None, bodies) for bodies in _in_a_row(root.parts, where)]


def _by_labels(part):
    """The frame that a part is; or several, if its bodies have numbers of frames of their own."""
    bodies = part.bodies()
    if bodies and _label(part) is None and all(body.frame is not None for body in bodies):
        return [(body.frame, body.time, [body]) for body in bodies]
    return [(_label(part), part.time, bodies)]


def _shallow(root, where):
    """Take away parts around one part, down to frames of people."""
    while (depth := root.depth) > 2:
        root = root.parts[0] if len(root.parts) == 1 else _without_wrappers(root)
        if root.depth == depth:
            raise ValueError(f"{where}: lists of lists of lists of people, expected frames of people")
    return root


def _without_wrappers(part):
    """Take away lists around one body."""
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


def _are_people(root):
    """Return whether the outer parts are people and the inner ones frames: by their names, or because the bodies of an
    outer part stay in one place."""
    if any(part.frame is not None for part in root.parts):
        return False
    keys = [part.key for part in root.parts]
    if all(key is not None and WHO.search(str(key)) and not _FILE.search(str(key)) for key in keys):
        return any(len(part.bodies()) > 1 for part in root.parts)
    inner_keys = [body.key for part in root.parts for body in part.bodies()]
    keyed = None not in keys and None not in inner_keys
    if not (root.listed or keyed or all(part.id is not None for part in root.parts)):
        return False
    if inner_keys and all(key is not None and WHO.search(str(key)) for key in inner_keys):
        return False
    steps = [_apart(one, two) for part in root.parts for one, two in zip(part.bodies(), part.bodies()[1:])]
    return bool(steps) and np.median(steps) < SAME


def _of_people(root):
    """Frames of parts that are people."""
    first = lambda *known: next(value for value in known if value is not None)
    found = {}
    for who, part in enumerate(root.parts):
        for number, body in enumerate(part.bodies()):
            body.id = first(part.id, part.key, who)
            label = first(_label(body), number)
            found.setdefault(label, (body.time, []))[1].append(body)
    return [(label, time, bodies) for label, (time, bodies) in found.items()]


def _in_a_row(bodies, where):
    """Bodies without numbers of frames, by frames: one in the place of another, or of its id, is in the next frame."""
    images = [[]]
    for body in bodies:
        ids = [other.id for other in images[-1]]
        if body.id is not None and body.id in ids or any(_apart(body, other) < SAME for other in images[-1]):
            images.append([])
        images[-1].append(body)
    if len(images) > 1 and where:
        notice(f"{where}: {len(bodies)} people without numbers of frames: read as {len(images)} frames in a row")
    return images


def _apart(one: Part, two: Part) -> float:
    """Return the distance of two bodies, in their extents."""
    if one.values.shape != two.values.shape:
        return np.inf
    one, two = (np.where((body.values[:, :2] == 0).all(1, keepdims=True), np.nan, body.values[:, :2]) for body in (one, two))
    both = np.isfinite(one + two).all(1)
    if not both.any():
        return np.inf
    extent = max(np.ptp(one[both], axis=0).max(), np.ptp(two[both], axis=0).max())
    return np.linalg.norm(one[both] - two[both], axis=1).mean() / extent if extent > 0 else np.inf


# ---- times -----------------------------------------------------------------------------------------------------------


def _seconds(time):
    """A time as a number, in whatever unit; of a text as "0:01:02.5" or a date in seconds. None if it is none."""
    if isinstance(time, (int, float)):
        return time
    if not isinstance(time, str):
        return None
    if re.fullmatch(r"\d+(:\d+)+(\.\d+)?", time.strip()):
        total = 0.0
        for part in time.split(":"):
            total = 60 * total + float(part)
        return total
    try:
        return float(time)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(time.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


def _by_time(times):
    """The numbers of frames that lie evenly in time, None if these do not."""
    if len(times) < 2 or any(time is None for time in times):
        return None
    times = np.array(times, np.float64)
    steps = np.diff(times)
    if not (np.isfinite(times).all() and (steps > 0).all()):
        return None
    numbers = np.rint((times - times[0]) / np.median(steps)).astype(int)
    return numbers.tolist() if (np.diff(numbers) > 0).all() and numbers[-1] < 100 * len(times) else None
