"""An npy file of (T, J, 2 or 3) keypoints in pixels."""

import numpy as np

from ..detectors import register_detector
from ..files import keypoints_array, read_npy


@register_detector(
    "npy", "an array (T, J, 2 or 3) of keypoints in pixels", suffix=".npy", sniff=lambda file: file.start[:6] == b"\x93NUMPY"
)
def read(path):
    keypoints = keypoints_array(read_npy(path), path)
    if keypoints.shape[2] == 2:
        keypoints = np.concatenate((keypoints, np.ones((*keypoints.shape[:2], 1))), -1)
    return [(frame, 0, 0.0, pose) for frame, pose in enumerate(keypoints)], None
