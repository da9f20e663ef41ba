"""MPI-INF-3DHP: P-STMO's data_train_3dhp.npz and data_test_3dhp.npz, and the original annot.mat, annot_data.mat.

Poses are the file's univ_annot3, in the camera, in metres; joints as in `lifter.skeleton.MPI3DHP`, their root is the pelvis.
"""

import struct
import zlib
from functools import partial

import numpy as np

from lifter._extras import needs
from lifter.skeleton import MPI3DHP

from ..cameras import normalise
from ..files import STEP, Npz, check_unfolded, existing, numbers, take, take_dict
from ..registry import register_format
from ..sequence import Dataset, Sequence

TRAIN_CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)  # those at the height of a person, which P-STMO takes
COMPRESSED = 15  # the kind of a part of a MATLAB 5.0 file
_OF_28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)  # the 17 joints among the 28 of annot.mat


def _sniff(file):
    return "data" in file.arrays and file.arrays.isdisjoint(("lifter", "positions_3d", "imgname"))  # others' names


@register_format("3dhp", "MPI-INF-3DHP as P-STMO stores it (npz)", sniff=_sniff, suffix=".npz")
def open_npz(path) -> Dataset:
    """P-STMO's npz: sequences "S1/Seq1/0" of the training set, or "TS1" of the test set, with the frames that count."""
    path = existing(path)
    items = {}
    for key, value in take_dict(Npz(path), "data").items():
        where = f"{path}: {key}"
        if isinstance(value, dict):
            items[str(key)] = partial(_sequence, str(key), value, path, size=_test_size(key))
            continue
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], dict)):
            raise ValueError(f"{where}: expected [a dict of cameras, fps], or a dict with data_2d, data_3d, valid")
        cameras, fps = value
        subject, _, action = str(key).partition(" ")
        for camera, arrays in cameras.items():
            name = f"{subject}/{action}/{camera}"
            known = {
                "subject": subject,
                "action": action,
                "fps": float(numbers(fps, (), f"{where}: fps")),
                "size": (2048, 2048),
            }
            items[name] = partial(_sequence, name, arrays, path, **known)
    return Dataset("3dhp", path, items)


def _test_size(key):
    return (1920, 1080) if str(key) in ("TS5", "TS6") else (2048, 2048)


def _sequence(name, arrays, path, size, **known) -> Sequence:
    where = f"{path}: {name}"
    poses = numbers(take(arrays, "data_3d", where), (None, 17, 3), f"{where}: data_3d") / 1000
    keypoints = numbers(take(arrays, "data_2d", where), (len(poses), 17, 2), f"{where}: data_2d")
    if "valid" in arrays:
        known["valid"] = numbers(np.ravel(arrays["valid"]), (len(poses),), f"{where}: valid") != 0
    keypoints = normalise(keypoints, size)
    return Sequence(name, MPI3DHP, keypoints=keypoints, poses=poses, size=size, source=str(path), **known)


def _guess_mat(file):
    if file.is_folder:
        return any(any(file.path.rglob(name)) for name in ("annot.mat", "annot_data.mat"))
    return file.suffix == ".mat"


@register_format(
    "3dhp-mat", "MPI-INF-3DHP's own annot.mat, annot_data.mat, or a folder with them", guess=_guess_mat, suffix=".mat"
)
def open_mat(path) -> Dataset:
    """The original files: an annot.mat of the training set (needs scipy), an annot_data.mat of the test set (needs h5py),
    or a folder with any of them below it, as S1/Seq1/annot.mat and TS1/annot_data.mat."""
    path = existing(path)
    files = [path] if path.is_file() else [*sorted(path.rglob("annot.mat")), *sorted(path.rglob("annot_data.mat"))]
    if not files:
        raise FileNotFoundError(f"{path}: no annot.mat or annot_data.mat in this folder")
    items = {}
    for file in files:
        parent = file.absolute().parent
        if file.name == "annot_data.mat":
            items[parent.name] = partial(_test_mat, parent.name, file)
            continue
        for camera in TRAIN_CAMERAS:
            name = f"{parent.parent.name}/{parent.name}/{camera}"
            items[name] = partial(_train_mat, name, file, camera)
    return Dataset("3dhp-mat", path, items)


def _check_mat(file):
    """Raise a ValueError if the compressed parts of a MATLAB 5.0 file unfold to more than it can have: scipy would do it."""
    total = 0
    with file.open("rb") as opened:
        order = ">" if opened.read(128)[126:] == b"MI" else "<"
        while len(tag := opened.read(8)) == 8:
            kind, left = struct.unpack(f"{order}2I", tag)
            if kind != COMPRESSED:
                opened.seek(left, 1)
                continue
            unfold = zlib.decompressobj()
            while left and (part := opened.read(min(left, STEP))):
                left -= len(part)
                while part:
                    total += len(unfold.decompress(part, STEP))
                    check_unfolded(file, total)
                    part = unfold.unconsumed_tail


def _train_mat(name, file, camera) -> Sequence:
    with needs("data", f"{file}: reading it"):
        from scipy.io import loadmat
    try:
        _check_mat(file)
        data = loadmat(file, variable_names=("annot2", "univ_annot3"))
    except Exception as error:  # of a damaged file scipy raises anything
        raise ValueError(f"{file}: not a readable MATLAB file ({error})") from None
    arrays = {}
    for key, source, axes in (("data_2d", "annot2", 2), ("data_3d", "univ_annot3", 3)):
        cells = take(data, source, file)
        if len(cells) <= camera:
            raise ValueError(f"{file}: {source} has {len(cells)} cameras, expected at least {camera + 1}")
        arrays[key] = numbers(cells[camera][0], (None, 28 * axes), f"{file}: {source}").reshape(-1, 28, axes)[:, _OF_28]
    subject, action, _ = name.split("/")
    return _sequence(name, arrays, file, (2048, 2048), subject=subject, action=action)


def _test_mat(name, file) -> Sequence:
    with needs("data", f"{file}: reading it"):
        import h5py
    try:
        with h5py.File(file, "r") as data:
            pairs = (("data_2d", "annot2"), ("data_3d", "univ_annot3"), ("valid", "valid_frame"))
            check_unfolded(file, sum(data[source].size * data[source].dtype.itemsize for _, source in pairs))
            arrays = {key: np.squeeze(np.asarray(data[source])) for key, source in pairs}
    except (OSError, ValueError, AttributeError) as error:  # such as a group where an array is expected
        raise ValueError(f"{file}: not a readable MATLAB 7.3 file ({error})") from None
    except KeyError as error:
        raise KeyError(f"{file}: {error.args[0]}") from None
    return _sequence(name, arrays, file, _test_size(name))
