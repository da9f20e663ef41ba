"""Films: a scene's frames, one after another, into an mp4 or a gif."""

import math
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from .draw import frames

BT709 = 1  # the standard's number for its matrix, primaries and transfer curve
GIF_FASTEST = 15  # frames per second: what is faster is large, and above 50 played slowly


def write_mp4(path, scene, size):
    """H.264 where PyAV's build has it, else MPEG-4. How many frames it has."""
    codec, options = ("libx264", {"preset": "veryfast", "crf": "18"}) if "libx264" in av.codecs_available else ("mpeg4", {})
    size = tuple(side + side % 2 for side in size)  # colours are stored for two by two pixels
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        stream = _stream(film, codec, size, "yuv420p", scene.fps, options)
        stream.bit_rate = 0 if options else 8_000_000
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        for picture in frames(scene, size):
            frame = av.VideoFrame.from_ndarray(picture, "rgba")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation="FAST_BILINEAR")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return len(scene)


def write_gif(path, scene, size):
    """All frames have the palette of the first; above 15 frames per second only every second frame, or third, ..., is taken,
    for the right speed. How many frames it has."""
    every = math.ceil(scene.fps / GIF_FASTEST)
    with av.open(str(path), "w", format="gif") as film:
        stream = _stream(film, "gif", size, "pal8", scene.fps / every)
        palette = None
        for number, picture in enumerate(frames(scene, size)):
            if number % every:
                continue
            image = Image.fromarray(picture).convert("RGB")
            palette = image.quantize(255) if palette is None else palette
            film.mux(stream.encode(_indexed(image.quantize(palette=palette, dither=Image.Dither.NONE))))
        film.mux(stream.encode())
    return math.ceil(len(scene) / every)


def _stream(film, codec, size, pix_fmt, fps, options=None):
    stream = film.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    return stream


def _indexed(image):
    """A picture with a palette as PyAV wants it: its indices, and 256 colours of opacity, red, green and blue."""
    colours = np.full((256, 4), 255, np.uint8)
    known = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    colours[: len(known), 1:] = known
    return av.VideoFrame.from_ndarray((np.asarray(image), colours), "pal8")
