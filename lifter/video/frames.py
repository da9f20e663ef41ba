"""The frames of a video, upright, numbered by their times."""

from pathlib import Path

import numpy as np

from lifter._extras import needs
from lifter._io import regular

EVEN = 0.1  # of the mean rate, that the rate of the times may differ from it
SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".ts")


def is_video(path) -> bool:
    """Return whether a path is named as a video."""
    return Path(path).suffix.lower() in SUFFIXES


class Video:
    """A video to iterate over: (number, image) of each frame, the image (height, width, 3) uint8 RGB.

    Images are turned as the file says that they are to be shown. Numbers count steps of 1 / `fps` from the first frame, by the
    frames' times. Where these vary, a number may be missing, and the second of two frames with the same number is left out.

    Attributes:
        size: (width, height) of the upright image. fps: of the stream; where times vary, the mean.
        count: of frames, about; None if the file does not tell.
        broken: why it could not be read to its end, when it last was; None if it could.

    Raises:
        FileNotFoundError; ValueError for a file without a frame that can be decoded; ImportError where PyAV is missing.
    """

    def __init__(self, path):
        self.path = regular(path, "video")
        with needs("video", path):
            import av
        self._av, self.broken = av, None
        with self._open() as container:
            stream = self._stream(container)
            try:
                first = next(container.decode(stream), None)
            except av.FFmpegError as error:
                raise ValueError(f"{path}: no frame can be decoded ({error.strerror})") from None
            if first is None:
                raise ValueError(f"{path}: has no frames")
            height, width = self._upright(first).shape[:2]
            self.size, self._rate = (width, height), _rate(stream)
            if not self._rate:
                raise ValueError(f"{path}: does not tell its frames per second")
            self.fps = float(self._rate)
            seconds = stream.duration and stream.duration * stream.time_base
            self.count = stream.frames or (round(seconds * self._rate) if seconds else None)

    def __iter__(self):
        return ((number, self._upright(frame)) for number, frame in self._frames())

    def pictures(self, longest, every=1):
        """Yields (number, image) of every so many frames, small: the longer side has at most `longest` pixels."""
        scale = min(1, longest / max(self.size))
        due = 0
        for number, frame in self._frames():
            if number >= due:
                due = number - number % every + every
                width, height = (max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
                yield number, self._upright(frame, width, height)

    def _frames(self):
        with self._open() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            start, last, self.broken = None, -1, None
            for frame in self._decoded(container, stream):
                number = last + 1
                if frame.pts is not None:
                    start = frame.pts if start is None else start
                    number = round((frame.pts - start) * frame.time_base * self._rate)
                if number > last:
                    last = number
                    yield number, frame

    def _decoded(self, container, stream):
        """The frames of a stream, of a damaged one those before the damage."""
        frames, is_cut = 0, False
        try:
            for packet in container.demux(stream):
                is_cut = packet.is_corrupt if packet.size else is_cut  # the last one is empty
                for frame in packet.decode():
                    yield frame
                    frames += 1
            damage = "the file is cut off" if is_cut else None
        except self._av.FFmpegError as error:
            damage = error.strerror
        if damage:
            of = f" of {self.count}" if self.count else ""
            self.broken = f"{self.path}: broken after {frames}{of} frames, {frames / self.fps:.2f} s ({damage})"

    def _open(self):
        try:
            return self._av.open(str(self.path))
        except self._av.FFmpegError as error:
            raise ValueError(f"{self.path}: not a video that can be read ({error.strerror})") from None

    def _stream(self, container):
        if not container.streams.video:
            raise ValueError(f"{self.path}: has no pictures")
        return container.streams.video[0]

    @staticmethod
    def _upright(frame, width=None, height=None):
        image = frame.to_ndarray(format="rgb24", width=width, height=height)
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


def _rate(stream):
    """The frames per second: those that the times are multiples of, if they are about as many as there are on the average,
    which the last frame's unknown duration changes; else these."""
    even, mean = stream.guessed_rate, stream.average_rate
    return even if even and (not mean or abs(even / mean - 1) < EVEN) else mean
