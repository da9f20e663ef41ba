"""Finishing of the poses of a clip: constant bone lengths, positions in the room, a floor, feet that do not slide.

A model predicts poses relative to the root, in the axes of the camera. Their positions in the room follow from the keypoints
and the camera. The focal length, the up direction and the floor are estimates, and are reported as such.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from lifter.data import Camera
from lifter.data.sequence import Sequence
from lifter.geometry import recover_root
from lifter.skeleton import H36M

from .clean import FPS, blur

STEPS = ("bones", "place", "floor", "feet")

ROUNDS = 30  # over all bones, in each of which both ends of a bone move by half of what it is too long
FOCAL = 1.0  # longer sides of the image: 53 degrees along that
STEADY = 0.25  # seconds, standard deviation of the mean over time of depths
NEAREST, FARTHEST = 0.5, 80.0  # metres
STILL, RAISED, LEAST = 0.35, 0.12, 0.1  # metres per second, metres above the other, seconds: a foot that stands
SURE = 0.3  # confidence of an ankle that may stand
HEEL = 0.08  # metres from the floor to the ankle of a foot that stands
LEVEL = 0.25  # metres; who stands higher above the floor than that stands on something
PLACES, BODIES = 0.08, 0.15  # metres and radians: how exact the places of feet, and bodies, tell which way is up
SIZES, LARGER = 0.15, 1.4  # how exact poses tell the size of people; who is that much nearer in height stands on something
STRAIGHT, NEARER = 0.99, 10  # of its length, how straight a leg becomes at most; rounds in which the body comes nearer
SLOW, RAMP = 0.25, 0.1  # seconds over which the trajectory, and a leg, follow a foot that stands
LEGS = (1, 2, 3), (4, 5, 6)  # right and left: hip, knee, ankle
ANKLES = [leg[2] for leg in LEGS]
THORAX = H36M.joints.index("thorax")


def finish(people: list[Sequence], skip: Iterable[str] = (), focal: float | None = None) -> tuple[list[Sequence], list[str]]:
    """Finish the poses of the people of one clip.

    Args:
        people: sequences with root-relative poses and the keypoints that they were lifted from.
        skip: steps from `STEPS` to leave out. Without "place", the later steps are left out too.
        focal: focal length in pixels. Default: that of the sequences' camera, otherwise an estimate.

    Returns:
        (people, lines): sequences with poses in the axes of a camera that also holds the pose of the room, z up with the floor
        at 0; and a line about the result of each step.
    """
    if unknown := set(skip) - set(STEPS):
        raise ValueError(f"finish: skip is {' '.join(sorted(unknown))}, expected {' or '.join(STEPS)}")
    for person in people:
        if person.poses is None or person.keypoints is None or person.skeleton is not H36M or person.size is None:
            raise ValueError(f"{person.name}: expected keypoints and poses of Human3.6M's joints, and the size of the image")
    lines, poses = [], [person.rooted().astype(np.float64) for person in people]
    if "bones" not in skip:
        varied = np.mean([variation(each) for each in poses])
        poses = [constant_bones(each) for each in poses]
        lines.append(f"bones keep the median of their lengths, which varied by {varied:.1%}")
    if "place" in skip:
        return [replace(person, poses=each.astype(np.float32)) for person, each in zip(people, poses)], lines
    camera, told = camera_of(people[0], focal)
    lines.append(told)
    poses = [place(each, person, camera) for each, person in zip(poses, people)]
    stands = [standing(each, person) for each, person in zip(poses, people)]
    if not np.allclose(camera.rotation, np.eye(3)):
        rotation, shift = camera.rotation.T, camera.position
        lines.append("room and floor as the file's camera says")
    else:
        level = "floor" in skip
        up = np.array([0.0, -1.0, 0.0]) if level else _up(poses, stands)
        if not level:
            sizes = on_one_floor(poses, stands, up)
            poses = [size * each for size, each in zip(sizes, poses)]
            if (sizes != 1).any():
                changes = ", ".join(f"{size - 1:+.0%}" for size in sizes)
                lines.append(f"sizes of people changed by {changes}, for all to stand on one floor")
        rotation, shift = _room(poses, stands, up)
        lines.append(_told_floor(up, "as said" if level else "a guess", stands))
    poses = [each @ rotation.T + shift for each in poses]
    if "feet" not in skip and any(stand.any() for stand in stands):
        before = sliding(poses, stands)
        poses = [pinned(each, stand, person.fps or FPS) for each, stand, person in zip(poses, stands, people)]
        lines.append(f"feet that stand slid by {1000 * before:.0f} mm, and do by {1000 * sliding(poses, stands):.0f} mm")
    camera = replace(camera, rotation=rotation.T, translation=-rotation.T @ shift)
    back = [camera.to_camera(each).astype(np.float32) for each in poses]
    return [replace(person, poses=each, camera=camera) for person, each in zip(people, back)], lines


def in_room(sequence):
    """Return a finished sequence with its poses in the room, z up, for file formats without cameras."""
    if sequence.camera is None:
        return sequence
    poses = sequence.camera.to_world(sequence.poses.astype(np.float64))
    return replace(sequence, poses=poses.astype(np.float32), keypoints=None, camera=None, up="z")


# ---- bones -----------------------------------------------------------------------------------------------------------


def lengths_of(poses):
    """Return the bone lengths (T, 16) of poses (T, 17, 3)."""
    joints, parents = np.array(H36M.bones).T
    return np.linalg.norm(poses[:, joints] - poses[:, parents], axis=-1)


def variation(poses) -> float:
    """Return the coefficient of variation of the bone lengths over the frames, averaged over bones."""
    lengths = lengths_of(poses)
    return float((lengths.std(0) / lengths.mean(0)).mean())


def constant_bones(poses):
    """Give the bones of poses (T, 17, 3) constant, symmetric lengths, the medians over the frames, moving joints as little as
    possible."""
    lengths = np.zeros(17)
    lengths[1:] = np.median(lengths_of(poses), 0)
    lengths = (lengths + lengths[list(H36M.flip)]) / 2
    out = poses.copy()
    for _ in range(ROUNDS):
        for joint, parent in H36M.bones:
            bone = out[:, joint] - out[:, parent]
            move = bone * (lengths[joint] / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-9) - 1) / 2
            out[:, joint] += move
            out[:, parent] -= move
    exact = out.copy()
    for joint, parent in H36M.bones:  # parents come before their children
        bone = out[:, joint] - out[:, parent]
        bone *= lengths[joint] / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-9)
        exact[:, joint] = exact[:, parent] + bone
    return exact - exact[:, :1]


# ---- the place in front of the camera --------------------------------------------------------------------------------


def camera_of(person, focal=None):
    """Return the camera of a sequence and a text on how it is known; `focal` as for `finish`."""
    width, height = person.size
    if focal is None and person.camera is not None:
        return person.camera, f"focal length {person.camera.fx:.0f} pixels, as the file says"
    told = f"focal length {focal:g} pixels, as said" if focal else None
    focal = focal or FOCAL * max(width, height)
    told = told or f"focal length {focal:.0f} pixels, a guess (--focal or --fov tells it; distances go with it)"
    return Camera(width, height, focal, focal, width / 2, height / 2), told


def place(poses, person, camera):
    """Place root-relative poses (T, 17, 3) where their keypoints are seen: by confidence-weighted least squares in every
    frame; then depths are smoothed over time, and lateral positions are adjusted."""
    keypoints = person.keypoints.astype(np.float64)
    weights = keypoints[..., 2] + 0.05 if keypoints.shape[-1] == 3 else np.ones(keypoints.shape[:2])
    pose, seen, weight = (torch.from_numpy(array)[None] for array in (poses, keypoints[..., :2].copy(), weights))
    root = recover_root(pose, seen, torch.from_numpy(camera.normalised), weight)[0].numpy()
    depth = np.log(np.clip(root[:, 2], NEAREST, FARTHEST))
    spread = np.abs(depth - np.median(depth))
    good = (root[:, 2] > NEAREST) & (root[:, 2] < FARTHEST) & (spread <= max(0.1, 5 * np.median(spread)))
    depth = np.interp(np.arange(len(depth)), np.flatnonzero(good), depth[good]) if good.any() else depth
    deviation = STEADY * (person.fps or FPS)
    steady = np.exp(blur(depth, deviation) / blur(np.ones_like(depth), deviation))
    middle = (keypoints[..., :2] * weights[..., None]).sum(1) / weights.sum(1)[:, None]
    ray = (middle - camera.normalised[2:4]) / camera.normalised[:2]
    beside = root[:, :2] + np.clip(ray, -1, 1) * (steady - root[:, 2])[:, None]  # where the steady depth has it
    return poses + np.concatenate((beside, steady[:, None]), -1)[:, None]


# ---- the floor -------------------------------------------------------------------------------------------------------


def standing(poses, person):
    """Return (T, 2) bool, True where the right and the left foot stand: for a while they hardly move across the line of sight
    and are not above the other foot."""
    fps = person.fps or FPS
    ankles = poses[:, ANKLES]
    plane = ankles[..., :2] / ankles[..., 2:]
    deviation = LEAST / 2 * fps
    plane = blur(plane, deviation) / blur(np.ones_like(plane), deviation)
    speed = np.linalg.norm(np.gradient(plane, axis=0), axis=-1) * ankles[..., 2] * fps if len(poses) > 1 else np.zeros((1, 2))
    height = ankles @ _leaning(poses)
    still = (speed < STILL) & (height - height[:, ::-1] < RAISED)
    if person.keypoints.shape[-1] == 3:
        still &= person.keypoints[:, ANKLES, 2] >= SURE
    out = np.zeros_like(still)
    for foot, first, end in _times(still):
        out[first:end, foot] = end - first >= LEAST * fps
    return out


def _times(stands):
    """Return (foot, first frame, frame after the last) of every interval in which a foot stands."""
    for foot in range(stands.shape[1]):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], stands[:, foot], [False])).astype(int)))
        yield from ((foot, first, end) for first, end in zip(edges[::2], edges[1::2]))


def _leaning(poses):
    """Return the direction from the ankles to the thorax, drawn a little to the camera's own upright direction."""
    ankles = poses[:, ANKLES].mean(1)
    body = np.median(poses[:, THORAX] - ankles, axis=0) + [0, -0.3, 0]
    return body / np.linalg.norm(body)


