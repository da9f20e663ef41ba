"""An npy file of keypoints (T, J, 2 or 3) or 3D poses (T, J, 3), of several people (T, N, J, ...), or of a list of frames."""

from ..files import existing, read_npy
from ..loose import open_loose
from ..registry import register_format
from ..sequence import Dataset


@register_format(
    "npy", "an array (T, J, 2 or 3) of keypoints or 3D poses", sniff=lambda file: file.start[:6] == b"\x93NUMPY", suffix=".npy"
)
def open_npy(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
    """The options are those of `lifter.data.detectors.open_clips`."""
    path = existing(path)
    if path.name == "X3D.npy":  # MotionBERT's poses
        return open_loose("npy", path, {"keypoints_3d": read_npy(path)}, size, fps, layout or "h36m")
    return open_loose("npy", path, read_npy(path), size, fps, layout, variant)
