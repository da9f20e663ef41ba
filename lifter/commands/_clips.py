"""Clips to look at, and videos: what `lifter lift` does where an input is a video, or an output shows the poses."""

import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lifter._errors import message
from lifter.data import Camera, open_data
from lifter.data.files import read_json
from lifter.data.outputs import of_person, output_format, output_path, suffix_of, write_people
from lifter.data.registry import WRITERS, detect, options_of
from lifter.inference.clip import STEPS, lift_people
from lifter.inference.files import find_sources, liftable
from lifter.inference.finish import in_room
from lifter.progress import Progress
from lifter.render import SUFFIXES, check_packages, render
from lifter.render.people import together
from lifter.video import Video, find_detector, find_people, is_video

from ._model import model_of
from ._writing import writing_options
from .options import reading_options

SHOWN = tuple(suffix[1:] for suffix in SUFFIXES)
CROWD = 20  # people of one clip
KNOWN = (*SHOWN, *sorted(WRITERS))  # suffixes of outputs


def detector_of(args):
    """The detector that the options name, loaded."""
    return find_detector(args.detector, args.weights, mode=args.mode, backend=args.backend, device=args.device)


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


def are_clips(args) -> bool:
    """Whether the command line names a video, something to look at, several outputs, or what is done with clips alone."""
    shown = any(suffix_of(out, SHOWN) and not Path(out).is_dir() for out in args.out) or args.to in SHOWN
    options = (args.finish, args.skip, args.smooth, args.focal, args.fov, args.camera)
    asked = any(option not in (None, False, ()) for option in options) or args.person != "all"
    return bool(shown or asked or len(args.out) > 1 or any(map(is_video, args.inputs)))


def lift_clips(args, problems):
    """Lift the clips of a command line; of those that cannot be, a line each in `problems`."""
    clips = _opened(_clips(args), problems)
    detector = detector_of(args) if any(video for _, _, video in clips) else None
    model = model_of(args).load() if clips else None
    for path, outs, video in clips:
        try:
            _lift(args, path, outs, video, detector, model)
        except (ValueError, KeyError, OSError) as error:
            problems.append(_line(path, error))


def _opened(clips, problems):
    """[(input, outputs, its Video or None)] of those that can be read, before any work; of the others a line in `problems`."""
    opened = []
    for path, outs in clips:
        try:
            opened.append((path, outs, Video(path) if is_video(path) else None))
        except (ValueError, OSError) as error:
            problems.append(_line(path, error))
    return opened


def _line(path, error):
    return message(error) if str(path) in str(error) else f"{path}: {message(error)}"


