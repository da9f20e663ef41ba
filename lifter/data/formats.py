"""Which format a file or folder has, and opening it."""

from . import bvh, cmu, deciwatch, detectors, h36m, mocap, motionbert, mpi3dhp, own, tables
from .files import Npz, existing, read_json
from .sequence import Dataset

FORMATS = {
    "lifter": "lifter's own npz, read one sequence at a time",
    "json": "lifter's own JSON",
    "csv": "lifter's CSV: poses and keypoints, a column per coordinate",
    "trc": "markers that are called as the joints, for OpenSim, .trc",
    "h36m": "Human3.6M as VideoPose3D stores it (npz of poses, npz of keypoints, or the folder of both)",
    "vp3d-custom": "VideoPose3D's data_2d_custom npz",
    "motionbert": "Human3.6M as MotionBERT stores it (pickle)",
    "motionbert-clips": "a folder of MotionBERT's clips (pickles)",
    "3dhp": "MPI-INF-3DHP as P-STMO stores it (npz)",
    "3dhp-mat": "MPI-INF-3DHP's own annot.mat, annot_data.mat, or a folder with them",
    "deciwatch": "DeciWatch's and MixSynthFormer's npz of Human3.6M, 3DPW, AIST++, Sub-JHMDB",
    "cmu": "motion capture with virtual cameras, cmu_h36m17.npz",
    "windows": "windows of keypoints in pixels with image_size, as cmu_pairs_small.npz",
    "asf": "CMU motion capture: an .amc with its .asf, or the folder of them",
    "bvh": "motion capture, .bvh",
    "alphapose": "AlphaPose's results, or COCO's (JSON list)",
    "coco": "COCO annotations of a video (JSON)",
    "mmpose": "mmpose's predictions (JSON)",
    "openpose": "OpenPose's JSON files, BODY_25 or COCO-18, a folder or one",
    "mediapipe": "MediaPipe's 33 landmarks (JSON)",
    "npy": "an array (T, J, 2 or 3) of keypoints in pixels",
}


def detect(path) -> str:
    """The format of a file or folder, one of `FORMATS`: by its content where that tells, else by its name."""
    path = existing(path)
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        start = file.read(4096)
    suffix = path.suffix.lower()
    if start[:4] == b"PK\x03\x04" or suffix == ".npz":
        return _npz(path)
    if start[:6] == b"\x93NUMPY":
        return "npy"
    if suffix == ".json" or start.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in (b"{", b"["):
        return _json(path)
    if suffix == ".pkl":
        return "motionbert-clips" if b"data_label" in start or b"data_input" in start else "motionbert"
    by_name = {".mat": "3dhp-mat", ".amc": "asf", ".asf": "asf", ".bvh": "bvh", ".csv": "csv", ".trc": "trc"}
    if suffix in by_name:
        return by_name[suffix]
    raise ValueError(f"{path}: of no known format; known are {', '.join(FORMATS)}")


def _npz(path):
    archive = Npz(path)
    keys = set(archive.keys)
    for format, needed in (
        ("lifter", {"lifter"}),
        ("h36m", {"positions_3d"}),
        ("cmu", {"cameras_json"}),
        ("windows", {"image_size"}),
        ("deciwatch", {"imgname"}),
        ("3dhp", {"data"}),
    ):
        if needed <= keys:
            return format
    if {"positions_2d", "metadata"} <= keys:
        metadata = archive["metadata"]
        return "vp3d-custom" if isinstance(metadata, dict) and "video_metadata" in metadata else "h36m"
    raise ValueError(f"{path}: an npz of no known format, it has {', '.join(archive.keys[:20]) or 'nothing'}")


def _json(path):
    data = read_json(path)
    if isinstance(data, dict):
        if "lifter" in data:
            return "json"
        if "annotations" in data:
            return "coco"
        if "instance_info" in data:
            return "mmpose"
        if "frames" in data:
            return "mediapipe"
        if {"people", "bodies"} & data.keys() or any(
            isinstance(v, dict) and {"people", "bodies"} & v.keys() for v in data.values()
        ):
            return "openpose"
    elif isinstance(data, list):
        if not data:
            raise ValueError(f"{path}: an empty list, no person in any frame")
        first = next((entry for entry in data if entry), None)
        keys = first.keys() if isinstance(first, dict) else set()
        if "image_id" in keys:
            return "alphapose"
        if "instances" in keys or "keypoint_scores" in keys:
            return "mmpose"
        if isinstance(first, list) or not {*detectors.LANDMARKS, "x"}.isdisjoint(keys):
            return "mediapipe"
    raise ValueError(f"{path}: JSON of no known format; known are {', '.join(detectors.READERS)}")


def _folder(path):
    if (path / "data_3d_h36m.npz").is_file() or any(path.glob("data_2d_h36m_*.npz")):
        return "h36m"
    if any(path.glob("*.amc")):
        return "asf"
    for file in path.glob("*.json"):
        if _json(file) == "openpose":
            return "openpose"
        break
    for pattern, format in (("*.pkl", "motionbert-clips"), ("annot.mat", "3dhp-mat"), ("annot_data.mat", "3dhp-mat")):
        if any(path.rglob(pattern)):
            return format
    raise ValueError(
        f"{path}: a folder of no known format; it has {', '.join(sorted(f.name for f in path.iterdir())[:10]) or 'nothing'}"
    )


def open_data(path, format=None, **options) -> Dataset:
    """The sequences of a file or folder, read one at a time.

    Args:
        format: one of `FORMATS`; None: what `detect` says.
        options: of the format's function, None where not wanted: `size`, `fps`, `layout`, `variant` of detectors' files
            (`detectors.open_keypoints`), `keypoints` and `cameras` of Human3.6M (`h36m.open_h36m`), `noise` of "cmu",
            `unit` of "bvh".

    Raises:
        FileNotFoundError, KeyError, ValueError: they name the file, and in it what is wrong. So does reading a sequence.
    """
    format = detect(path) if format is None else format
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected {' or '.join(FORMATS)}")
    options = {name: value for name, value in options.items() if value is not None}
    known, function = options_of(format), _OPEN.get(format, (None, None))[1]
    if unknown := options.keys() - known:
        raise ValueError(f"{path}: {format} knows no {', '.join(sorted(unknown))}, only {', '.join(known) or 'no options'}")
    if function is None:
        return detectors.open_keypoints(path, format, **options)
    return function(path, **options)


def options_of(format) -> tuple[str, ...]:
    """The options of `open_data` that a format takes."""
    return _OPEN.get(format, (_DETECTOR, None))[0]


_DETECTOR = ("size", "fps", "layout", "variant")
_OPEN = {
    "lifter": ((), own.open_own),
    "json": ((), own.open_json),
    "csv": ((), tables.open_csv),
    "trc": ((), tables.open_trc),
    "h36m": (("keypoints", "cameras", "fps", "layout", "variant"), h36m.open_h36m),
    "vp3d-custom": (("fps", "layout", "variant"), detectors.open_custom),
    "motionbert": ((), motionbert.open_pickle),
    "motionbert-clips": ((), motionbert.open_clips),
    "3dhp": ((), mpi3dhp.open_npz),
    "3dhp-mat": ((), mpi3dhp.open_mat),
    "deciwatch": ((), deciwatch.open_deciwatch),
    "cmu": (("noise",), cmu.open_clips),
    "windows": ((), cmu.open_windows),
    "asf": (("fps",), mocap.open_asf),
    "bvh": (("unit",), bvh.open_bvh),
}
