"""YOLO's labels, as ultralytics writes them with save_txt: a folder with a text file for each frame that has people.

A line is a person: class, the box's middle and size, x, y and perhaps the confidence of each joint, all in shares of the
image; then perhaps the confidence of the person, and the id of a track.
"""

import re
from itertools import islice

import numpy as np

from lifter._notices import Items

from ..detectors import clips_of, register_detector
from ..files import read_text, visible
from ..frames import split_name

COUNTS = {39: (17, 2), 56: (17, 3)}  # numbers of a line, without what may stand at its end: joints, and numbers of each


def _sniff(file):
    if file.is_folder:
        labels = (path for path in visible(file.path, ".txt") if path.stat().st_size)  # of frames with somebody
        return any(map(_is_label, islice(labels, 3)))
    return file.suffix == ".txt" and _is_label(file.path)


def _is_label(path):
    with path.open("rb") as file:
        words = file.readline(4096).split()
    return _shape(len(words)) is not None and all(re.fullmatch(rb"-?[\d.]+(e[-+]?\d+)?", word) for word in words)


def _shape(count):
    return next((COUNTS[count - more] for more in range(3) if count - more in COUNTS), None)


@register_detector(
    "yolo", "YOLO's labels: a folder with a text file for each frame", sniff=_sniff, folder=_sniff, suffix=None, shares=True
)
def read(path):
    files = visible(path, ".txt") if path.is_dir() else [path]
    items, names, people = Items(path, "lines"), [], []
    for file in files:
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                with items.one():
                    if len(files) > 1:
                        split_name(file.stem, file)
                    people.append(_person(line, f"{file}: line {number}"))
                    names.append(file.stem if len(files) > 1 else 0)
    items.end()
    # Of one number at the end all are whole if they are ids.
    is_id = all(more[-1] % 1 == 0 for _, more in people if more)
    found = [(int(more[-1]) if len(more) == 2 or more and is_id else None, keypoints) for keypoints, more in people]
    return clips_of(names, found, path)


def _person(line, where):
    """(keypoints, what stands at the end)."""
    words = line.split()
    shape = _shape(len(words))
    if shape is None:
        expected = " or ".join(map(str, COUNTS))
        raise ValueError(f"{where}: {len(words)} numbers, expected {expected}, and perhaps a confidence and an id")
    try:
        values = np.array(words, np.float64)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    end = 5 + shape[0] * shape[1]
    return values[5:end].reshape(shape), values[end:].tolist()
