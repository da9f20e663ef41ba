"""Poses to look at: films, a viewer that is one HTML file, and recordings for Rerun."""

from pathlib import Path

from lifter._extras import needs
from lifter._io import StrPath, whole
from lifter.data.outputs import SHOWN
from lifter.data.sequence import Sequence
from lifter.video import Video

from . import html
from .scene import compose

__all__ = ["render"]

SIDES = (64, 8192)  # smallest and largest of a picture, in pixels


def render(
    path: StrPath,
    sequences: dict[str, Sequence],
    truth: Sequence | None = None,
    keypoints: Sequence | None = None,
    *,
    fps: float | None = None,
    size: tuple[int, int] = (1280, 640),
    root_relative: bool = False,
    video: Video | None = None,
) -> int:
    """Show the poses of one clip, of one model or of several, with its keypoints and with the truth. How many frames it has.

    A film has the keypoints and every model's poses side by side, the truth in grey behind them; the viewer is one file that
    loads nothing, can be turned, and shows the errors over time. Scale and camera are those of the whole clip. Poses stand
    where they are in the room; those that are relative to their root are put where the truth is, or the first model that has
    a place. Errors are MPJPE in millimetres, each pose less its own root.

    Args:
        path: NAME.mp4, NAME.gif, NAME.html or NAME.rrd. The file appears when it is whole.
        sequences: {model: `lifter.data.Sequence` with poses}, the same frames of all.
        truth: the Sequence of the true poses. Frames that are not `valid` have no error.
        keypoints: a Sequence with keypoints; None: those of the truth or of the first of `sequences` that has some.
        fps: frames per second to play; None: what the sequences tell, else 30.
        size: (width, height) of a film in pixels; of an mp4 an odd size is one larger.
        root_relative: the root stays at one place.
        video: the `lifter.video.Video` of the clip, which is shown below its keypoints.

    Raises:
        ValueError for other suffixes, sequences without poses, of other lengths or skeletons; ImportError for films where
        PyAV or matplotlib is missing, for recordings where rerun-sdk is; FileNotFoundError for a folder that is not there.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix[1:] not in SHOWN:
        raise ValueError(f"render: path is {path}, expected a name that ends in .{', .'.join(SHOWN)}")
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"render: fps is {fps}, expected more than 0 and at most 1000")
    if not all(isinstance(side, int) and SIDES[0] <= side <= SIDES[1] for side in size):
        raise ValueError(f"render: size is {size}, expected (width, height) of {SIDES[0]} to {SIDES[1]} pixels")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    write = _writer(path)
    scene = compose(sequences, truth, keypoints, fps, root_relative, video)
    with whole(path) as partly:
        return write(partly, scene, size)


def _writer(path):
    """Return the writer for a path; ImportError where a package that it needs is missing."""
    suffix = path.suffix.lower()[1:]
    if suffix == "html":
        return html.write
    with needs(*SHOWN[suffix][:1], path):
        if suffix == "rrd":
            from .recording import write
        elif suffix == "gif":
            from .video import write_gif as write
        else:
            from .video import write_mp4 as write
    return write
