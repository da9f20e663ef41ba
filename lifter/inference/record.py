"""Record of what outputs were lifted from, stored next to them, so that changed inputs are lifted again."""

import errno
import fcntl
import hashlib
import json
import os
import zlib

from lifter._weights import weights_path

NAME = ".lifted.jsonl"


class Record:
    """Lines of (output, fingerprint of its input, model and options), one per output. If an output has several files, such as
    one per person, their names follow.

    Args:
        path: path of the record; names in it are relative to its folder.
        settings: everything except inputs and weights that affects the outputs, serializable by `json.dumps`.
        checkpoint: the file of weights; None: the small model's. overwrite: treat all outputs as missing.

    Processes also use the file to claim outputs, with a lock on one byte of it, which is released when the process ends for
    any reason.
    """

    def __init__(self, path, settings, checkpoint=None, overwrite=False):
        self.path, self.folder, self.overwrite = path, path.parent, overwrite
        self.known, self.read, self.file = {}, 0, None
        self.settings = hashlib.sha256(json.dumps(settings, default=str).encode() + weights_path(checkpoint).read_bytes())

    def fingerprint(self, source) -> str:
        """Return a fingerprint of a file or folder (size and modification time) and of how it is lifted."""
        paths = sorted(source.rglob("*")) if source.is_dir() else [source]
        digest = self.settings.copy()
        for path in paths:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def state(self, path, fingerprint) -> str:
        """Return the state of an output: "new", "there", or "changed" if input, model or options differ."""
        key = self._key(path)
        if self.known.get(key, [None])[0] != fingerprint:
            self._read()  # what other processes have written in the meantime
        known, *files = self.known.get(key, [fingerprint])
        if not all(file.is_file() and file.stat().st_size for file in ([self.folder / name for name in files] or [path])):
            return "new"
        return "there" if known == fingerprint and not self.overwrite else "changed"

    def claim(self, path) -> bool:
        """Claim an output; return False if another process has claimed it."""
        self._open()
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._place(path))
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True

    def add(self, path, fingerprint, files=()):
        """Record what an output was lifted from, and its `files` if it is not a single file of that name. It starts with a
        line break, as the previous line may be truncated if the disk was full."""
        entry = [fingerprint, *map(self._key, files)]
        line = f"\n{json.dumps([self._key(path), *entry])}\n".encode()
        if os.write(self.file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.known[self._key(path)] = entry

    def release(self, path):
        """Release an output."""
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
        self._open()  # opened only once, as closing a file releases all locks on it
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
        """Return the byte that represents an output, far beyond the lines, which are not locked."""
        raw = os.fsencode(self._key(path))
        return (1 << 40) + (zlib.crc32(raw) << 16) + zlib.adler32(raw) % (1 << 16)
