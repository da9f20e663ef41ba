"""What `lifter lift` makes of real clips: `python -m benchmarks.clips CLIP ...`, a line of a table each.

CLIP is a video, or a file with the keypoints of one (`lifter detect`). The issue's six are `Sports2D/Demo/demo.mp4`,
`Pose2Sim/Demo_SinglePerson/videos/cam01.mp4` and the four of `Pose2Sim/Demo_MultiPerson/videos`, in the wheels of sports2d and
pose2sim. "Before" is what the model gives for windows that do not overlap, of keypoints as they were found.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from lifter.data import open_data
from lifter.inference.clean import FPS, repair_swaps
from lifter.inference.clip import lift_people
from lifter.inference.files import Model
from lifter.inference.finish import in_room, sliding, standing, variation
from lifter.inference.windows import lift_sequence
from lifter.video import Video, find_detector, find_people, is_video

FIGURES = "people ghosts frames fps swapped step step_after cv cv_after slide slide_after".split()
TOLD = """people: found; ghosts: left out; swapped: frames in which left and right were exchanged; step: the largest step
between frames through the median one, joints relative to the root; cv: variation of the bones' lengths, %; slide: mm, of feet
that stand."""


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clips", description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--detector", default="auto", help="of videos, as of `lifter lift`")
    args = parser.parse_args(argv)
    model, detector = Model().load(), find_detector(args.detector) if any(map(is_video, args.clips)) else None
    print(f"{'clip':16}" + "".join(f"{name:>12}" for name in FIGURES))
    for path in args.clips:
        row = measure(model, *found_in(path, detector))
        print(f"{path.stem:16}" + "".join(f"{round(float(figure), 2):12g}" for figure in row), flush=True)
    print(TOLD)
    return 0


def found_in(path, detector):
    """The people and the ghosts of a clip."""
    if is_video(path):
        found = find_people(Video(path), detector)
        return found.people, found.ghosts
    sequences = list(open_data(path))
    is_ghost = lambda sequence: "/ghost" in sequence.name
    return [each for each in sequences if not is_ghost(each)], [each for each in sequences if is_ghost(each)]


def measure(model, people, ghosts):
    """The figures of a clip, largest or mean over its people."""
    before = [lift_sequence(model, person.keypoints, stride=27).numpy().astype(np.float64) for person in people]
    placed = lift_people(model, people, skip=["feet"])
    stands = [standing(each.poses.astype(np.float64), each) for each in placed]
    rooms, slid = ([in_room(each).poses.astype(np.float64) for each in some] for some in (lift_people(model, people), placed))
    return (
        len(people), len(ghosts), max(map(len, people)), people[0].fps or FPS,
        sum(repair_swaps(person.keypoints.astype(np.float64))[1].sum() for person in people),
        max(map(jump, before)), max(map(jump, rooms)),
        100 * np.mean([*map(variation, before)]), 100 * np.mean([*map(variation, rooms)]),
        1000 * sliding(slid, stands), 1000 * sliding(rooms, stands),
    )  # fmt: skip


def jump(poses):
    """The largest step between frames through the median one."""
    steps = np.linalg.norm(np.diff(poses - poses[:, :1], axis=0), axis=-1).mean(1)
    return steps.max() / np.median(steps)


if __name__ == "__main__":
    sys.exit(main())
