"""The `lifter` command. Each subcommand imports what it needs when it runs."""

import argparse
import os
import sys

from lifter._library import BACKENDS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lifter", description="3D human pose lifting.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("info", help="versions, and which kernels run here").set_defaults(run=_info)
    commands.add_parser("models", help="the models that create_model knows").set_defaults(run=_models)

    verify = commands.add_parser("verify", help="compare with what the official code computed")
    verify.add_argument("files", nargs="+", metavar="FILE", help="npz of official weights, inputs and outputs")
    verify.add_argument("--backend", choices=BACKENDS, help="default: what a call on the CPU takes")
    verify.add_argument(
        "--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32",
        help="of weights and inputs; float64 runs on the reference",
    )  # fmt: skip
    verify.add_argument(
        "--tol", type=float,
        help="largest absolute difference (default: 1e-4 or 1e-5 for models, 1e-5 for units; 16-bit dtypes: at least "
        "16 eps, units 4 eps, times the largest output)",
    )  # fmt: skip
    verify.set_defaults(run=_verify)

    _add_data(commands.add_parser("data", help="what keypoints and poses a file holds, and other formats of them"))

    args = parser.parse_args(argv)
    return args.run(args)


def _add_data(parser):
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    inspect = commands.add_parser("inspect", help="say what a file or folder is, and whether it is sound")
    inspect.add_argument("paths", nargs="+", metavar="PATH")
    inspect.set_defaults(run=_data_inspect)
    convert = commands.add_parser("convert", help="write it as lifter's npz, or its motion as BVH")
    convert.add_argument("path", metavar="IN")
    convert.add_argument("out", metavar="OUT", help="NAME.npz, NAME.bvh, or a folder for .bvh files")
    convert.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help='names to take, as "S9/*"')
    convert.add_argument("--skeleton", help="reorder the joints, as h36m")
    convert.add_argument("--virtual-cameras", action="store_true", help="what four cameras around each motion see")
    convert.add_argument("--noise", type=int, metavar="SEED", help="as a detector would find the keypoints")
    convert.set_defaults(run=_data_convert)
    for command in (inspect, convert):
        command.add_argument("--format", help="as `lifter data inspect` names it; default: found out")
        command.add_argument("--size", type=_size, metavar="WxH", help="of the image, where the file does not tell it")
        command.add_argument("--fps", type=float, help="frames per second, where the file does not tell it")
        command.add_argument("--layout", help="of a detector's joints: coco, halpe, body25, coco18, mediapipe, h36m")
        command.add_argument("--variant", help="of the conversion to Human3.6M: mmpose, mhformer, motionbert")
        command.add_argument("--keypoints", help="of Human3.6M: gt, cpn_ft_h36m_dbb, ...")
        command.add_argument("--cameras", help="of Human3.6M: its camera-parameters.json; default: the one beside the data")
        command.add_argument("--unit", type=float, help="of a BVH file, in metres")


def _size(text):
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected WIDTHxHEIGHT")
    return int(width), int(height)


DATA_OPTIONS = ("format", "size", "fps", "layout", "variant", "keypoints", "cameras", "unit")


def _data_inspect(args) -> int:
    from lifter.data.inspect import describe, message

    failed = 0
    for path in args.paths:
        try:
            lines, problems = describe(path, **{name: getattr(args, name) for name in DATA_OPTIONS})
        except (ValueError, KeyError, OSError) as error:
            lines, problems = [], [message(error)]
        print("\n  ".join(lines), *problems, sep="\n" if lines else "", flush=True)
        failed += bool(problems)
    return 1 if failed else 0


def _data_convert(args) -> int:
    from lifter.data.inspect import convert, message

    options = {name: getattr(args, name) for name in (*DATA_OPTIONS, "select", "skeleton", "virtual_cameras", "noise")}
    try:
        count = convert(args.path, args.out, **options)
    except (ValueError, KeyError, OSError) as error:
        print(f"lifter data convert: {message(error)}", file=sys.stderr)
        return 1
    print(f"{args.out}: {count} sequences")
    return 0


def _info(args) -> int:
    from lifter.info import report

    print(report())
    return 0


def _models(args) -> int:
    from lifter import list_models

    models = list_models()
    width = max(map(len, models)) + 2
    for name, line in models.items():
        print(f"{name:<{width}}{line}")
    return 0


def _verify(args) -> int:
    import torch

    if args.backend == "triton" and not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is first imported
    from lifter.verify import verify

    failed = 0
    for path in args.files:
        for result in verify(path, args.backend, args.dtype, args.tol):
            print(result, flush=True)
            failed += not result.passed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
