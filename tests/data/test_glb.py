"""glTF files, read by a reader of a few lines that knows nothing of the writer: every joint is where the poses have it."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from lifter.__main__ import main
from lifter.data import save, write
from lifter.data.bones import RIGS
from lifter.data.formats import glb
from lifter.data.mocap import y_up
from lifter.data.synthetic import open_gait


class Gltf:
    """A file, and what it does at a time."""

    def __init__(self, path):
        data = path.read_bytes()
        magic, version, length, size, kind = struct.unpack_from("<4sIII4s", data)
        assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON") and size % 4 == 0
        self.json = json.loads(data[20 : 20 + size])
        rest, kind = struct.unpack_from("<I4s", data, 20 + size)
        assert kind == b"BIN\0" and 28 + size + rest == len(data) and rest == self.json["buffers"][0]["byteLength"]
        self.data = data[28 + size :]
        self.names = [node["name"] for node in self.json["nodes"]]

    def array(self, number):
        accessor = self.json["accessors"][number]
        view = self.json["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5123: "<u2", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]
        array = np.frombuffer(self.data, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
        assert array.nbytes == view["byteLength"] and view["byteOffset"] % 4 == 0
        for bound in ("min", "max"):
            assert bound not in accessor or getattr(array, bound)(0).tolist() == accessor[bound]
        return array

    def places(self, frame):
        """{node: its matrix in the world} at the frame of each channel."""
        changes = {}
        for channel in self.json["animations"][0]["channels"]:
            values = self.array(self.json["animations"][0]["samplers"][channel["sampler"]]["output"])
            if channel["target"]["path"] != "scale":
                changes[channel["target"]["node"], channel["target"]["path"]] = values[frame]
        matrices, left = {}, [(root, np.eye(4)) for root in self.json["scenes"][0]["nodes"]]
        while left:
            number, above = left.pop()
            node, matrix = self.json["nodes"][number], np.eye(4)
            matrix[:3, 3] = changes.get((number, "translation"), node.get("translation", (0, 0, 0)))
            matrix[:3, :3] = turn(*changes.get((number, "rotation"), (0, 0, 0, 1)))
            matrices[number] = above @ matrix
            left += [(child, matrices[number]) for child in node.get("children", ())]
        return matrices


def turn(x, y, z, w):
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


@pytest.fixture(scope="module")
def people():
    """Two people, of whom the second comes later and goes earlier."""
    one, other = open_gait(clips=2, frames=40)
    return [replace(one, name="walk/person1"), replace(other.take(slice(10, 30)), name="walk/person2")]


@pytest.mark.parametrize("rig", RIGS)
def test_kinematics(tmp_path, people, rig):
    """Joints are where the poses are to 0.01 mm, and the body hangs on them."""
    write(tmp_path / "one.glb", people[0], rig=rig)
    assert glb.write(tmp_path / "two.glb", people, rig) == 2
    file = Gltf(tmp_path / "two.glb")
    assert [file.names[root] for root in file.json["scenes"][0]["nodes"]] == ["walk/person1", "walk/person2"]
    for frame in (0, 7, 19):
        places = file.places(frame)
        for person, skin, mesh in zip(people, file.json["skins"], file.json["meshes"]):
            got = np.stack([places[joint] for joint in skin["joints"]])
            expected = RIGS[rig].places(y_up(person)[frame])
            assert [file.names[joint] for joint in skin["joints"]] == list(RIGS[rig].names)
            np.testing.assert_allclose(got[:, :3, 3], expected, rtol=0, atol=1e-5)
            (primitive,) = mesh["primitives"]
            points, owners, weights = (
                file.array(primitive["attributes"][name]) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0")
            )
            inverse = file.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
            assert weights.sum(1).tolist() == [255] * len(points) and file.array(primitive["indices"]).max() == len(points) - 1
            skinned = (got @ inverse)[owners[:, 0]] @ np.concatenate((points, np.ones((len(points), 1))), 1)[..., None]
            bodies = skinned[:, :3, 0]
            assert 1.3 < np.ptp(bodies[:, 1]) < 2 and np.linalg.norm(bodies[:, None] - expected, axis=-1).min(0).max() < 0.11
    one = Gltf(tmp_path / "one.glb").json["animations"][0]["channels"]
    assert all(channel["target"]["path"] != "scale" for channel in one)


def test_times(tmp_path, people):
    """Seconds since the first person came; who is not there is a point."""
    glb.write(tmp_path / "x.glb", [replace(person, start=person.start + 100) for person in people])
    file = Gltf(tmp_path / "x.glb")
    (motion,) = file.json["animations"]
    spans, scales = {}, {}
    for channel in motion["channels"]:
        sampler, target = motion["samplers"][channel["sampler"]], channel["target"]
        times = file.array(sampler["input"])[:, 0]
        if target["path"] == "scale":
            scales[target["node"]] = times, file.array(sampler["output"])[:, 0].tolist(), sampler["interpolation"]
        elif target["path"] == "translation":
            spans[target["node"]] = times
    fps = people[0].fps
    (one, first), (two, second) = spans.items()
    np.testing.assert_allclose(first, np.arange(40) / fps, atol=1e-6)
    np.testing.assert_allclose(second, np.arange(10, 30) / fps, atol=1e-6)
    ((times, sizes, how),) = (scales.pop(two),)
    assert not scales and sizes == [0, 1, 0] and how == "STEP"
    np.testing.assert_allclose(times, [0, 10 / fps, 30 / fps], atol=1e-6)


def test_quaternions():
    """Quaternions of any turn, near half turns too, have no jumps."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 4 * np.pi, 200)
    given = np.stack((np.sin(angles / 2), *np.outer(rng.normal(size=2), np.zeros(200)), np.cos(angles / 2)), 1)
    turns = np.stack([turn(*each) for each in given])
    got = glb.quaternions(turns)
    np.testing.assert_allclose(got, given, atol=1e-6)
    others = rng.normal(size=(500, 4))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    turns = np.stack([turn(*each) for each in others])
    np.testing.assert_allclose(np.stack([turn(*each) for each in glb.quaternions(turns)]), turns, atol=1e-6)


def test_of_an_independent_library(tmp_path, people):
    """Read by trimesh: a body of triangles whose joints are in a tree."""
    trimesh = pytest.importorskip("trimesh", reason="trimesh, the independent reader, is not installed")
    glb.write(tmp_path / "x.glb", people, "mixamo")
    scene = trimesh.load(tmp_path / "x.glb")
    assert sorted(scene.geometry) == ["walk/person1", "walk/person2"]
    for body in scene.geometry.values():
        low, high = body.bounds
        assert body.is_winding_consistent and body.volume > 0.03 and high[1] - low[1] > 1.4 and high[0] - low[0] > 1.2
    assert "mixamorig:LeftForeArm" in scene.graph.nodes


def test_on_the_command_line(tmp_path, people, capsys):
    save(tmp_path / "a.npz", people)
    assert main(["data", "convert", str(tmp_path / "a.npz"), str(tmp_path / "a.glb"), "--rig", "mixamo"]) == 0
    assert "mixamorig:Hips" in Gltf(tmp_path / "a.glb").names
    for rig, out, message in (
        ("cat", "b.glb", "--rig is 'cat', expected h36m or mixamo"),
        ("h36m", "b.npz", "--rig is for .bvh"),
    ):
        assert main(["data", "convert", str(tmp_path / "a.npz"), str(tmp_path / out), "--rig", rig]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="x.glb: no sequences to write"):
        glb.write(tmp_path / "x.glb", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.glb", "a.npz"]
