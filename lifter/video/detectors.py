"""Detectors of 2D keypoints behind one interface, each of an optional package.

A detector has a `name` and a `layout`, the order of its joints (`lifter.data.keypoints.LAYOUTS`). It is called with an image
(height, width, 3) uint8 RGB and its time in seconds, which rises until `reset()`, and gives the keypoints (J, 3) of each
person, pixels and confidences. To add one, put a class with `package` and `is_ready` beside these into `DETECTORS`.
"""

import contextlib
import importlib.util
import io
import os
import zipfile
from pathlib import Path

import numpy as np

from lifter._extras import install_command, is_installed, needs
from lifter._io import regular
from lifter._notices import notice

PEOPLE = 4  # that MediaPipe looks for at once
MODES = ("lightweight", "balanced", "performance")
BACKENDS = ("onnxruntime", "opencv", "openvino")  # of rtmlib


def find_detector(name="auto", weights=None, **options):
    """Load a detector.

    Args:
        name: of `DETECTORS`; "auto": the first of them that is installed, one that has its weights before one that has not.
        weights: a file or folder of weights; None: those that the package brings, or has loaded before.
        options: `mode`, `backend`, `device` of rtmlib; another detector does not look at them.

    Raises:
        ImportError that says what to install; FileNotFoundError, ValueError for weights that are not there or do not fit.
    """
    if name != "auto":
        if name not in DETECTORS:
            raise ValueError(f"detector is {name!r}, expected auto, {' or '.join(DETECTORS)}")
        return DETECTORS[name](weights, **options)
    found = [detector for detector in DETECTORS.values() if is_installed(detector.package)]
    if not found:
        raise ImportError(
            "a video needs a detector of 2D keypoints, and none is installed here. MediaPipe brings its weights with it: "
            f"{install_command('video')} (Python 3.9 to 3.12). rtmlib looks for every person first, and loads its weights "
            f"from the network when it first runs: {install_command('detect')}. Keypoints that another program has found go "
            "without either: `lifter lift keypoints.json` reads files of OpenPose, AlphaPose, MMPose, MediaPipe and others."
        )
    options["weights"] = weights
    return next((each for each in found if each.is_ready(**options)), found[0])(**options)


class MediaPipe:
    """MediaPipe's pose landmarker, which finds `PEOPLE` at once and follows them from frame to frame.

    `weights`: a .task file. None: those of the package, which it has up to version 0.10.21.
    """

    name, package, layout = "MediaPipe", "mediapipe", "mediapipe"

    def __init__(self, weights=None, **_):
        with needs("video", "the detector mediapipe"):
            with _quiet():
                import mediapipe
                from mediapipe.tasks import python as tasks
        task = _task_of_package(Path(mediapipe.__file__).parent) if weights is None else regular(weights).read_bytes()
        if task is None:
            version = getattr(mediapipe, "__version__", "here")
            raise FileNotFoundError(
                f"mediapipe {version} has no weights of its own: name a pose_landmarker .task file by --weights, or install "
                'the last that has some: pip install "mediapipe<=0.10.21"'
            )
        options = tasks.vision.PoseLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=task),
            running_mode=tasks.vision.RunningMode.VIDEO,
            num_poses=PEOPLE,
        )
        self._make = lambda: tasks.vision.PoseLandmarker.create_from_options(options)
        self._image = lambda image: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        try:
            self.reset()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{weights or 'mediapipe'}: no weights that MediaPipe reads ({error})") from None

    def reset(self):
        """Begin another video."""
        with _quiet():
            self._landmarker, self._warned = self._make(), False

    @staticmethod
    def is_ready(weights=None, **_):
        return weights is not None or _weights_of_package(Path(importlib.util.find_spec("mediapipe").origin).parent)[1]

    def __call__(self, image, seconds):
        height, width = image.shape[:2]
        with contextlib.nullcontext() if self._warned else _quiet():  # of the first person
            found = self._landmarker.detect_for_video(self._image(image), round(1000 * seconds)).pose_landmarks
        self._warned = self._warned or bool(found)
        return [np.array([(each.x * width, each.y * height, each.visibility) for each in person]) for person in found]


def _weights_of_package(folder):
    """The files of the detector and of the landmarks, and whether they are there."""
    names = ("pose_detection/pose_detection.tflite", "pose_landmark/pose_landmark_full.tflite")
    paths = [folder / "modules" / name for name in names]
    return paths, all(path.is_file() for path in paths)


def _task_of_package(folder):
    """The package's weights in the form of a .task file: a zip of the two, which say how their images are scaled, the
    detector's to -1..1, the other's to 0..1. None if it has none."""
    from mediapipe.tasks.python.metadata.metadata_writers.metadata_writer import MetadataWriter

    paths, there = _weights_of_package(folder)
    if not there:
        return None
    bundle = io.BytesIO()
    names = ("pose_detector.tflite", "pose_landmarks_detector.tflite")
    with zipfile.ZipFile(bundle, "w") as archive:
        for path, name, mean, scale in zip(paths, names, (127.5, 0.0), (127.5, 255.0)):
            writer = MetadataWriter.create(bytearray(path.read_bytes())).add_image_input([mean], [scale])
            archive.writestr(name, bytes(writer.populate()[0]))
    return bundle.getvalue()


@contextlib.contextmanager
def _quiet():
    """Without what C++ libraries write to stderr, past Python."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Rtmlib:
    """rtmlib's two models, of people and of their joints.

    `weights`: a folder with the .onnx files of the mode, by their own names. None: rtmlib's cache, which it fills from the
    network where they are missing; that is said.
    """

    name, package, layout = "rtmlib", "rtmlib", "coco"

    def __init__(self, weights=None, mode="balanced", backend="onnxruntime", device="cpu"):
        with needs("detect", "the detector rtmlib"):
            import rtmlib
        own = {}
        if weights is not None:
            own = _files_of_mode(rtmlib.Body.MODE[mode], Path(weights))
            for path in (own["det"], own["pose"]):
                regular(path, "weights of rtmlib")
        elif not self.is_ready(mode=mode):
            notice("rtmlib loads its weights from the network, once; --weights FOLDER takes those that are there")
        self._body = rtmlib.Body(mode=mode, backend=backend, device=device, **own)

    @staticmethod
    def is_ready(weights=None, mode="balanced", **_):
        import rtmlib

        cache = Path(os.getenv("TORCH_HOME", Path(os.getenv("XDG_CACHE_HOME", "~/.cache"), "rtmlib"))).expanduser()
        modes = getattr(rtmlib.Body, "MODE", None)
        if not modes:  # another version, of which nothing is known
            return True
        files = _files_of_mode(modes[mode], cache / "hub" / "checkpoints" if weights is None else Path(weights))
        return all(Path(files[part]).is_file() for part in ("det", "pose"))

    def reset(self):
        """Begin another video, of which rtmlib need not know."""

    def __call__(self, image, seconds):
        found = self._body(np.ascontiguousarray(image[..., ::-1]))  # in OpenCV's order, blue first
        return [np.column_stack((xy, scores)).astype(np.float64) for xy, scores in zip(*found)]


def _files_of_mode(known, folder):
    """Arguments of `rtmlib.Body` for the files of a mode in a folder."""
    files = {part: str(folder / f"{Path(known[part]).stem}.onnx") for part in ("det", "pose")}
    return files | {f"{part}_input_size": known[f"{part}_input_size"] for part in ("det", "pose")}


DETECTORS = {"mediapipe": MediaPipe, "rtmlib": Rtmlib}