def _up(poses, stands):
    """Estimate the up direction in the axes of the camera, along which bodies point and across which feet stand on a plane."""
    lean = sum(_leaning(each) for each in poses)
    lean /= np.linalg.norm(lean)
    across = np.linalg.svd(lean[None])[2][1:]  # two directions of the floor
    places = [each[a:b, ANKLES[foot]].mean(0) for each, stand in zip(poses, stands) for foot, a, b in _times(stand)]
    owner = [number for number, stand in enumerate(stands) for _ in _times(stand)]
    if not places:
        return lean
    places = np.array(places)
    centres = np.array([places[np.array(owner) == number].mean(0) for number in owner])  # sizes of people are not that exact
    offsets = places - centres
    weights = np.ones(len(offsets))
    for _ in range(10):
        flat, high = offsets @ across.T, offsets @ lean
        system = (flat * weights[:, None]).T @ flat / PLACES**2 + np.eye(2) / BODIES**2
        tilt = np.linalg.solve(system, -(flat * weights[:, None]).T @ high / PLACES**2)
        weights = 1 / np.maximum(1, np.abs(high + flat @ tilt) / PLACES)
    up = lean + tilt @ across
    return up / np.linalg.norm(up)


def on_one_floor(poses, stands, up):
    """Return a scale factor for each person, so that all stand on one floor.

    A model knows sizes only roughly; poses scaled about the camera move away from it and look the same. Changes are as small
    as possible. A person who would still be far above the others is assumed to stand on something and is not changed.
    """
    below = np.full(len(poses), np.nan)  # the camera
    for number, (each, stand) in enumerate(zip(poses, stands)):
        if stand.any():
            below[number] = -_lowest(each[:, ANKLES][stand] @ up)
    sizes = np.ones(len(poses))
    alike = np.flatnonzero((below > 0) & (np.nanmax(below, initial=0) <= LARGER * below))
    if len(alike) > 1:  # unknown are the changes of size, and the floor: sizes * below = floor
        count, below = len(alike), below[alike]
        floors = np.column_stack((np.diag(below), -np.ones(count))) / PLACES
        system = np.concatenate((floors, np.eye(count, count + 1) / SIZES))
        sizes[alike] += np.linalg.lstsq(system, np.concatenate((-below / PLACES, np.zeros(count))), rcond=None)[0][:-1]
    return sizes


