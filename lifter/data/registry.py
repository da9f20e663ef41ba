"""Registry of file formats: detection, readers and writers.

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
    """A file or folder whose format is to be detected. It is read once, no matter how many formats look at it."""

    def __init__(self, path):
        self.path = Path(path)
        self.is_folder = self.path.is_dir()
        name = self.path.with_suffix("") if self.path.suffix.lower() == ".gz" else self.path
        self.suffix = "" if self.is_folder else name.suffix.lower()

    @cached_property
    def start(self) -> bytes:
        """The first bytes of a file, decompressed if necessary."""
        return b"" if self.is_folder else read_bytes(self.path, 4096)

    @cached_property
    def text(self) -> str:
        """The first characters of a text file."""
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
        """The value of a JSON file; None for other files."""
        return look_at_json(self.path) if self.is_json else None

    @cached_property
    def keys(self) -> set[str]:
        """The keys of a JSON object; empty for other files."""
        return set(self.json) if isinstance(self.json, dict) else set()

    @cached_property
    def first(self):
        """The first non-empty entry of a JSON list; None for other files."""
        return next((entry for entry in self.json if entry), None) if isinstance(self.json, list) else None

    @cached_property
    def first_keys(self) -> set[str]:
        return set(self.first) if isinstance(self.first, dict) else set()


# First bytes of pages and pointers that are sometimes downloaded instead of a file.
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
        """The arguments of `open` other than the path."""
        return tuple(inspect.signature(self.open).parameters)[1:]


@dataclass(frozen=True)
class Writer:
    """Writer of one or several sequences: `writer(path, what, **options)`. Options that it does not accept are ignored."""

    write: Callable
    many: bool  # it writes several sequences, otherwise one
    camera: bool  # the format stores cameras; others need poses in the room

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of `write` other than the path and the data."""
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
    """Decorator that registers `function(path, **options) -> Dataset` as the reader of a format.

    Args:
        name: name in `lifter data inspect` and `--format`. about: one line about the format.
        sniff: returns whether a `Candidate` has this format, judged by its content.
        guess: the same, judged by weaker evidence such as the file name. Called only if no format's `sniff` is true.
        suffix: suffix of its files, if they may hold keypoints; `lifter lift` searches folders for them.
        folder: returns whether a folder given with this `--format` is read as one data set; without `--format`, `sniff`
            decides. None: folders are not read as one.
    """

    if name in FORMATS:
        raise ValueError(f"register_format: there is a format {name!r} already")

    def decorate(function):
        FORMATS[name] = Format(name, about, function, sniff, guess, suffix, folder)
        return function

    return decorate


def register_writer(suffix: str, many: bool = False, camera: bool = False):
    """Decorator that registers `function(path, sequence, **options)`, or with `many` `function(path, sequences)`, as the
    writer of files with this suffix. `camera`: the format stores cameras."""

    if suffix in WRITERS:
        raise ValueError(f"register_writer: there is a writer of {suffix!r} already")

    def decorate(function):
        WRITERS[suffix] = Writer(function, many, camera)
        return function

    return decorate


def detect(path: StrPath) -> str:
    """Detect the format of a file or folder, one of `FORMATS`, by its content or, if that is not conclusive, by its name.

    Raises:
        ValueError if no format or several formats match; it names them.
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
    """Return whether a folder is read as one data set, by this format or by a detected one."""
    file = Candidate(folder)
    if format is not None:
        is_folder = format in FORMATS and FORMATS[format].folder
        return bool(is_folder and is_folder(file))
    return any(each.folder and each.sniff(file) for each in FORMATS.values())


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that may hold keypoints."""
    known = sorted({format.suffix for format in FORMATS.values() if format.suffix} | {".jsonl", ".ndjson"})
    return (*known, *(f"{suffix}.gz" for suffix in known if suffix not in (".npz", ".pkl")))


def walk(folder, format=None, without=None, endings=None):
    """Yield the files in a folder and its subfolders whose names end in `endings`, and folders that are read as one data set.

    `without`: a folder to skip. `endings`: default: `suffixes()`, those of files that may hold keypoints.
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
    """Open the sequences of a file or folder, which are read one at a time.

    Args:
        format: one of `FORMATS`. Default: the detected one.
        options: options of the format; None is ignored. `size`, `fps`, `layout`, `variant` for detectors' files
            (`lifter.data.detectors.register_detector`), `keypoints` and `cameras` of Human3.6M
            (`lifter.data.formats.h36m.open_h36m`), `noise` of "cmu", `unit` of "bvh", `body_model` of
            "amass".

    Raises:
        FileNotFoundError, KeyError, ValueError, which name the file and the place in it. Reading a sequence raises the same
        errors.
    """
    format = detect(path) if format is None else format
    options = {name: value for name, value in options.items() if value is not None}
    known = options_of(format)
    if unknown := options.keys() - set(known):
        expected = f"only {', '.join(known)}" if known else "nor any other option"
        raise ValueError(f"{path}: {format} knows no {', '.join(sorted(unknown))}, {expected}")
    return FORMATS[format].open(path, **options)


def options_of(format: str) -> tuple[str, ...]:
    """Return the options of `open_data` that a format accepts."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected {' or '.join(sorted(FORMATS))}")
    return FORMATS[format].options
