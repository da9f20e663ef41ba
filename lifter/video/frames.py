"""The frames of a video, upright, numbered by their times."""

from pathlib import Path

import numpy as np

from lifter._extras import needs
from lifter._io import regular

EVEN = 0.1  # of the mean rate, that the rate of the times may differ from it
EARLY = 0.5  # seconds; a video that ends that long before the end that its file tells is broken
ESTIMATED = ("mpegts", "mpeg")  # formats that do not tell where they end; FFmpeg takes the last time in the file for it
PACKETS = (188, 192, 204)  # bytes; a transport stream (.ts, .mts) is whole packets of one of these
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
            seconds = (stream.duration or 0) * stream.time_base or (container.duration or 0) / 1e6
            self.count = stream.frames or round(seconds * self._rate) or None

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
            start, last, frames, self.broken = None, -1, 0, None
            for frame in self._decoded(container, stream):
                number, frames = last + 1, frames + 1
                if frame.pts is not None:
                    start = frame.pts if start is None else start
                    number = round((frame.pts - start) * frame.time_base * self._rate)
                if number > last:
                    last = number
                    yield number, frame
        if self.broken:
            of = f" of {self.count}" if self.count and self.count > last + 1 else ""
            seconds = (last + 1) / self.fps
            self.broken = f"{self.path}: broken after {frames}{of} frames, {seconds:.2f} s ({self.broken})"

    def _decoded(self, container, stream):
        """The frames of a stream, of a damaged one those before the damage, which `broken` then names."""
        ends, is_cut = {}, False
        try:
            for packet in container.demux():
                if packet.pts is not None:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
                if packet.stream_index == stream.index:
                    is_cut = packet.is_corrupt if packet.size else is_cut  # the last one is empty
                    yield from packet.decode()
            self.broken = "the file is cut off" if is_cut or _is_torn(container) else _early(container, stream, ends)
        except self._av.FFmpegError as error:
            self.broken = error.strerror

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


def _early(container, stream, ends):
    """Say that the packets of streams, by their `ends`, end before the file tells; None if they do not."""
    format = container.format.name
    if format == "avi":
        told, end = stream.frames / _rate(stream), ends.get(stream.index, 0)
    elif format in ESTIMATED or not container.duration or not ends:
        return None
    else:  # of the longest stream
        told, end = container.duration / 1e6, max(ends.values()) - min(container.start_time or 0, 0) / 1e6
    return f"the file tells of {float(told):.2f} s" if end < told - EARLY else None


def _is_torn(container):
    """Return whether a transport stream ends within a packet."""
    return container.format.name == "mpegts" and all(container.size % size for size in PACKETS)
