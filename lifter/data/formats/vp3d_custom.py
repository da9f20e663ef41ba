"""VideoPose3D's data_2d_custom_*.npz: positions_2d[video]["custom"][camera], with the sizes of the videos."""

from functools import partial

from ..detectors import checked_sequence, metadata_layout, rate_of
from ..files import Npz, image_size, keypoints_array, length, take
from ..plausible import in_pixels
from ..registry import register_format
from ..sequence import Dataset


def _sniff(file):
    if not {"positions_2d", "metadata"} <= file.arrays or "positions_3d" in file.arrays:
        return False
    metadata = file.npz["metadata"]
    return isinstance(metadata, dict) and "video_metadata" in metadata


@register_format("vp3d-custom", "VideoPose3D's data_2d_custom npz", sniff=_sniff, suffix=".npz")
def open_custom(path, fps=None, layout=None, variant=None) -> Dataset:
    archive = Npz(path)
    metadata, videos = archive["metadata"], archive["positions_2d"]
    layout = layout or metadata_layout(metadata, path)
    sizes = take(metadata, "video_metadata", f"{path}: metadata")
    if not isinstance(videos, dict):
        raise ValueError(f"{path}: positions_2d is a {type(videos).__name__}, expected a dict of videos")
    items = {}
    for video, actions in videos.items():
        where = f"{path}: {video}"
        info = take(sizes, video, f"{path}: metadata: video_metadata")
        size = image_size(take(info, "w", where), take(info, "h", where), where)
        if not isinstance(actions, dict):
            raise ValueError(f"{where}: a {type(actions).__name__}, expected a dict of actions")
        for action, cameras in actions.items():
            plain = len(actions) == 1 and length(cameras, f"{where}: {action}") == 1
            for number, keypoints in enumerate(cameras):
                name = str(video) if plain else f"{video}/{action}/{number}"
                items[name] = partial(_read, name, keypoints, layout, variant, size, path, rate_of(info) or fps)
    return Dataset("vp3d-custom", path, items)


def _read(name, keypoints, layout, variant, size, path, fps):
    where = f"{path}: {name}"
    keypoints = in_pixels(keypoints_array(keypoints, where), size, where)
    known = {"layout": layout, "variant": variant, "size": size, "source": path, "fps": fps}
    return checked_sequence(name, keypoints, **known)
