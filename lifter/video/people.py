"""The people in a video: found in every frame, followed, put in order, without ghosts."""

from typing import NamedTuple

import numpy as np

from lifter.data import Sequence
from lifter.data.detectors import sequence_of
from lifter.data.tracking import tracks

LEAST = 0.3  # mean confidence of a person in a frame; where nobody is, detectors look for joints in the whole image
SHORT = 0.5  # seconds; who is seen for less is a ghost, unless the video is shorter than twice that
WEAK = 0.5  # mean confidence; who has less over all frames is a ghost
TWICE = 0.25  # extents; who is nearer than that to somebody better seen, in a frame, is the same person
AGAIN = 3.0  # seconds for which somebody may be away and still be known again
NEAR, ALIKE = 1.0, 1.5  # if they come back within so many extents, and are at most so many times as large or small


class Found(NamedTuple):
    """The people and ghosts of a video."""

    people: list[Sequence]  # who is seen longest, largest and best first
    ghosts: list[Sequence]
    frames: int  # that were looked at
    stopped: bool = False  # by Ctrl-C, before the end
    broken: str | None = None  # of the video: why it could not be read to its end


def find_people(video, detector, variant=None, step=lambda: None) -> Found:
    """Find the people in a video.

    After Ctrl-C, or where the video is broken, what was found until then is what there is.

    Args:
        video: a `Video`. detector: as `find_detector` gives it. variant: of the conversion to Human3.6M's joints.
        step: called after every frame.

    Returns:
        `Found`; the sequences are called "NAME/person1", ... after the video, or "NAME" if it is one person.

    Raises:
        ValueError if there is nobody in any frame.
    """
    detections, frames, stopped = [], 0, False
    detector.reset()
    try:
        for number, image in video:
            for keypoints in _once(detector(image, number / video.fps)):
                detections.append((number, None, float(keypoints[:, 2].sum()), keypoints.astype(np.float32)))
            frames = number + 1
            step()
    except KeyboardInterrupt:
        stopped = True
    if video.broken and not detections:
        raise ValueError(video.broken)
    people = sorted(_joined(tracks(detections, video.path).values(), video.fps), key=_weight, reverse=True)
    kept, ghosts = [], []
    for track in people:
        is_ghost = len(people) > 1 and _is_faint(track[1], frames / video.fps, video.fps)
        (ghosts if is_ghost else kept).append(track)
    kept = kept or [ghosts.pop(0)]
    known = {"layout": detector.layout, "variant": variant, "size": video.size, "fps": video.fps, "source": video.path}
    name = video.path.stem
    call = lambda what, number: f"{name}/{what}{number}" if len(kept) + len(ghosts) > 1 else name
    named = lambda what, some: [
        sequence_of(call(what, number), track, start=start, **known) for number, (start, track) in enumerate(some, 1)
    ]
    return Found(named("person", kept), named("ghost", ghosts), frames, stopped, video.broken)


def _once(bodies):
    """The bodies of a frame that are seen at all, each once, the best first."""
    kept = []
    for body in sorted(bodies, key=lambda body: -np.mean(body[:, 2])):
        near = TWICE * np.ptp(body[:, :2], axis=0).max()
        is_new = all(np.linalg.norm(body[:, :2] - other[:, :2], axis=-1).mean() > near for other in kept)
        if is_new and np.mean(body[:, 2]) >= LEAST:
            kept.append(body)
    return kept


def _weight(track):
    """Return the sum over the frames of a person's size times its confidence."""
    there = track[1][_seen(track[1])]
    return float((np.nanmean(there[..., 2], 1) * _extents(there)).sum())


def _seen(keypoints):
    """(T,) where somebody is seen."""
    return np.isfinite(keypoints[..., 2]).any(1)


def _extents(keypoints):
    """(T,) the larger of height and width; NaN where nobody is."""
    out = np.full(len(keypoints), np.nan)
    there = keypoints[_seen(keypoints), :, :2]
    out[_seen(keypoints)] = (np.nanmax(there, 1) - np.nanmin(there, 1)).max(-1)
    return out


def _is_faint(keypoints, seconds, fps):
    return _seen(keypoints).sum() < min(SHORT, seconds / 2) * fps or np.nanmean(keypoints[..., 2]) < WEAK


def _joined(people, fps):
    """Tracks, those of the same person made one: who ends where, soon after, somebody alike begins."""
    people = sorted(people, key=lambda track: track[0])
    joined = []
    for start, track in people:
        before = [number for number, earlier in enumerate(joined) if _comes_back(earlier, (start, track), fps)]
        if len(before) != 1:  # nobody, or nobody knows who
            joined.append((start, track))
            continue
        begin, earlier = joined[before[0]]
        gap = np.full((start - begin - len(earlier), *track.shape[1:]), np.nan)
        joined[before[0]] = begin, np.concatenate((earlier, gap, track))
    return joined


def _comes_back(earlier, later, fps):
    (begin, before), (start, after) = earlier, later
    gap = start - begin - len(before)
    if not 0 <= gap <= AGAIN * fps:
        return False
    one, two = _extents(before[-1:])[0], _extents(after[:1])[0]
    apart = np.nanmedian(np.linalg.norm(before[-1, :, :2] - after[0, :, :2], axis=-1))
    return apart < NEAR * max(one, two) and max(one, two) < ALIKE * min(one, two)
