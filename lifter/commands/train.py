import argparse
import sys
from dataclasses import fields
from pathlib import Path

import lifter
from lifter._errors import message
from lifter._extras import needs
from lifter.recipe import Recipe, find_recipe

from .options import add_reading_options, reading_options


def main(argv) -> int:
    try:
        with needs("train", "lifter train", "lightning", "tensorboard"):
            import jsonargparse
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1

    try:
        args = _parser(argv).parse_args(argv)
        figures = _train(args)
    except (jsonargparse.ArgumentError, ValueError, KeyError, TypeError, OSError, ImportError) as error:
        print(f"lifter train: {message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lifter train: interrupted; --resume goes on from the last checkpoint in {args.out}", file=sys.stderr)
        return 130
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    if rank_zero_only.rank == 0:
        print(f"{args.out}/best.safetensors" + "".join(f", {name} {value:.1f} mm" for name, value in figures.items()))
    return 0


def _parser(argv):
    """Return the parser, which also reads options from a YAML file. The model's recipe gives the defaults."""
    import jsonargparse
    import yaml

    parser = jsonargparse.ArgumentParser(
        prog="lifter train", exit_on_error=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Train a model. With --model, the help shows that model's recipe.",
    )  # fmt: skip
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--model", required=True, help="name from `lifter models`")
    parser.add_argument("--out", default="runs", metavar="FOLDER", help="folder for weights, checkpoints and logs")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the folder, if any")
    parser.add_argument("--start", metavar="FILE", help="weights to start from, e.g. best.safetensors (default: random)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of initial weights, data order and dropout")
    parser.add_argument("--save-every", type=int, default=500, metavar="STEPS", help="steps between checkpoints")
    parser.add_argument("--validate-every", type=int, metavar="STEPS", help="steps between validations (default: one epoch)")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", required=True, metavar="PATH", help="data with poses, in any format that `lifter data inspect` knows"
    )
    patterns = {"nargs": "+", "metavar": "PATTERN"}
    data.add_argument(
        "--train", **patterns, default=["*"], help='sequences to train on, e.g. "S1/*"; those of --validate are excluded'
    )
    data.add_argument("--validate", **patterns, default=[], help="sequences to validate on")
    data.add_argument("--virtual-cameras", action="store_true", help="project each motion into four cameras around it")
    data.add_argument("--noise", type=int, metavar="SEED", help="add the noise of a detector to the keypoints, with this seed")
    data.add_argument("--workers", type=int, default=0, help="data-loading processes per training process")
    add_reading_options(data)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--accelerator", default="auto", help="auto, cpu or cuda")
    machine.add_argument("--devices", default="auto", help="number of devices; auto uses all GPUs, or one process on the CPU")
    machine.add_argument("--nodes", type=int, default=1, help="number of machines; torchrun sets it by itself")
    machine.add_argument("--precision", default="32-true", help="32-true, bf16-mixed, bf16-true or 16-mixed")
    parser.add_class_arguments(Recipe, None)
    if recipe := find_recipe(_model(argv) or ""):
        parser.set_defaults(yaml.safe_load(recipe.read_text()))
    return parser


def _model(argv):
    """Return the model's name, which determines all other defaults."""
    import yaml

    first = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--config")
    args, _ = first.parse_known_args(argv)
    if args.model is None and args.config is not None and Path(args.config).is_file():
        config = yaml.safe_load(Path(args.config).read_text())
        return config.get("model") if isinstance(config, dict) else None
    return args.model


WANTING = {"hdformer": "AdaMod and the trajectory loss of its paper are not supported"}


def _train(args):
    from lifter.training import open_for_training, split, train, watched

    recipe = Recipe(**{field.name: args[field.name] for field in fields(Recipe)})
    if args.model == "finepose":
        raise ValueError("--model finepose: it reads the features of a text (CLIP's), which no data has; train d3dp, its host")
    if args.model in lifter.list_models() and find_recipe(args.model) is None:
        why = f" ({WANTING[args.model]})" if args.model in WANTING else ""
        print(f"lifter train: {args.model} has no published recipe; using the default settings{why}", file=sys.stderr)
    data = open_for_training(args.data, recipe, args.virtual_cameras, args.noise, **reading_options(args))
    training, validation = split(data, args.train, args.validate)
    if recipe.film is not None and validation is not None:
        validation = watched(validation)
    options = ("resume", "start", "seed", "save_every", "validate_every", "workers", "accelerator", "nodes", "precision")
    return train(
        args.model, recipe, training, validation, args.out, devices=_number_or_text(args.devices),
        **{name: args[name] for name in options},
    )  # fmt: skip


def _number_or_text(text):
    return int(text) if str(text).isdigit() else text
