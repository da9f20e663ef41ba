"""The inputs and outputs of `lifter lift`, checked before any work. Nothing here needs torch."""

import os
from pathlib import Path
from typing import NamedTuple

from lifter._extras import needs
from lifter._io import check_writable
from lifter.data.outputs import SHOWN, output_path, suffix_of
from lifter.data.registry import WRITERS, suffixes
from lifter.inference.sources import find_sources
from lifter.video import SUFFIXES as VIDEOS
from lifter.video import is_video

KNOWN = (*SHOWN, *sorted(WRITERS))  # suffixes of outputs


class Clip(NamedTuple):
    """A video, or a file with the keypoints of a clip."""

    path: Path
    outs: list[Path]


def target(out, to):
    """The format of the outputs in the folder `out`; None if `out` is a file. ValueError if it can be neither."""
    if to not in (None, *KNOWN):
        raise ValueError(f"--to is {to!r}, expected {', '.join(KNOWN)}")
    path = Path(out)
    suffix = path.suffix[1:].lower()
    names = f"a name that ends in .{', .'.join(KNOWN)}"
    if (format := suffix_of(path, KNOWN)) and not path.is_dir():
        if to not in (None, format):
            raise ValueError(f"{path}: expected a name that ends in .{to}, or no --to")
        return None
    if suffix.isalnum() and not suffix.isdigit() and not path.exists() and not out.endswith(("/", os.sep)):
        raise ValueError(f"{path}: expected {names}, or a folder: {path}/")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file, expected a folder, or {names}")
    return to or "npz"


def folder_of(args):
    """The folder of the outputs; None if all are files."""
    folders = [Path(out) for out in args.out if target(out, args.to)]
    if len(folders) > 1:
        raise ValueError(f"{folders[1]}: a second folder, expected one for all outputs")
    return folders[0] if folders else None


def sources_of(args):
    """The videos and the files of keypoints to lift; ValueError for outputs that do not fit them."""
    folder, files = folder_of(args), [out for out in args.out if target(out, args.to) is None]
    endings = suffixes() if args.format else (*suffixes(), *VIDEOS)
    sources = find_sources(args.inputs, folder or files[0], args.format, endings)
    if len(sources) > 1 and files:
        raise ValueError(f"{files[0]}: {len(sources)} files to lift, expected a folder")
    named = {Path(path).resolve() for path in args.inputs}
    found = {is_video(source.path): source.path for source in sources if source.path.resolve() not in named}
    if len(found) > 1:
        raise ValueError(
            f"{found[True]} is a video, {found[False]} may hold keypoints: expected folders of one kind; name the files to "
            "lift, or the --format of the keypoints"
        )
    return sources


def are_clips(args, sources) -> bool:
    """Return whether the command line asks for what only clips have: a video, something to look at, several outputs."""
    shown = any(suffix_of(out, SHOWN) and not Path(out).is_dir() for out in args.out) or args.to in SHOWN
    options = (args.finish, args.skip, args.smooth, args.focal, args.fov, args.camera)
    asked = any(option not in (None, False, ()) for option in options) or args.person != "all"
    return bool(shown or asked or len(args.out) > 1 or any(is_video(source.path) for source in sources))


def clips_of(args, sources) -> list[Clip]:
    """The sources as clips, with their outputs; ValueError for what does not fit clips or cannot be written."""
    _check_options(args, sources)
    formats = {out: target(out, args.to) for out in args.out}
    for out, format in formats.items():
        if (suffix := format or suffix_of(out, KNOWN)) in SHOWN:
            extra, *packages = SHOWN[suffix]
            with needs(extra, out, *packages):
                pass
        check_writable(Path(out) if format else Path(out).parent)
    path_of = lambda out, place: output_path(out, place, None, formats[out]) if formats[out] else Path(out)
    here = lambda path: path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path  # for messages
    clips = [Clip(here(source.path), [path_of(out, source.place) for out in args.out]) for source in sources]
    inputs = {path.resolve() for path, _ in clips}
    written = [out.resolve() for _, outs in clips for out in outs]
    if lost := next((out for out in written if out in inputs), None):
        raise ValueError(f"{lost}: is to be lifted, expected another name for its poses")
    if twice := next((out for out in written if written.count(out) > 1), None):
        raise ValueError(f"{twice}: named twice as an output")
    return clips


def _check_options(args, sources):
    """ValueError for what does not fit clips, before the work."""
    if args.place or args.engine != "local":
        raise ValueError("--place and --engine are for files of keypoints that are lifted to poses alone, not for clips")
    if args.fov is not None and not 0 < args.fov < 180 or args.focal is not None and not args.focal > 0:
        raise ValueError(f"--focal is {args.focal}, --fov is {args.fov}, expected more than 0 pixels, 0 to 180 degrees")
    told = [name for name in ("fps", "size", "layout", "format") if getattr(args, name) is not None]
    if told and any(is_video(source.path) for source in sources):
        raise ValueError(f"--{told[0]} is for files of keypoints; videos tell it themselves")
