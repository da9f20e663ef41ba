"""Motion capture as one npz: clips of Human3.6M's joints in the world, fps, and the cameras that see each clip, as JSON."""

from functools import partial

from lifter.skeleton import H36M

from ..cameras import Camera
from ..files import Npz, numbers, take
from ..mocap import seen_by
from ..registry import register_format
from ..sequence import Dataset, Sequence


@register_format(
    "cmu",
    "motion capture with virtual cameras, cmu_h36m17.npz",
    sniff=lambda file: "cameras_json" in file.arrays,
    suffix=".npz",
)
def open_clips(path, noise=None) -> Dataset:
    """Sequences "S1/01_01/0" of a subject, a clip and a camera: poses in the camera and keypoints, read clip by clip.

    `noise`: None for exact keypoints; or a seed, for those of a detector (`lifter.data.noise.detect`), with confidences and
    the exact ones beside them. Every sequence has a random stream of its own.
    """
    archive = Npz(path)
    fps = float(numbers(archive["fps"], (), f"{path}: fps"))
    clips = take(archive.json("cameras_json"), "clips", f"{path}: cameras_json")
    items = {}
    for key in (key for key in archive.keys if "/" in key):
        where = f"{path}: cameras_json: clips"
        cameras = take(clips, key, where)
        for index, values in enumerate(cameras if isinstance(cameras, list) else []):
            name = f"{key}/{index}"
            camera = Camera.of_dict(values, f"{where}: {name}")
            items[name] = partial(_clip, name, archive, key, camera, fps, noise)
    return Dataset("cmu", path, items)


def _clip(name, archive, key, camera, fps, noise) -> Sequence:
    world = numbers(archive[key], (None, H36M.num_joints, 3), f"{archive.path}: {key}")
    seen = seen_by(camera, world, None if noise is None else (noise, name))
    subject, action, _ = name.split("/")
    return Sequence(name, **seen, fps=fps, camera=camera, subject=subject, action=action, source=str(archive.path))
