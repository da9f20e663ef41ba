"""lifter's own file: an npz of plain arrays with one entry per array of a sequence, so that it is read one at a time."""

import io
import json
import os
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from lifter.skeleton import SKELETONS

from .cameras import Camera
from .files import Npz, take
from .sequence import FRAMEWISE, Dataset, Sequence

_PLAIN = ("name", "subject", "action", "fps", "start")


def save(path, sequences) -> int:
    """Write sequences, one after another, to `path`; how many. The file appears when it is whole."""
    path = Path(path)
    described, names = [], set()
    partly = path.with_name(f"{path.name}.part")
    try:
        with zipfile.ZipFile(partly, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            for number, sequence in enumerate(sequences):
                if sequence.name in names:
                    raise ValueError(f"{path}: two sequences are called {sequence.name!r}")
                names.add(sequence.name)
                described.append(_describe(sequence))
                for field in described[-1]["arrays"]:
                    _write(archive, f"{number}/{field}", getattr(sequence, field))
            if not described:
                raise ValueError(f"{path}: no sequences to write")
            _write(archive, "lifter", np.array(json.dumps({"version": 1, "sequences": described})))
        os.replace(partly, path)
    finally:
        partly.unlink(missing_ok=True)
    return len(described)


def _describe(sequence):
    values = {field: getattr(sequence, field) for field in _PLAIN}
    values["arrays"] = [field for field in FRAMEWISE if getattr(sequence, field) is not None]
    values["skeleton"] = sequence.skeleton.name
    values["size"] = None if sequence.size is None else list(map(float, sequence.size))
    values["camera"] = None if sequence.camera is None else sequence.camera.as_dict()
    return values


def _write(archive, key, array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    archive.writestr(f"{key}.npy", buffer.getvalue())


def open_own(path) -> Dataset:
    """A file that `save` wrote."""
    archive = Npz(path)
    where = f"{path}: lifter"
    described = take(archive.json("lifter"), "sequences", where)
    if not isinstance(described, list):
        raise ValueError(f"{where}: sequences: a {type(described).__name__}, expected a list")
    items = {}
    for number, values in enumerate(described):
        items[str(take(values, "name", f"{where}: sequence {number}"))] = partial(_read, archive, number, values, where)
    return Dataset("lifter", path, items)


def _read(archive, number, values, where) -> Sequence:
    where = f"{where}: sequence {number}"
    known = {field: take(values, field, where) for field in _PLAIN}
    skeleton = take(SKELETONS, take(values, "skeleton", where), f"{where}: skeletons")
    fields = take(values, "arrays", where)
    if not isinstance(fields, list) or not set(fields) <= set(FRAMEWISE):
        raise ValueError(f"{where}: arrays are {fields}, expected some of {', '.join(FRAMEWISE)}")
    arrays = {field: archive[f"{number}/{field}"] for field in fields}
    camera = take(values, "camera", where)
    camera = None if camera is None else Camera.of_dict(camera, where)
    size = take(values, "size", where)
    known["size"] = None if size is None else tuple(size)
    try:
        return Sequence(**known, **arrays, skeleton=skeleton, camera=camera, source=str(archive.path))
    except TypeError as error:  # a text where a number is expected
        raise ValueError(f"{where}: {error}") from None
