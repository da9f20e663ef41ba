"""`lifter data inspect` and `lifter data convert`."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from lifter._errors import message
from lifter._io import StrPath
from lifter._notices import told
from lifter.skeleton import SKELETONS

from . import outputs
from .detectors import SizeUnknown
from .mocap import film
from .registry import FORMATS, WRITERS, detect, open_data
from .sequence import FRAMEWISE, Dataset

STAND_IN = (10_000, 10_000)  # the size of an image, for a look at a file that does not tell it


def describe(path: StrPath, format: str | None = None, **options) -> tuple[list[str], list[str]]:
    """Describe a file or folder, reading one sequence at a time; return (lines, errors of sequences).

    Raises:
        FileNotFoundError, KeyError, ValueError if it cannot be opened at all.
    """
    notes = []
    with told(notes.append):
        lines, problems = _describe(path, format, options)
    return lines + list(dict.fromkeys(notes)), problems


def _describe(path, format, options):
    format = detect(path) if format is None else format
    unknown = []
    try:
        data = open_data(path, format, **options)
    except SizeUnknown:
        data = open_data(path, format, **{**options, "size": STAND_IN})
        unknown = ["image size: not in the file, pass --size WxH to use it"]
    lengths, problems, filled, joints = [], [], 0, 0
    facts = {name: Counter() for name in ("arrays", "joints", "frames per second", "image size", "subjects")}
    for name in data.names:
        try:
            sequence = data[name]
        except (ValueError, KeyError, OSError) as error:
            problems.append(message(error))
            continue
        lengths.append(len(sequence))
        facts["arrays"].update(kind for kind in FRAMEWISE if getattr(sequence, kind) is not None)
        facts["joints"][f"{sequence.skeleton.num_joints} ({sequence.skeleton.name})"] += 1
        facts["frames per second"][f"{sequence.fps:g}" if sequence.fps else "unknown"] += 1
        if sequence.keypoints is not None and not unknown:
            facts["image size"]["x".join(f"{n:g}" for n in sequence.size) if sequence.size else "unknown"] += 1
        facts["subjects"].update([sequence.subject] if sequence.subject else [])
        if sequence.keypoints is not None and sequence.keypoints.shape[-1] == 3:
            filled += int((sequence.keypoints[..., 2] == 0).sum())
            joints += sequence.keypoints[..., 2].size
    lines = [f"{path}: {format}, {FORMATS[format].about}"]
    lines += [f"sequences: {len(data)}, {len(problems)} of them broken"]
    if lengths:
        lines += [f"frames: {sum(lengths)}, {min(lengths)} to {max(lengths)} in a sequence"]
        for name, counts in facts.items():
            if counts:
                lines += [f"{name}: " + ", ".join(f"{fact}" for fact, _ in counts.most_common(12))]
        lines += [f"filled in or without confidence: {filled / joints:.2%} of the keypoints"] if joints else []
    return lines + unknown, problems


def convert(
    path: StrPath,
    out: StrPath,
    *,
    to: str = "bvh",
    format: str | None = None,
    select: Iterable[str] = (),
    skeleton: str | None = None,
    virtual_cameras: bool = False,
    noise: int | None = None,
    writing: dict | None = None,
    **options,
) -> tuple[int, list[str]]:
    """Convert the sequences of a file or folder to `out`, one at a time; return (number written, errors of the others).

    Args:
        out: an .npz or .json file in lifter's own format; another format with a single sequence; or, without suffix, a folder
            with one file per sequence in the format `to`, a key of `lifter.data.registry.WRITERS`.
        select: patterns of names. skeleton: convert to the joints of this skeleton, matched by name.
        virtual_cameras: project motions in the world into four cameras around them. noise: random seed of detector noise added
            to these, or to motion capture with cameras.
        writing: options of `lifter.data.write`.
    """
    if to not in WRITERS:
        raise ValueError(f"to is {to!r}, expected {' or '.join(sorted(WRITERS))}")
    out, writing = Path(out), writing or {}
    _check_other(out, path)
    if virtual_cameras:
        data = film(open_data(path, format, **options), noise)
    else:
        data = open_data(path, format, noise=noise, **options)
    data = data.select(*select) if select else data
    if skeleton is not None:
        if skeleton not in SKELETONS:
            raise ValueError(f"skeleton is {skeleton!r}, expected {' or '.join(SKELETONS)}")
        reads = {name: partial(_reordered, read, SKELETONS[skeleton]) for name, read in data.items.items()}
        data = Dataset(data.format, data.path, reads)
    writer = WRITERS[outputs.output_format(out)] if out.suffix else None
    if writer and not writer.many and len(data) > 1:
        raise ValueError(f"{out}: {path} has {len(data)} sequences: choose one by --select, or name a folder")
    errors = []
    sequences = _sound(data, errors)
    if writer and writer.many:
        count = writer(out, sequences, **writing)
    else:
        count = 0
        for sequence in sequences:
            target = out if writer else outputs.output_path(out, ".", sequence.name, to)
            _check_other(target, path)
            outputs.write(target, sequence, **writing)
            count += 1
    return count, [message(error) for error in errors]


def _check_other(out, path):
    if out.exists() and out.samefile(path):
        raise ValueError(f"{out}: is what is read, expected another name")


def _sound(data, errors):
    """Yield the sequences that can be read and collect the errors of the others; raise the first error if none can."""
    for read in data.items.values():
        try:
            sequence = read()
        except (ValueError, KeyError, OSError) as error:
            errors.append(error)
        else:
            yield sequence
    if len(errors) == len(data):
        raise errors[0]


def _reordered(read, skeleton):
    return read().to(skeleton)
