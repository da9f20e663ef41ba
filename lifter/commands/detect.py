import sys
from pathlib import Path

from lifter._errors import message
from lifter._io import check_writable
from lifter.data.outputs import output_format, write_people
from lifter.progress import Progress
from lifter.video import Video, find_people

from ._detector import detector_of


def run(args) -> int:
    try:
        out = Path(args.out)
        if (format := output_format(out)) not in ("npz", "json", "csv"):
            raise ValueError(f"{out}: .{format} holds poses, expected NAME.npz, .json or .csv for keypoints")
        check_writable(out.parent)
        video = Video(args.video)
        detector = detector_of(args)
        with Progress("frames", video.count) as progress:
            found = find_people(video, detector, args.variant, progress.step)
        people = [*found.people, *found.ghosts]
        write_people(out, people)
    except (ValueError, IndexError, OSError, RuntimeError, ImportError) as error:
        print(f"lifter detect: {message(error)}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(people)} people{', till Ctrl-C' if found.stopped else ''}")
    if found.broken:
        print(f"lifter detect: {found.broken}; what was found before that is written", file=sys.stderr)
        return 1
    return 130 if found.stopped else 0
