"""The direction in which a person is seen.

A model of centred clips (`lifter.evaluation.centre`) does not know where in the image a person is. It sees everybody as a
camera does that looks straight at the root, and its poses are in the axes of that camera.
"""

import numpy as np
import torch
import torch.nn.functional as F

from lifter.geometry import towards, undistort


def directions(keypoints, camera, root=0):
    """Return the direction of the root in every frame, (T, 3) float64 in the axes of the camera.

    Args:
        keypoints: (T, J, 2 or 3) array, normalised. camera: `lifter.data.Camera`.
    """
    place = torch.from_numpy(np.array(keypoints[None, :, root, :2], np.float64))
    return F.pad(undistort(place, torch.from_numpy(camera.normalised))[0], (0, 1), value=1.0)


def directions_for(model, sequence):
    """Return the `directions` by which the poses of a model are to be turned; None if it is not one of centred clips, or the
    camera is not known."""
    known = getattr(model, "centred", False) and sequence.camera is not None
    return directions(sequence.keypoints, sequence.camera) if known else None


def faced(poses, directions):
    """Turn poses (T, J, 3), a tensor, from the axes of a camera that looks in these directions (T, 3) to those of the camera
    in which the directions are; None: not."""
    if directions is None:
        return poses
    return torch.einsum("tij,tpj->tpi", towards(directions).to(poses), poses)
