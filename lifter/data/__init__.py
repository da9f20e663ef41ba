"""Data: keypoints and poses as they lie on disk, read one sequence at a time. `open_data` tells the format itself."""

from .cameras import Camera, denormalise, normalise
from .formats import FORMATS, detect, open_data
from .outputs import write
from .own import save
from .sequence import Dataset, Sequence, Window, windows

__all__ = [
    "FORMATS", "Camera", "Dataset", "Sequence", "Window", "denormalise", "detect", "normalise", "open_data", "save", "windows",
    "write",
]  # fmt: skip
