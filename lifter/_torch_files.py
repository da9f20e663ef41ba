"""Files of `torch.save`, written with a digest, and read without running or allocating what they only claim.

torch.load trusts the directory of its zip archive: one bit there, and memory that nobody filled is taken for weights. Here one
parser reads directory and data, compares them, and gives tensors of which shape and dtype are known and the data is not read.
"""

import io
import mmap
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections import Counter, OrderedDict
from pathlib import Path

import torch

from ._io import digest_of, regular
from ._pickles import Unpickler

MARK = b"sha256:"  # in the archive's comment, before the digest of all bytes but the digest's own
FOLDER = 0x10  # in an entry's attributes: torch.load takes its data for empty
END = 22  # bytes of an archive's last record, whose last two are the length of the comment
PICKLE = 1 << 18  # bytes of pickles; a large file may have more, a share of its own size
MAGIC = 0x1950A86A20F9469CFC6C  # of files before archives
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
DTYPES = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()} | {
    str(dtype): dtype for dtype in STORAGES.values()
}


def save(contents, path):
    """Write a file of `torch.save` that carries its digest. It is on the disk when this returns."""
    with Path(path).open("w+b") as file:
        torch.save(contents, file)
        file.seek(-2, os.SEEK_END)
        if file.read(2) != b"\0\0":
            raise RuntimeError("torch.save wrote an archive with a comment")
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", len(MARK) + 64) + MARK)
        end = file.tell()
        digest = digest_of(file, end)
        file.seek(end)
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path, load=False) -> object:
    """Read a file of `torch.save`; ValueError if it is damaged or holds more than data. Tensors are `Stored`, or with `load`
    read."""
    try:
        with regular(path, "checkpoint").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            mark = size - 64 - len(MARK)
            if mark >= END and data[mark : mark + len(MARK)] == MARK:
                if digest_of(file, size - 64).encode() != data[size - 64 :]:
                    raise ValueError("damaged: its digest is of other contents")
            contents = _read_archive(zipfile.ZipFile(file), data, size) if data[:2] == b"PK" else _read_old(data, size)
            return _loaded(contents, {}) if load else contents
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path} is not a readable file of weights: {error or type(error).__name__}") from error


def _loaded(value, memo):
    """`value` with its tensors read; what is referred to many times is made once."""
    if id(value) not in memo:
        memo[id(value)] = value  # of what contains itself
        if isinstance(value, Stored):
            memo[id(value)] = value.tensor()
        elif isinstance(value, dict):
            memo[id(value)] = {key: _loaded(item, memo) for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            memo[id(value)] = (list if isinstance(value, list) else tuple)(_loaded(item, memo) for item in value)
    return memo[id(value)]


class Stored:
    """A tensor that is in a file: `tensor()` reads it."""

    def __init__(self, storage, offset, shape, stride):
        shape, stride = tuple(shape), tuple(stride)
        if not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)) or len(shape) != len(stride):
            raise ValueError(f"a tensor of shape {shape}, stride {stride}, offset {offset}")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride)) if 0 not in shape else -1
        if last >= storage.count:
            raise ValueError(f"a tensor of shape {shape} in a storage of {storage.count}")
        self.storage, self.offset, self.shape, self.stride = storage, offset, torch.Size(shape), stride
        self.dtype = storage.dtype

    def __setstate__(self, _):
        raise ValueError("a tensor with other attributes")

    def tensor(self):
        return self.storage.tensor().as_strided(self.shape, self.stride, self.offset)


class _Storage:
    def __init__(self, dtype, count, data=None):
        if type(count) is not int or count < 0 or not isinstance(dtype, torch.dtype):
            raise ValueError(f"a storage of {count!r} elements")
        self.dtype, self.count, self._data, self._tensor = dtype, count, None, None
        if data is not None:
            self.fill(data)

    __setstate__ = Stored.__setstate__

    def fill(self, data):
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"damaged: {len(data)} bytes for {self.count} numbers of {self.dtype}")
        self._data = data

    def tensor(self):
        """All of it; tensors that share it in the file share it here."""
        if self._tensor is None:
            own = bytearray(self._data)
            self._tensor = torch.frombuffer(own, dtype=self.dtype) if own else torch.empty(0, dtype=self.dtype)
        return self._tensor


# ---- archives --------------------------------------------------------------------------------------------------------


