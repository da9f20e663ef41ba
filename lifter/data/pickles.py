"""Pickles of plain data: containers, numbers, text and arrays.

Nothing in them is run, and nothing of numpy is called either: an array is put together here, from its dtype code, shape and
bytes, each checked.
"""

import math
import pickle
import re
import sys

import numpy as np

from lifter._pickles import Unpickler

SMALL = 1 << 20  # bytes of a pickle
MOST = 100_000  # parts that a small pickle may unfold to
ARRAYS = 1 << 26  # bytes, which masks and zeros may be of
PLAIN = re.compile(r"[<>|=]?(\?|[biuf](1|2|4|8)|b1|U\d+|S\d+)")


def unpickle(file, where):
    """Return the value of the pickle in a file; ValueError, which begins with `where`, for anything that is no plain data."""
    try:
        begin = file.tell()
        size = len(file.read(SMALL + 1))
        file.seek(begin)
        reader = _Small(file, 2 * size + MOST) if size <= SMALL else _Large(file, encoding="latin1")
        value = _finished(reader.load(), {})
        if _unfolded(value, {}) > MOST + 100 * file.tell():
            raise pickle.UnpicklingError("it refers to the same parts again and again, and would fill the memory")
        return value
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{where}: not a pickle of plain data, or cut short ({error})") from None


def _unfolded(value, memo) -> int:
    """Count the parts of `value` if each place counts that refers to one."""
    if isinstance(value, np.ndarray):
        return value.size
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return 1
    if id(value) not in memo:
        memo[id(value)] = 0  # of what contains itself
        parts = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        memo[id(value)] = 1 + sum(_unfolded(part, memo) for part in parts)
    return memo[id(value)]


class _Known:
    def find(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known = {"_reconstruct": _Array, "scalar": _scalar}
        else:
            known = {
                "numpy": {"ndarray": "ndarray", "dtype": _Dtype},
                "numpy.core.numeric": {"_frombuffer": _from_buffer},
                "numpy._core.numeric": {"_frombuffer": _from_buffer},
                "_codecs": {"encode": _encode},
                "__builtin__": {"bytes": _no_bytes},
            }.get(module, {})
        if name not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither data nor an array")
        return known[name]


class _Small(_Known, Unpickler):
    """In Python: its memory stays in proportion to the size of the file."""


class _Large(_Known, pickle.Unpickler):
    """In C, which is faster and trusts the numbers in the file."""

    find_class = _Known.find


class _Dtype:
    """Stands for a numpy.dtype: a plain one, or that of Python objects."""

    def __init__(self, code, *_):
        if not (isinstance(code, str) and (code in ("O", "O8") or PLAIN.fullmatch(code))):
            raise pickle.UnpicklingError(f"dtype {code!r}, expected numbers or text")
        self.code = code

    def __setstate__(self, state):
        if self.code[0] != "O":
            order = state[1]
            if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
                raise pickle.UnpicklingError(f"dtype {self.code!r} of parts, expected numbers or text")
            self.code = order + self.code.lstrip("<>|=")


class _Array:
    """Stands for a numpy array whose parts are yet to come."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.state = shape, dtype, "F" if fortran else "C", data

    def finished(self, memo):
        shape, dtype, order, data = self.state or (None, None, None, None)
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and isinstance(dtype, _Dtype)):
            raise pickle.UnpicklingError("an array without shape or dtype")
        if dtype.code[0] == "O":
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise pickle.UnpicklingError(f"an array of objects of shape {shape} without as many objects")
            items = _finished(data, memo)
            return items if shape else items[0]
        if isinstance(data, str):
            data = data.encode("latin1")  # bytes, written by Python 2
        return array_of(data, dtype.code, shape, order)[()]  # a number if of no dimension


def _from_buffer(data, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype, data):
    return _from_buffer(data, dtype, (), "C")


def _encode(text, encoding="latin1"):
    """Return bytes as protocol 2 writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes():
    """Return empty bytes, which protocol 2 writes so."""
    return b""


def _finished(value, memo):
    """`value` with its stand-ins replaced; what is referred to many times is made once."""
    if not isinstance(value, (dict, list, tuple, set, frozenset, _Array)):
        if isinstance(value, (str, bytes, bytearray, int, float, complex, type(None))):
            return value
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__} where data is expected")
    if id(value) not in memo:
        memo[id(value)] = value  # of what contains itself
        if isinstance(value, _Array):
            done = value.finished(memo)
        elif isinstance(value, dict):
            done = {_finished(key, memo): _finished(item, memo) for key, item in value.items()}
        else:
            done = type(value)(_finished(item, memo) for item in value)
        memo[id(value)] = done
    return memo[id(value)]


def array_of(data, dtype, shape, order):
    """Return the array of these bytes; ValueError if there is none."""
    if 0 in shape and math.prod(filter(None, shape)) > ARRAYS:
        raise ValueError(f"shape {shape}, which nobody goes through for nothing")
    array = np.frombuffer(data, dtype, math.prod(shape)).reshape(shape, order=order)
    if array.dtype.kind == "U" and np.frombuffer(data, f"{array.dtype.str[0]}u4").max(initial=0) > sys.maxunicode:
        raise ValueError("text with characters that there are not")
    return array
