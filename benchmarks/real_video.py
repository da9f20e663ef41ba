"""Models on a real video: `python -m benchmarks.real_video FOLDER --checkpoint A.safetensors ...`.

FOLDER is `Pose2Sim/Demo_SinglePerson` of the wheel of pose2sim (`pip download --no-deps pose2sim`, unzipped): one man, filmed
by four calibrated cameras that look down 18 to 25 degrees and are rolled by up to 26. A detector finds him in every view, and
the views together give the reference, whose joints are as this detector defines them, and no better. So the figures compare
models; they are no accuracy. Never choose or tune by them.
"""

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch

import lifter
from lifter.data import Camera, denormalise
from lifter.inference.clean import blur, clean
from lifter.inference.windows import lift_sequence, with_channels
from lifter.skeleton import H36M
from lifter.video import Video, find_detector, find_people

from .viewpoints import FIGURES

FAR = 15.0  # pixels; the worst view of a joint that is farther from its place in any view is left out
SMOOTH = 2.0  # frames, the deviation of the Gaussian that smooths the reference
TRUNK = [H36M.joints.index(name) for name in ("pelvis", "thorax")]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_video", description=__doc__)
    parser.add_argument("folder", type=Path, help="path of Pose2Sim/Demo_SinglePerson")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="FILE", help="models to compare with the shipped one")
    parser.add_argument("--detector", default="auto", help="detector, see `lifter lift`")
    parser.add_argument("--weights", metavar="PATH", help="weights of the detector")
    args = parser.parse_args(argv)
    cameras = read_cameras(args.folder / "calibration" / "Calib.qca.txt")
    detector = find_detector(args.detector, args.weights)
    views = [find(args.folder / "videos" / f"{name}.mp4", detector) for name in cameras]
    cameras = {name: Camera(*view.size, **parts) for view, (name, parts) in zip(views, cameras.items())}
    projections = np.stack([projection(camera) for camera in cameras.values()])
    pixels = np.stack([denormalise(view.keypoints, view.size) for view in views], 2)
    reference = triangulate(projections, pixels)
    missed = np.median(apart(projections, reference, pixels), (0, 1))
    print(f"{len(views)} views of {len(reference)} frames by {type(detector).__name__}; from a view to the reference "
          f"{', '.join(f'{error:.1f}' for error in missed)} pixels (median)")  # fmt: skip
    print(f"{'model':24} {'view':6}" + "".join(f" {name:>13}" for name in FIGURES) + "  (mm)  tilt of the trunk (degrees)")
    for path in (None, *args.checkpoint):
        model = lifter.load_pretrained(path).model
        seen = [replace(view, camera=camera) for view, camera in zip(views, cameras.values())]
        rows = [measure(model, view, reference @ view.camera.rotation.T) for view in seen]
        for name, row in [*zip(cameras, rows), ("mean", np.mean(rows, 0))]:
            print(f"{Path(path or 'shipped').name:24} {name:6}" + "".join(f" {figure:13.1f}" for figure in row), flush=True)
    return 0


def read_cameras(path):
    """{name: arguments of `Camera`} of a file of Qualisys. The distortion, of at most 2 pixels, is left out."""
    cameras = {}
    for camera in ElementTree.parse(path).iter("camera"):
        lens, place = camera.find("intrinsic").attrib, camera.find("transform").attrib
        # Qualisys counts in 64ths of a pixel
        fx, fy, cx, cy = (float(lens[f"{what}{axis}"]) / 64 for what in ("focalLength", "centerPoint") for axis in "UV")
        turn = np.array([float(place[f"r{row}{column}"]) for row in "123" for column in "123"]).reshape(3, 3)
        rotation = np.diag([1.0, -1.0, -1.0]) @ turn  # its y is up, and it looks along -z
        position = np.array([float(place[axis]) for axis in "xyz"]) / 1000
        lens = {"fx": fx, "fy": fy, "cx": cx, "cy": cy}
        cameras[camera.get("serial")] = lens | {"rotation": rotation, "translation": -rotation @ position}
    return cameras


def projection(camera):
    """(3, 4): metres in the world to pixels."""
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    return matrix @ np.c_[camera.rotation, camera.translation]


def find(path, detector):
    """The best seen person of a video, whose keypoints are cleaned as `lifter lift` does it."""
    found = find_people(Video(path), detector)
    person = found.people[0]
    if len(person) != found.frames:
        raise ValueError(f"{path}: the person is seen in {len(person)} of {found.frames} frames, expected in all")
    return clean(person)[0]


def triangulate(projections, pixels):
    """Joints in the world by all views, weighed by their confidences, smoothed.

    Args:
        projections: (V, 3, 4). pixels: (T, J, V, 3), with confidences.

    Returns:
        (T, J, 3) metres.
    """
    fewer = [list(some) for some in itertools.combinations(range(len(projections)), len(projections) - 1)]
    poses = np.empty((*pixels.shape[:2], 3))
    for place in np.ndindex(*pixels.shape[:2]):
        seen = pixels[place]
        poses[place] = meet(projections, seen)
        if apart(projections, poses[place], seen).max() > FAR:
            found = [meet(projections[some], seen[some]) for some in fewer]
            worst = [apart(projections[some], point, seen[some]).max() for some, point in zip(fewer, found)]
            poses[place] = found[int(np.argmin(worst))]
    return blur(poses, SMOOTH) / blur(np.ones_like(poses), SMOOTH)


def meet(projections, seen):
    """The point that is nearest to the rays through keypoints (V, 3), by homogeneous least squares."""
    weights = np.maximum(seen[:, 2:, None], 0.05)
    rows = weights * (seen[:, :2, None] * projections[:, 2:] - projections[:, :2])
    point = np.linalg.svd(rows.reshape(-1, 4))[2][-1]
    return point[:3] / point[3]


def apart(projections, points, seen):
    """Distances (..., V) in pixels of points (..., 3) in the views from keypoints (..., V, 3)."""
    image = np.einsum("vij,...j->...vi", projections[..., :3], points) + projections[..., 3]
    return np.linalg.norm(image[..., :2] / image[..., 2:] - seen[..., :2], axis=-1)


def measure(model, view, reference):
    """Return the errors of `FIGURES` in millimetres and the angle between the trunks in degrees, over all frames."""
    keypoints = with_channels(torch.from_numpy(view.keypoints), model.in_channels)
    poses = lift_sequence(model, keypoints, fade=True, camera=view.camera)
    poses, targets = (x - x[:, :1] for x in (poses.double(), torch.from_numpy(reference)))
    figures = []
    for metric, joints in FIGURES.values():
        (found := metric()).update(poses[:, joints], targets[:, joints])
        figures.append(1000 * found.compute().item())
    trunks = [x[:, TRUNK[1]] - x[:, TRUNK[0]] for x in (poses, targets)]
    return [*figures, torch.cosine_similarity(*trunks, dim=-1).clamp(-1, 1).acos().rad2deg().mean().item()]


if __name__ == "__main__":
    sys.exit(main())
