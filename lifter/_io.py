"""Files that are written whole or not at all."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path, suffix=""):
    """The path of a file beside `path` to write to: it takes its place when all is written, and goes if it is not.

    No other call writes to it, in whatever process. Its name ends in `suffix`, for writers that look.
    """
    path = Path(path)
    partly = path.with_name(f".{secrets.token_hex(8)}.part{suffix}")
    try:
        yield partly
        os.replace(partly, path)
    finally:
        partly.unlink(missing_ok=True)
