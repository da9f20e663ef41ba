"""The people of one clip: cleaned, lifted and finished, which is what `lifter lift` does with a video."""

from .clean import clean
from .files import lift_smoothly, with_poses


def lift_people(model, people, *, flip=True, batch=8, stride=None, skip=(), smooth=None, say=lambda text: None):
    """Lift the people of a clip: sequences with keypoints -> the same with poses.

    Args:
        model: as `lifter.inference.files.Model.load` gives it.
        flip, batch, stride: of `lifter.inference.files.lift_smoothly`.
        skip: the steps, of `lifter.inference.clean.STEPS`, that are not to be done.
        smooth: of `lifter.inference.clean.clean`.
        say: told what was done, a line for each person.
    """
    cleaned = []
    for person in people:
        person, lines = clean(person, skip, smooth)
        cleaned.append(person)
        if lines:
            say(f"{person.name}: {'; '.join(lines)}")
    known = [(person, person.keypoints) for person in cleaned]
    return [with_poses(person, poses.float().cpu()) for person, poses in lift_smoothly(model, known, flip, batch, stride)]
