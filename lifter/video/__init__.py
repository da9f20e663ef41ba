"""Videos and the people in them: frames, detectors of 2D keypoints, and sequences of what these find."""

from .detectors import DETECTORS, find_detector
from .frames import SUFFIXES, Video, is_video
from .people import Found, find_people

__all__ = ["DETECTORS", "SUFFIXES", "Video", "Found", "find_detector", "find_people", "is_video"]
