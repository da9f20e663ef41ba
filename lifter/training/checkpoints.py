"""The state of a training on disk. Files appear when they are whole, and are looked through before they are used."""

from pathlib import Path

from lifter import _torch_files
from lifter._errors import message
from lifter._io import whole
from lifter.checkpoints import check_finite

KEPT = 2  # should the last one be damaged, there is one before it
STATE_FIELDS = ("step", "seconds", "about", "best", "clips", "model", "optimizer", "average")


def save(folder, step, state) -> Path:
    """Write the state after `step` steps, and remove older ones but for `KEPT`. No two processes write to a folder."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for killed in folder.glob(".*.part"):  # of an earlier process that was, in the middle of this
        killed.unlink()
    path = folder / f"step-{step:09d}.ckpt"
    with whole(path) as partly:
        _torch_files.save(state, partly)
    for old in found(folder)[:-KEPT]:
        old.unlink()
    return path


def found(folder) -> list[Path]:
    """The files of states, the newest last."""
    return sorted(Path(folder).glob("step-*.ckpt"))


def newest(folder, report=print):
    """The newest state that is whole; what is damaged is told to `report`, a line each. None if there never was one.

    Raises:
        ValueError if all are damaged.
    """
    states = found(folder)
    for path in reversed(states):
        try:
            state = _torch_files.read(path, load=True)
            if not isinstance(state, dict) or (lost := [part for part in STATE_FIELDS if part not in state]):
                raise ValueError(f"no {', '.join(lost)}" if isinstance(state, dict) else f"a {type(state).__name__}")
            check_finite(state, path)
            return state
        except (OSError, ValueError) as error:
            report(f"{path}: damaged, not used ({message(error)})")
    if states:
        raise ValueError(f"{folder}: all {len(states)} checkpoints are damaged: remove them to start anew")
    return None