def _clips(args):
    """[(input, outputs)], checked as far as can be without the work."""
    _check_options(args)
    writing_options(args, *args.out, args.to)
    formats = {out: target(out, args.to) for out in args.out}
    videos = [path for path in args.inputs if is_video(path)]
    others = [path for path in args.inputs if not is_video(path)]
    folder = Path(next((out for out in args.out if formats[out]), args.out[0]))
    sources = [(Path(path), Path(path).name) for path in videos]
    sources += [(source.path, source.place) for source in (find_sources(others, folder, args.format) if others else ())]
    if len(sources) > 1 and None in formats.values():
        name = next(out for out, format in formats.items() if format is None)
        raise ValueError(f"{name}: {len(sources)} files to lift, expected a folder")
    for out, format in formats.items():
        if (suffix := format or suffix_of(out, KNOWN)) in SHOWN:
            check_packages(f"NAME.{suffix}")
        check_writable(Path(out) if format else Path(out).parent)
    names = [place for _, place in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two files are called {twice}: lift them one by one")
    path_of = lambda out, place: output_path(out, place, None, formats[out]) if formats[out] else Path(out)
    clips = [(path, [path_of(out, place) for out in args.out]) for path, place in sources]
    inputs = {path.resolve() for path, _ in sources}
    if lost := next((out for _, outs in clips for out in outs if out.resolve() in inputs), None):
        raise ValueError(f"{lost}: is to be lifted, expected another name for its poses")
    written = [out.resolve() for _, outs in clips for out in outs]
    if twice := next((out for out in written if written.count(out) > 1), None):
        raise ValueError(f"{twice}: named twice as an output")
    if args.overwrite or None in formats.values():
        return clips
    left = [(path, outs) for path, outs in clips if not _there(outs)]
    if len(left) < len(clips):
        _say(f"{len(clips) - len(left)} of {len(clips)} files were lifted already (--overwrite lifts them again)")
    return left


def _there(outs):
    there = lambda out: out.exists() or not suffix_of(out, SHOWN) and any(out.parent.glob(of_person(out, "person*").name))
    return all(map(there, outs))


def check_writable(folder):
    """ValueError if nothing can be written to a folder, or to the one that it would be made in."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: is no folder that can be written to")


def _lift(args, path, outs, video, detector, model):
    """Lift a clip; KeyboardInterrupt if Ctrl-C stopped it before its end, once what was found is written."""
    began, stopped = time.monotonic(), False
    if video is None:
        people = _read(args, path)
    else:
        with Progress("frames", video.count) as progress:
            found = find_people(video, detector, args.variant, progress.step)
        people, stopped = found.people, found.stopped
        lost = found.frames - progress.done
        times = f" ({lost} are not there, for times vary: filled in)" if lost else ""
        ghosts = f", {len(found.ghosts)} ghosts left out" if found.ghosts else ""
        width, height = video.size
        _say(
            f"{path}: {width}x{height}, {found.frames} frames at {video.fps:.6g} a second{times}: {len(people)} "
            f"{'person' if len(people) == 1 else 'people'} found by {detector.name}{ghosts}"
        )
        if stopped:
            _say(f"{path}: stopped after {found.frames} frames; what was found until then is written")
    people, focal = _with_camera(args, _chosen(people, args.person))
    people = lift_people(
        model, people, flip=args.flip, batch=args.batch, stride=args.stride, smooth=args.smooth,
        skip=STEPS if args.raw else args.skip, focal=focal, say=lambda text: _say(f"  {text}"),
    )  # fmt: skip
    for out in outs:
        for written in _write(out, people, writing_options(args, *args.out, args.to)):
            print(f"{written}: {max(map(len, people))} frames, {time.monotonic() - began:.1f} s", flush=True)
    if stopped:
        raise KeyboardInterrupt


def _check_options(args):
    """ValueError for what does not fit clips, before the work."""
    if args.place or args.engine != "local":
        raise ValueError("--place and --engine are for files of keypoints that are lifted to poses alone, not for clips")
    if args.fov is not None and not 0 < args.fov < 180 or args.focal is not None and not args.focal > 0:
        raise ValueError(f"--focal is {args.focal}, --fov is {args.fov}, expected more than 0 pixels, 0 to 180 degrees")
    told = [name for name in ("fps", "size", "layout", "format") if getattr(args, name) is not None]
    if told and any(map(is_video, args.inputs)):
        raise ValueError(f"--{told[0]} is for files of keypoints; videos tell it themselves")


def _with_camera(args, people):
    """(people, focal length in pixels or None): with the camera of `--camera`, and as `--focal` or `--fov` says."""
    size = people[0].size
    if args.camera is not None:
        values = read_json(args.camera)
        values = {"R": np.eye(3), "t": np.zeros(3)} | values if isinstance(values, dict) else values
        camera = Camera.of_dict(values, args.camera)
        if camera.size != tuple(size):
            raise ValueError(f"{args.camera}: a camera of {camera.size} pixels, expected {tuple(size)} as the clip")
        people = [replace(person, camera=camera) for person in people]
    return people, args.focal if args.fov is None else size[0] / 2 / math.tan(math.radians(args.fov) / 2)


def _say(text):
    print(f"lifter: {text}", file=sys.stderr, flush=True)


def _read(args, path):
    """The people in a file of keypoints."""
    known = reading_options(args)
    format = known.pop("format") or detect(path)
    data = open_data(path, format, **{name: value for name, value in known.items() if name in options_of(format)})
    people = [liftable(sequence) for sequence in data]
    if any(person.size is None for person in people):
        raise ValueError(
            f"{path}: the size of the image is not known, which a place in the room needs: lift it to poses alone"
        )
    if len(people) > CROWD or len({(person.size, person.fps) for person in people}) > 1:
        how = "lift them without options of clips, or choose some by `lifter data convert --select`"
        raise ValueError(f"{path}: {len(people)} sequences, expected the people of one clip, at most {CROWD}: {how}")
    return people


def _chosen(people, who):
    if who == "all":
        return people
    number = 1 if who == "main" else who
    if number > len(people):
        raise ValueError(f"--person is {number}, but {len(people)} were found")
    return [people[number - 1]]


def _write(out, people, options):
    """The paths of what was written."""
    if not suffix_of(out, SHOWN):
        camera = WRITERS[output_format(out)].camera
        return write_people(out, people if camera else [in_room(person) for person in people], **options)
    out.parent.mkdir(parents=True, exist_ok=True)
    render(out, {people[0].name.partition("/")[0]: together(people)})
    return [out]
