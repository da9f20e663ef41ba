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
FRAMES = 243  # of a clip, where neither the description nor a table tells
INTRO = """\
# Models

`lifter models` prints the names, and `lifter.create_model(NAME)` builds a model with random weights. `python -m
benchmarks.model_page` writes this page.

- **MACs** are multiply-accumulates of one clip of so many frames: half the FLOPs of every product, attention, retention,
  convolution, scan and sampling. Most papers count less; see [protocols](protocols.md).
- **Input** is frames of joints x channels. Two channels are x and y; a third one is the confidence of the detector. A model of
  the *middle* lifts the frame in the middle of every window, (B, T, J, C) -> (B, T - window + 1, J, 3); `lifter lift`, `lifter
  eval` and `lifter.Stream` repeat the edges of a sequence for it. A model that takes *poses* refines them.
- **Official**: `lifter.load_checkpoint` reads weights of the official code, and `lifter verify` compares the outputs. Those
  weights are not part of lifter.
- **Recipe**: `lifter train --model NAME` trains as the paper does.

| name | model | parameters | MACs | input | official | recipe |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the whole page: a table of the models, then their papers."""
    rows = [row(name) for names in modules().values() for name in names]
    return "".join([INTRO, *rows, "\n## Papers\n\n", *map(paper, modules())])


def modules() -> dict[str, list[str]]:
    """Return the names of the models by module, in the order of the modules' names."""
    found = {}
    for name in sorted(MODELS, key=lambda name: (MODELS[name].__module__, tuple(MODELS).index(name))):
        found.setdefault(MODELS[name].__module__, []).append(name)
    return found


def paper(module) -> str:
    """Return the line about the source of a module's models."""
    about = " ".join(sys.modules[module].__doc__.split())
    classes = ", ".join(f"`{path}`" for path in official(module))
    return f"- {about}{' Official classes: ' if classes else ''}{classes}{'.' if classes else ''}\n"


def official(module) -> list[str]:
    return sorted(path for path, entry in OFFICIAL.items() if entry.build.__module__ == module)


def row(name) -> str:
    """Return the line of a model in the table."""
    about = lifter.list_models()[name]
    told = [int(number) for number in re.findall(r"(\d+) frames", about)]
    frames = max(told, default=next((row.frames for row in ROWS if row.model == name), FRAMES))
    counts = tables.count(name, frames)
    about = re.sub(r"[,:]?( for \d+ frames,?)? [\d.]+ M parameters.*", ".", about)
    macs = f"{counts['macs'] / 1e9:.2f} G" if counts["macs"] >= 1e9 else f"{counts['macs'] / 1e6:.2f} M"
    cells = [
        f"`{name}`",
        about,
        f"{counts['params'] / 1e6:#.3g} M",
        f"{macs}, {frames} frames",
        inputs(built(name, frames), frames),
    ]
    cells += ["yes" if official(MODELS[name].__module__) else "", "yes" if find_recipe(name) else ""]
    return f"| {' | '.join(cells)} |\n"


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
