"""Safe readers of foreign files, which execute nothing: zip archives of arrays, pickles (`pickles`), JSON, text."""

import codecs
import io
import json
import math
import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lifter._io import check_holes
from lifter._notices import Items

from .pickles import ARRAYS, PLAIN, array_of, unpickle

GZIP = b"\x1f\x8b"
UNFOLDED = 100  # limit of the decompressed size, in multiples of the file size
EXPANSION = 20  # the same of an npz, besides
STEP = 2**16  # bytes of a compressed file per step
_MARKS = {  # byte-order marks; UTF-32's begin with UTF-16's, so they come first
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_SPACE = re.compile(r"\s*")
_DOCUMENT = re.compile(r"\n(?=[{[])")  # where the next value of a JSON file with several may begin


def existing(path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no file or folder of that name")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: is a pipe or a device, expected a file or a folder")
    if path.is_file():
        check_holes(path)
    return path


def read_bytes(path, most=None) -> bytes:
    """Read a file, or its first `most` bytes. A gzip file is decompressed, unless it becomes more than `UNFOLDED` times as
    large."""
    with existing(path).open("rb") as file:
        start = file.read(STEP if most is None else most)
        if start[:2] != GZIP:
            return start + file.read() if most is None else start
        unfold, parts, limit = zlib.decompressobj(31), [], STEP
        try:
            while start:
                limit += UNFOLDED * len(start)
                parts.append(unfold.decompress(start, limit))
                limit -= len(parts[-1])
                if unfold.unconsumed_tail and most is None:
                    raise ValueError(f"{path}: unfolds to more than {UNFOLDED} times its size, which no keypoints do")
                if unfold.eof and most is None:  # another part may follow, as written by `cat` and pigz
                    start = unfold.unused_data + file.read(STEP)
                    if start[:2] != GZIP:
                        break
                    unfold = zlib.decompressobj(31)
                else:
                    start = file.read(STEP) if most is None else b""
        except zlib.error as error:
            raise ValueError(f"{path}: damaged ({error})") from None
    if most is None and not unfold.eof:
        raise ValueError(f"{path}: cut short")
    return b"".join(parts)


def visible(folder, *suffixes) -> list[Path]:
    """Return the files of a folder with these suffixes, sorted, without hidden files such as macOS's "._name"."""
    known = (path for path in Path(folder).iterdir() if path.name.lower().endswith(suffixes))
    return sorted(path for path in known if not path.name.startswith(".") and path.is_file())


def decoded(data: bytes, errors="strict") -> str:
    """Decode bytes as UTF-8, or as their byte-order mark says."""
    return data.decode(next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8"), errors)


def check_unfolded(path, size):
    """Raise ValueError if arrays of this size in bytes cannot come from a file of this size."""
    if size > ARRAYS + EXPANSION * path.stat().st_size:
        raise ValueError(f"{path}: unfolds to more than {EXPANSION} times its size, which no keypoints do")


def read_text(path) -> str:
    """Read a text file, which may be compressed by gzip."""
    return decoded(read_bytes(path), "surrogateescape")


_looked_at = {}  # value of the JSON file read last for format detection


def look_at_json(path):
    """Read a JSON file for format detection; `read_json` reuses the value if it reads this file next."""
    value = read_json(path)
    _looked_at.clear()
    _looked_at[_state(path)] = value
    return value


def _state(path):
    path = existing(path)
    told = path.stat()
    return path.absolute(), told.st_mtime_ns, told.st_size


def read_json(path):
    """Read a JSON file. If it holds several values, such as one per line, return a list of the intact ones."""
    known = _looked_at.pop(_state(path), None)
    _looked_at.clear()
    if known is not None:
        return known
    try:
        text = decoded(read_bytes(path))
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
            return _documents(text, path)
    except (ValueError, RecursionError) as error:  # not JSON, not text, or a number of thousands of digits
        raise error if str(path) in str(error) else ValueError(f"{path}: not a JSON file ({error})") from None


def _documents(text, path):
    """Parse a text of several JSON values."""
    decoder, values, items, at = json.JSONDecoder(), [], Items(path, "values"), 0
    text = text.strip()
    while at < len(text):
        with items.one():
            try:
                value, at = decoder.raw_decode(text, at)
                values.append(value)
            except ValueError as error:
                after = _DOCUMENT.search(text, at)
                at = after.end() if after else len(text)
                raise ValueError(f"{path}: {error}") from None
        at = _SPACE.match(text, at).end()
    if len(values) == 1:
        raise items.errors[0]
    items.end()
    return values


def read_pickle(path):
    """Read a pickle of dicts, lists, numbers, text and numpy arrays. Anything else is an error and is not executed."""
    with existing(path).open("rb") as file:
        return unpickle(file, f"{path}")


def take(container, key, where):
    """Return container[key]; errors name `where` the key was expected."""
    if not isinstance(container, dict):
        raise ValueError(f"{where}: a {type(container).__name__}, expected a dict with {key!r}")
    if key not in container:
        raise KeyError(f"{where}: no key {key!r}, it has {', '.join(map(str, list(container)[:20])) or 'none'}")
    return container[key]


def take_dict(archive, key):
    """Return an npz entry that must be a dict."""
    data = archive[key]
    if not isinstance(data, dict):
        raise ValueError(f"{archive.path}: {key}: a {type(data).__name__}, expected a dict")
    return data


def numbers(value, shape, where, dtype=np.float64):
    """Convert `value` to an array of numbers of this shape; a size of None means any size, a shape of None any shape."""
    try:
        array = np.asarray(value)
        array = array.astype(dtype, copy=False) if array.dtype.kind in "biuf" else None
    except (ValueError, TypeError, OverflowError):  # ragged lists, text among numbers, integers over 64 bits
        array = None
    expected = "any" if shape is None else f"({', '.join('n' if size is None else str(size) for size in shape)})"
    if array is None:
        raise ValueError(f"{where}: not an array of numbers, expected one of shape {expected}")
    if shape is not None and not _fits(array.shape, shape):
        raise ValueError(f"{where}: shape {array.shape}, expected {expected}")
    return array


def with_nan(values):
    """Replace None (JSON's null) by NaN in nested lists of numbers."""
    if not isinstance(values, list) or (None not in values and not (values and isinstance(values[0], list))):
        return values
    return [math.nan if value is None else with_nan(value) if isinstance(value, list) else value for value in values]


def _fits(have, wanted):
    return len(have) == len(wanted) and all(size in (None, n) for n, size in zip(have, wanted))


def parse_number(word, where) -> float:
    """Parse a word of a text file as a finite number."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {word[:40]!r}, expected a number")
    return value


def integer(value) -> int | None:
    """Return a value such as 12, 12.0 or "12" as an integer; None if it is not one."""
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d{1,15}(\.0*)?\s*", value):
        value = float(value)
    if isinstance(value, (float, np.floating)) and value % 1 == 0 and abs(value) < 1e15:
        value = int(value)
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def frame_rate(value) -> float | None:
    """Return a value such as 25, "29.97", "30000/1001" or [30000, 1001] as frames per second; None if it is not a plausible
    rate."""
    if isinstance(value, str):
        value = value.lower().removesuffix("fps").split("/")
    parts = (
        value if isinstance(value, (list, tuple)) else np.ravel(value).tolist() if isinstance(value, np.ndarray) else [value]
    )
    try:
        one, *others = (float(part) for part in parts if not isinstance(part, bool))
        found = one / others[0] if others else one
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return found if len(others) < 2 and 0.1 <= found <= 1e4 else None


def keypoints_array(value, where):
    """Convert `value` to keypoints (T, J, 2 or 3)."""
    array = numbers(value, None, where)
    if array.ndim != 3 or array.shape[2] not in (2, 3):
        raise ValueError(f"{where}: shape {array.shape}, expected (T, J, 2 or 3) keypoints")
    return array


def image_size(width, height, where) -> tuple[float, float]:
    size = tuple(float(numbers(value, (), f"{where}: image size")) for value in (width, height))
    if not (min(size) > 0 and np.isfinite(size).all()):
        raise ValueError(f"{where}: image size {size}, expected (width, height)")
    return size


def length(value, where):
    if isinstance(value, (list, tuple)) or isinstance(value, np.ndarray) and value.ndim:
        return len(value)
    raise ValueError(f"{where}: a {type(value).__name__}, expected a list")


class Npz:
    """Zip archive of arrays that are read on demand. It can be used in forked processes and pickled."""

    def __init__(self, path):
        self.path, self._owner = existing(path), None
        self.keys = [name[:-4] for name in self._archive().namelist() if name.endswith(".npy")]
        self._known = frozenset(self.keys)

    def __reduce__(self):
        return Npz, (self.path,)

    def _archive(self):
        """Return the file as opened by this process; a file shared with others would move its position."""
        if self._owner != os.getpid():
            try:
                self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
            except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
                raise ValueError(f"{self.path}: not an npz file, or cut short ({error})") from None
            check_unfolded(self.path, sum(info.file_size for info in self._zip.infolist()))
        return self._zip

    def __contains__(self, key):
        return key in self._known

    def __getitem__(self, key):
        """Return the array; an array of Python objects becomes a list, or the object itself if it has no dimensions."""
        return self._read(key, lambda file, where: _read_npy(file, self._zip.getinfo(f"{key}.npy").file_size, where))

    def shape(self, key):
        """Return the array's shape without reading its data."""
        return self._read(key, lambda file, where: _read_header(file, where)[0])

    def _read(self, key, function):
        where = self._where(key)
        try:
            with self._archive().open(f"{key}.npy") as file:
                return function(file, where)
        except (OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{where}: damaged ({error})") from None

    def text(self, key) -> str:
        value = self[key]
        if not (isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind == "U"):
            raise ValueError(f"{self._where(key)}: expected a text")
        return str(value)

    def json(self, key):
        try:
            return json.loads(self.text(key))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{self._where(key)}: not JSON ({error})") from None

    def _where(self, key):
        if key not in self._known:
            raise KeyError(f"{self.path}: no key {key!r}, it has {', '.join(self.keys[:20]) or 'none'}")
        return f"{self.path}: {key}"


def read_npy(path):
    """Read an npy file."""
    path = existing(path)
    with path.open("rb") as file:
        if file.read(2) == GZIP:
            data = read_bytes(path)
            return _read_npy(io.BytesIO(data), len(data), f"{path}")
        file.seek(0)
        return _read_npy(file, path.stat().st_size, f"{path}")


def _read_npy(file, size, where):
    shape, order, dtype = _read_header(file, where)
    if dtype.hasobject:
        return unpickle(file, where)
    if not PLAIN.fullmatch(dtype.str):
        raise ValueError(f"{where}: dtype {dtype}, expected numbers or text")
    count = math.prod(shape)
    if count * dtype.itemsize > size:
        raise ValueError(f"{where}: cut short, shape {shape} of {dtype} is more than its {size} bytes")
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"{where}: cut short, shape {shape} of {dtype} has {len(data)} bytes")
    try:
        return array_of(data, dtype, shape, order)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_header(file, where):
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{where}: not an array ({error})") from None
    if any(size < 0 for size in shape):
        raise ValueError(f"{where}: shape {shape}, expected sizes of 0 or more")
    return shape, "F" if fortran else "C", dtype
