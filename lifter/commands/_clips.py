"""Clips to look at, and videos: what `lifter lift` does where an input is a video, or an output shows the poses. Torch, which
takes seconds, is imported by `_people`, once all is known to be right."""

import contextlib
import sys

from lifter._errors import located
from lifter.data.calibrations import read_camera
from lifter.inference.record import NAME, Record
from lifter.video import Video, is_video

from ._detector import detector_of
from ._plan import clips_of, folder_of

MEANINGLESS = ("command", "inputs", "out", "to", "overwrite", "batch", "device", "engine")  # options, for the poses
STOPPED = "stopped"  # in the record, of what ends before its clip does


def lift_clips(args, sources, problems):
    """Lift the clips of a command line; of those that cannot be, a line each in `problems`.

    In a folder a record says what is there already, as of files of keypoints (`lifter.inference.record`); an output that has a
    name of its own is always lifted.
    """
    clips, camera = clips_of(args, sources), args.camera and read_camera(args.camera)
    in_folder = len(args.out) == 1 and folder_of(args) is not None
    with contextlib.closing(_record(args, camera)) if in_folder else contextlib.nullcontext() as record:
        left = [clip for clip in clips if not _is_there(record, clip)]
        if len(left) < len(clips):
            say(f"{len(clips) - len(left)} of {len(clips)} files were lifted already (--overwrite lifts them again)")
        left = _opened(left, problems)
        detector = detector_of(args) if any(video for _, video in left) else None
        if left:
            _lift_all(args, record, left, detector, camera, problems)
    if problems and len(clips) > 1:
        say(f"{len(problems)} of {len(clips)} files failed:")


def _lift_all(args, record, clips, detector, camera, problems):
    from . import _people

    lift = _people.Lift(args, detector, camera, say)
    for clip, video in clips:
        with _in_hand(record, clip) as note:
            try:
                if note:
                    lift(clip, video, note)
            except Exception as error:
                problems.append(located(error, clip.path))


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
        say(f"{clip.path}: is in the hands of another process")
        yield None
    else:
        fingerprint = record.fingerprint(clip.path)  # as it is before it is read
        note = lambda out, files, stopped: record.add(out, STOPPED if stopped else fingerprint, files)
        try:
            yield None if _is_there(record, clip) else note
        finally:
            record.release(clip.outs[0])


def say(text):
    print(f"lifter: {text}", file=sys.stderr, flush=True)
