"""Human3.6M as VideoPose3D stores it: data_3d_h36m.npz, and the keypoints in data_2d_h36m_*.npz beside it.

Its poses are in the world, so the cameras are needed, which come from a file: camera-parameters.json.
"""

from functools import partial
from pathlib import Path

from ..cameras import Camera
from ..detectors import metadata_layout, sequence_of
from ..files import Npz, existing, keypoints_array, numbers, read_json, take, take_dict
from ..registry import register_format
from ..sequence import Dataset, Sequence

FPS = 50.0
JOINTS = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)  # of the 32 in the file, the 17 that move
TRAIN = ("S1", "S5", "S6", "S7", "S8")
TEST = ("S9", "S11")
# The four cameras in the order of the files, and the sizes (width, height) of their images.
SIZES = {"54138969": (1000, 1002), "55011271": (1000, 1000), "58860488": (1000, 1000), "60457274": (1000, 1002)}
CAMERAS = "camera-parameters.json"


def cameras(path, subject: str) -> tuple[Camera, ...]:
    """The four cameras that saw a subject, in the order of `SIZES`, of a file as camera-parameters.json.

    It holds "intrinsics" of each camera: "calibration_matrix" and "distortion" (k1, k2, p1, p2, k3, as OpenCV orders them);
    and "extrinsics" of each subject and camera: R and t in millimetres, x_camera = R @ x_world + t.
    """
    return _cameras(read_json(path), subject, path)


def _cameras(data, subject, path):
    intrinsics = take(data, "intrinsics", path)
    extrinsics = take(take(data, "extrinsics", path), subject, f"{path}: extrinsics")
    result = []
    for id, size in SIZES.items():
        where = f"{path}: intrinsics: {id}"
        inner = take(intrinsics, id, f"{path}: intrinsics")
        matrix = numbers(take(inner, "calibration_matrix", where), (3, 3), f"{where}: calibration_matrix")
        k1, k2, p1, p2, k3 = numbers(take(inner, "distortion", where), (5,), f"{where}: distortion")
        where = f"{path}: extrinsics: {subject}/{id}"
        outer = take(extrinsics, id, f"{path}: extrinsics: {subject}")
        rotation = numbers(take(outer, "R", where), (3, 3), f"{where}: R")
        translation = numbers(take(outer, "t", where), None, f"{where}: t")
        translation = numbers(translation.reshape(-1), (3,), f"{where}: t") / 1000
        focal = (matrix[0, 0], matrix[1, 1], *matrix[:2, 2])
        distortion = (k1, k2, k3, p2, p1)  # of `Camera`'s tangential two the first is along x, which is OpenCV's p2
        try:
            result.append(Camera(*size, *map(float, focal), rotation, translation, distortion, id))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return tuple(result)


def _sniff(file):
    if file.is_folder:
        return (file.path / "data_3d_h36m.npz").is_file() or any(file.path.glob("data_2d_h36m_*.npz"))
    if "positions_3d" in file.arrays or not {"positions_2d", "metadata"} <= file.arrays:
        return "positions_3d" in file.arrays
    metadata = file.npz["metadata"]
    return not (isinstance(metadata, dict) and "video_metadata" in metadata)  # as VideoPose3D's custom npz has it


