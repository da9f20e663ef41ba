"""The people in the detections of a video, followed from frame to frame."""

import math
from itertools import groupby

import numpy as np

from lifter._notices import notice

from .keypoints import missing, seen

PATIENCE = 30  # frames for which somebody may be unseen and still be known again
STEP, MORE = 0.5, 0.05  # how far somebody moves at most from frame to frame, and for each frame between, in their extents
KNOWN, ALONE = 4, 2  # times as far, if an id says that it is them, or if there never are two in a frame
TWICE = 0.1  # extents; detections of one id in one frame that are nearer are of one person


def tracks(detections, where="detections", sure=False):
    """People, followed through the frames.

    Ids are checked. One that two people have in one frame, or that all have, says nothing, and so do ids none of which is in
    two frames: these people are followed by place, as those without. A detection goes on with the person of its id whose last
    pose is nearest, the nearest pairs first, if it is near enough (`STEP`) and at most `PATIENCE` frames ago; else it begins
    another person.

    Args:
        detections: (frame, id or None, score, keypoints (J, 2 or 3)) in any order; see `seen` for what is missing.
        sure: the ids are right, as in an array of one person that has a row for each frame.

    Returns:
        {id: (first frame, keypoints (T, J, 2 or 3) with NaN in frames without)}, by first frame. The second person of id 5
        is "5.2"; without ids they are 0, 1, ...
    """
    if not detections:
        raise ValueError(f"{where}: no person in any frame")
    found = _Detections(sorted(detections, key=lambda each: each[0]), where, not sure)
    groups = found.by_id()
    alone = len({found.frames[index] for index in found.there}) == len(found.there)
    people, left_out = [], 0  # (id, indices of the detections)
    for person, indices in groups.items():
        known = person is not None and (sure or len(groups) > 1)
        if not sure and person is not None:
            before = len(indices)
            indices, twice = found.once(indices)
            known &= not twice
            left_out += before - len(indices)
        reach = math.inf if sure else KNOWN if known else ALONE if alone else 1
        people += [(person, piece) for piece in found.follow(indices, reach)]
    if left_out:
        notice(f"{where}: {left_out} detections are of an id that is at that place in that frame already, and are left out")
    _say_sampled(found)
    people.sort(key=lambda each: (found.frames[each[1][0]], each[1][0]))
    return {name: found.track(indices) for name, indices in zip(names_of(people, where), (piece for _, piece in people))}


