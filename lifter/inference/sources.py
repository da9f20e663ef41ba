"""Search for the files to lift. Nothing here needs torch."""

import os
from pathlib import Path
from typing import NamedTuple

from lifter.data.files import existing
from lifter.data.registry import is_one, suffixes, walk


class Source(NamedTuple):
    """A file, or a folder that is read as one. `place` is its path in the output folder."""

    path: Path
    place: str


def find_sources(inputs, out, format=None, endings=None) -> list[Source]:
    """Find the sources in files and folders, sorted, but for those in `out`, which may be in such a folder.

    In folders, with the folders in them, that is every file that may hold keypoints, or whose name ends in one of `endings`.
    A folder of Human3.6M (data_2d_h36m_*.npz) or of OpenPose (a JSON file for each frame) is read as one. A place is the path
    below the one folder that was named, or below the one that all inputs have in common.
    """
    endings = suffixes() if endings is None else endings
    *inputs, out = (path.resolve() if ".." in path.parts else path.absolute() for path in (*map(existing, inputs), Path(out)))
    found, bases = {}, []
    for path in inputs:
        is_folder = path.is_dir() and not is_one(path, format)
        if is_folder and (out == path or out in path.parents):
            raise ValueError(f"{out}: holds {path}, which is to be lifted; expected another folder")
        bases.append(path if is_folder else path.parent)
        found |= dict.fromkeys(walk(path, format, out, endings) if is_folder else [path])
    root = os.path.commonpath(bases)
    if not found:
        raise ValueError(f"{' '.join(map(str, inputs))}: no file that ends in {', '.join(endings)}")
    if out in found:
        raise ValueError(f"{out}: is to be lifted, expected another name for its poses")
    for path in found:
        if whole := next((parent for parent in path.parents if parent in found), None):
            raise ValueError(f"{path}: is part of {whole}, which is read as one")
    return [Source(path, os.path.relpath(path, root)) for path in sorted(found)]
