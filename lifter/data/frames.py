"""The video and the frame that the names of images or files tell.

The number of the frame is the group of digits that changes from name to name. Names that differ in their texts are of
different videos, and so are those that differ in a second number, where the first one alone does not tell them apart. Texts
that are new in each name are none of a video.
"""

import re
from functools import lru_cache

from lifter._notices import notice

_NUMBER = re.compile(r"((?<!\d)\d{1,15}(?!\d))")
_SUFFIX = re.compile(r"\.(?=\d*[A-Za-z])[A-Za-z\d]{1,5}$")  # of a file; "walk.0001" has none
_VIEW = re.compile(r"(cam|camera|view|video|clip|take|subject|person|[csvp])[ _.-]*$", re.IGNORECASE)


def frames_of(names, where) -> list[tuple[str, int]]:
    """(video, frame) of each of `names`, texts or whole numbers; the video is "" where there is one only.

    Raises:
        ValueError if a name has no number.
    """
    split = _without_hashes({name: split_name(name, where) for name in dict.fromkeys(names)}, where)
    alike = {}  # the names with the same texts
    for name, parts in split.items():
        alike.setdefault(tuple(parts[::2]), []).append(name)
    found = {}
    for texts, group in alike.items():
        rows = {name: tuple(map(int, split[name][1::2])) for name in group}
        numbers, counting = _numbers(list(dict.fromkeys(rows.values())), texts, where)
        for name, row in rows.items():
            video = tuple("" if place in counting else part for place, part in enumerate(split[name]))
            found[name] = video, numbers[row]
    titles = _titles({video for video, _ in found.values()})
    return [(titles[found[name][0]], found[name][1]) for name in names]


def _without_hashes(split, where):
    """The split names up to where their texts differ, if most differ there, and the numbers before tell them apart: what
    follows is new in each name, as the hash in "frame_0001_jpg.rf.3fa9c1.jpg"."""
    if len(split) < 4 or len({tuple(parts[::2]) for parts in split.values()}) <= len(split) / 2:
        return split
    same = 0
    while len({parts[2 * same] if 2 * same + 1 < len(parts) else None for parts in split.values()}) == 1:
        same += 1
    short = {name: [*parts[: 2 * same], ""] for name, parts in split.items()}
    if not same or len({tuple(parts[1::2]) for parts in short.values()}) < len(split):
        return split
    notice(f"{where}: the names end in texts that are all different: the numbers before them tell the frames")
    return short


def split_name(name, where) -> list[str]:
    """The texts and the numbers of a name, in turn; a text is first and last."""
    parts = _parts(str(name))
    if len(parts) < 3:
        raise ValueError(f"{where}: no number of a frame in {name!r}")
    return list(parts)


@lru_cache(1 << 15)
def _parts(name) -> tuple[str, ...]:
    return tuple(_NUMBER.split(_SUFFIX.sub("", name)))


def has_number(name) -> bool:
    """Return whether a name of an image or a file has one."""
    return isinstance(name, str) and len(_parts(name)) > 1


def _numbers(rows, texts, where):
    """({row: number of its frame}, the places in a split name of what counts frames)."""
    columns = list(zip(*rows))
    changing = [place for place, column in enumerate(columns) if len(set(column)) > 1] or [len(columns) - 1]
    is_frame = lambda place: not _VIEW.search(texts[place])
    alone = [place for place in changing if len(set(columns[place])) == len(rows)]
    if alone:  # of a number and a time, which change together, the one with smaller steps
        frame = min(alone, key=lambda place: (not is_frame(place), max(columns[place]) - min(columns[place]), -place))
        rising = sorted(rows) == sorted(rows, key=lambda row: row[frame])
        if not rising and all(map(is_frame, changing)):
            notice(f"{where}: the names tell times, not numbers of frames: these are counted in their order")
            return {row: number for number, row in enumerate(sorted(rows))}, {2 * place + 1 for place in changing}
    else:
        frame = max(changing, key=lambda place: (is_frame(place), len(set(columns[place])), place))
        rising = False
    return {row: row[frame] for row in rows}, {2 * place + 1 for place in (changing if rising else [frame])}


def _titles(videos):
    """Names for videos, each the parts of a split name; "" for the only one."""
    if len(videos) == 1:
        return dict.fromkeys(videos, "")
    titles = {video: "".join(video).strip(" _.-()[]/\\") for video in videos}
    return titles if len(set(titles.values()) - {""}) == len(videos) else {video: "".join(video) for video in videos}
