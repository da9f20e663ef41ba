"""Files that are written whole or not at all."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path, suffix=""):
    """Give the path of a new file to write to, which replaces `path` when all is written and is removed on an error.

    Every call has a file of its own, also in other processes. Its name ends in `suffix`, for libraries that look at it.
    """
    path = Path(path)
    partly = path.with_name(f".{secrets.token_hex(8)}.part{suffix}")
    try:
        yield partly
        os.replace(partly, path)
    finally:
        partly.unlink(missing_ok=True)
