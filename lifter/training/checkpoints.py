"""The state of a training on disk. Files appear when they are whole, and are looked through before they are used."""

import os
import pickle
import zipfile
from pathlib import Path

import torch

from lifter._io import whole

KEPT = 2  # should the last one be damaged, there is one before it


def save(folder, step, state) -> Path:
    """Write the state after `step` steps, and remove older ones but for `KEPT`. No two processes write to a folder."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for killed in folder.glob(".*.part"):  # of an earlier process that was, in the middle of this
        killed.unlink()
    path = folder / f"step-{step:09d}.ckpt"
    with whole(path) as partly, partly.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    for old in found(folder)[:-KEPT]:
        old.unlink()
    return path


def found(folder) -> list[Path]:
    """The files of states, the newest last."""
    return sorted(Path(folder).glob("step-*.ckpt"))


def newest(folder, report=print):
    """The newest state that is whole, None if there is none; what is damaged is told to `report`, a line each."""
    for path in reversed(found(folder)):
        try:
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"wrong checksum of {damaged}")
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            report(f"{path}: damaged, not used ({' '.join(str(error).split())})")
    return None
