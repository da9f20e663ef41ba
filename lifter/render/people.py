"""Several people of one clip as one sequence, so that they are drawn together."""

from dataclasses import replace

import numpy as np

from lifter.skeleton import Skeleton


def together(people):
    """Join the sequences of people in one room, from the first frame of any of them to the last, as one whose skeleton is
    theirs one after another. Who is not there is a point on the ground, where they come in or have gone."""
    if len(people) == 1:
        return people[0]
    first = min(person.start for person in people)
    frames = max(person.start + len(person) for person in people) - first
    fields = [name for name in ("poses", "keypoints") if all(getattr(person, name) is not None for person in people)]
    arrays = {name: np.concatenate([_over(getattr(p, name), p.start - first, frames) for p in people], 1) for name in fields}
    return replace(people[0], name=people[0].name.rpartition("/")[0], start=first, skeleton=_joined(people), **arrays)


def _over(array, begin, frames):
    """An array (t, J, C) from frame `begin` on as one of all `frames`."""
    before, after = (np.broadcast_to(_foot(frame), frame.shape) for frame in (array[0], array[-1]))
    after = np.broadcast_to(after, (frames - begin - len(array), *after.shape))
    return np.concatenate((np.broadcast_to(before, (begin, *before.shape)), array, after))


def _foot(frame):
    """The lowest point of poses or keypoints (J, C), y being down."""
    return frame[frame[:, 1].argmax()]


def _joined(people):
    joints, parents, left, right = [], [], [], []
    for number, person in enumerate(people, 1):
        skeleton, offset = person.skeleton, len(joints)
        joints += skeleton.joints if number == 1 else [f"{joint}_{number}" for joint in skeleton.joints]
        parents += [parent + offset if parent >= 0 else -1 for parent in skeleton.parents]
        left += [joint + offset for joint in skeleton.left]
        right += [joint + offset for joint in skeleton.right]
    return Skeleton(f"{len(people)} people", tuple(joints), tuple(parents), tuple(left), tuple(right))
