"""Common parts of the formats of 2D detectors: their files become sequences of Human3.6M joints, one for each person.

A format's function reads `Clip`s. See `frames` for the numbers of frames, `tracking` for how people are followed, `plausible`
for units and confidences, `keypoints` for how joints are converted and holes filled.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from lifter._notices import notice

from .cameras import normalise
from .files import existing, frame_rate, image_size, integer, keypoints_array, numbers, take, with_nan
from .frames import frames_of
from .keypoints import LAYOUTS, fill, layout_of, layout_of_names, order_of, seen, to_h36m
from .plausible import check_upright, in_pixels
from .registry import Candidate, register_format
from .sequence import Dataset, Sequence
from .tracking import tracks

# COCO's, Halpe's and MediaPipe's with hands and face, which begin with the body.
# COCO's also with feet alone, and without hands.
_WHOLE_BODY = {23: 17, 91: 17, 133: 17, 94: 26, 136: 26, 75: 33, 501: 33, 543: 33, 553: 33}
_IDS = ("idx", "track_id", "tracking_id", "person_id", "instance_id")  # where files say who somebody is
_NOBODY = ("", "none", "null", "nan", "-1", "unknown")  # what stands there if they do not know


class SizeUnknown(ValueError):
    """Neither the file tells the size of the image, nor the caller."""


@dataclass(frozen=True)
class Clip:
    """The detections of one video.

    Attributes:
        detections: as `lifter.data.tracking.tracks` takes them (`detection`), in pixels or shares of the image.
        name: of the video, "" where the file has one only.
        size: (width, height) of the image, fps, joints (their names): None where the file does not tell.
        sure: the ids are right, as those of an array that has a row for each frame of a person.
    """

    detections: list
    name: str = ""
    size: tuple[float, float] | None = None
    fps: float | None = None
    joints: tuple[str, ...] | None = None
    sure: bool = False


def register_detector(
    name: str,
    about: str,
    *,
    sniff: Callable[[Candidate], bool],
    suffix: str = ".json",
    folder: Callable[[Candidate], bool] | None = None,
    shares: bool = False,
):
    """Make `read(path)` what reads the `Clip`s of a file, or of a folder with a file per frame; or the `Dataset` of 3D poses.

    Keypoints are in pixels, or with `shares` shares of the image's width and height. The other arguments are of
    `register_format`. The options of the format are those of `open_clips`.
    """

    def decorate(read):
        def open_detections(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
            path = existing(path)
            found = read(path)
            if isinstance(found, Dataset):
                return found
            return open_clips(name, path, found, size, fps, layout, variant, shares)

        register_format(name, about, sniff=sniff, suffix=suffix, folder=folder)(open_detections)
        return read

    return decorate


def open_clips(format, path, clips, size=None, fps=None, layout=None, variant=None, shares=False) -> Dataset:
    """The people in `Clip`s of a file or folder, a sequence for each.

    Args:
        size: (width, height) of the image, where the file does not tell it.
        fps: frames per second, where the file does not tell it; None if not known.
        layout: of `LAYOUTS`. None: what the names of the joints say, or else their number (17: COCO).
        variant: of the conversion, None the layout's first.
        shares: keypoints are shares of the image's width and height.
    """
    if not any(clip.detections for clip in clips):
        raise ValueError(f"{path}: no person in any frame")
    items = {}
    size = size and image_size(*size, path)
    for clip in clips:
        title = f"{path.stem}/{clip.name}" if clip.name else path.stem
        where = f"{path}: {clip.name}" if clip.name else f"{path}"
        if not clip.detections:
            notice(f"{where}: no person in any frame")
            continue
        image = _told("size", clip.size, size, where)
        if image is None:
            how = "pass size=(width, height), or --size WxH"
            raise SizeUnknown(f"{path}: {format} does not tell the size of the image: {how}")
        known = {"fps": _told("fps", clip.fps, fps, where), "size": image, "source": path, "variant": variant}
        detections = _plausible(clip.detections, image, where, shares)
        joints = clip.joints and clip.joints[: _WHOLE_BODY.get(len(clip.joints))]
        known["layout"] = layout or joints and layout_of_names(joints, where) or _layout(detections, where)
        people = tracks(detections, where, clip.sure)
        for person, (start, keypoints) in people.items():
            name = title if len(people) == 1 else f"{title}/{person}"
            items[name] = partial(checked_sequence, name, keypoints, start=start, **known)
    return Dataset(format, path, items)


def _told(name, told, given, where):
    """Return the value that the file tells, or else the one that the caller gives."""
    if told and given and told != given:
        text = "x".join(f"{n:g}" for n in told) if name == "size" else f"{told:g}"
        notice(f"{where}: the file says that {name} is {text}, which is used")
    return told or given


def _plausible(detections, size, where, shares):
    """Detections in pixels, all with the same joints."""
    counts = Counter(keypoints.shape for *_, keypoints in detections)
    if len(counts) > 1:
        (shape, count), *_ = counts.most_common(1)
        notice(f"{where}: {len(detections) - count} detections have not {shape[0]} joints, and are left out")
        detections = [each for each in detections if each[-1].shape == shape]
    if not detections:
        return detections
    keypoints = in_pixels(np.stack([keypoints for *_, keypoints in detections]), size, where, shares)
    return [(*rest, pose) for (*rest, _), pose in zip(detections, keypoints)]


def _layout(detections, where):
    """The layout of joints without names: by their number, and by the lengths of the bones."""
    if not detections:
        return None
    some = detections[:: len(detections) // 1000 + 1]
    poses = np.stack([keypoints for *_, keypoints in some])
    return order_of(seen(poses), layout_of(poses.shape[1], where), where)


def sequence_of(name, keypoints, layout, variant, size, source, **known) -> Sequence:
    """A sequence of a detector's keypoints (T, J, 2 or 3) in pixels; see `seen` for what is missing."""
    where = f"{source}: {name}"
    keypoints = seen(keypoints_array(keypoints, where))
    if layout is None:
        layout = order_of(keypoints, layout_of(keypoints.shape[1], where), where)
    converted = fill(to_h36m(keypoints, layout, variant, where), where)
    return Sequence(name, keypoints=normalise(converted, size), size=size, source=str(source), **known)


