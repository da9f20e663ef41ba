"""Clips to look at, and videos: what `lifter lift` does where an input is a video, or an output shows the poses."""

import contextlib
import math
import sys
import time
from dataclasses import replace

import numpy as np

from lifter._errors import located
from lifter.data import Camera, open_data
from lifter.data.files import read_json
from lifter.data.outputs import output_format, suffix_of, write_people
from lifter.data.registry import WRITERS, detect, options_of
from lifter.inference.clip import STEPS, lift_people
from lifter.inference.files import liftable
from lifter.inference.finish import in_room
from lifter.inference.record import NAME, Record
from lifter.progress import Progress
from lifter.render import render
from lifter.render.people import together
from lifter.video import Video, find_people, is_video

from ._detector import detector_of
from ._model import model_of
from ._plan import SHOWN, clips_of, folder_of
from ._writing import writing_options
from .options import reading_options

CROWD = 20  # people of one clip
MEANINGLESS = ("command", "inputs", "out", "to", "overwrite", "batch", "device", "engine")  # options, for the poses
STOPPED = "stopped"  # in the record, of what ends before its clip does


def lift_clips(args, sources, problems):
    """Lift the clips of a command line; of those that cannot be, a line each in `problems`.

    In a folder a record says what is there already, as of files of keypoints (`lifter.inference.record`); an output that has a
    name of its own is always lifted.
    """
    clips, camera = clips_of(args, sources), _camera(args)
    in_folder = len(args.out) == 1 and folder_of(args) is not None
    with contextlib.closing(_record(args, camera)) if in_folder else contextlib.nullcontext() as record:
        left = [clip for clip in clips if not _is_there(record, clip)]
        if len(left) < len(clips):
            _say(f"{len(clips) - len(left)} of {len(clips)} files were lifted already (--overwrite lifts them again)")
        left = _opened(left, problems)
        detector = detector_of(args) if any(video for _, video in left) else None
        model = model_of(args).load() if left else None
        for clip, video in left:
            with _in_hand(record, clip) as note:
                try:
                    if note:
                        _lift(args, clip, video, detector, model, camera, note)
                except Exception as error:
                    problems.append(located(error, clip.path))
    if problems and len(clips) > 1:
        _say(f"{len(problems)} of {len(clips)} files failed:")


def _opened(clips, problems):
    """[(clip, its Video or None)] of those that can be read, before any work; of the others a line in `problems`."""
    opened = []
    for clip in clips:
        try:
            opened.append((clip, Video(clip.path) if is_video(clip.path) else None))
        except (ValueError, OSError) as error:
            problems.append(located(error, clip.path))
    return opened


def _record(args, camera):
    """The record of the folder: what counts are all options but those that say where to, and how fast."""
    decides = {name: value for name, value in vars(args).items() if name not in MEANINGLESS}
    decides["camera"] = camera and camera.as_dict()
    return Record(folder_of(args) / NAME, decides, args.checkpoint, args.overwrite)


def _is_there(record, clip):
    return record is not None and all(record.state(out, record.fingerprint(clip.path)) == "there" for out in clip.outs)


@contextlib.contextmanager
def _in_hand(record, clip):
    """Give what notes the outputs of a clip; None if it is, or was, lifted by another process."""
    if record is None:
        yield lambda *_: None
    elif not record.claim(clip.outs[0]):
        _say(f"{clip.path}: is in the hands of another process")
        yield None
    else:
        fingerprint = record.fingerprint(clip.path)  # as it is before it is read
        note = lambda out, files, stopped: record.add(out, STOPPED if stopped else fingerprint, files)
        try:
            yield None if _is_there(record, clip) else note
        finally:
            record.release(clip.outs[0])


def _lift(args, clip, video, detector, model, camera, note):
    """Lift a clip; KeyboardInterrupt if Ctrl-C stopped it before its end, once what was found is written.

    `note` is told of every output, of the files that it is, and whether they end before the clip does.
    """
    began = time.monotonic()
    people, stopped = [] if video else _read(args, clip.path), False
    size = video.size if video else people[0].size
    if camera is not None and camera.size != tuple(size):
        raise ValueError(f"{args.camera}: a camera of {camera.size} pixels, expected {tuple(size)} as the clip")
    if video:
        people, stopped = _find(clip.path, video, detector, args.variant)
    people = [replace(person, camera=camera or person.camera) for person in _chosen(people, args.person)]
    focal = args.focal if args.fov is None else size[0] / 2 / math.tan(math.radians(args.fov) / 2)
    with Progress(f"frames of {clip.path.name} lifted", sum(map(len, people))) as progress:
        people = lift_people(
            model, people, flip=args.flip, batch=args.batch, stride=args.stride, smooth=args.smooth,
            skip=STEPS if args.raw else args.skip, focal=focal, say=lambda text: _say(f"  {text}"), step=progress.step,
        )  # fmt: skip
    for out in clip.outs:
        files = _write(out, people, video, writing_options(args, *args.out, args.to))
        note(out, files, stopped)
        for written in files:
            print(f"{written}: {max(map(len, people))} frames, {time.monotonic() - began:.1f} s", flush=True)
    if stopped:
        raise KeyboardInterrupt


def _find(path, video, detector, variant):
    """(people in a video, whether Ctrl-C stopped it before its end)."""
    with Progress(f"frames of {path.name}", video.count) as progress:
        found = find_people(video, detector, variant, progress.step)
    lost = found.frames - progress.done
    times = f" ({lost} are not there, for times vary: filled in)" if lost else ""
    ghosts = f", {len(found.ghosts)} ghosts left out" if found.ghosts else ""
    width, height = video.size
    _say(
        f"{path}: {width}x{height}, {found.frames} frames at {video.fps:.6g} a second{times}: {len(found.people)} "
        f"{'person' if len(found.people) == 1 else 'people'} found by {detector.name}{ghosts}"
    )
    if found.stopped:
        _say(f"{path}: stopped after {found.frames} frames; what was found until then is written")
    return found.people, found.stopped


def _camera(args):
    """The camera of `--camera`; None without that."""
    if args.camera is None:
        return None
    values = read_json(args.camera)
    values = {"R": np.eye(3), "t": np.zeros(3)} | values if isinstance(values, dict) else values
    return Camera.of_dict(values, args.camera)


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


def _write(out, people, video, options):
    """The paths of what was written."""
    if not suffix_of(out, SHOWN):
        camera = WRITERS[output_format(out)].camera
        return write_people(out, people if camera else [in_room(person) for person in people], **options)
    out.parent.mkdir(parents=True, exist_ok=True)
    render(out, {people[0].name.partition("/")[0]: together(people)}, video=video)
    return [out]
