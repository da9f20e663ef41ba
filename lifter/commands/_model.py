"""Which model a command runs: options that several share."""

from lifter.inference.files import Model


def add_model_options(parser, positional=False):
    """See `model_of`. `positional`: the checkpoint is an argument, not an option."""
    how = {"nargs": "?"} if positional else {}
    parser.add_argument(
        "checkpoint" if positional else "--checkpoint", metavar="CHECKPOINT", **how,
        help="weights: a file of `save_pretrained`, or with --model any that fits; default: those that ship with lifter",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="of `lifter models`, where the checkpoint does not tell it")
    parser.add_argument("--num-frames", type=int, metavar="T", help="of that model; default: its own")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")


def model_of(args):
    """What the options name, not yet loaded."""
    return Model(args.checkpoint, args.model, args.num_frames, args.device, args.dtype)