def _read_archive(archive, data, size):
    entries = _entries(archive, data)
    (top,) = {name.partition("/")[0] for name in entries}
    take = lambda name: entries[f"{top}/{name}"]
    if f"{top}/byteorder" in entries and bytes(take("byteorder")) != sys.byteorder.encode():
        raise ValueError(f"its numbers are {bytes(take('byteorder'))!r} endian, expected {sys.byteorder}")
    storages = {}

    def storage(dtype, key, count):
        if key not in storages:
            storages[key] = _Storage(dtype, count, take(f"data/{key}"))
        return storages[key]

    if len(take("data.pkl")) > _most(size):
        raise ValueError(f"{len(take('data.pkl'))} bytes of pickle in a file of {size}")
    return _load(io.BytesIO(take("data.pkl")), size, storage)


def _entries(archive, data) -> dict:
    """{name: bytes}, views of the file: each of one place of its own, where the directory and the data say the same."""
    entries, end = {}, archive.start_dir
    view = memoryview(data)
    for info in sorted(archive.infolist(), key=lambda info: -info.header_offset):
        name, start = info.filename, info.header_offset
        signature, _, flags, method, *_, own, extra = struct.unpack("<4s5H3L2H", data[start : start + 30])
        begin = start + 30 + own + extra
        same = signature == b"PK\3\4" and data[start + 30 : start + 30 + own] == info.orig_filename.encode()
        if not same or (flags, method) != (info.flag_bits, info.compress_type) or name in entries:
            raise ValueError(f"damaged: directory and data differ in {name}")
        if method != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.external_attr & FOLDER:
            raise ValueError(f"damaged: {name} is no plain entry")
        if begin + info.file_size > end:
            raise ValueError(f"damaged: {name} runs into what follows it")
        contents = view[begin : begin + info.file_size]
        if zlib.crc32(contents) != info.CRC:
            raise ValueError(f"damaged: wrong checksum of {name}")
        entries[name], end = contents, start
    return entries


def _read_old(data, size):
    """The format before archives, which has no checksums: five pickles, then the storages."""
    storages = {}

    def storage(dtype, key, count, view=None):
        if view is not None:
            raise ValueError("a storage that is a part of another")
        return storages.setdefault(key, _Storage(dtype, count))

    if data[:1] != b"\x80" or _load(data, size) != MAGIC:
        raise ValueError("neither an archive nor torch's pickles")
    _load(data, size)  # the version
    if _load(data, size)["little_endian"] != (sys.byteorder == "little"):
        raise ValueError("its numbers are of the other byte order")
    contents = _load(data, size, storage)
    view = memoryview(data)
    for key in _load(data, size):
        (count,) = struct.unpack("<q", data.read(8))
        length = count * storages[key].dtype.itemsize
        storages[key].fill(view[data.tell() :][:length])
        data.seek(length, os.SEEK_CUR)
    return contents


# ---- pickles ---------------------------------------------------------------------------------------------------------


def _most(size):
    return PICKLE + size // 16


def _load(file, size, storage=None):
    """The next pickle of a file. `storage(dtype, key, count)`: what it refers to."""
    return _Unpickler(file, size, storage).load()


class _Unpickler(Unpickler):
    def __init__(self, file, size, storage):
        super().__init__(file, _most(size))
        self._storage = storage

    def persistent_load(self, args):
        kind, dtype, key, _location, *more = args
        if kind != "storage" or self._storage is None:
            raise pickle.UnpicklingError(f"it refers to a {kind!r}")
        return self._storage(dtype, key, *more)

    def find(self, module, name):
        name = f"{module}.{name}"
        if name not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {name}, which is neither data nor a tensor")
        return KNOWN[name]


def _tensor(storage, offset, shape, stride, *_):
    return Stored(storage, offset, shape, stride)


def _parameter(tensor, *_):
    if not isinstance(tensor, Stored):
        raise ValueError(f"a parameter that is a {type(tensor).__name__}")
    return tensor


def _typed(function, _kind, args, _state):
    """A tensor with attributes, of which none are taken."""
    return _parameter(function(*args))


def _encode(text, encoding="latin1"):
    if encoding != "latin1":
        raise ValueError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


class _Dtype:
    """Stands for a numpy.dtype of numbers."""

    def __init__(self, code, *_):
        self.order, self.format = "=", NUMPY[code]

    def __setstate__(self, state):
        self.order = {"<": "<", ">": ">", "|": "=", "=": "="}[state[1]]


def _scalar(dtype, data):
    """A number of numpy's, as the official trainers store their best error."""
    (value,) = struct.unpack(dtype.order + dtype.format, data.encode("latin1") if isinstance(data, str) else data)
    return value


NUMPY = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f",
    "f8": "d",
}  # fmt: skip
KNOWN = DTYPES | {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": lambda *names: names,
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "builtins.set": set,
    "__builtin__.set": set,
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
