"""Checks of the numbers in detectors' files: pixels or shares of the image, confidences or something else.

What is certain is read, and said if the file's format promises something else; what is not is an error.
"""

import numpy as np

from lifter._notices import notice
from lifter.skeleton import H36M

from .keypoints import nowhere
from .sequence import FARTHEST

SHARES = 1.5  # coordinates up to that are shares of the image: landmarks may lie outside it
PIXELS = 10.0  # of which some coordinate of a body is larger than that
BEYOND = 0.05  # how far outside the image, in its size, joints are found
PERCENT = 30.0  # from there on what is no confidence is a percentage, for logits are smaller
HEATMAP = 1.5  # confidences up to that are peaks of a heatmap, which may be a little above 1
MOST = 0.9  # of the frames, in which a body lies or stands on its head


def in_pixels(keypoints, size, where, shares=False):
    """Return keypoints (..., J, 2 or 3) of an image of this size in pixels, with confidences in 0..1.

    Args:
        keypoints: as the file has them. shares: its format has shares of the image's width and height, else pixels.
        where: what messages call them.

    Raises:
        ValueError for 3D poses, and for coordinates that are neither pixels nor shares.
    """
    keypoints = np.array(keypoints, np.float64)
    there = ~nowhere(keypoints)
    if keypoints.shape[-1] == 3:
        keypoints[..., 2] = _confidences(keypoints[..., 2], there, where)
        there &= keypoints[..., 2] > 0
    xy = keypoints[..., :2]
    if not there.any():
        return keypoints
    are_shares = _are_shares(xy[there], where, shares)
    others = _in_the_other_unit(np.abs(xy).max(-1), there, are_shares)
    if count := int(others.sum()):
        unit = "pixels" if are_shares else "shares of the image"
        notice(f"{where}: {count} of {others.size} bodies are read as {unit}, which the others are not")
    in_shares = others ^ are_shares
    keypoints[..., :2] = np.where(in_shares[..., None, None], xy * size, xy)
    if not in_shares.all():
        _check_size(keypoints[..., :2][there & ~in_shares[..., None]], size, where)
    return keypoints


def _are_shares(xy, where, expected):
    """Return whether points (N, 2) are shares of the image; `expected`: whether the file's format says so."""
    least, most = _range(xy)
    if expected:
        if most > 2 * SHARES:
            notice(f"{where}: coordinates up to {most:g} where shares of the image are expected: read as pixels")
        return most <= 2 * SHARES
    if max(-least, most) <= SHARES and least >= -BEYOND:
        notice(f"{where}: coordinates from {least:.2g} to {most:.2g}: read as shares of the image's width and height")
        return True
    if max(-least, most) <= PIXELS:
        raise ValueError(
            f"{where}: coordinates from {least:.3g} to {most:.3g}, which are no pixels; expected pixels, or shares of the "
            "image's width and height from 0 to 1"
        )
    return False


def _in_the_other_unit(farthest, there, are_shares):
    """Find bodies (...,) in pixels among shares of the image, or the reverse.

    Args:
        farthest: (..., J) the larger coordinate of each joint. there: which joints have a place.
    """
    seen = there.sum(-1)
    if are_shares:
        return (there & (farthest > PIXELS)).sum(-1) > seen / 2
    return (seen >= 3) & ~(there & (farthest > SHARES)).any(-1)


def check_upright(keypoints, where):
    """Warn if a body (T, 17, 2 or 3) of Human3.6M's joints in pixels lies or is upside down in nearly all frames."""
    at = lambda joint: keypoints[:, H36M.joints.index(joint), :2]
    legs = [(at(f"left_{part}") + at(f"right_{part}")) / 2 for part in ("knee", "ankle")]
    x, y = np.moveaxis(np.diff([at("head"), at("thorax"), at("pelvis"), *legs], axis=0), -1, 0)  # from the head to the feet
    along = np.abs(x.sum(0)) > 2 * np.abs(y.sum(0))
    if (y < 0).all(0).mean() > MOST:
        notice(f"{where}: upside down in nearly all frames: does y point upwards in the file?")
    elif (along & ((x > 0).all(0) | (x < 0).all(0))).mean() > MOST:
        notice(f"{where}: lying in nearly all frames: are x and y exchanged in the file?")


def are_poses(array) -> bool:
    """Return whether an array (T, J, 3) holds 3D poses: its third values spread as far as the others, unlike confidences."""
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


def _confidences(values, there, where):
    """Convert a file's values to confidences in 0..1; `there`: True for joints that are present."""
    known = there & np.isfinite(values)
    if values.ndim > 1 and len(values) > 1 and there.any() and not (values[known] != 0).any():
        notice(f"{where}: no joint has a confidence other than 0: read without confidences")
        return np.where(there, 1.0, values)
    given, there = values[known & (values != -1)], known  # -1 is how some write that a joint was not found
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
    """Warn if points (N, 2) are far outside the image, fit a rotated image, or fill only a corner of it."""
    least, most, size = xy.min(0), xy.max(0), np.array(size, np.float64)
    image = f"{size[0]:g}x{size[1]:g}"
    if (most > FARTHEST * size).any() or (least < -FARTHEST * size).any():  # which is an error when it is read
        return
    if (least < -BEYOND * size).any():
        spans = " and ".join(f"{axis} is from {low:.6g} to {high:.6g}" for axis, low, high in zip("xy", least, most))
        notice(f"{where}: {spans}, outside the image of {image}")
    elif (most > (1 + BEYOND) * size).any():
        turned = ": are width and height exchanged?" if (most <= (1 + BEYOND) * size[::-1]).all() else ""
        notice(f"{where}: x is up to {most[0]:.6g} and y up to {most[1]:.6g}, outside the image of {image}{turned}")
    elif (most <= 100).all() and (size > 300).all():
        notice(f"{where}: coordinates up to {most.max():.3g} in an image of {image}: read as pixels; are they percentages?")
