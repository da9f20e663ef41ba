"""An npy file of (T, J, 2 or 3) keypoints in pixels."""

from ..detectors import Clip, detection, register_detector
from ..files import keypoints_array, read_npy
from ..plausible import are_poses


@register_detector(
    "npy", "an array (T, J, 2 or 3) of keypoints in pixels", suffix=".npy", sniff=lambda file: file.start[:6] == b"\x93NUMPY"
)
def read(path):
    keypoints = keypoints_array(read_npy(path), path)
    if are_poses(keypoints):
        raise ValueError(f"{path}: these are 3D poses, expected keypoints in an image")
    return [Clip([detection(frame, 0, pose) for frame, pose in enumerate(keypoints)], sure=True)]
