"""Recordings for Rerun's viewer, .rrd: a scene with its video, keypoints, camera, errors and angles."""

import numpy as np
import rerun as rr

from lifter.data.angles import joint_angles
from lifter.data.cameras import denormalise
from lifter.data.sequence import Sequence
from lifter.skeleton import H36M

from .pictures import PIXELS, jpegs
from .scene import LIMBS, SIDES, TRUTH, grid

RADIUS = 0.012  # metres, of bones


def write(path, scene, size=None):
    """Write the recording, and return its number of frames. Times are those of the source; z is up, in metres."""
    recording = rr.RecordingStream("lifter")
    recording.save(str(path))
    recording.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    recording.log("world/floor", rr.LineStrips3D(grid(*scene.floor), colors=[120, 125, 135], radii=0.003), static=True)
    width, height = _image(scene)
    if scene.camera is not None:
        camera, to_world = scene.camera, scene.camera.rotation.T
        recording.log("world/camera", rr.Transform3D(translation=camera.position, mat3x3=to_world), static=True)
        scale = width / camera.width
        matrix = scale * np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1 / scale]])
        pinhole = rr.Pinhole(image_from_camera=matrix, resolution=[width, height], camera_xyz=rr.ViewCoordinates.RDF)
        recording.log("world/camera/image", pinhole, static=True)
    bodies = _bodies(scene)
    pictures = jpegs(scene)
    number, picture = next(pictures, (None, None))
    for frame in range(len(scene)):
        recording.set_time("frame", sequence=scene.start + frame)
        recording.set_time("time", duration=(scene.start + frame) / scene.fps)
        if number == frame:
            recording.log("world/camera/image", rr.EncodedImage(contents=picture, media_type="image/jpeg"))
            number, picture = next(pictures, (None, None))
        for name, poses, bones, colours, angles in bodies:
            if np.ptp(poses[frame], axis=0).max() < 1e-3:  # who is not there is a point
                recording.log(f"world/{name}", rr.Clear(recursive=True))
                continue
            recording.log(f"world/{name}/bones", rr.LineStrips3D(poses[frame][bones], colors=colours, radii=RADIUS))
            recording.log(f"world/{name}/joints", rr.Points3D(poses[frame], radii=1.3 * RADIUS))
            for angle, values in angles.items():
                recording.log(f"angles/{name}/{angle}", rr.Scalars(values[frame]))
        if scene.keypoints is not None:
            points = denormalise(scene.keypoints[frame, :, :2], (width, height))
            bones = points[np.array(scene.skeleton.bones)]
            recording.log("world/camera/image/keypoints", rr.LineStrips2D(bones, colors=_colours(scene.sides)))
        for name, errors in scene.errors.items():
            if np.isfinite(errors[frame]):
                recording.log(f"errors/{name}", rr.Scalars(errors[frame]))
    recording.flush()
    recording.disconnect()
    return len(scene)


def _image(scene):
    """(width, height) of the pictures, or where there are none, of the camera's image."""
    whole = scene.video.size if scene.video is not None else scene.camera.size if scene.camera is not None else (2, 2)
    scale = min(1, PIXELS / max(whole)) if scene.video is not None else 1
    return tuple(side * scale for side in whole)


def _bodies(scene):
    """[(name, poses (T, J, 3), bones, their colours, angles)] of every person of every model, and of the truth."""
    bodies = []
    shown = list(scene.models.items()) + ([] if scene.truth is None else [("truth", scene.truth)])
    for name, poses in shown:
        for number, body in enumerate(scene.bodies, 1):
            own = [(bone, side) for bone, side in zip(scene.skeleton.bones, scene.sides) if body.start <= bone[0] < body.stop]
            bones, colours = np.array([bone for bone, _ in own]) - body.start, _colours(side for _, side in own)
            known = scene.skeleton.joints[: body.stop - body.start] == H36M.joints and poses is not scene.truth
            angles = joint_angles(Sequence(name, poses=poses[:, body], up="z")) if known else {}
            called = name if len(scene.bodies) == 1 else f"{name}/person{number}"
            colours = _rgb(TRUTH) if poses is scene.truth else colours
            bodies.append((called, poses[:, body], bones, colours, angles))
    return bodies


def _colours(sides):
    return [_rgb(LIMBS[SIDES[side]]) for side in sides]


def _rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
