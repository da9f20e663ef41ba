import argparse
import sys
from pathlib import Path

from lifter._errors import message
from lifter.data.inspect import convert, describe
from lifter.data.registry import WRITERS, detect, walk


def add_arguments(parser):
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    inspector = commands.add_parser("inspect", help="say what a file or folder is, and whether it is sound")
    inspector.add_argument("paths", nargs="+", metavar="PATH")
    inspector.set_defaults(action=_inspect)
    converter = commands.add_parser("convert", help="write it as npz, JSON, CSV, TRC, C3D or BVH")
    converter.add_argument("path", metavar="IN")
    converter.add_argument("out", metavar="OUT", help="NAME.npz, .json; of one sequence .csv, .trc, .c3d, .bvh; or a folder")
    converter.add_argument("--to", choices=sorted(WRITERS), default="bvh", help="in that folder")
    converter.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help='names to take, as "S9/*"')
    converter.add_argument("--skeleton", help="reorder the joints, as h36m")
    converter.add_argument("--virtual-cameras", action="store_true", help="what four cameras around each motion see")
    converter.add_argument("--noise", type=int, metavar="SEED", help="as a detector would find the keypoints")
    converter.set_defaults(action=_convert)
    for command in (inspector, converter):
        add_reading_options(command)


def add_reading_options(parser):
    """What `open_data` has to be told about some formats; see `reading_options`."""
    parser.add_argument("--format", help="as `lifter data inspect` names it; default: found out")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="of the image, where the file does not tell it")
    parser.add_argument("--fps", type=float, help="frames per second, where the file does not tell it")
    parser.add_argument("--layout", help="of a detector's joints: coco, halpe, body25, body25b, coco18, mediapipe, h36m")
    parser.add_argument("--variant", help="of the conversion to Human3.6M: mmpose, mhformer, motionbert")
    parser.add_argument("--keypoints", help="of Human3.6M: gt, cpn_ft_h36m_dbb, ...")
    parser.add_argument("--cameras", help="of Human3.6M: its camera-parameters.json; default: the one beside the data")
    parser.add_argument(
        "--body-model", metavar="FILE", help="of AMASS's motions: a model of the SMPL family (npz), or its folder"
    )
    parser.add_argument("--unit", type=float, help="of a BVH file, in metres")


def parse_size(text):
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}, expected WIDTHxHEIGHT")
    return int(width), int(height)


def reading_options(args) -> dict:
    names = ("format", "size", "fps", "layout", "variant", "keypoints", "cameras", "unit", "body_model")
    return {name: getattr(args, name) for name in names}


def run(args) -> int:
    return args.action(args)


def _inspect(args) -> int:
    failed = 0
    for path in [found for named in args.paths for found in _files(named, args.format)]:
        try:
            lines, problems = describe(path, **reading_options(args))
        except (ValueError, KeyError, OSError, ImportError) as error:
            lines, problems = [], [message(error)]
        print("\n  ".join(lines), *problems, sep="\n" if lines else "", flush=True)
        failed += bool(problems)
    return 1 if failed else 0


def _files(path, format):
    """Return the path alone, or for a folder of no known format the files that `lifter lift` finds in it."""
    if format is None and Path(path).is_dir():
        try:
            detect(path)
        except ValueError:
            return sorted(walk(path)) or [path]
    return [path]


def _convert(args) -> int:
    options = {name: getattr(args, name) for name in ("to", "select", "skeleton", "virtual_cameras", "noise")}
    try:
        count, problems = convert(args.path, args.out, **options, **reading_options(args))
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"lifter data convert: {message(error)}", file=sys.stderr)
        return 1
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    print(f"{args.out}: {count} sequences")
    return 1 if problems else 0
