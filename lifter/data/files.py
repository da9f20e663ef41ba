"""Files of others, read so that nothing in them is run: zip archives of arrays, pickles (`pickles`), JSON, text."""

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
UNFOLDED = 100  # times as large as its file is what a compressed one may hold
EXPANSION = 20  # the same of an npz, besides
STEP = 2**16  # bytes of a compressed file at once
_MARKS = {  # of byte order, with which a text begins; those of UTF-32 begin with those of UTF-16
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_SPACE = re.compile(r"\s*")
_DOCUMENT = re.compile(r"\n(?=[{[])")  # where another value of a JSON file with several may begin


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
    """Read a file, or its first `most` bytes. A file compressed by gzip is decompressed, if that makes it at most `UNFOLDED`
    times as large."""
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
                if unfold.eof and most is None:  # perhaps one more after it, as `cat` and pigz make them
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
    """The files of a folder whose names end so, sorted; without hidden ones, as macOS's "._name" beside each file."""
    known = (path for path in Path(folder).iterdir() if path.name.lower().endswith(suffixes))
    return sorted(path for path in known if not path.name.startswith(".") and path.is_file())


def decoded(data: bytes, errors="strict") -> str:
    """The text that bytes are: UTF-8, or what their byte-order mark says."""
    return data.decode(next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8"), errors)


def check_unfolded(path, size):
    """Raise a ValueError if so many bytes are more than the arrays of a file can have."""
    if size > ARRAYS + EXPANSION * path.stat().st_size:
        raise ValueError(f"{path}: unfolds to more than {EXPANSION} times its size, which no keypoints do")


def read_text(path) -> str:
    """The text of a file, which may be compressed by gzip."""
    return decoded(read_bytes(path), "surrogateescape")


_looked_at = {}  # what a JSON file holds whose format was found out by it, to be read next


def look_at_json(path):
    """Return the value of a JSON file; `read_json` does not read it again if it is the next one that is read."""
    value = read_json(path)
    _looked_at.clear()
    _looked_at[_state(path)] = value
    return value


def _state(path):
    path = existing(path)
    told = path.stat()
    return path.absolute(), told.st_mtime_ns, told.st_size


def read_json(path):
    """Return the value of a JSON file; of one with several, as one in each line, their list without those that are broken."""
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
    """The values of a text, one after another."""
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
    """Return the value of a pickle: dicts, lists, numbers, text and numpy arrays; all else is an error, and is not run."""
    with existing(path).open("rb") as file:
        return unpickle(file, f"{path}")


def take(container, key, where):
    """container[key] of a dict, with an error that tells where it was looked for."""
    if not isinstance(container, dict):
        raise ValueError(f"{where}: a {type(container).__name__}, expected a dict with {key!r}")
    if key not in container:
        raise KeyError(f"{where}: no key {key!r}, it has {', '.join(map(str, list(container)[:20])) or 'none'}")
    return container[key]


def take_dict(archive, key):
    """The dict that an array of an npz is."""
    data = archive[key]
    if not isinstance(data, dict):
        raise ValueError(f"{archive.path}: {key}: a {type(data).__name__}, expected a dict")
    return data


def numbers(value, shape, where, dtype=np.float64):
    """`value` as an array of numbers of this shape; None in it stands for any size, None alone for any shape."""
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
    """Lists of numbers, or lists of such, with NaN for null, as JSON has what is missing."""
    if not isinstance(values, list) or (None not in values and not (values and isinstance(values[0], list))):
        return values
    return [math.nan if value is None else with_nan(value) if isinstance(value, list) else value for value in values]


def _fits(have, wanted):
    return len(have) == len(wanted) and all(size in (None, n) for n, size in zip(have, wanted))


def parse_number(word, where) -> float:
    """The finite number that a word of a text file is."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {word[:40]!r}, expected a number")
    return value


def integer(value) -> int | None:
    """The whole number that a value of a file is, as 12, 12.0 and "12"; None if it is none."""
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d{1,15}(\.0*)?\s*", value):
        value = float(value)
    if isinstance(value, (float, np.floating)) and value % 1 == 0 and abs(value) < 1e15:
        value = int(value)
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def frame_rate(value) -> float | None:
    """The frames per second that a value of a file says, as 25, "29.97", "30000/1001" and [30000, 1001]; None if it says
    none that a camera could have."""
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
    """`value` as keypoints (T, J, 2 or 3)."""
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
    """A zip archive of arrays, opened lazily: only what is asked for is read. It may be used in forked processes, and sent to
    others."""

    def __init__(self, path):
        self.path, self._owner = existing(path), None
        self.keys = [name[:-4] for name in self._archive().namelist() if name.endswith(".npy")]
        self._known = frozenset(self.keys)

    def __reduce__(self):
        return Npz, (self.path,)

    def _archive(self):
        """The open file, of this process: others would move its position."""
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
        """The array; of an array of Python objects, its list, or the one object if it has no dimensions."""
        return self._read(key, lambda file, where: _read_npy(file, self._zip.getinfo(f"{key}.npy").file_size, where))

    def shape(self, key):
        """The array's shape, of which the data is not read."""
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
    """The array of an npy file."""
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