@register_format(
    "h36m", "Human3.6M as VideoPose3D stores it (npz of poses, npz of keypoints, or the folder of both)",
    sniff=_sniff, suffix=".npz", folder=_sniff,
)  # fmt: skip
def open_h36m(path, keypoints=None, fps=FPS, layout=None, variant=None, cameras=None) -> Dataset:
    """Sequences "S9/Walking 1/54138969" of a subject, an action and a camera: poses in the camera, and keypoints.

    Args:
        path: data_3d_h36m.npz; or the folder with it; or a data_2d_h36m_*.npz, which is taken alone if there are no poses
            beside it.
        keypoints: "gt", "cpn_ft_h36m_dbb", ...: what is in the name of the file of keypoints beside the poses. None: of
            a folder or a file of poses, the one there is; of several, cpn_ft_h36m_dbb.
        cameras: the file of the cameras, see `lifter.data.h36m.cameras`. None: camera-parameters.json beside the data.
            Poses need it, keypoints alone do not: their sequences have a camera only where there is the file.

    Keypoints that go on after the poses end are cut there, as in VideoPose3D; fewer than poses are an error.
    """
    path = existing(path)
    folder = path if path.is_dir() else path.parent
    poses = folder / "data_3d_h36m.npz" if path.is_dir() or path.name.startswith("data_2d_") else path
    if not path.is_dir() and path != poses:
        detected = path
    else:
        detected = _keypoints_file(folder, keypoints)
    if detected is None and not poses.is_file():
        raise FileNotFoundError(f"{folder}: neither data_3d_h36m.npz nor data_2d_h36m_*.npz")
    calibration = folder / CAMERAS if cameras is None else existing(cameras)
    if poses.is_file() and not calibration.is_file():
        raise FileNotFoundError(
            f"{calibration}: there is no such file; the poses of {poses.name} are in the world, and to take them into the "
            f"cameras needs Human3.6M's calibration: put a {CAMERAS} there, or name one (cameras=, --cameras)"
        )
    parameters = read_json(calibration) if calibration.is_file() else None
    three = take_dict(Npz(poses), "positions_3d") if poses.is_file() else None
    two = archive = None
    if detected is not None:
        archive = Npz(detected)
        two = take_dict(archive, "positions_2d")
        layout = layout or metadata_layout(archive["metadata"] if "metadata" in archive else {}, detected)

    items = {}
    for subject, actions in (three if three is not None else two).items():
        if not isinstance(actions, dict):
            raise ValueError(f"{path}: {subject} is a {type(actions).__name__}, expected a dict of actions")
        seen_by = (None,) * len(SIZES) if parameters is None else _cameras(parameters, subject, calibration)
        for action in actions:
            world = None if three is None else (actions[action], f"{poses}: {subject}/{action}")
            views = None
            if two is not None:
                views = take(take(two, subject, f"{detected}: positions_2d"), action, f"{detected}: {subject}")
            if views is not None and (not isinstance(views, list) or len(views) != len(SIZES)):
                count = len(views) if isinstance(views, list) else type(views).__name__
                raise ValueError(f"{detected}: {subject}/{action}: {count} cameras, expected {len(SIZES)}")
            for number, (id, camera) in enumerate(zip(SIZES, seen_by)):
                name = f"{subject}/{action}/{id}"
                view = None if views is None else (views[number], layout, variant, detected)
                items[name] = partial(_read, name, camera, world, view, fps)
    return Dataset("h36m", path, items)


def _keypoints_file(folder, keypoints) -> Path | None:
    if keypoints is not None:
        return existing(folder / f"data_2d_h36m_{keypoints}.npz")
    files = sorted(folder.glob("data_2d_h36m_*.npz"))
    preferred = folder / "data_2d_h36m_cpn_ft_h36m_dbb.npz"
    return preferred if preferred in files else files[0] if files else None


def _read(name, camera, world, view, fps) -> Sequence:
    subject, action, id = name.split("/")
    known = {"subject": subject, "action": action, "fps": fps, "camera": camera}
    poses = None
    if world is not None:
        array, where = world
        array = numbers(array, None, where)
        if array.ndim != 3 or array.shape[1:] not in ((32, 3), (17, 3)):
            raise ValueError(f"{where}: shape {array.shape}, expected (T, 32, 3) or (T, 17, 3)")
        poses = camera.to_camera(array[:, JOINTS] if array.shape[1] == 32 else array)
        if view is None:
            return Sequence(name, poses=poses, source=where.split(": ")[0], **known)
    keypoints, layout, variant, source = view
    where = f"{source}: {name}"
    keypoints = keypoints_array(keypoints, where)
    if poses is not None:
        if len(keypoints) < len(poses):
            raise ValueError(f"{where}: {len(keypoints)} frames of keypoints, expected at least {len(poses)} as of poses")
        keypoints = keypoints[: len(poses)]
    return sequence_of(name, keypoints, layout, variant, SIZES[id], source, poses=poses, **known)
