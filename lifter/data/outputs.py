"""A file for each sequence, in one of several formats, under a name that no other sequence gets."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import quote

from lifter._io import StrPath

from .registry import WRITERS
from .sequence import Sequence

FILM = ("render", "av", "matplotlib")
SHOWN = {"mp4": FILM, "gif": FILM, "html": ("render",), "rrd": ("rerun", "rerun")}  # to look at: the extra, and its packages
LONGEST = 240  # bytes of a file's name without its suffix; most file systems take 255


def write(path: StrPath, sequence: Sequence, **options) -> None:
    """Write a sequence in the format of the path's suffix, one of `WRITERS`, which takes the options that it knows. The file
    appears when it is whole, and its folder with it."""
    path = Path(path)
    writer = WRITERS[output_format(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(path, [sequence] if writer.many else sequence, **options)


def write_people(path: StrPath, people: list[Sequence], **options) -> list[Path]:
    """Write the people of one clip in the format of the path's suffix: to this file, or where the format has one person a file
    to NAME.person1.SUFFIX, ..., after the ends of their names; the paths of the files."""
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
    """The file of one of several people: "walk.person1.bvh" of "walk.bvh"."""
    end = len(output_format(path)) + 1
    return path.with_name(f"{path.name[:-end]}.{name}{path.name[-end:]}")


def output_format(path: StrPath) -> str:
    """The key of `WRITERS` that a file's suffix says."""
    format = suffix_of(path, WRITERS)
    if format is None:
        raise ValueError(f"{path}: expected a name that ends in .{', .'.join(sorted(WRITERS))}")
    return format


def suffix_of(path, known) -> str | None:
    """The longest of the `known` suffixes that a path has, without its dot; None if it has none of them."""
    name = Path(path).name.lower()
    return max((suffix for suffix in known if name.endswith(f".{suffix}")), key=len, default=None)


def output_path(folder, place, name, format) -> Path:
    """The file for a sequence, always in `folder`, and of different sequences always a different one: neither two files nor a
    file and a folder are called the same.

    Args:
        place: relative path of the file that the sequence is from; of no other file, and below none of them.
        name: of the sequence, any text; what may not be in a file's name, and "%", is percent-encoded. None: the file has
            only this one, and `place` is name enough.
        format: of `WRITERS`.
    """
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
    """A name of at most `LONGEST` bytes; of those that are as long or longer, the beginning and a hash, as long as that."""
    raw = os.fsencode(part)
    if len(raw) < LONGEST:
        return part
    digest = hashlib.sha256(raw).hexdigest()[:40]
    begin = raw[: LONGEST - len(digest)].decode(errors="ignore")
    return begin.ljust(len(begin) + LONGEST - len(digest) - len(begin.encode()), "%") + digest


def _no_file(part, format):
    """A folder's name, which is no output's: one that ends as those do gets one "_" more."""
    return f"{part}_" if re.search(rf"\.{format}_*$", part) else part
