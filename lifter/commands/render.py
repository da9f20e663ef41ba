import sys
from pathlib import Path

from lifter._errors import message
from lifter.data import open_data
from lifter.data.detectors import SizeUnknown
from lifter.render import render
from lifter.video import Video


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
        video = Video(args.video) if args.video else None
        count = render(args.out, dict(zip(names, poses)), **others, **options, video=video)
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
