"""The formats of data that are known: how a file's format is found, and what opens and writes it.

A format is a file in `lifter/data/formats`, which registers itself:

    @register_format("bvh", "motion capture, .bvh", guess=lambda file: file.suffix == ".bvh")
    def open_bvh(path, unit=None) -> Dataset: ...
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lifter._io import StrPath

from .files import Npz, decoded, existing, look_at_json, read_bytes
from .sequence import Dataset


class Candidate:
    """A file or folder whose format is asked for. It is read once, however many formats look at it."""

    def __init__(self, path):
        self.path = Path(path)
        self.is_folder = self.path.is_dir()
        name = self.path.with_suffix("") if self.path.suffix.lower() == ".gz" else self.path
        self.suffix = "" if self.is_folder else name.suffix.lower()

    @cached_property
    def start(self) -> bytes:
        """The first bytes of a file, unfolded if it is compressed."""
        return b"" if self.is_folder else read_bytes(self.path, 4096)

    @cached_property
    def text(self) -> str:
        """The first characters of a file that is text."""
        return decoded(self.start, "replace")

    @cached_property
    def npz(self) -> Npz | None:
        return Npz(self.path) if self.start[:4] == b"PK\x03\x04" or self.suffix == ".npz" else None

    @cached_property
    def arrays(self) -> set[str]:
        """The names of the arrays of an npz."""
        return set() if self.npz is None else set(self.npz.keys)

    @cached_property
    def is_json(self) -> bool:
        named = self.suffix in (".json", ".jsonl", ".ndjson") or self.text.lstrip()[:1] in ("{", "[")
        return named and self.npz is None and self.start[:6] != b"\x93NUMPY"

    @cached_property
    def json(self):
        """The value of a JSON file; None of others."""
        return look_at_json(self.path) if self.is_json else None

    @cached_property
    def keys(self) -> set[str]:
        """The keys of a JSON file that is an object."""
        return set(self.json) if isinstance(self.json, dict) else set()

    @cached_property
    def first(self):
        """The first entry that is not empty of a JSON file that is a list."""
        return next((entry for entry in self.json if entry), None) if isinstance(self.json, list) else None

    @cached_property
    def first_keys(self) -> set[str]:
        return set(self.first) if isinstance(self.first, dict) else set()


# First bytes of pages and pointers that are downloaded in place of a file.
_STAND_INS = {
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)",
    b"<!doctype html": "a web page", b"<html": "a web page",
}  # fmt: skip


def _never(_):
    return False


@dataclass(frozen=True)
class Format:
    name: str
    about: str
    open: Callable[..., Dataset]
    sniff: Callable[[Candidate], bool]
    guess: Callable[[Candidate], bool]
    suffix: str | None
    folder: Callable[[Candidate], bool] | None

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of `open` beside the path."""
        return tuple(inspect.signature(self.open).parameters)[1:]


