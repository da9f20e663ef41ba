"""Motion capture as npz without cameras: clips of Human3.6M's joints in the world, z up, or a folder of such files."""

from functools import partial

from lifter.skeleton import H36M

from ..files import Npz, existing, numbers
from ..registry import register_format
from ..sequence import Dataset, Sequence


def _is_motions(arrays):
    known = {"joint_names", "parents", "fps"} <= arrays and "cameras_json" not in arrays
    return known and any("/" in name for name in arrays)


def _files(folder):
    return [path for path in sorted(folder.glob("*.npz")) if _is_motions(_keys(path))]


def _keys(path):
    try:
        return set(Npz(path).keys)
    except ValueError:  # damaged, or no npz
        return set()


@register_format(
    "motions",
    "motion capture in the world, npz; also a folder of these",
    sniff=lambda file: _is_motions(file.arrays) or (file.is_folder and bool(_files(file.path))),
)
def open_motions(path) -> Dataset:
    """Sequences "02/02_01" of a subject and a clip: poses in the world, read clip by clip."""
    items = {}
    path = existing(path)
    for file in _files(path) if path.is_dir() else [path]:
        archive = Npz(file)
        fps = float(numbers(archive["fps"], (), f"{file}: fps"))
        clips = [key for key in archive.keys if "/" in key]
        if twice := [key for key in clips if key in items]:
            raise ValueError(f"{file}: {twice[0]} is in another file of {path}, too")
        items |= {key: partial(_clip, key, archive, fps) for key in clips}
    return Dataset("motions", path, items)


def _clip(name, archive, fps) -> Sequence:
    poses = numbers(archive[name], (None, H36M.num_joints, 3), f"{archive.path}: {name}")
    subject, _, action = name.partition("/")
    return Sequence(name, poses=poses, fps=fps, subject=subject, action=action, source=str(archive.path))
