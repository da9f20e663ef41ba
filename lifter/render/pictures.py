"""Frames of a scene's video as small JPEGs."""

import math
from fractions import Fraction

from lifter._notices import notice

PICTURES, PIXELS, QUALITY = 600, 480, 8  # at most so many, so long, with this quantiser


def jpegs(scene):
    """Yields (frame of the scene, JPEG) of some frames, evenly spaced, which is said; nothing without a video."""
    if scene.video is None:
        return
    from av import CodecContext, VideoFrame  # the video is read with it, too

    encoder, every = None, max(1, math.ceil(len(scene) / PICTURES))
    if every > 1:
        notice(f"{scene.name}: of the video every {every} frames one is shown, for a file of at most {PICTURES} pictures")
    for number, image in scene.video.pictures(PIXELS, every):
        if number >= scene.start + len(scene):
            break
        if encoder is None:
            encoder = CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width = image.shape[:2]
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1000)
            encoder.qmin = encoder.qmax = QUALITY
        if number >= scene.start:
            frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
            frame.pts = number
            (packet,) = encoder.encode(frame)
            yield number - scene.start, bytes(packet)
