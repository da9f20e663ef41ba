"""Record of what outputs were lifted from. It lies beside them, so that changed input is lifted again."""

import errno
import fcntl
import hashlib
import json
import os
import zlib

from lifter._weights import weights_path

NAME = ".lifted.jsonl"


class Record:
    """Lines of (output, fingerprint of its input, model and options), one for each output that was written. Where an output is
    several files, as of several people, their names follow.

    Args:
        path: of the record; names in it are relative to its folder.
        settings: what decides the outputs, besides inputs and weights, for `json.dumps`.
        checkpoint: the file of the weights; None: the one that ships with lifter.
        overwrite: nothing counts as being there.

    The same file tells several processes which output one of them has in hand: that is a lock on a byte of it, which ends with
    the process however it ends.
    """

    def __init__(self, path, settings, checkpoint=None, overwrite=False):
        self.path, self.folder, self.overwrite = path, path.parent, overwrite
        self.known, self.read, self.file = {}, 0, None
        self.settings = hashlib.sha256(json.dumps(settings, default=str).encode() + weights_path(checkpoint).read_bytes())

    def fingerprint(self, source) -> str:
        """Return the fingerprint of a file or folder, by size and time of change, and of how it is lifted."""
        paths = sorted(source.rglob("*")) if source.is_dir() else [source]
        digest = self.settings.copy()
        for path in paths:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def state(self, path, fingerprint) -> str:
        """Return the state of an output: "new", "there", or "changed", which is of other input, model or options."""
        key = self._key(path)
        if self.known.get(key, [None])[0] != fingerprint:
            self._read()  # what other processes have written meanwhile
        known, *files = self.known.get(key, [fingerprint])
        if not all(file.is_file() and file.stat().st_size for file in ([self.folder / name for name in files] or [path])):
            return "new"
        return "there" if known == fingerprint and not self.overwrite else "changed"

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

    def add(self, path, fingerprint, files=()):
        """Note what an output was lifted from, and its `files` if it is not one of its own name. The line begins anew: the one
        before it is cut short if the disk was full."""
        entry = [fingerprint, *map(self._key, files)]
        line = f"\n{json.dumps([self._key(path), *entry])}\n".encode()
        if os.write(self.file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.known[self._key(path)] = entry

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
                output, fingerprint, *files = json.loads(line)
            except (ValueError, TypeError):
                continue  # cut short
            self.known[output] = [fingerprint, *files]

    def _key(self, path):
        return os.path.relpath(path, self.folder)

    def _place(self, path):
        """The byte that stands for an output: far behind the lines, which are not locked."""
        raw = os.fsencode(self._key(path))
        return (1 << 40) + (zlib.crc32(raw) << 16) + zlib.adler32(raw) % (1 << 16)
