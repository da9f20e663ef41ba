"""lifter's own files: an npz of plain arrays with one entry per array of a sequence, so that it is read one at a time; and
the same as JSON, for other programs, in memory as a whole, with numbers in steps of 1e-7."""

import io
import json
import zipfile
from collections.abc import Iterable
from functools import partial

import numpy as np

from lifter._io import StrPath, whole
from lifter.skeleton import SKELETONS

from ..cameras import Camera
from ..files import Npz, numbers, read_json, take
from ..registry import register_format, register_writer
from ..sequence import FRAMEWISE, Dataset, Sequence

_PLAIN = ("name", "subject", "action", "fps", "start")


@register_writer("npz", many=True, camera=True)
def save(path: StrPath, sequences: Iterable[Sequence]) -> int:
    """Write sequences, one after another, to an npz; how many. The file appears when it is whole."""
    described = []
    with whole(path) as partly, zipfile.ZipFile(partly, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for number, sequence in enumerate(_distinct(sequences, path)):
            described.append(_describe(sequence))
            for field in described[-1]["arrays"]:
                _write(archive, f"{number}/{field}", getattr(sequence, field))
        _write(archive, "lifter", np.array(json.dumps({"version": 1, "sequences": described})))
    return len(described)


@register_writer("json", many=True, camera=True)
def save_json(path: StrPath, sequences: Iterable[Sequence]) -> int:
    """Write sequences as JSON: arrays are nested lists, beside which "joints" names the joints."""
    with whole(path) as partly, partly.open("w", encoding="ascii") as file:
        count = 0
        for count, sequence in enumerate(_distinct(sequences, path), 1):
            values = _describe(sequence)
            arrays = {field: getattr(sequence, field) for field in values["arrays"]}
            rounded = {
                field: (array if array.dtype == bool else array.astype(np.float64).round(7)).tolist()
                for field, array in arrays.items()
            }
            file.write('{"lifter": 1, "sequences": [\n' if count == 1 else ",\n")
            file.write(json.dumps({**values, "joints": sequence.skeleton.joints, **rounded}))
        file.write("\n]}\n")
    return count


def _distinct(sequences, path):
    names = set()
    for sequence in sequences:
        if sequence.name in names:
            raise ValueError(f"{path}: two sequences are called {sequence.name!r}")
        names.add(sequence.name)
        yield sequence
    if not names:
        raise ValueError(f"{path}: no sequences to write")


def _describe(sequence):
    values = {field: getattr(sequence, field) for field in _PLAIN}
    values |= {} if sequence.up == "z" else {"up": sequence.up}
    values["arrays"] = [field for field in FRAMEWISE if getattr(sequence, field) is not None]
    values["skeleton"] = sequence.skeleton.name
    values["size"] = None if sequence.size is None else list(map(float, sequence.size))
    values["camera"] = None if sequence.camera is None else sequence.camera.as_dict()
    return values


def _write(archive, key, array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    archive.writestr(f"{key}.npy", buffer.getvalue())


@register_format(
    "lifter", "lifter's own npz, read one sequence at a time", sniff=lambda file: "lifter" in file.arrays, suffix=".npz"
)
def open_own(path) -> Dataset:
    """A file that `save` wrote."""
    archive = Npz(path)
    return _open("lifter", path, archive.json("lifter"), partial(_array_of_npz, archive))


def _array_of_npz(archive, number, field, values):
    return archive[f"{number}/{field}"]


@register_format("json", "lifter's own JSON", sniff=lambda file: "lifter" in file.keys, suffix=".json")
def open_json(path) -> Dataset:
    """A file that `save_json` wrote."""
    return _open("json", path, read_json(path), partial(_array_of_json, path))


def _array_of_json(path, number, field, values):
    where = f"{path}: lifter: sequence {number}"
    array = numbers(take(values, field, where), None, f"{where}: {field}")
    return array.astype(bool) if field == "valid" else array


def _open(format, path, told, array) -> Dataset:
    """`array(number, field, values)` reads an array of a sequence."""
    where = f"{path}: lifter"
    described = take(told, "sequences", where)
    if not isinstance(described, list):
        raise ValueError(f"{where}: sequences: a {type(described).__name__}, expected a list")
    items = {}
    for number, values in enumerate(described):
        items[str(take(values, "name", f"{where}: sequence {number}"))] = partial(_read, path, array, number, values)
    return Dataset(format, path, items)


def _read(path, array, number, values) -> Sequence:
    where = f"{path}: lifter: sequence {number}"
    known = {field: take(values, field, where) for field in _PLAIN} | {"up": values.get("up", "z")}
    skeleton = take(SKELETONS, str(take(values, "skeleton", where)), f"{where}: skeletons")
    fields = take(values, "arrays", where)
    if not isinstance(fields, list) or not all(field in FRAMEWISE for field in fields):
        raise ValueError(f"{where}: arrays are {fields}, expected some of {', '.join(FRAMEWISE)}")
    arrays = {field: array(number, field, values) for field in fields}
    camera = take(values, "camera", where)
    camera = None if camera is None else Camera.of_dict(camera, where)
    size = take(values, "size", where)
    known["size"] = None if size is None else tuple(numbers(size, (2,), f"{where}: image size").tolist())
    if not isinstance(known["start"], int):
        raise ValueError(f"{where}: start is {known['start']!r}, expected a whole number")
    try:
        return Sequence(**known, **arrays, skeleton=skeleton, camera=camera, source=str(path))
    except TypeError as error:  # a text where a number is expected
        raise ValueError(f"{where}: {error}") from None
