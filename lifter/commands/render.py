import sys
from pathlib import Path

from lifter._errors import message
from lifter.commands.data import parse_size
from lifter.data import open_data
from lifter.data.detectors import SizeUnknown
from lifter.render import render


def add_arguments(parser):
    parser.add_argument("poses", nargs="+", metavar="POSES", help="a file with poses for each model, as `lifter data` reads")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="NAME.mp4, NAME.gif or NAME.html")
    parser.add_argument("--truth", metavar="FILE", help="true poses of the same frames")
    parser.add_argument("--keypoints", metavar="FILE", help="2D keypoints of the same frames; default: those beside the poses")
    parser.add_argument("--select", metavar="NAME", help="the sequence, where a file has several")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the models; default: the files' names")
    parser.add_argument("--fps", type=float, help="frames per second to play; default: what the files tell, else 30")
    parser.add_argument("--size", type=parse_size, default=(1280, 640), metavar="WxH", help="of a film; default: 1280x640")
    parser.add_argument("--root-relative", action="store_true", help="the root stays at one place")


def run(args) -> int:
    try:
        names = args.names or [Path(path).stem for path in args.poses]
        if len(names) != len(args.poses):
            raise ValueError(f"--names has {len(names)} names, expected {len(args.poses)} as there are files of poses")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two models are called {twice[0]!r}: name them by --names")
        first = _sequence(args.poses[0], args.select)
        poses = [first] + [_sequence(path, args.select or first.name) for path in args.poses[1:]]
        others = {
            name: _sequence(path, args.select or first.name)
            for name, path in (("truth", args.truth), ("keypoints", args.keypoints))
            if path
        }
        options = {"fps": args.fps, "size": args.size, "root_relative": args.root_relative}
        count = render(args.out, dict(zip(names, poses)), **others, **options)
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"lifter render: {message(error)}", file=sys.stderr)
        return 1
    print(f"{args.out}: {count} frames")
    return 0


def _sequence(path, name):
    """The sequence of this name, or the only one that the file has."""
    try:
        data = open_data(path)
    except SizeUnknown:
        raise ValueError(f"{path}: the size of its image is not known: `lifter data convert --size WxH` first") from None
    if len(data) == 1:
        return data[data.names[0]]
    if name is None:
        raise ValueError(f"{path} has {len(data)} sequences: choose one by --select, as {', '.join(data.names[:20])}")
    return data[name]
