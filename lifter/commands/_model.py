"""Which model a command runs: options that several share."""

DTYPES = ("float32", "float64", "bfloat16", "float16")


def add_model_options(parser, positional=False):
    """See `model_from`. `positional`: the checkpoint is an argument, not an option."""
    how = {"nargs": "?"} if positional else {}
    parser.add_argument(
        "checkpoint" if positional else "--checkpoint", metavar="CHECKPOINT", **how,
        help="weights: a file of `save_pretrained`, or with --model any that fits; default: those that ship with lifter",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="of `lifter models`, where the checkpoint does not tell it")
    parser.add_argument("--num-frames", type=int, metavar="T", help="of that model; default: its own")
    parser.add_argument("--device", default="cpu", help="as torch names it; default: cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights; default: float32")


def model_from(args):
    """The model that the options name, in evaluation mode. FileNotFoundError, KeyError, ValueError or RuntimeError if there is
    none such."""
    import torch

    import lifter

    if args.model and not args.checkpoint:
        raise ValueError(f"--model {args.model}: expected a checkpoint with it")
    if args.num_frames and not args.model:
        raise ValueError(f"--num-frames {args.num_frames}: expected --model with it")
    size = {"num_frames": args.num_frames} if args.num_frames else {}
    model = lifter.load_pretrained(args.checkpoint, args.model, **size).model
    return model.to(args.device, getattr(torch, args.dtype))
