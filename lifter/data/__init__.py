"""Sequences of keypoints and poses: reading (`open_data`) and writing (`save`, `write`)."""

from . import formats  # noqa: F401  (each registers itself)
from .cameras import Camera, denormalise, normalise
from .formats.own import save
from .outputs import write
from .registry import FORMATS, detect, open_data
from .sequence import Dataset, Sequence, Window, windows

__all__ = [
    "FORMATS", "Camera", "Dataset", "Sequence", "Window", "denormalise", "detect", "normalise", "open_data", "save", "windows",
    "write",
]  # fmt: skip
