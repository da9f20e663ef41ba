import sys
from pathlib import Path

from lifter._errors import message
from lifter.data.inspect import convert, describe
from lifter.data.registry import detect, walk

from ._writing import writing_options
from .options import reading_options


def run(args) -> int:
    return {"inspect": _inspect, "convert": _convert}[args.action](args)


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
        writing = writing_options(args, args.out if Path(args.out).suffix else args.to)
        count, problems = convert(args.path, args.out, writing=writing, **options, **reading_options(args))
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"lifter data convert: {message(error)}", file=sys.stderr)
        return 1
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    print(f"{args.out}: {count} sequences")
    return 1 if problems else 0
