"""Lifting of the people of one clip as `lifter lift` does for videos: clean, lift and finish."""

from collections.abc import Callable, Iterable

from torch import nn

from lifter.data.sequence import Sequence

from . import clean, finish
from .files import lift_smoothly, with_poses

STEPS = (*clean.STEPS, *finish.STEPS)


def lift_people(
    model: nn.Module,
    people: list[Sequence],
    *,
    flip: bool = True,
    batch: int = 8,
    stride: int | None = None,
    skip: Iterable[str] = (),
    smooth: str | None = None,
    focal: float | None = None,
    say: Callable[[str], object] = lambda text: None,
    step: Callable[[int], object] = lambda frames: None,
):
    """Lift the people of a clip: add poses to sequences with keypoints.

    Args:
        model: a network returned by `lifter.inference.files.Model.load`.
        flip, batch, stride: see `lifter.inference.files.lift_smoothly`.
        skip: steps of `clean` and `finish` to leave out.
        smooth: see `lifter.inference.clean.clean`. focal: see `lifter.inference.finish.finish`.
        say: called with a line about each step. step: see `lifter.evaluation.lift_sequences`.
    """
    if people and people[0].fps is None and (smooth or set(STEPS) - set(skip)):
        say(f"frames per second are not known: taken as {clean.FPS:g}")
    cleaned = []
    for person in people:
        person, lines = clean.clean(person, set(skip) & set(clean.STEPS), smooth)
        cleaned.append(person)
        for line in lines:
            say(f"{person.name}: {line}")
    known = [(person, person.keypoints) for person in cleaned]
    camera_of = (lambda person: None) if "place" in skip else (lambda person: finish.camera_of(people[0], focal)[0])
    poses = lift_smoothly(model, known, flip, batch, stride, step, camera_of)
    lifted = [with_poses(person, each.float().cpu()) for person, each in poses]
    finished, lines = finish.finish(lifted, set(skip) & set(finish.STEPS), focal)
    for line in lines:
        say(line)
    return finished
