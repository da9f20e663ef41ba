"""Atomic writing of files, and checks that files are intact."""

import hashlib
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

StrPath = str | os.PathLike[str]

LARGE = 1 << 26  # bytes that may be read from any file


@contextmanager
def whole(path, suffix=""):
    """Yield the path of a temporary file, which replaces `path` at the end and is removed on an error.

    Every call has its own file, also across processes. Its name ends in `suffix`, for libraries that check it.
    """
    path = in_folder(path)
    partly = path.with_name(f".{secrets.token_hex(8)}.part{suffix}")
    try:
        yield partly
        os.replace(partly, path)
    finally:
        partly.unlink(missing_ok=True)


def in_folder(path) -> Path:
    """Return the path of a file to write; raise FileNotFoundError if its folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    return path


def check_writable(folder):
    """Raise a ValueError if nothing can be written to a folder, or to the one that it would be made in."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: is no folder that can be written to")


def regular(path, what="file") -> Path:
    """The path of a file that can be read to its end; ValueError for a folder, a pipe or a device."""
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path}: is no regular file")
        raise FileNotFoundError(f"no {what} at {path}")
    check_holes(path)
    return path


def check_holes(path):
    """Raise a ValueError for a large file that is mostly holes: these take no room on the disk, but would in memory."""
    size = path.stat().st_size
    if size <= LARGE:
        return
    with path.open("rb") as file, suppress(OSError):  # at the end there is neither data nor a hole
        held = place = 0
        while place < size:
            begin = file.seek(place, os.SEEK_DATA)
            place = file.seek(begin, os.SEEK_HOLE)
            held += place - begin
    if held < size / 100:
        raise ValueError(f"{path}: {size} bytes of which {held} are there, the others are holes")


def digest_of(file, place) -> str:
    """The SHA-256 of an open file without the 64 bytes at `place`, which are for the digest itself."""
    digest = hashlib.sha256()
    file.seek(0)
    while left := place - file.tell():
        digest.update(file.read(min(left, 1 << 20)))
    file.seek(place + 64)
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
