"""Arrays of keypoints whose axes are in another order than frames, people, joints, coordinates."""

import numpy as np

from lifter._notices import notice

from .keypoints import bone_lengths
from .parts import COUNTS, array_of
from .plausible import PIXELS


def in_order(data, where):
    """`data`, or if it is an array in another order, (T, J, C) or (T, people, J, C).

    Raises:
        ValueError for an array in which there is no axis of joints before one of coordinates.
    """
    array = array_of(data)
    if array is None or array.ndim < 3:
        return data
    shape = array.shape
    if array.ndim in (4, 5) and shape[-4:] == (1, 1, 17, 3):
        notice(f"{where}: outputs of shape (1, 1, 17, 3), as MoveNet's, in which y comes before x")
        return array.reshape(-1, 17, 3)[..., [1, 0, 2]]
    if (turned := _graph(array)) is not None:
        notice(f"{where}: shape {shape}: read as coordinates, frames, joints, people")
        return turned
    if shape[-1] in (2, 3, 4, 5) and shape[-2] > 5:
        return data
    if array.ndim == 3 and (turned := _three(array)) is not None:
        notice(f"{where}: shape {shape}: read as {turned.shape[0]} frames of {turned.shape[1]} joints")
        return turned
    if 1 in shape and (squeezed := array.squeeze()).ndim in (3, 4):
        return in_order(squeezed, where)
    if array.ndim == 3 and shape[-1] > 5 and shape[-1] // 3 not in COUNTS and shape[-1] // 2 not in COUNTS:
        raise ValueError(f"{where}: shape {shape}, expected (T, J, 2 or 3), or (T, people, J, 2 or 3)")
    return data


def _graph(array):
    """(T, people, J, C) of an array (1, C, T, J, people) or (C, T, J, people), as graph networks take it; None of others."""
    array = array[0] if array.ndim == 5 and len(array) == 1 else array
    if array.ndim != 4 or array.shape[0] not in (2, 3) or array.shape[2] not in COUNTS or array.shape[3] > 4:
        return None
    if array.shape[3] > 1:  # people, if they are not coordinates
        confidences = array[2:]
        in_pixels = np.nanmax(array[:2], initial=0) > PIXELS
        if not (in_pixels and confidences.size and confidences.min() >= 0 and confidences.max() <= 1):
            return None
    return array.transpose(1, 3, 2, 0)


def _three(array):
    """(T, J, C) of an array in another order, if one axis only can be that of joints and one that of coordinates."""
    joints = [axis for axis, size in enumerate(array.shape) if size in COUNTS]
    coordinates = [axis for axis, size in enumerate(array.shape) if size in (2, 3)]
    if len(joints) != 1 or len(coordinates) != 1:
        return None
    (frames,) = {0, 1, 2} - {*joints, *coordinates}
    return array.transpose(frames, joints[0], coordinates[0])


def rows_in_order(bodies, where):
    """Bodies (N, J, 2 or 3) that were rows of numbers x, y, x, y, ...; or of all x, then all y, if the bones of 17 joints are
    shorter so."""
    if bodies.shape[1] != 17:
        return bodies
    turned = bodies.reshape(len(bodies), -1, 17).swapaxes(1, 2)
    shortest = lambda bodies: min(bone_lengths(bodies[..., :2]).values())
    if not shortest(turned) < shortest(bodies):
        return bodies
    notice(f"{where}: rows of {bodies[0].size} numbers: read as all x, then all y")
    return turned
