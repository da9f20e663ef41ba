"""`python -m benchmarks.export`: which models can be exported, as what, and how close that is to the model. Small sizes."""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import torch

import lifter
from lifter.data import open_data
from lifter.inference.export import FORMATS, export

SMALL = {"num_frames": 27, "dim": 16}
SIZES = (SMALL | {"depth": 2}, SMALL | {"depth": 4}, {"dim": 16, "depth": 2}, {"num_frames": 27}, {})  # the first that fits


def small(name):
    """A model of small size, whose weights are all at random: many start at 0."""
    torch.manual_seed(0)
    for sizes in SIZES:
        with contextlib.suppress(TypeError, ValueError):
            model = lifter.create_model(name, **sizes).eval()
            break
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    return model


def row(name, suffix, folder, motion=None):
    """Make a row for a model in a format: exported or not, largest difference, seconds, free sizes or why not."""
    start = time.perf_counter()
    try:
        exported = export(Path(folder) / f"model{suffix}", small(name), motion=motion)
    except RuntimeError as error:
        return "no", "", "", str(error)
    free = [size for size in next(iter(exported.inputs.values())) if isinstance(size, str)]
    own = f"; of its own kernels and references {exported.own:.0e}" if exported.own else ""
    return "yes", f"{exported.difference:.0e}", f"{time.perf_counter() - start:.0f}", f"any {' and '.join(free)}{own}"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only models whose name contains this text")
    parser.add_argument("--input", metavar="PATH", help="keypoints to compare on (default: a synthetic gait)")
    args = parser.parse_args()
    motion = None if args.input is None else next(iter(open_data(args.input))).keypoints
    line = "| {:<25} | {:<5} | {:<8} | {:<10} | {:<7} | {}".format
    print(line("model", "file", "exported", "difference", "seconds", "sizes, or why not"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in lifter.list_models():
            for suffix in FORMATS if args.only in name else ():
                print(line(name, suffix, *row(name, suffix, folder, motion)), flush=True)


if __name__ == "__main__":
    main()