@dataclass(frozen=True)
class Writer:
    """Writes sequences, or one: `writer(path, what, **options)`. Options that it does not take are not passed on."""

    write: Callable
    many: bool  # it takes sequences, and one sequence if not
    camera: bool  # it keeps cameras; others want poses in the room

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of `write` beside the path and what is written."""
        return tuple(inspect.signature(self.write).parameters)[2:]

    def __call__(self, path, what, **options):
        return self.write(path, what, **{name: value for name, value in options.items() if name in self.options})


FORMATS: dict[str, Format] = {}
WRITERS: dict[str, Writer] = {}  # by the suffix of their files, without the dot


def register_format(
    name: str,
    about: str,
    *,
    sniff: Callable[[Candidate], bool] = _never,
    guess: Callable[[Candidate], bool] = _never,
    suffix: str | None = None,
    folder: Callable[[Candidate], bool] | None = None,
):
    """Make `function(path, **options) -> Dataset` what opens a format.

    Args:
        name: as `lifter data inspect` and `--format` call it. about: one line on it.
        sniff: tells from a `Candidate` whether it is of this format, by its content.
        guess: the same by less than that, as a file's name. It is asked if no format's `sniff` says yes.
        suffix: of its files, if they may hold keypoints: `lifter lift` looks for them in folders.
        folder: tells whether a folder is read as one, by `lifter lift` too, if the user says that it is of this format; else
            `sniff` tells. None: folders are not read as one.
    """

    if name in FORMATS:
        raise ValueError(f"register_format: there is a format {name!r} already")

    def decorate(function):
        FORMATS[name] = Format(name, about, function, sniff, guess, suffix, folder)
        return function

    return decorate


def register_writer(suffix: str, many: bool = False, camera: bool = False):
    """Make `function(path, sequence, **options)` what writes files with this suffix; with `many`, `function(path, sequences)`.
    `camera`: their cameras are kept."""

    if suffix in WRITERS:
        raise ValueError(f"register_writer: there is a writer of {suffix!r} already")

    def decorate(function):
        WRITERS[suffix] = Writer(function, many, camera)
        return function

    return decorate


def detect(path: StrPath) -> str:
    """The format of a file or folder, one of `FORMATS`: by its content where that tells, else by its name.

    Raises:
        ValueError for what is of no known format, and for what may be of several; it names them.
    """
    file = Candidate(existing(path))
    if stands_for := next((what for start, what in _STAND_INS.items() if file.start.lower().startswith(start)), None):
        raise ValueError(f"{path}: {stands_for}, not the file itself")
    for ask in ("sniff", "guess"):
        found = [format.name for format in FORMATS.values() if getattr(format, ask)(file)]
        if len(found) > 1:
            raise ValueError(f"{path}: may be {' or '.join(found)}, expected one format: name it by format=, or --format")
        if found:
            return found[0]
    known = f"known are {', '.join(sorted(FORMATS))}"
    if file.is_folder:
        names = ", ".join(sorted(entry.name for entry in file.path.iterdir())[:10])
        raise ValueError(f"{path}: a folder of no known format; it has {names or 'nothing'}")
    if file.npz is not None:
        raise ValueError(f"{path}: an npz of no known format, it has {', '.join(file.npz.keys[:20]) or 'nothing'}")
    if file.json == []:
        raise ValueError(f"{path}: an empty list, no person in any frame")
    if keys := sorted(file.keys or file.first_keys):
        raise ValueError(f"{path}: JSON of no known format, its keys are {', '.join(map(str, keys[:20]))}; {known}")
    raise ValueError(f"{path}: {'JSON ' if file.is_json else ''}of no known format; {known}")


def is_one(folder, format=None) -> bool:
    """Return whether a folder is read as one, by this format or by the one that it is of."""
    file = Candidate(folder)
    if format is not None:
        is_folder = format in FORMATS and FORMATS[format].folder
        return bool(is_folder and is_folder(file))
    return any(each.folder and each.sniff(file) for each in FORMATS.values())


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that may hold keypoints."""
    known = sorted({format.suffix for format in FORMATS.values()} - {None} | {".jsonl", ".ndjson"})
    return (*known, *(f"{suffix}.gz" for suffix in known if suffix not in (".npz", ".pkl")))


def walk(folder, format=None, without=None, endings=None):
    """The files in a folder, and in those in it, whose names end in `endings`, and the folders that are read as one.

    `without`: a folder that is left out. `endings`: default: `suffixes()`, of files that may hold keypoints.
    """
    known = suffixes() if endings is None else endings
    for here, folders, files in os.walk(folder):
        if is_one(here, format):
            folders.clear()
            yield Path(here)
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and Path(here, name) != without]
        yield from (Path(here, name) for name in files if name.lower().endswith(known) and not name.startswith("."))


def open_data(path: StrPath, format: str | None = None, **options) -> Dataset:
    """The sequences of a file or folder, read one at a time.

    Args:
        format: one of `FORMATS`; None: what `detect` says.
        options: of the format's function, None where not wanted: `size`, `fps`, `layout`, `variant` of detectors' files
            (`lifter.data.detectors.register_detector`), `keypoints` and `cameras` of Human3.6M
            (`lifter.data.formats.h36m.open_h36m`), `noise` of "cmu", `unit` of "bvh", `body_model` of
            "amass".

    Raises:
        FileNotFoundError, KeyError, ValueError: they name the file, and in it what is wrong. So does reading a sequence.
    """
    format = detect(path) if format is None else format
    options = {name: value for name, value in options.items() if value is not None}
    known = options_of(format)
    if unknown := options.keys() - set(known):
        expected = f"only {', '.join(known)}" if known else "nor any other option"
        raise ValueError(f"{path}: {format} knows no {', '.join(sorted(unknown))}, {expected}")
    return FORMATS[format].open(path, **options)


def options_of(format: str) -> tuple[str, ...]:
    """The options of `open_data` that a format takes."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected {' or '.join(sorted(FORMATS))}")
    return FORMATS[format].options
