"""The people of a clip, from its video or keypoints to the files that a command line asks for."""

import math
import time
from dataclasses import replace

from lifter.data import open_data
from lifter.data.outputs import SHOWN, output_format, suffix_of, write_people
from lifter.data.registry import WRITERS, detect, options_of
from lifter.inference.clip import STEPS, lift_people
from lifter.inference.files import liftable
from lifter.inference.finish import in_room
from lifter.progress import Progress
from lifter.render import render
from lifter.render.people import together
from lifter.video import Found, find_people

from ._model import model_of
from ._writing import writing_options
from .options import reading_options

CROWD = 20  # people of one clip


class Lift:
    """Lifts one clip after another. `detector`: for videos. `camera`: of `--camera`. `say` is told a line at a time."""

    def __init__(self, args, detector, camera, say):
        self.args, self.detector, self.camera, self.say = args, detector, camera, say
        self.model = model_of(args).load()

    def __call__(self, clip, video, note):
        """Lift a clip, and write what it asks for.

        `note` is told of every output, of the files that it is, and whether they end before the clip does.

        Raises:
            KeyboardInterrupt if Ctrl-C stopped it, ValueError if the video is broken, once what was found until then is
            written.
        """
        args, began = self.args, time.monotonic()
        found = None if video else Found(_read(args, clip.path), [], 0)
        size = video.size if video else found.people[0].size
        if self.camera is not None and self.camera.size != tuple(size):
            raise ValueError(f"{args.camera}: a camera of {self.camera.size} pixels, expected {tuple(size)} as the clip")
        found = found or self._find(clip.path, video)
        people = [replace(person, camera=self.camera or person.camera) for person in _chosen(found.people, args.person)]
        focal = args.focal if args.fov is None else size[0] / 2 / math.tan(math.radians(args.fov) / 2)
        with Progress(f"frames of {clip.path.name} lifted", sum(map(len, people))) as progress:
            people = lift_people(
                self.model, people, flip=args.flip, batch=args.batch, stride=args.stride, smooth=args.smooth,
                skip=STEPS if args.raw else args.skip, focal=focal, say=lambda text: self.say(f"  {text}"), step=progress.step,
            )  # fmt: skip
        for out in clip.outs:
            files = _write(out, people, video, writing_options(args, *args.out, args.to))
            note(out, files, found.stopped or found.broken is not None)
            for written in files:
                print(f"{written}: {max(map(len, people))} frames, {time.monotonic() - began:.1f} s", flush=True)
        if found.stopped:
            raise KeyboardInterrupt
        if found.broken:
            raise ValueError(f"{found.broken}; what was found before that is written")

    def _find(self, path, video):
        began = time.monotonic()
        with Progress(f"frames of {path.name}", video.count) as progress:
            found = find_people(video, self.detector, self.args.variant, progress.step)
        lost = found.frames - progress.done
        times = f" ({lost} are not there, for times vary: filled in)" if lost else ""
        count = "1 person" if len(found.people) == 1 else f"{len(found.people)} people"
        ghosts = f", {len(found.ghosts)} ghosts left out" if found.ghosts else ""
        width, height = video.size
        self.say(
            f"{path}: {width}x{height}, {found.frames} frames at {video.fps:.6g} a second{times}: {count} found by "
            f"{self.detector.name} in {time.monotonic() - began:.1f} s{ghosts}"
        )
        if found.stopped:
            self.say(f"{path}: stopped after {found.frames} frames; what was found until then is written")
        return found


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
