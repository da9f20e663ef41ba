"""Pickles of strangers, read in memory and time that are in proportion to their size."""

import pickle
import struct

SET = 200  # bytes of an empty set, which is one byte of a pickle


class Counted:
    """A file of which no more than so many bytes are read, whatever a number in it says."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def take(self, count):
        self.left -= count
        if self.left < 0:
            raise pickle.UnpicklingError("it would become more than a file of its size holds")

    def read(self, count):
        self.take(count)
        return self.file.read(count)

    def readline(self):
        line = self.file.readline()
        self.take(len(line))
        return line


class _Tuple(tuple):
    """One that is no key with others in it: the hash of tuples of tuples can take forever."""

    def __hash__(self):
        if any(isinstance(item, tuple) for item in self):
            raise pickle.UnpicklingError("a key of tuples in tuples")
        return super().__hash__()


class Unpickler(pickle._Unpickler):  # the one in Python: C's allocates what a number in the file says
    """A reader of pickles that calls nothing but what `find` gives for a name.

    Args:
        file: a file. most: bytes that may be read, and copied by what is called.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file, most):
        self._counted = Counted(file, most)
        super().__init__(self._counted, encoding="latin1")

    def find(self, module, name):
        """A value, or a function that may be called; UnpicklingError for others."""
        raise NotImplementedError

    def find_class(self, module, name):
        known = self.find(module, name)
        return (lambda *args: self._call(known, args)) if callable(known) else known  # a pickle can set attributes of it

    def _call(self, function, args):
        self._counted.take(sum(len(arg) for arg in args if hasattr(arg, "__len__")))  # it may make a copy, again and again
        return function(*args)

    def _tuple(self, count):
        first = len(self.stack) - count
        self.stack[first:] = [_Tuple(self.stack[first:])]

    def _tuple_from_mark(self):
        items = self.pop_mark()
        self.append(_Tuple(items))

    def _empty_set(self):
        self._counted.take(SET)
        self.append(set())

    def _bytearray(self):
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))

    dispatch[pickle.TUPLE[0]] = _tuple_from_mark
    dispatch[pickle.TUPLE1[0]] = lambda self: self._tuple(1)
    dispatch[pickle.TUPLE2[0]] = lambda self: self._tuple(2)
    dispatch[pickle.TUPLE3[0]] = lambda self: self._tuple(3)
    dispatch[pickle.EMPTY_SET[0]] = _empty_set
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray
    for code in ("NEXT_BUFFER", "EXT1", "EXT2", "EXT4"):
        del dispatch[getattr(pickle, code)[0]]
