"""Motion as glTF 2.0, binary: for each person the joints of a rig, a body of capsules on them, and the animation.

Metres, y up, as glTF has it. A clip of several people is one file, and one animation; who is not there for all of it is there,
with the size of a point, before and after.
"""

import json
import struct

import numpy as np

from lifter._io import whole

from ..bones import RIGS, motion_of
from ..registry import register_writer

AROUND, RINGS = 10, 3  # sides of a capsule, rings of each half sphere
THICK = {  # metres, radius of what hangs on a joint
    "pelvis": 0.085, "spine": 0.1, "thorax": 0.055, "neck": 0.085, "hip": 0.07, "knee": 0.05, "shoulder": 0.045,
    "elbow": 0.038, "wrist": 0.035, "ankle": 0.038, "head": 0.03,
}  # fmt: skip
COLOURS = {"left": (0.02, 0.14, 0.43), "right": (0.75, 0.13, 0.01), "": (0.25, 0.27, 0.3)}  # linear RGB
_TYPES = {"<f4": 5126, "<u2": 5123, "|u1": 5121}
_SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


@register_writer("glb", many=True)
def write(path, sequences, rig="h36m") -> int:
    """Write the poses of sequences with the joints of a rig of `lifter.data.bones.RIGS`; how many."""
    people = [(sequence.name, sequence.start, motion_of(sequence, rig)) for sequence in sequences]
    if not people:
        raise ValueError(f"{path}: no sequences to write")
    first = min(start / motion.fps for _, start, motion in people)
    spans = [(start / motion.fps - first, (start + len(motion.places)) / motion.fps - first) for _, start, motion in people]
    last = max(end for _, end in spans)
    scene = _Scene()
    for (name, _, motion), (begin, end) in zip(people, spans):
        root = scene.body(name, motion, RIGS[rig])
        scene.move(root, motion, begin)
        if begin > 0 or end < last:
            scene.appear(root, begin, end)
    with whole(path) as partly:
        partly.write_bytes(scene.bytes())
    return len(people)


class _Scene:
    """The parts of a glTF file as they come together."""

    def __init__(self):
        self.data, self.views, self.accessors = bytearray(), [], []
        self.nodes, self.meshes, self.skins, self.roots = [], [], [], []
        self.samplers, self.channels = [], []

    def array(self, array, kind, target=None, bounds=False, **more) -> int:
        """Store an array (n, C) of one of `_TYPES`; the number of its accessor."""
        array = np.ascontiguousarray(array, kind).reshape(len(array), -1)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        self.views.append(view | ({"target": target} if target else {}))
        self.data += array.tobytes() + bytes(-array.nbytes % 4)
        accessor = {"bufferView": len(self.views) - 1, "componentType": _TYPES[kind], "count": len(array)}
        accessor |= {"type": _SHAPES[array.shape[1]]} | more
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def body(self, name, motion, rig) -> int:
        """Add the joints of a person and its mesh; the number of the root's node."""
        root = len(self.nodes)
        for joint, called in enumerate(motion.names):
            place = motion.offsets[joint] if joint else motion.places[0]
            node = {"name": called, "translation": place.tolist()}
            children = [root + child for child in motion.children(joint)]
            self.nodes.append(node | ({"children": children} if children else {}))
        inverse = np.tile(np.eye(4), (len(motion.names), 1, 1))
        inverse[:, 3, :3] = -motion.rest()  # glTF has its matrices column by column
        joints = [root + joint for joint in range(len(motion.names))]
        skin = {"joints": joints, "skeleton": root, "inverseBindMatrices": self.array(inverse, "<f4")}
        self.skins.append(skin)
        points, normals, colours, owners, faces = _body(motion, rig)
        weights = np.eye(4, dtype="u1")[np.zeros(len(points), int)] * 255
        bones = np.zeros((len(points), 4), "u1")
        bones[:, 0] = owners
        attributes = {
            "POSITION": self.array(points, "<f4", 34962, bounds=True), "NORMAL": self.array(normals, "<f4", 34962),
            "COLOR_0": self.array(colours, "<f4", 34962), "JOINTS_0": self.array(bones, "|u1", 34962),
            "WEIGHTS_0": self.array(weights, "|u1", 34962, normalized=True),
        }  # fmt: skip
        primitive = {"attributes": attributes, "indices": self.array(faces.reshape(-1, 1), "<u2", 34963), "material": 0}
        self.meshes.append({"name": name, "primitives": [primitive]})
        self.nodes.append({"name": f"{name} body", "mesh": len(self.meshes) - 1, "skin": len(self.skins) - 1})
        self.nodes.append({"name": name, "children": [root, len(self.nodes) - 1]})
        self.roots.append(len(self.nodes) - 1)
        return root

    def move(self, root, motion, begin):
        """Add the motion of a person: the root's places, and how all joints are turned that have a bone."""
        times = self.array((begin + np.arange(len(motion.places)) / motion.fps)[:, None], "<f4", bounds=True)
        self._channel(root, "translation", times, motion.places)
        for joint in range(len(motion.names)):
            if joint not in motion.ends:
                self._channel(root + joint, "rotation", times, quaternions(motion.turns[:, joint]))

    def appear(self, root, begin, end):
        """Let a person be there from one time to another."""
        times, sizes = np.array([(0.0, 0), (begin, 1), (end, 0)][begin <= 0 :]).T[..., None]
        self._channel(root, "scale", self.array(times, "<f4", bounds=True), np.repeat(sizes, 3, 1), "STEP")

    def _channel(self, node, path, times, values, how="LINEAR"):
        self.samplers.append({"input": times, "output": self.array(values, "<f4"), "interpolation": how})
        self.channels.append({"sampler": len(self.samplers) - 1, "target": {"node": node, "path": path}})

    def bytes(self) -> bytes:
        material = {"name": "body", "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.8}}
        content = {
            "asset": {"version": "2.0", "generator": "lifter"},
            "scene": 0, "scenes": [{"nodes": self.roots}], "nodes": self.nodes, "meshes": self.meshes, "skins": self.skins,
            "materials": [material], "animations": [{"name": "motion", "samplers": self.samplers, "channels": self.channels}],
            "accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": len(self.data)}],
        }  # fmt: skip
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(self.data))
        return (
            head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
        )