def _lowest(heights):
    """Return the height of the floor under feet that stand at these heights."""
    return np.median(heights[heights < np.quantile(heights, 0.1) + LEVEL])


def _room(poses, stands, up):
    """Return (rotation, shift) from camera to room: z up, y away from the camera, the first position of the first person at x
    = y = 0, and the floor at z = 0 under the lowest standing feet."""
    ahead = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.9 else np.array([0.0, -1.0, 0.0])
    ahead = ahead - (ahead @ up) * up
    ahead /= np.linalg.norm(ahead)
    rotation = np.stack((np.cross(ahead, up), ahead, up))
    heights = [each[:, ANKLES][stand] @ up for each, stand in zip(poses, stands)]
    heights = np.concatenate(heights)
    floor = _lowest(heights) - HEEL if len(heights) else min((each @ up).min() for each in poses)
    first = rotation @ poses[0][0, 0]
    return rotation, -np.array([first[0], first[1], floor])


def _told_floor(up, known, stands):
    times = sum(1 for stand in stands for _ in _times(stand))
    down, roll = np.degrees(np.arcsin(np.clip(-up[2], -1, 1))), np.degrees(np.arctan2(up[0], -up[1]))
    under = f"under {times} stands of feet" if times else "under the lowest joint, for no foot stands"
    return f"camera turned down by {down:.0f} and rolled by {roll:.0f} degrees, {known}; floor {under}"


