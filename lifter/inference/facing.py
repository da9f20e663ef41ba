"""The direction in which a person is seen.

A model of centred clips (`lifter.evaluation.centre`) does not know where in the image a person is. It sees everybody as a
camera does that looks straight at the mean place of the root, and its poses are in the axes of that camera.
"""

import torch
import torch.nn.functional as F

from lifter.geometry import towards, undistort


def faced(poses, keypoints, camera, root=0):
    """Turn the poses that a model gave for a centred clip to the axes of the camera that filmed it.

    Args:
        poses: (T, J, 3), relative to the root. keypoints: (T, J, 2 or 3), normalised, of the clip before it was centred.
        camera: `lifter.data.Camera`.
    """
    place = keypoints[:, root, :2].double().mean(0).view(1, 1, 2)
    ahead = F.pad(undistort(place, torch.from_numpy(camera.normalised)), (0, 1), value=1.0)
    return poses @ towards(ahead[0, 0]).to(poses).mT
