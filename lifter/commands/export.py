import sys

import lifter
from lifter._errors import message
from lifter.data import open_data
from lifter.inference.export import export

from ._model import model_of


def run(args) -> int:
    try:
        if args.checkpoint in lifter.list_models():
            size = {"num_frames": args.num_frames} if args.num_frames else {}
            model = lifter.create_model(args.checkpoint, **size).eval().to(args.device)
            print(f"{args.checkpoint}: with random weights", file=sys.stderr)
        else:
            model = model_of(args).network()
        motion = None if args.input is None else next(iter(open_data(args.input))).keypoints
        if args.input and motion is None:
            raise ValueError(f"{args.input}: no keypoints")
        exported = export(args.out, model, args.batch, args.frames, motion)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, ImportError) as error:
        print(f"lifter export: {message(error)}", file=sys.stderr)
        return 1
    inputs = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in exported.inputs.items())
    own = f", of its own kernels and references {exported.own:.1e}" if exported.own else ""
    print(f"{args.out}: {inputs}; largest difference {exported.difference:.1e} of the largest output{own}")
    return 0