# ---- the feet --------------------------------------------------------------------------------------------------------


def sliding(poses, stands) -> float:
    """Return the mean horizontal distance, in metres, of standing feet from their mean positions."""
    feet = [each[a:b, ANKLES[foot], :2] for each, stand in zip(poses, stands) for foot, a, b in _times(stand)]
    apart = [np.linalg.norm(foot - foot.mean(0), axis=-1) for foot in feet]
    return float(np.concatenate(apart).mean()) if apart else 0.0


def pinned(poses, stands, fps):
    """Fix standing feet of poses (T, 17, 3) in place on the floor, and keep feet from sinking into it: the whole body follows
    slowly, and the legs bend for the rest."""
    targets = np.zeros((len(poses), 2, 3))
    for foot, a, b in _times(stands):
        mean = poses[a:b, ANKLES[foot]].mean(0)
        targets[a:b, foot] = mean[0], mean[1], HEEL if abs(mean[2] - HEEL) < LEVEL else mean[2]
    frames, count = np.arange(len(poses)), stands.sum(1)
    wanted = ((targets - poses[:, ANKLES]) * stands[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    sunk = np.where(count == 0, _sunk(poses[:, ANKLES, 2].min(1)), 0)
    wanted[:, 2] += sunk
    for axis, known in enumerate((count > 0, count > 0, (count > 0) | (sunk > 0))):
        if known.any():
            wanted[:, axis] = np.interp(frames, frames[known], wanted[known, axis])
    slowly = lambda moves: (blur(moves, SLOW * fps) / blur(np.ones_like(moves), SLOW * fps))[:, None]
    out = poses + slowly(wanted)
    for _ in range(NEARER):  # to feet that would else be out of reach
        missed = np.stack([_missed(out, leg, targets[:, foot]) for foot, leg in enumerate(LEGS)], 1)
        out += slowly((missed * stands[..., None]).sum(1))
    for foot, leg in enumerate(LEGS):
        goal, there = out[:, leg[2]].copy(), np.flatnonzero(stands[:, foot])
        if len(there):
            near = there[np.interp(frames, there, np.arange(len(there))).round().astype(int)]  # the frame in which it stands
            share = np.clip(1 - np.abs(near - frames) / max(RAMP * fps, 1), 0, 1)
            goal += (targets[near, foot] - out[near, leg[2]]) * share[:, None]
        goal[:, 2] += _sunk(goal[:, 2])
        bend(out, leg, goal)
    return out


def _sunk(heights):
    """Return how far ankles are below the height of feet on the floor. Much lower ones are assumed to be beside it."""
    depth = HEEL - heights
    return np.where((depth > 0) & (depth < LEVEL), depth, 0.0)


def bend(poses, leg, target):
    """Bend a leg of poses (T, 17, 3) so that its ankle is at `target` (T, 3), or as near as it reaches. Bone lengths and the
    bending direction of the knee are kept."""
    hip, knee, _ = (poses[:, joint] for joint in leg)
    upper, lower, straight = _lengths(poses, leg)
    way = target - hip
    reach = np.clip(_norm(way), np.abs(upper - lower) + 1e-6, straight)
    way = way / np.maximum(_norm(way), 1e-9)
    along = (upper**2 - lower**2 + reach**2) / (2 * reach)
    out = (knee - hip) - ((knee - hip) * way).sum(-1, keepdims=True) * way
    out = out / np.maximum(_norm(out), 1e-9)
    poses[:, leg[1]] = hip + along * way + np.sqrt(np.maximum(upper**2 - along**2, 0)) * out
    poses[:, leg[2]] = hip + reach * way


def _missed(poses, leg, target):
    """Return the vector (T, 3) from a leg's reach to `target`, zero if it is within reach."""
    way = target - poses[:, leg[0]]
    length = np.maximum(_norm(way), 1e-9)
    return way / length * np.maximum(length - _lengths(poses, leg)[2], 0)


def _lengths(poses, leg):
    """Return the lengths (T, 1) of thigh and shank, and the largest allowed distance of ankle and hip."""
    hip, knee, ankle = (poses[:, joint] for joint in leg)
    upper, lower = _norm(knee - hip), _norm(ankle - knee)
    return upper, lower, np.clip(STRAIGHT * (upper + lower), _norm(ankle - hip), upper + lower - 1e-6)


def _norm(x):
    return np.linalg.norm(x, axis=-1, keepdims=True)
