"""Files of keypoints to files of poses: what `lifter lift` does where no video and nothing to look at is asked for."""

from pathlib import Path

from lifter.inference.files import Lift, lift_files
from lifter.inference.ray import lift_on_ray
from lifter.progress import Progress

from ._model import model_of
from ._plan import target
from ._writing import writing_options
from .options import reading_options


def lift_keypoints(args, sources, told, problems):
    """Lift files of keypoints: count in `told` what became of the sequences; of those that failed, a line in `problems`."""
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
