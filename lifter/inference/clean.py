"""Repair of a detector's 2D keypoints before lifting: swapped sides, outliers in single frames, unsure joints.

Lengths are in extents of the person: the larger of height and width in the image, median over the frames.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from lifter.data.sequence import Sequence
from lifter.skeleton import H36M

STEPS = ("swaps", "outliers", "unsure")
FILTERS = ("one-euro", "butterworth")
FPS = 30.0  # where the sequence does not tell

GROUPS = ("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist")  # are exchanged together
AGAINST, DIFFER = 0.001, 0.01  # extents against a frame in which some are exchanged, and against legs without arms
CAP = 0.3  # extents that a joint moves from frame to frame, at most, to count
EXCHANGE, APART = 0.01, 0.15  # what an exchange has to save besides, for each joint: extents, and a share of left from right
JUMP, JUMPS = 0.04, 6.0  # extents, and times the joint's usual jump, that a joint jumps at least
BACK = 2.0  # times as far as the frames before and after are apart
SURE = 0.5  # confidence from which a joint stays where it is
SECONDS = 0.1  # standard deviation of the mean over time that others are drawn to
CUTOFF = 6.0  # hertz of the Butterworth filter, as in gait analysis
EURO = (1.0, 1.0, 1.0)  # hertz at rest; more for each extent per second; hertz of the speed


def clean(sequence: Sequence, skip: Iterable[str] = (), smooth: str | None = None) -> tuple[Sequence, list[str]]:
    """Repair the keypoints of a sequence with Human3.6M's joints.

    Args:
        skip: steps from `STEPS` to leave out. smooth: a filter from `FILTERS`, or None.

    Returns:
        (sequence, lines): the sequence with repaired keypoints, and a line about the result of each step.
    """
    for name, given, known in (("skip", skip, STEPS), ("smooth", (smooth,) if smooth else (), FILTERS)):
        if unknown := set(given) - set(known):
            raise ValueError(f"clean: {name} is {' '.join(sorted(unknown))}, expected {' or '.join(known)}")
    if sequence.skeleton is not H36M or sequence.keypoints is None:
        raise ValueError(f"{sequence.name}: expected keypoints of Human3.6M's joints")
    keypoints, fps, lines = sequence.keypoints.astype(np.float64), sequence.fps or FPS, []
    if "swaps" not in skip:
        keypoints, exchanged = repair_swaps(keypoints)
        lines.append(f"left and right exchanged in {exchanged.sum()} of {len(keypoints)} frames")
    if "outliers" not in skip:
        keypoints, jumps = repair_outliers(keypoints)
        lines.append(f"{jumps.sum()} joints that jumped for a frame put between their neighbours")
    if "unsure" not in skip and keypoints.shape[-1] == 3:
        lines.append(
            f"{(keypoints[..., 2] < SURE).mean():.0%} of joints, of confidence below {SURE:g}, drawn to their mean in time"
        )
        keypoints = steady(keypoints, fps)
    if smooth is not None:
        keypoints[..., :2] = {"one-euro": one_euro, "butterworth": butterworth}[smooth](keypoints[..., :2], fps)
        lines.append(f"smoothed by {smooth}")
    return replace(sequence, keypoints=keypoints.astype(np.float32)), lines


def extent(keypoints) -> float:
    """Return the size of a person in keypoints (T, J, 2 or 3)."""
    return float(max(np.median(np.ptp(keypoints[..., :2], axis=1).max(-1)), 1e-9))


def repair_swaps(keypoints):
    """Swap left and right of legs, arms or both (T, 17, C) where this makes the motion continuous. The labelling of most
    frames is assumed to be right.

    Returns:
        (keypoints, swapped): swapped is (T,) bool, True for changed frames.
    """
    repaired, places, moves = keypoints.copy(), [], []
    for parts in GROUPS:
        left, right = ([H36M.joints.index(f"{side}_{part}") for part in parts] for side in ("left", "right"))
        places.append(([*left, *right], [*right, *left]))
        moves.append(_moves(*(keypoints[:, order, :2] / extent(keypoints) for order in places[-1])))
    swapped = _swapped(np.array(moves))
    for swap, (order, other) in zip(swapped, places):
        repaired[np.ix_(swap, order)] = keypoints[np.ix_(swap, other)]
    return repaired, swapped.any(0)


def _moves(points, other):
    """Distances (2, T - 1) that points (T, n, 2) move from frame to frame: as they are called, and as `other` calls them."""
    capped = lambda apart: np.minimum(np.linalg.norm(apart, axis=-1), CAP).sum(-1)
    exchange = points.shape[1] * EXCHANGE + APART * capped(points - other)[1:]
    return capped(points[1:] - points[:-1]), capped(other[1:] - points[:-1]) + exchange


def _swapped(moves):
    """(groups, T) bool, which groups are exchanged: the labelling with which they move least, by dynamic programming. `moves`:
    (groups, 2, T - 1) of `_moves`."""
    groups, _, steps = moves.shape
    labels = np.array(list(np.ndindex(*[2] * groups)))  # (states, groups)
    against = AGAINST * labels.any(1) + DIFFER * (labels.any(1) & ~labels.all(1))
    change = labels[:, None] ^ labels  # (states before, states now, groups)
    cost = sum(moves[group][change[..., group]] for group in range(groups)) + against[None, :, None]  # (states, states, T - 1)
    best, came = against, np.zeros((steps, len(labels)), int)
    for step in range(steps):
        total = best[:, None] + cost[..., step]
        came[step], best = total.argmin(0), total.min(0)
    states = [best.argmin()]
    for before in came[::-1]:
        states.append(before[states[-1]])
    return labels[states[::-1]].T.astype(bool)


def repair_outliers(keypoints):
    """Replace outliers among joints (T, J, C): a joint that is far from its positions in both neighbouring frames, while these
    are close to each other, moves between them and gets confidence 0. The threshold depends on the joint's usual motion.

    Returns:
        (keypoints, moved): moved is (T, J) bool, True for changed joints.
    """
    xy, moved = keypoints[..., :2], np.zeros(keypoints.shape[:2], bool)
    if len(xy) < 3:
        return keypoints, moved
    between = (xy[2:] + xy[:-2]) / 2
    jump = np.linalg.norm(xy[1:-1] - between, axis=-1)
    apart = np.linalg.norm(xy[2:] - xy[:-2], axis=-1)
    usual = np.median(jump, axis=0)
    moved[1:-1] = jump > np.maximum(np.maximum(JUMPS * usual, BACK * apart), JUMP * extent(keypoints))
    keypoints = keypoints.copy()
    keypoints[..., :2][moved] = between[moved[1:-1]]
    keypoints[..., 2:][moved] = 0
    return keypoints, moved


def steady(keypoints, fps):
    """Pull joints (T, J, 3) of low confidence towards their confidence-weighted mean over time: not at all from confidence
    `SURE` on, all the way at confidence 0."""
    xy, confidence = keypoints[..., :2], np.clip(keypoints[..., 2:], 0, 1)
    weight = confidence + 1e-3
    mean = blur(xy * weight, SECONDS * fps) / blur(weight, SECONDS * fps)
    share = np.clip(1 - confidence / SURE, 0, 1)
    return np.concatenate((xy + share * (mean - xy), keypoints[..., 2:]), -1)


def blur(values, deviation):
    """Convolve values (T, ...) with a Gaussian of this standard deviation in frames, unnormalized: divide by the result for
    ones to get the mean."""
    reach = max(1, math.ceil(3 * deviation))
    kernel = np.exp(-((np.arange(-reach, reach + 1) / max(deviation, 1e-9)) ** 2) / 2)
    flat = values.reshape(len(values), -1)
    out = np.stack([np.convolve(column, kernel)[reach : reach + len(flat)] for column in flat.T], -1)
    return out.reshape(values.shape)


def butterworth(values, fps, cutoff=CUTOFF):
    """Filter values (T, ...) with a second-order Butterworth filter, forwards and backwards, without delay. `cutoff`: of both
    passes together, in hertz."""
    if cutoff >= 0.4 * fps or len(values) < 4:
        return values
    tan = math.tan(math.pi * cutoff / fps / 0.802)  # as two passes make the cutoff lower
    norm = 1 + math.sqrt(2) * tan + tan * tan
    gain, one, two = tan * tan / norm, 2 * (tan * tan - 1) / norm, (1 - math.sqrt(2) * tan + tan * tan) / norm
    pad = min(len(values) - 1, round(fps))
    out = np.concatenate((2 * values[0] - values[pad:0:-1], values, 2 * values[-1] - values[-2 : -pad - 2 : -1]))
    for _ in range(2):
        raw, out = out, out.copy()
        for frame in range(2, len(raw)):
            fed = gain * (raw[frame] + 2 * raw[frame - 1] + raw[frame - 2])
            out[frame] = fed - one * out[frame - 1] - two * out[frame - 2]
        out = out[::-1]
    return out[pad : pad + len(values)].copy()


def one_euro(values, fps, settings=EURO):
    """Filter values (T, J, 2) with the 1 Euro filter (Casiez et al., 2012), which smooths fast motion less. Speeds are in
    extents per second."""
    rest, more, speed_cutoff = settings
    share = lambda cutoff: 1 / (1 + fps / (2 * math.pi * cutoff))
    scale, out, speed = extent(values), values.copy(), np.zeros(values.shape[1:])
    for frame in range(1, len(values)):
        speed += share(speed_cutoff) * ((values[frame] - out[frame - 1]) * fps - speed)
        fast = np.linalg.norm(speed, axis=-1, keepdims=True) / scale
        out[frame] = out[frame - 1] + share(rest + more * fast) * (values[frame] - out[frame - 1])
    return out
