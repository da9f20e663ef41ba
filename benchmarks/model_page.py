"""`python -m benchmarks.model_page`: write docs/models.md, the page of all models, from the registry."""

import re
import sys
from pathlib import Path

import torch

import lifter
from lifter._io import whole
from lifter.models import DeciWatch, MixSynthFormer, SmoothNet
from lifter.recipe import find_recipe
from lifter.registry import MODELS, OFFICIAL

from . import tables
from .published import ROWS

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
FRAMES = 243  # of a clip, for models that no table prints and that take any number
INTRO = """\
# Models

`lifter models` prints this list, and `lifter.create_model(NAME)` builds a model with random weights. This page is written by `python
-m benchmarks.model_page`.

- **MACs** are multiply-accumulates of one clip with as many frames as the row says: half the FLOPs of every product, attention,
  retention, convolution, scan and sampling. Papers count less; see [protocols](protocols.md).
- **Input**: frames of a clip, then joints and channels. Two channels are x and y, a third one is the confidence of the detector.
  "Middle" models lift the frame in the middle of every window, (B, T, J, C) -> (B, T - window + 1, J, 3); `lifter lift`, `lifter eval`
  and `lifter.Stream` repeat the edges of a sequence for them. "Poses" are refined, not lifted.
- **Official weights**: `lifter.load_checkpoint` reads files of the official code, and `lifter verify` compares with its outputs.
  lifter contains no official weights.
- **Recipe**: `lifter train --model NAME` knows how the paper trains it.
"""
HEAD = "| name | model | parameters | MACs | input |\n|---|---|---|---|---|\n"


def page() -> str:
    """The whole page: a section for each file of `lifter/models`."""
    sections = []
    for module, names in modules().items():
        sections.append(f"{heading(module, names)}\n{HEAD}" + "".join(map(row, names)))
    return "\n".join([INTRO, *sections])


def modules() -> dict[str, list[str]]:
    """The names of the models in each module, in the order of the modules' names."""
    found = {}
    for name in sorted(MODELS, key=lambda name: (MODELS[name].__module__, tuple(MODELS).index(name))):
        found.setdefault(MODELS[name].__module__, []).append(name)
    return found


def heading(module, names) -> str:
    """The title of a section, the paper, and what there is besides the models."""
    title, *paragraphs = sys.modules[module].__doc__.strip().split("\n\n")
    title, _, about = " ".join(title.split()).partition(": ")
    official = sorted(path for path, entry in OFFICIAL.items() if entry.build.__module__ == module)
    recipes = sorted({find_recipe(name).name for name in names if find_recipe(name)})
    lines = [f"{about[:1].upper()}{about[1:]}" if about else "", *(" ".join(each.split()) for each in paragraphs), ""]
    lines.append(f"Official weights: {', '.join(f'`{path}`' for path in official)}." if official else "Official weights: none.")
    lines.append(f"Recipe: {', '.join(f'`{recipe}`' for recipe in recipes)}." if recipes else "Recipe: none.")
    return f"## {title.rstrip('.')}\n" + "\n".join(lines) + "\n"


def row(name) -> str:
    """The line of a model in the table."""
    frames = next((each.frames for each in ROWS if each.model == name and not each.kwargs), None)
    model = built(name, frames)
    frames = frames or getattr(model, "num_frames", None) or getattr(model, "window", FRAMES)
    counts = tables.count(name, frames)
    about = re.sub(r"[,:]?( for \d+ frames,?)? [\d.]+ M parameters.*", ".", lifter.list_models()[name])
    macs = f"{counts['macs'] / 1e9:.2f} G" if counts["macs"] >= 1e9 else f"{counts['macs'] / 1e6:.2f} M"
    return f"| `{name}` | {about} | {counts['params'] / 1e6:.2f} M | {macs}, {frames} frames | {inputs(model, frames)} |\n"


def built(name, frames):
    with torch.device("meta"), tables.unfilled():
        return lifter.create_model(name, frames).eval()


def inputs(model, frames) -> str:
    """Describe the clips that a model takes."""
    of = f"{model.num_joints} x {model.in_channels}"
    multiple = getattr(model, "clip_multiple", None) or 1
    if isinstance(model, (DeciWatch, MixSynthFormer, SmoothNet)):
        return f"poses, {frames} frames of {of}"
    if any(getattr(model, "margins", (0, 0))):
        return f"middle, {frames} frames or more of {of}"
    if multiple == frames:
        return f"exactly {frames} frames of {of}"
    times = f"a multiple of {multiple} frames" if multiple > 1 else ""
    if model.num_frames is None or takes(model, frames + multiple):
        return f"{times or 'any number of frames'} of {of}"
    return f"{times + ', ' if times else ''}up to {frames} frames of {of}"


def takes(model, frames) -> bool:
    """Return whether a model that was made for fewer frames takes so many."""
    if hasattr(model, "denoise"):
        return False
    try:
        with torch.no_grad():
            model(torch.empty(1, frames, model.num_joints, model.in_channels, device="meta"))
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    with whole(PAGE) as partly:
        partly.write_text(page())
    print(PAGE)
