"""Output files: one per sequence, in one of several formats, with unique names."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import quote

from lifter._io import StrPath

from .registry import WRITERS
from .sequence import Sequence

FILM = ("render", "av", "matplotlib")
SHOWN = {
    "mp4": FILM,
    "gif": FILM,
    "html": ("render",),
    "rrd": ("rerun", "rerun"),
}  # formats to look at: the extra and its packages
LONGEST = 240  # bytes of a file name without its suffix; most file systems allow 255


def write(path: StrPath, sequence: Sequence, **options) -> None:
    """Write a sequence in the format given by the path's suffix, one of `WRITERS`; options that the format does not know are
    ignored. The file is written atomically, and its folder is created."""
    path = Path(path)
    writer = WRITERS[output_format(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(path, [sequence] if writer.many else sequence, **options)


def write_people(path: StrPath, people: list[Sequence], **options) -> list[Path]:
    """Write the people of one clip in the format given by the path's suffix: to this file or, if the format holds one person
    per file, to NAME.person1.SUFFIX, ..., after the last part of their names. Return the paths."""
    path = Path(path)
    writer = WRITERS[output_format(path)]
    if writer.many or len(people) == 1:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(path, people if writer.many else people[0], **options)
        return [path]
    paths = [of_person(path, person.name.rpartition("/")[2]) for person in people]
    for each, person in zip(paths, people):
        write(each, person, **options)
    return paths


def of_person(path, name) -> Path:
    """Return the path for one of several people, e.g. "walk.person1.bvh" for "walk.bvh"."""
    end = len(output_format(path)) + 1
    return path.with_name(f"{path.name[:-end]}.{name}{path.name[-end:]}")


def output_format(path: StrPath) -> str:
    """Return the key of `WRITERS` for a file's suffix."""
    format = suffix_of(path, WRITERS)
    if format is None:
        raise ValueError(f"{path}: expected a name that ends in .{', .'.join(sorted(WRITERS))}")
    return format


def suffix_of(path, known) -> str | None:
    """Return the longest of the `known` suffixes that a path ends in, without its dot, or None."""
    name = Path(path).name.lower()
    return max((suffix for suffix in known if name.endswith(f".{suffix}")), key=len, default=None)


def output_path(folder, place, name, format) -> Path:
    """Return the output path of a sequence in `folder`. Different sequences get different paths, and no file has the name of a
    folder.

    Args:
        place: unique relative path of the sequence's source file, not below any other source file.
        name: name of the sequence, any text; characters that are not allowed in file names, and "%", are percent-encoded.
            None: the source has a single sequence, so `place` is sufficient.
        format: a key of `WRITERS`."""
    parts = list(Path(place).parts)
    if name is not None:
        parts += [_encoded(part) for part in name.split("/")]
    *above, last = (_short(part) for part in parts)
    return Path(folder, *(_no_file(part, format) for part in above), f"{last}.{format}")


def _encoded(part):
    if part.strip(".") == "":  # nothing, "." and ".."
        return part.replace(".", "%2E") or "%"
    keep = lambda c: c.isalnum() or c in " !#$&'()+,-.;=@[]^_`{}~"
    return "".join(c if keep(c) else quote(c, safe="", errors="surrogatepass") for c in part)


def _short(part):
    """Shorten a name to at most `LONGEST` bytes: longer names keep their beginning and get a hash."""
    raw = os.fsencode(part)
    if len(raw) < LONGEST:
        return part
    digest = hashlib.sha256(raw).hexdigest()[:40]
    begin = raw[: LONGEST - len(digest)].decode(errors="ignore")
    return begin.ljust(len(begin) + LONGEST - len(digest) - len(begin.encode()), "%") + digest


def _no_file(part, format):
    """Return a folder name that cannot be an output's: a name that ends like one gets an additional "_"."""
    return f"{part}_" if re.search(rf"\.{format}_*$", part) else part