def checked_sequence(name, keypoints, **known) -> Sequence:
    """Return `sequence_of` a file's keypoints, and say if the body lies or stands on its head."""
    sequence = sequence_of(name, keypoints, **known)
    check_upright(sequence.pixels(), f"{sequence.source}: {name}")
    return sequence


def clips_of(images, found, where, **known) -> list[Clip]:
    """The clips of detections whose frames are told by the names of images or files.

    Args:
        images: for each detection. found: for each (person, keypoints).
    """
    clips = {}
    for (video, frame), (person, keypoints) in zip(frames_of(images, where), found):
        clips.setdefault(video, []).append(detection(frame, person, keypoints))
    return [Clip(detections, video, **known) for video, detections in clips.items()]


def flat(values, where):
    """The keypoints (J, 3) of a list x, y, confidence, x, y, ..."""
    flat = numbers(with_nan(values), None, where)
    if flat.ndim != 1:
        flat = numbers(flat, (None, 3), where).reshape(-1)
    if len(flat) == 0 or len(flat) % 3:
        raise ValueError(f"{where}: {len(flat)} numbers, expected x, y and confidence of each joint")
    return body(flat.reshape(-1, 3))


def together(entries) -> np.ndarray | None:
    """The keypoints (N, J, 3) of entries as `flat` reads them, if all have as many numbers: much faster than one by one."""
    try:
        values = np.array([entry["keypoints"] for entry in entries])
    except (KeyError, TypeError, ValueError):
        return None
    if values.dtype.kind not in "if" or values.ndim != 2 or values.shape[1] % 3 or not values.size:
        return None
    return values.reshape(len(values), -1, 3)[:, : _WHOLE_BODY.get(values.shape[1] // 3)]


def body(keypoints):
    """The joints of the body, which those of the whole body begin with."""
    return keypoints[: _WHOLE_BODY.get(len(keypoints))]


def detection(frame, person, keypoints):
    """A person in a frame, as `tracks` takes it; `person` as the file has it (`person_of`)."""
    score = sum(keypoints[:, 2].tolist()) if keypoints.shape[1] == 3 else 0.0  # faster than numpy's of so few
    score = 0.0 if score != score else score  # some joint has no number
    return frame, person, score, keypoints


def person_of(entry):
    """Return the identity of a person in an entry of a file: a number or a text, None if there is none."""
    attributes = entry.get("attributes")
    for place in (entry, attributes if isinstance(attributes, dict) else {}):
        for key in _IDS:
            if (found := person(place.get(key))) is not None:
                return found
    return None


def person(value):
    """Return the id of a person, a number or a text; None if the value says that it is not known."""
    while isinstance(value, list) and len(value) == 1:  # OpenPose writes [-1]
        (value,) = value
    number = integer(value)
    if number is not None:
        return number if number >= 0 else None
    text = "" if value is None or value == [] else str(value)
    return None if text.strip().lower() in _NOBODY else text


def rate_of(mapping) -> float | None:
    """The frames per second that a part of a file tells."""
    found = (frame_rate(mapping.get(key)) for key in ("fps", "frame_rate", "framerate", "frameRate"))
    return next((rate for rate in found if rate), None)


def rate_of_times(frames, times, units=(1, 1e3, 1e6, 1e9)) -> float | None:
    """The frames per second of frames whose times are known, in seconds, or milli-, micro- or nanoseconds."""
    steps = [(after - before) / (j - i) for i, j, before, after in zip(frames, frames[1:], times, times[1:]) if j > i]
    step = float(np.median(steps)) if steps else 0.0
    rates = (float(f"{unit / step:.4g}") for unit in units) if step > 0 else ()
    return next((rate for rate in rates if 4 <= rate <= 1000), None)


def entries(data, where):
    """`data`, if it is a list, of which some items are dicts."""
    if not isinstance(data, list) or (data and not any(isinstance(entry, dict) for entry in data)):
        raise ValueError(f"{where}: expected a list of dicts")
    return data


def whole_number(entry, key, default, where) -> int:
    """A whole number of a dict. It must be there if `default` is None."""
    value = take(entry, key, where) if default is None else entry.get(key, default)
    number = integer(value)
    if number is None:
        raise ValueError(f"{where}: {key} is {value!r}, expected a whole number")
    return number


def metadata_layout(metadata, path):
    """The layout that VideoPose3D's metadata name; without a name it is that of the poses, Human3.6M's."""
    layout = metadata.get("layout_name", "h36m") if isinstance(metadata, dict) else "h36m"
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"{path}: metadata: layout_name is {layout!r}, expected {' or '.join(LAYOUTS)}")
    return layout
