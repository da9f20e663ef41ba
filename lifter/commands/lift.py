import argparse
import sys
from collections import Counter
from pathlib import Path

from lifter._errors import message
from lifter.data.registry import WRITERS
from lifter.inference.files import Lift, find_sources, lift_files
from lifter.inference.ray import lift_on_ray
from lifter.progress import Progress

from ._clips import KNOWN, add_clip_options, add_detector_options, are_clips, lift_clips, target
from ._model import add_model_options, model_of
from .data import add_reading_options, reading_options


def add_arguments(parser):
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="videos; files of keypoints, and folders with all in them that holds some"
    )
    parser.add_argument(
        "-o", "--out", required=True, action="append", metavar="OUT",
        help=f"a folder, or for one input a file: .{', .'.join(KNOWN)}; may be given several times",
    )  # fmt: skip
    parser.add_argument("--to", choices=KNOWN, help="in a folder; default: npz")
    add_detector_options(parser)
    add_clip_options(parser)
    add_lifting_options(parser)
    parser.add_argument(
        "--stride", type=int, help="frames from window to window; default: half of what the model sees, for twice the time"
    )
    parser.add_argument("--place", action="store_true", help="put the root where the camera, which the file tells, sees it")
    parser.add_argument("--overwrite", action="store_true", help="lift again what is in OUT already")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: on all machines of a Ray cluster")
    add_reading_options(parser)


def add_lifting_options(parser):
    """Which model, and how it sees a sequence."""
    add_model_options(parser)
    flip = argparse.BooleanOptionalAction
    parser.add_argument("--flip", action=flip, default=True, help="the mean with the mirror image's poses (default: yes)")
    parser.add_argument("--batch", type=int, default=8, help="windows in one call (default: %(default)s)")


def run(args) -> int:
    told, problems = Counter(), []
    try:
        if are_clips(args):
            lift_clips(args, problems)
        else:
            _lift(args, told, problems)
    except KeyboardInterrupt:
        print("lifter lift: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        problems.append(f"lifter lift: {message(error)}")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    if told:
        there = f" ({told['changed']} again: other input, model or options)" if told["changed"] and not args.overwrite else ""
        there += f", {told['there']} were there (--overwrite lifts them again)" if told["there"] else ""
        there += f", {told['elsewhere']} are in the hands of another process" if told["elsewhere"] else ""
        print(f"{args.out[0]}: {told['lifted']} sequences lifted{there}, {told['failed']} failed")
    return 1 if problems else 0


def _lift(args, told, problems):
    lift = _options(args)
    sources = find_sources(args.inputs, lift.out, args.format)
    if lift.format is None and len(sources) > 1:
        raise ValueError(f"{lift.out}: {len(sources)} files to lift, expected a folder")
    with Progress("files", len(sources)) as progress:

        def report(what, text):
            told[what] += 1
            if what == "failed":
                problems.append(text)
            progress.step(what == "source", f", {told['lifted']} sequences lifted")

        if args.engine == "ray":
            lift_on_ray(sources, lift, report)
        else:
            lift_files(lift.model.load(), sources, lift, report)


def _options(args):
    out, format = Path(args.out[0]), target(args.out[0], args.to, WRITERS)
    names = ("flip", "batch", "stride", "place", "overwrite")
    return Lift(out, format, model_of(args), reading=reading_options(args), **{name: getattr(args, name) for name in names})
