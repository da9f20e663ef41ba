"""Frames of a scene as pictures. Agg, matplotlib's rasteriser, draws them without a figure, which would take longer than all
that is in it."""

import math
from bisect import bisect
from functools import cache

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Bbox
from PIL import Image

from .scene import LIMBS, SIDES, TRUTH, Fit, View, grid

INK, FAINT, GRID, SHADOW, PAPER = "#20242b", "#6d7480", "#dde1e6", "#d3d7dd", "#ffffff"
UNSURE = 0.3  # keypoints of less confidence are drawn pale


def frames(scene, size):
    """Yields a scene's frames, (height, width, 4) uint8 RGBA, all in the same array. Camera and scales are those of the whole
    clip: the same pose is the same picture at any time."""
    width, height = size
    unit = math.sqrt(width * height) / 900  # text and gaps grow with the picture
    bar = height - 40 * unit
    painter = Painter(width, height)
    count = len(scene.models) + (scene.keypoints is not None)
    columns = max(range(1, count + 1), key=lambda n: min(width / n, bar / math.ceil(count / n)))
    panel_size = width / columns, bar / math.ceil(count / columns)
    corners = [(i % columns * panel_size[0], i // columns * panel_size[1]) for i in range(count)]
    panels = [] if scene.keypoints is None else [_Image(painter, scene, (*corners.pop(0), *panel_size), unit)]
    panels += [
        _Room(painter, scene, name, (*corner, *panel_size), unit) for name, corner in zip(scene.models, corners, strict=True)
    ]
    _bar(painter, scene, (0, bar, width, height - bar), unit)
    base, after = bar + 25 * unit, 0.36 * width
    after += painter.label(after, base, "frame ", 14 * unit)  # text takes time: drawn once, but for the numbers
    background = painter.pixels.copy()
    for frame in range(len(scene)):
        painter.pixels[:] = background
        for panel in panels:
            panel.draw(frame)
        number = scene.start + frame
        painter.text(after, base, f"{number}   {number / scene.fps:.2f} s", 14 * unit)
        yield painter.pixels


class Painter:
    """Antialiased lines and text on `pixels`, (height, width, 4) uint8 RGBA; y is down."""

    def __init__(self, width, height):
        self.renderer = RendererAgg(width, height, 72)  # of 72 dots per inch, so that points are pixels
        self.pixels = np.asarray(self.renderer.buffer_rgba())
        self.pixels[:] = 255
        self._down = Affine2D().scale(1, -1).translate(0, height)
        self._pen = self.renderer.new_gc()

    def lines(self, segments, colour, width, ends="round"):
        """Segments (n, 2, 2) from (x, y) to (x, y)."""
        segments = np.asarray(segments)
        self._pen.set_foreground(colour)
        self._pen.set_linewidth(width)
        self._pen.set_capstyle(ends)
        codes = np.array([Path.MOVETO, Path.LINETO] * len(segments), Path.code_type)
        self.renderer.draw_path(self._pen, Path(segments.reshape(-1, 2), codes), self._down)

    def dots(self, points, colour, width):
        """Round dots at points (n, 2)."""
        self.lines(np.stack((points, points + 0.01), 1), colour, width)

    def clip(self, box):
        """Restrict drawing to `box` (left, top, width, height)."""
        left, top, width, height = box
        self._pen.set_clip_rectangle(Bbox.from_bounds(left, self.renderer.height - top - height, width, height))

    def text(self, x, y, text, size, colour=FAINT, bold=False):
        """One line from x, with its base at y."""
        self._pen.set_foreground(colour)
        self._pen.set_clip_rectangle(None)
        self.renderer.draw_text(self._pen, x, y, text, _font(size, bold), 0)

    def label(self, x, y, text, size, colour=FAINT, bold=False, within=math.inf):
        """A text of any letters, cut to be `within` so many pixels wide; how wide it is."""
        width = lambda text: self.renderer.get_text_width_height_descent(text or " ", _font(size, bold), False)[0]
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        if width(text) > within:
            longer = bisect(range(len(text)), within, key=lambda letters: width(f"{text[:letters]}…"))
            text = f"{text[: max(0, longer - 1)]}…"
        self.text(x, y, text, size, colour, bold)
        return width(text)


@cache
def _font(size, bold):
    return FontProperties(size=size, weight="bold" if bold else "normal")


class _Panel:
    """A part of the picture, `box` (left, top, width, height), with its name and room for what is drawn in it."""

    def __init__(self, painter, scene, name, box, unit):
        self.painter, self.scene, self.unit = painter, scene, unit
        self.sides = [SIDES[side] for side in scene.sides]
        self.bones = np.array(scene.skeleton.bones)
        left, top, width, height = self.box = box
        self.inner = left + 24 * unit, top + 70 * unit, width - 48 * unit, height - 90 * unit
        painter.label(left + 20 * unit, top + 32 * unit, name, 17 * unit, INK, bold=True, within=width - 40 * unit)
        if left > 0:
            painter.lines([[(left, top + 16 * unit), (left, top + height)]], GRID, unit)


class _Image(_Panel):
    """The keypoints, on the video if there is one."""

    def __init__(self, painter, scene, box, unit):
        super().__init__(painter, scene, "2D keypoints", box, unit)
        xy, self.confidences = scene.keypoints[..., :2], scene.keypoints[..., 2]
        seen, self.film = xy.reshape(-1, 2), None
        if scene.video is not None:
            width, height = scene.video.size
            seen = np.array([[-1, -height / width], [1, height / width]])
        fit = Fit(seen, self.inner)
        self.keypoints, self.thick = fit(xy), 4.5 * unit
        if scene.video is not None:
            (left, top), (right, bottom) = np.rint(fit(seen)).astype(int)
            self.film = _film(scene, (left, top, right - left, bottom - top))

    def draw(self, frame):
        if self.film is not None:
            (left, top, width, height), picture = next(self.film)
            self.painter.pixels[top : top + height, left : left + width, :3] = picture
        points, sure = self.keypoints[frame], self.confidences[frame] >= UNSURE
        for bone, side in zip(self.bones, self.sides):
            self.painter.lines(points[bone][None], LIMBS[side] if sure[bone].all() else GRID, self.thick)
        self.painter.dots(points, PAPER, 0.5 * self.thick)


def _film(scene, box):
    """Yields (box, picture of its size) for every frame: of the video, the one that was last; white before the first."""
    width, height = box[2:]
    picture, pictures = np.full((height, width, 3), 255, np.uint8), scene.video.pictures(max(width, height))
    number, image = next(pictures, (math.inf, None))
    for frame in range(scene.start, scene.start + len(scene)):
        newest = None
        while number <= frame:
            newest, (number, image) = image, next(pictures, (math.inf, None))
        if newest is not None:
            picture = np.asarray(Image.fromarray(newest).resize((width, height)))
        yield box, picture


class _Room(_Panel):
    """The poses of a model, before those of the truth."""

    def __init__(self, painter, scene, name, box, unit):
        super().__init__(painter, scene, name, box, unit)
        self.poses, self.errors = scene.models[name], scene.errors.get(name)
        self.view = View(scene.seen, self.inner)
        self.thick = float(np.clip(0.035 * self.view.fit.scale, 2.5 * unit, 9 * unit))
        painter.clip(box)
        painter.lines(self.view(grid(*scene.floor))[0], GRID, unit)
        if self.errors is not None and np.isfinite(self.errors).any():
            self.after, self.base = box[0] + 20 * unit, box[1] + 56 * unit
            mean = f"MPJPE {np.nanmean(self.errors):.1f} mm    this frame "
            self.after += painter.label(self.after, self.base, mean, 14 * unit)

    def draw(self, frame):
        painter, thick = self.painter, self.thick
        painter.clip(self.box)
        shown = [poses[frame] for poses in (self.scene.truth, self.poses) if poses is not None]
        for pose in shown:
            painter.lines(self.view(pose * (1, 1, 0))[0][self.bones], SHADOW, 0.6 * thick)
        if len(shown) == 2:
            painter.lines(self.view(shown[0])[0][self.bones], TRUTH, 0.6 * thick)
        points, depth = self.view(shown[-1])
        for bone in np.argsort(-depth[self.bones].sum(1)):
            segment = points[self.bones[bone]][None]
            painter.lines(segment, PAPER, 1.5 * thick, "butt")  # what is nearer is seen to be before what is behind it
            painter.lines(segment, LIMBS[self.sides[bone]], thick)
        if self.errors is not None and np.isfinite(self.errors[frame]):
            painter.text(self.after, self.base, f"{self.errors[frame]:.1f}", 14 * self.unit, INK)


def _bar(painter, scene, box, unit):
    """The line below the panels: the sequence's name, and what the colours are."""
    left, top, width, height = box
    base = top + 25 * unit
    painter.label(20 * unit, base, scene.name, 14 * unit, within=0.33 * width)
    entries = [(LIMBS[side], side) for side in ("left", "right", "middle")]
    entries += [] if scene.truth is None else [(TRUTH, "truth")]
    x = width - (110 + 74 * len(entries)) * unit
    for colour, name in entries:
        painter.dots(np.array([[x, base - 5 * unit]]), colour, 11 * unit)
        x += 11 * unit
        x += painter.label(x, base, name, 14 * unit) + 22 * unit
    painter.text(x, base, f"grid {scene.floor[2]:g} m", 14 * unit)