def quaternions(turns):
    """Rotation matrices (T, 3, 3) as quaternions x, y, z, w (T, 4), each on the side of the one before."""
    m = turns.reshape(-1, 9).T
    trace = m[0] + m[4] + m[8]
    rows = np.stack([  # of 4 q q^T, of which the one with the largest diagonal is the most exact
        (1 + 2 * m[0] - trace, m[1] + m[3], m[2] + m[6], m[7] - m[5]),
        (m[1] + m[3], 1 + 2 * m[4] - trace, m[5] + m[7], m[2] - m[6]),
        (m[2] + m[6], m[5] + m[7], 1 + 2 * m[8] - trace, m[3] - m[1]),
        (m[7] - m[5], m[2] - m[6], m[3] - m[1], 1 + trace),
    ])  # fmt: skip
    largest = np.stack([rows[i, i] for i in range(4)]).argmax(0)
    values = rows[largest, :, np.arange(len(turns))]
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    flips = np.cumprod(np.concatenate(([1.0], np.where((values[1:] * values[:-1]).sum(1) < 0, -1.0, 1.0))))
    return values * flips[:, None]


def _body(motion, rig):
    """(points, normals, colours, the joint of each point, triangles) of a capsule for each bone of a body at rest."""
    rest, parts, count = motion.rest(), [], 0
    for joint, (_, _, begin, end, _) in enumerate(rig.joints):
        below = rig.next(joint)
        bone = motion.ends[joint] if below is None else motion.offsets[below]
        side, _, part = begin.rpartition("_")
        side = side or end.rpartition("_")[0]  # of a bone from the middle to a side
        points, normals, faces = _capsule(rest[joint], rest[joint] + bone, THICK[part])
        parts.append((points, normals, np.tile(COLOURS[side], (len(points), 1)), np.full(len(points), joint), faces + count))
        count += len(points)
    return [np.concatenate(arrays) for arrays in zip(*parts)]


def _capsule(begin, end, radius):
    """(points, normals, triangles) of the points that are at most `radius` away from a line."""
    along = end - begin
    along = along / max(np.linalg.norm(along), 1e-9)
    side = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    side /= np.linalg.norm(side)
    turn = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
    across = np.cos(turn)[:, None] * side + np.sin(turn)[:, None] * np.cross(along, side)
    heights = np.concatenate((np.linspace(-np.pi / 2, 0, RINGS + 1), np.linspace(0, np.pi / 2, RINGS + 1)))
    normals = np.cos(heights)[:, None, None] * across + np.sin(heights)[:, None, None] * along
    points = radius * normals
    points[: RINGS + 1] += begin
    points[RINGS + 1 :] += end
    ring, place = np.meshgrid(np.arange(len(heights) - 1), np.arange(AROUND), indexing="ij")
    a, b = ring * AROUND + place, ring * AROUND + (place + 1) % AROUND
    faces = np.stack((a, b, b + AROUND, a, b + AROUND, a + AROUND), -1).reshape(-1, 3)
    return points.reshape(-1, 3), normals.reshape(-1, 3), faces