class _Detections:
    """The detections of a video, by frame."""

    def __init__(self, detections, where, checked):
        self.where, self.checked = where, checked
        self.frames, self.ids, self.scores, poses = map(list, zip(*detections))
        for frame, pose in zip(self.frames, poses):
            if pose.shape != poses[0].shape:
                raise ValueError(f"{where}: keypoints of shape {pose.shape} in frame {frame}, others are {poses[0].shape}")
        self.poses = seen(np.stack(poses))
        lost = missing(self.poses)
        self.there = np.flatnonzero(~lost.all(1)).tolist()
        if (empty := len(poses) - len(self.there)) and self.there and checked:
            notice(f"{where}: {empty} of {len(poses)} detections have no joint, and are left out")
        if not self.there:
            raise ValueError(f"{where}: no joint in any of {len(set(self.frames))} frames")
        xy = self.poses[..., :2]
        with np.errstate(over="ignore", invalid="ignore"):  # absurd coordinates are refused later
            extent = np.where(lost[..., None], -np.inf, xy).max(1) - np.where(lost[..., None], np.inf, xy).min(1)
        self.extents = extent.max(-1)

    def by_id(self):
        """{id: indices}, with one or several ids or with None alone."""
        groups = {}
        for index in self.there:
            groups.setdefault(self.ids[index], []).append(index)
        without = len(groups.get(None, ()))
        if len(groups) == 1:
            return groups
        if not without and self.checked and self._are_all_new(groups):
            notice(f"{self.where}: ids none of which is in two frames: people are followed by place")
            return {None: self.there}
        if not without:
            return groups
        if without > len(self.there) / 2:
            notice(f"{self.where}: {without} of {len(self.there)} detections have no id: people are followed by place")
            return {None: self.there}
        notice(f"{self.where}: {without} of {len(self.there)} detections have no id, and are left out")
        del groups[None]
        return groups

    def _are_all_new(self, groups):
        """Return whether each id is in one frame only, of several."""
        frames = [{self.frames[index] for index in indices} for indices in groups.values()]
        return all(len(some) == 1 for some in frames) and len(set.union(*frames)) > 1

    def once(self, indices):
        """Return the detections of an id, without those that are there twice, and whether it stands for several people."""
        kept, several = [], False
        for index in indices:
            if kept and self.frames[kept[-1]] == self.frames[index]:
                if self.distances([kept[-1]], [index])[0] > TWICE * self.extents[index]:
                    several = True
                else:
                    index = max(index, kept.pop(), key=self.scores.__getitem__)
            kept.append(index)
        return kept, several

    def follow(self, indices, reach):
        """Lists of indices, each of one person."""
        people, recent = [], []
        steps = self.distances(indices[:-1], indices[1:]).tolist()
        for frame, numbers in groupby(range(len(indices)), key=lambda number: self.frames[indices[number]]):
            numbers = list(numbers)
            now = [indices[number] for number in numbers]
            recent = [person for person in recent if frame - self.frames[person[-1]] <= PATIENCE]
            if len(recent) == len(now) == 1 and numbers[0] and recent[0][-1] == indices[numbers[0] - 1]:
                distances = steps[numbers[0] - 1 : numbers[0]]
                if self._near(recent[0][-1], now[0], distances[0], reach):  # as it is mostly
                    recent[0].append(now[0])
                    continue
            else:
                distances = self.distances(
                    [person[-1] for person in recent for _ in now], [index for _ in recent for index in now]
                ).tolist()
            pairs = zip(distances, [(person, index) for person in range(len(recent)) for index in now])
            chosen = {}
            for distance, (person, index) in sorted(pairs):
                if (
                    index not in chosen
                    and person not in chosen.values()
                    and self._near(recent[person][-1], index, distance, reach)
                ):
                    chosen[index] = person
            begun = []
            for index in now:
                if index in chosen:
                    recent[chosen[index]].append(index)
                else:
                    begun.append([index])
            people += begun
            recent = recent + begun
        return people

    def _near(self, before, index, distance, reach):
        gap = self.frames[index] - self.frames[before]
        extent = max(self.extents[before], self.extents[index])
        if reach == math.inf or (reach > 1 and distance == math.inf):  # there is no joint that both have
            return True
        return distance <= reach * extent * (STEP + MORE * (gap - 1))

    def distances(self, one, other):
        """The mean distances of the joints that both have, infinite where there are none."""
        if not len(one):
            return np.zeros(0)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.linalg.norm(self.poses[one][..., :2] - self.poses[other][..., :2], axis=-1)
            both = np.isfinite(apart)
            count = both.sum(-1)
            return np.where(count > 0, np.where(both, apart, 0).sum(-1) / np.maximum(count, 1), np.inf)

    def track(self, indices):
        first = self.frames[indices[0]]
        track = np.full((self.frames[indices[-1]] - first + 1, *self.poses.shape[1:]), np.nan)
        track[[self.frames[index] - first for index in indices]] = self.poses[indices]
        return first, track


def _say_sampled(found):
    frames = sorted({found.frames[index] for index in found.there})
    step = math.gcd(*(after - before for before, after in zip(frames, frames[1:])))
    if step > 1 and len(frames) > 2:
        notice(f"{found.where}: every {step}th frame only, of {frames[0]} to {frames[-1]}: those between are filled in")


def names_of(people, where):
    """The names of people (id, ...), of whom several may have one id; that is said."""
    count, names = {}, []
    for person, _ in people:
        count[person] = count.get(person, 0) + 1
        first = person is not None and count[person] == 1
        names.append(count[None] - 1 if person is None else person if first else f"{person}.{count[person]}")
    if several := [person for person, number in count.items() if person is not None and number > 1]:
        text = ", ".join(map(str, several[:5]))
        notice(f"{where}: id {text}: several people, or one who is away for more than {PATIENCE} frames: told apart")
    return names
