"""What the formats of 2D detectors share: their files become sequences of Human3.6M joints, one for each person.

A frame's number is the last number in its image's or file's name, where there is one. See `keypoints` for how joints are
converted, people followed and holes filled.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from .cameras import normalise
from .files import existing, image_size, keypoints_array, numbers, take
from .keypoints import LAYOUTS, fill, layout_of, to_h36m, tracks
from .registry import register_format
from .sequence import Dataset, Sequence

_WHOLE_BODY = {133: 17, 136: 26}  # COCO's and Halpe's, which begin with the body


class SizeUnknown(ValueError):
    """Neither the file tells the size of the image, nor the caller."""


def register_detector(name, about, *, sniff, suffix=".json", folder=None, shares=False):
    """Make `read(path)` what reads the detections of a file, or of a folder with a file per frame.

    It returns them as `tracks` takes them, and the size of the image, None if the file does not tell it. Keypoints are in
    pixels, or with `shares` shares of the image's width and height. The other arguments are of `register_format`. The options
    of the format are:

        size: (width, height) of the image, where the file does not tell it.
        fps: frames per second, None if not known.
        layout: of `LAYOUTS`, None by the number of joints (17: COCO).
        variant: of the conversion, None the layout's first.
    """

    def decorate(read):
        def open_detections(path, size=None, fps=None, layout=None, variant=None) -> Dataset:
            path = existing(path)
            detections, told = read(path)
            size = told or size and image_size(*size, path)
            if size is None:
                how = "pass size=(width, height), or --size WxH"
                raise SizeUnknown(f"{path}: {name} does not tell the size of the image: {how}")
            if shares:
                detections = [(*rest, keypoints * (*size, 1)) for *rest, keypoints in detections]
            people = tracks(detections, path)
            items = {}
            for person, (start, keypoints) in people.items():
                title = path.stem if len(people) == 1 else f"{path.stem}/{person}"
                items[title] = partial(sequence_of, title, keypoints, layout, variant, size, path, fps=fps, start=start)
            return Dataset(name, path, items)

        register_format(name, about, sniff=sniff, suffix=suffix, folder=folder)(open_detections)
        return read

    return decorate


def sequence_of(name, keypoints, layout, variant, size, source, **known) -> Sequence:
    """A sequence of a detector's keypoints (T, J, 2 or 3) in pixels, with NaN where there are none."""
    where = f"{source}: {name}"
    keypoints = keypoints_array(keypoints, where)
    layout = layout_of(keypoints.shape[1], where) if layout is None else layout
    converted = fill(to_h36m(keypoints, layout, variant, where), where)
    return Sequence(name, keypoints=normalise(converted, size), size=size, source=str(source), **known)


def frame_number(name, where) -> int:
    """The last number in the name of an image or a file."""
    found = re.findall(r"\d+", Path(str(name)).stem)
    if not found or len(found[-1]) > 15:
        raise ValueError(f"{where}: no number of a frame in {name!r}")
    return int(found[-1])


def flat(values, where):
    """The keypoints (J, 3) of a list x, y, confidence, x, y, ..."""
    flat = numbers(values, (None,), where)
    if len(flat) == 0 or len(flat) % 3:
        raise ValueError(f"{where}: {len(flat)} numbers, expected x, y and confidence of each joint")
    return body(flat.reshape(-1, 3))


def body(keypoints):
    """The joints of the body, which those of the whole body begin with."""
    return keypoints[: _WHOLE_BODY.get(len(keypoints))]


def detection(frame, person, keypoints):
    """A person in a frame, as `tracks` takes it; `person` as the file has it, None or negative if it does not tell."""
    if isinstance(person, list):  # OpenPose writes [-1]
        person = person[0] if len(person) == 1 else str(person)
    if isinstance(person, float) and person.is_integer():
        person = int(person)
    if isinstance(person, int):
        person = None if person < 0 else person
    elif person is not None:
        person = str(person)
    score = float(np.nansum(keypoints[:, 2]))
    return frame, person, score, keypoints


def entries(data, where):
    """`data`, if it is a list of dicts."""
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise ValueError(f"{where}: expected a list of dicts")
    return data


def whole_number(entry, key, default, where) -> int:
    """A whole number of a dict. It must be there if `default` is None."""
    value = take(entry, key, where) if default is None else entry.get(key, default)
    if not isinstance(value, int):
        raise ValueError(f"{where}: {key} is {value!r}, expected a whole number")
    return value


def metadata_layout(metadata, path):
    """The layout that VideoPose3D's metadata name; without a name it is that of the poses, Human3.6M's."""
    layout = metadata.get("layout_name", "h36m") if isinstance(metadata, dict) else "h36m"
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"{path}: metadata: layout_name is {layout!r}, expected {' or '.join(LAYOUTS)}")
    return layout
