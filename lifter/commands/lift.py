import sys
from collections import Counter
from pathlib import Path

from lifter._errors import message
from lifter.inference.files import Lift, lift_files
from lifter.inference.ray import lift_on_ray
from lifter.progress import Progress

from ._clips import lift_clips
from ._model import model_of
from ._plan import are_clips, sources_of, target
from ._writing import writing_options
from .options import reading_options


def run(args) -> int:
    told, problems = Counter(), []
    try:
        sources = sources_of(args)
        if are_clips(args, sources):
            lift_clips(args, sources, problems)
        else:
            _lift(args, sources, told, problems)
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


def _lift(args, sources, told, problems):
    lift = _options(args)
    with Progress("files", len(sources)) as progress:

        def report(what, text):
            told[what] += 1
            if what == "failed":
                problems.append(text)
            progress.step(what == "source", f", {told['lifted']} sequences lifted")

        def step(frames):
            told["frames"] += frames
            progress.step(0, f", {told['lifted']} sequences and {told['frames']} frames lifted")

        if args.engine == "ray":
            lift_on_ray(sources, lift, report)
        else:
            lift_files(lift.model.load(), sources, lift, report, step)


def _options(args):
    out, format = Path(args.out[0]), target(args.out[0], args.to)
    names = ("flip", "batch", "stride", "place", "overwrite")
    how = {"reading": reading_options(args), "writing": writing_options(args, *args.out, args.to)}
    return Lift(out, format, model_of(args), **how, **{name: getattr(args, name) for name in names})
