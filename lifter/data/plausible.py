"""What the numbers of detectors' files are: pixels or shares of the image, confidences or something else.

What is certain is read, and said if the file's format promises something else; what is not is an error.
"""

import numpy as np

from lifter._notices import notice

from .sequence import FARTHEST

SHARES = 1.5  # coordinates up to that are shares of the image: landmarks may lie outside it
PIXELS = 10.0  # of which some coordinate of a body is larger than that
BEYOND = 0.05  # how far outside the image, in its size, joints are found
PERCENT = 30.0  # from there on what is no confidence is a percentage, for logits are smaller
HEATMAP = 1.5  # confidences up to that are peaks of a heatmap, which may be a little above 1


def in_pixels(keypoints, size, where, shares=False):
    """Keypoints (..., J, 2 or 3) of an image of this size in pixels, with confidences in 0..1.

    Args:
        keypoints: as the file has them. shares: its format has shares of the image's width and height, else pixels.
        where: what messages call them.

    Raises:
        ValueError for 3D poses, and for coordinates that are neither pixels nor shares.
    """
    keypoints = np.array(keypoints, np.float64)
    there = ~_nowhere(keypoints)
    if keypoints.shape[-1] == 3:
        keypoints[..., 2] = _confidences(keypoints[..., 2], there & np.isfinite(keypoints[..., 2]), where)
        there &= keypoints[..., 2] > 0
    xy = keypoints[..., :2][there]
    if not len(xy):
        return keypoints
    least, most = _range(xy)
    if shares:
        if most <= 2 * SHARES:
            return keypoints * (*size, 1)[: keypoints.shape[-1]]
        notice(f"{where}: coordinates up to {most:g} where shares of the image are expected: read as pixels")
    elif max(-least, most) <= SHARES and least >= -BEYOND:
        notice(f"{where}: coordinates from {least:.2g} to {most:.2g}: read as shares of the image's width and height")
        return keypoints * (*size, 1)[: keypoints.shape[-1]]
    elif max(-least, most) <= PIXELS:
        raise ValueError(
            f"{where}: coordinates from {least:.3g} to {most:.3g}, which are no pixels; expected pixels, or shares of the "
            "image's width and height from 0 to 1"
        )
    _check_size(xy, size, where)
    return keypoints


def are_poses(array) -> bool:
    """Whether an array (T, J, 3) holds 3D poses: its third values are no confidences, but as far apart as the others."""
    array = np.asarray(array, np.float64)
    if array.ndim != 3 or array.shape[-1] != 3:
        return False
    array = array[np.isfinite(array).all((1, 2)) & array.any((1, 2))]
    if not len(array):
        return False
    spread = np.median(np.ptp(array, axis=1), axis=0)
    third, flat = array[..., 2], np.abs(array[..., :2]).max()
    signed = ((third < 0) & (third != -1)).any()
    large = third.max() > 100 or third.max() > HEATMAP and flat <= PIXELS
    return bool((signed or large) and spread[2] > 0.1 * spread[:2].max())


def _range(values):
    """The least and the most of values but for the 5% beyond either, for a few bad ones do not count: as np.quantile, which
    takes long for few values."""
    values = np.sort(values, axis=None)
    places = np.array((0.05, 0.95)) * (len(values) - 1)
    return np.interp(places, np.arange(len(values)), values)


def _nowhere(keypoints):
    """Where a file has no place: what is not finite, (0, 0) and (-1, -1)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    return ~np.isfinite(x) | ~np.isfinite(y) | (x == y) & ((x == 0) | (x == -1))


def _confidences(values, there, where):
    """Confidences in 0..1 of what a file has in their place; `there`: where it has any."""
    given = values[there & (values != -1)]  # -1 is how some write that a joint was not found
    if not given.size or 0 <= given.min() and given.max() <= 1:
        return values
    least, most = _range(given)
    if least >= 0 and most <= 2 and (given % 1 == 0).all():
        return np.where(there, values > 0, values)  # COCO's visibility, 1 or 2
    if least >= 0 and most <= HEATMAP:
        return np.clip(values, -1, 1)
    if most <= HEATMAP:
        notice(f"{where}: third values from {least:.3g} to {most:.3g} are no confidences: taken as a z and left out")
        return np.where(there, 1.0, values)
    if most > 100:
        raise ValueError(f"{where}: third values up to {most:.4g}, expected confidences: are these 3D poses?")
    if least >= 0 and most > PERCENT:
        notice(f"{where}: third values up to {most:.3g} are no confidences: taken as percentages")
        return values / 100
    notice(f"{where}: third values up to {most:.3g} are no confidences: taken as logits and scaled into 0..1")
    with np.errstate(over="ignore"):
        return np.where(there & (values != 0), 1 / (1 + np.exp(-values)), values)


def _check_size(xy, size, where):
    """Say that joints are far outside the image, or that they fit one that is turned."""
    most, size = xy.max(0), np.array(size, np.float64)
    if (most <= (1 + BEYOND) * size).all() or (most > FARTHEST * size).any():  # which is an error when it is read
        return
    turned = ": are width and height exchanged?" if (most <= (1 + BEYOND) * size[::-1]).all() else ""
    image = f"{size[0]:g}x{size[1]:g}{turned}"
    notice(f"{where}: x is up to {most[0]:.6g} and y up to {most[1]:.6g}, outside the image of {image}")
