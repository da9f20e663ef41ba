"""What outputs were lifted from, in a file beside them, so that what has changed since is lifted again."""

import errno
import fcntl
import hashlib
import json
import os
import zlib
from pathlib import Path

from lifter.pretrained import SHIPPED

NAME = "lifted.jsonl"
OVERLAPPING = "half a window"  # a stride that is not given; it was a whole window once


class Record:
    """Lines of (output, fingerprint of its input, model and options), one for each output that was written.

    The same file tells several processes which output one of them has in hand: that is a lock on a byte of it, which ends with
    the process however it ends.
    """

    def __init__(self, lift):
        self.folder = lift.out if lift.format else lift.out.parent
        self.path = self.folder / f".{NAME}" if lift.format else lift.out.with_name(f".{lift.out.name}.{NAME}")
        self.lift, self.known, self.read, self.file = lift, {}, 0, None
        options = [lift.model.name, lift.model.num_frames, lift.model.dtype, lift.flip, lift.stride or OVERLAPPING, lift.place]
        told = [sorted(lift.reading.items()), *([sorted(lift.writing.items())] if lift.writing else [])]
        text = json.dumps([options, *told], default=str)
        self.settings = hashlib.sha256(text.encode() + Path(lift.model.checkpoint or SHIPPED).read_bytes())

    def fingerprint(self, source) -> str:
        """Of a file or folder, by size and time of change, and of how it is lifted."""
        paths = sorted(source.rglob("*")) if source.is_dir() else [source]
        digest = self.settings.copy()
        for path in paths:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def state(self, path, fingerprint) -> str:
        """What there is of an output: "new", nothing; "there"; "changed", something of other input, model or options."""
        if not path.is_file() or path.stat().st_size == 0:
            return "new"
        if self.lift.overwrite:
            return "changed"
        if self.known.get(self._key(path)) != fingerprint:
            self._read()  # what other processes have written meanwhile
        return "there" if self.known.get(self._key(path), fingerprint) == fingerprint else "changed"

    def claim(self, path) -> bool:
        """Take an output in hand; False if another process has it."""
        self._open()
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._place(path))
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True

    def add(self, path, fingerprint):
        """Note what an output was lifted from. The line begins anew: the one before it is cut short if the disk was full."""
        line = f"\n{json.dumps([self._key(path), fingerprint])}\n".encode()
        if os.write(self.file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.known[self._key(path)] = fingerprint

    def release(self, path):
        """Give an output out of hand."""
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, self._place(path))

    def close(self):
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def _open(self):
        if self.file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)

    def _read(self):
        if not self.path.exists():
            return
        self._open()  # and never another time: closing a file ends all locks on it
        lines = os.pread(self.file, os.fstat(self.file).st_size - self.read, self.read)
        lines = lines[: lines.rfind(b"\n") + 1]
        self.read += len(lines)
        for line in lines.splitlines():
            try:
                output, fingerprint = json.loads(line)
            except ValueError:
                continue  # cut short
            self.known[output] = fingerprint

    def _key(self, path):
        return os.path.relpath(path, self.folder)

    def _place(self, path):
        """The byte that stands for an output: far behind the lines, which are not locked."""
        raw = os.fsencode(self._key(path))
        return (1 << 40) + (zlib.crc32(raw) << 16) + zlib.adler32(raw) % (1 << 16)
