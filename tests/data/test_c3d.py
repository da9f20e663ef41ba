"""C3D files: what is written is read by other packages, and what others write is read."""

import struct

import numpy as np
import pytest

from lifter.data import Sequence, detect, open_data, write
from lifter.data.formats import c3d
from lifter.data.markers import named_poses
from lifter.skeleton import H36M

from .test_loose import POSES

WORLD = POSES[..., [0, 2, 1]] * (1, 1, -1) + (0, 0, 1.0)  # z up


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "walk.c3d"
    write(path, Sequence("walk", poses=WORLD, fps=29.97, start=7))
    return path


def test_round_trip(written):
    (sequence,) = open_data(written)
    assert detect(written) == "c3d" and (sequence.fps, sequence.start) == (pytest.approx(29.97), 7)
    np.testing.assert_allclose(sequence.poses, WORLD, atol=1e-6)


def test_read_by_ezc3d(written):
    ezc3d = pytest.importorskip("ezc3d")
    file = ezc3d.c3d(str(written))
    point = file["parameters"]["POINT"]
    assert tuple(point["LABELS"]["value"]) == H36M.joints and point["UNITS"]["value"] == ["mm"]
    assert point["RATE"]["value"][0] == pytest.approx(29.97) and file["header"]["points"]["first_frame"] == 7  # from 0
    np.testing.assert_allclose(file["data"]["points"][:3].transpose(2, 1, 0), WORLD * 1000, atol=1e-3)


def test_read_by_c3d(written):
    other = pytest.importorskip("c3d")
    with open(written, "rb") as file:
        reader = other.Reader(file)
        frames = [(number, points[:, :4]) for number, points, _ in reader.read_frames()]
    assert [label.strip() for label in reader.point_labels] == list(H36M.joints) and reader.point_rate == pytest.approx(29.97)
    assert [number for number, _ in frames] == [8, 9, 10, 11, 12]
    np.testing.assert_allclose([points[:, :3] for _, points in frames], WORLD * 1000, atol=1e-3)
    assert all((points[:, 3] >= 0).all() for _, points in frames)


def markers(poses):
    """Plug-in Gait's markers around a pose (T, 17, 3) that looks along y, in mm; hips follow from the pelvis's."""
    at = lambda joint: poses[:, H36M.joints.index(joint)] * 1000
    width = 240.0
    centre = (at("left_hip") + at("right_hip")) / 2 + (0, 0.22 * width, 0.3 * width)
    found = {"LASI": centre - (width / 2, 0, 0), "RASI": centre + (width / 2, 0, 0)}
    found |= {"LPSI": centre - (50, 150, 0), "RPSI": centre + (50, -150, 0)}
    for side, name in (("L", "left"), ("R", "right")):
        found |= {
            f"{side}{m}": at(f"{name}_{j}")
            for m, j in (("KNE", "knee"), ("ANK", "ankle"), ("SHO", "shoulder"), ("ELB", "elbow"))
        }
        found |= {f"{side}WRA": at(f"{name}_wrist") + (0, 30, 0), f"{side}WRB": at(f"{name}_wrist") - (0, 30, 0)}
        found |= {f"{side}FHD": at("head") + (0, 80, 0), f"{side}BHD": at("head") - (0, 80, 0)}
    return found | {"C7": at("thorax") - (0, 60, 0), "CLAV": at("thorax") + (0, 60, 0), "*1": at("head")}


def facing():
    """WORLD with the left at negative x: somebody who looks along y, hips 0.72 of 240 mm apart."""
    poses = WORLD * (-1, -1, 1)
    for side, sign in (("left", -1), ("right", 1)):
        poses[:, H36M.joints.index(f"{side}_hip")] = poses[:, 0] + (sign * 0.36 * 0.24, 0, 0)
    return poses


def test_pairs_of_markers():
    """On both sides of a joint, and a sacrum: as OpenSim's models have them."""
    poses, found = facing(), markers(facing())
    pairs = {
        "R.ASIS": found["RASI"],
        "L.ASIS": found["LASI"],
        "V.Sacral": (found["LPSI"] + found["RPSI"]) / 2,
        "Top.Head": found["*1"],
    }
    for letter, side in (("R", "right"), ("L", "left")):
        pairs[f"{letter}.Acromium"] = poses[:, H36M.joints.index(f"{side}_shoulder")] * 1000
        for part in ("knee", "ankle", "elbow", "wrist"):
            at = poses[:, H36M.joints.index(f"{side}_{part}")] * 1000
            pairs |= {f"{letter}.{part.title()}.Lat": at + (40, 0, 0), f"{letter}.{part.title()}.Med": at - (40, 0, 0)}
    got = named_poses(list(pairs), np.stack(list(pairs.values()), 1), "") / 1000
    joints = [joint for joint in range(17) if H36M.joints[joint] not in ("pelvis", "spine", "neck", "thorax")]
    np.testing.assert_allclose(got[:, joints], poses[:, joints], atol=1e-6)


def write_by_ezc3d(path, labels, points, unit="mm", rate=100.0):
    ezc3d = pytest.importorskip("ezc3d")
    file = ezc3d.c3d()
    file["parameters"]["POINT"]["LABELS"]["value"] = list(labels)
    file["parameters"]["POINT"]["UNITS"]["value"] = [unit]
    file["parameters"]["POINT"]["RATE"]["value"] = [rate]
    file["data"]["points"] = np.concatenate((points, np.ones_like(points[..., :1])), -1).transpose(2, 1, 0)
    file.write(str(path))
    return path


def test_markers_written_by_ezc3d(tmp_path):
    """A marker that was not seen in a frame; the names of a subject before those of the markers."""
    poses = facing()
    found = markers(poses)
    points = np.stack(list(found.values()), 1)
    points[2, list(found).index("LKNE")] = np.nan
    path = write_by_ezc3d(tmp_path / "a.c3d", [f"Ann:{name}" for name in found], points)
    (sequence,) = open_data(path)
    joints = [joint for joint in range(17) if H36M.joints[joint] not in ("pelvis", "spine", "neck")]
    np.testing.assert_allclose(sequence.poses[:, joints], poses[:, joints], atol=1e-4)
    assert sequence.fps == 100 and sequence.up == "z" and sequence.valid.tolist() == [True, True, False, True, True]


def test_analog_channels(tmp_path):
    """Forces between the points: ten values of two channels for each frame, and more groups of parameters."""
    ezc3d = pytest.importorskip("ezc3d")
    file = ezc3d.c3d()
    file["parameters"]["POINT"]["LABELS"]["value"] = list(H36M.joints)
    file["parameters"]["POINT"]["UNITS"]["value"] = ["m"]
    file["parameters"]["POINT"]["RATE"]["value"] = [100.0]
    file["parameters"]["ANALOG"]["LABELS"]["value"] = ["Fx", "Fy"]
    file["parameters"]["ANALOG"]["RATE"]["value"] = [1000.0]
    file.add_parameter("SUBJECT", "NAME", ["Ann"])
    file["data"]["points"] = np.concatenate((WORLD, np.ones_like(WORLD[..., :1])), -1).transpose(2, 1, 0)
    file["data"]["analogs"] = np.random.default_rng(0).normal(0, 500, (1, 2, 50))
    file.write(str(tmp_path / "a.c3d"))
    (sequence,) = open_data(tmp_path / "a.c3d")
    np.testing.assert_allclose(sequence.poses, WORLD, atol=1e-6)
    assert sequence.fps == 100


def test_joints_written_by_c3d(tmp_path):
    """Files as Pose2Sim and Sports2D make them of TRC: y up, millimetres."""
    other = pytest.importorskip("c3d")
    names = [joint.replace("left_", "L").replace("right_", "R") for joint in H36M.joints]
    writer = other.Writer(point_rate=60, analog_rate=0, point_scale=1.0, point_units="mm", gen_scale=-1.0)
    writer.set_point_labels(names)
    poses = POSES * (1, -1, -1)
    for frame in poses:
        writer.add_frames([(np.hstack((frame * 1000, np.zeros((17, 2)))), np.array([]))])
    with open(tmp_path / "a.c3d", "wb") as file:
        writer.write(file)
    (sequence,) = open_data(tmp_path / "a.c3d")
    joints = [joint for joint in range(17) if H36M.joints[joint] != "neck"]
    np.testing.assert_allclose(sequence.poses[:, joints], poses[:, joints], atol=1.1e-3)  # whole millimetres
    assert sequence.up == "y" and sequence.fps == 60


@pytest.mark.parametrize("kind", ["integers", "MIPS", "DEC"])
def test_other_kinds(written, kind):
    """The file of a frame, put together by hand: scaled integers, bytes of a MIPS, floats of a DEC."""
    order = ">" if kind == "MIPS" else "<"

    def number(value):
        if kind != "DEC":
            return struct.pack(order + "f", value)
        low, high = struct.unpack("<HH", struct.pack("<f", value * 4))
        return struct.pack("<HH", high, low)

    scale = 0.5 if kind == "integers" else -1.0
    labels = "".join(joint.ljust(14) for joint in H36M.joints).encode()
    parameters = struct.pack("<bb5s", 5, -1, b"POINT") + struct.pack(order + "hB", 3, 0)
    for name, content in (("LABELS", struct.pack("<bBBB", -1, 2, 14, 17) + labels), ("RATE", b"\4\0" + number(50.0))):
        parameters += (
            struct.pack("<bb", len(name), 1) + name.encode() + struct.pack(order + "h", 3 + len(content)) + content + b"\0"
        )
    header = struct.pack("<BB", 2, 0x50) + struct.pack(order + "5H", 17, 0, 3, 3, 0)
    header += number(scale) + struct.pack(order + "2H", 3, 0) + number(50.0)
    block = bytes((1, 0x50, 1, {"MIPS": 86, "DEC": 85}.get(kind, 84))) + parameters
    values = np.concatenate((WORLD[0] * 1000, np.zeros((17, 1))), 1).reshape(-1)
    if kind == "integers":
        data = np.rint(values / scale).astype("<i2").tobytes()
    else:
        data = b"".join(map(number, values.tolist()))
    written.write_bytes(header.ljust(512, b"\0") + block.ljust(512, b"\0") + data.ljust(1024, b"\0"))
    file = c3d.read(written)
    assert file.labels == H36M.joints and (file.rate, file.first) == (50, 3)
    np.testing.assert_allclose(file.points[0], WORLD[0] * 1000, atol=0.3 if kind == "integers" else 1e-3)


def test_damaged(written):
    """Cut anywhere, or a byte changed: read, or refused with its name."""
    data = written.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(300):
        broken = bytearray(data[: rng.integers(len(data))] if number % 3 == 0 else data)
        broken[rng.integers(min(len(broken) + 1, 1600)) :][:1] = rng.bytes(1)
        if broken and number % 3:
            broken[rng.integers(len(broken))] = rng.integers(256)
        written.write_bytes(bytes(broken))
        try:
            (sequence,) = open_data(written)
            assert np.isfinite(sequence.poses).all()
        except (ValueError, KeyError) as error:
            assert "walk" in str(error)


def test_unknown_markers(written):
    data = written.read_bytes()
    for number, joint in enumerate(H36M.joints):
        data = data.replace(joint.ljust(14).encode(), f"M{number}".ljust(14).encode())
    written.write_bytes(data)
    with pytest.raises(ValueError, match="walk.c3d: no left shoulder, .* among the names M0, M1"):
        list(open_data(written))


def test_a_last_block_that_is_not_full(tmp_path):
    """Is no frame, where the header cannot count them."""
    write(tmp_path / "a.c3d", Sequence("a", poses=WORLD[:2], fps=50))
    data = bytearray((tmp_path / "a.c3d").read_bytes())
    struct.pack_into("<H", data, 8, 65535)
    (tmp_path / "a.c3d").write_bytes(bytes(data))
    (sequence,) = open_data(tmp_path / "a.c3d")
    np.testing.assert_allclose(sequence.poses, WORLD[:2], atol=1e-6)


def test_a_missing_marker_of_our_names(tmp_path):
    """Is filled in, and its frame marked."""
    poses = WORLD.copy()
    write(tmp_path / "a.c3d", Sequence("a", poses=poses, fps=50))
    data = bytearray((tmp_path / "a.c3d").read_bytes())
    start = 512 * (struct.unpack_from("<H", data, 16)[0] - 1)
    struct.pack_into("<4f", data, start + 16 * (2 * 17 + 12), 0, 0, 0, -1)  # the left elbow of the third frame
    (tmp_path / "a.c3d").write_bytes(bytes(data))
    (sequence,) = open_data(tmp_path / "a.c3d")
    assert sequence.valid.tolist() == [True, True, False, True, True]
    poses[2, 12] = (poses[1, 12] + poses[3, 12]) / 2
    np.testing.assert_allclose(sequence.poses, poses, atol=1e-6)


def test_bodies_that_contradict_the_axes_or_the_unit(tmp_path):
    for change, said in ((WORLD[..., [0, 2, 1]], "z points upwards in such files, but the bodies are along y"),
                         (WORLD / 1000, "a body of 0.00")):  # fmt: skip
        write(tmp_path / "a.c3d", Sequence("a", poses=change, fps=50))
        with pytest.warns(UserWarning, match=said):
            (sequence,) = open_data(tmp_path / "a.c3d")
    np.testing.assert_allclose(sequence.poses, WORLD, atol=1e-3)


def test_a_subject_before_the_names(tmp_path):
    path = write_by_ezc3d(tmp_path / "a.c3d", [f"Sub01_{joint}" for joint in H36M.joints], WORLD * 1000, unit="millimetres")
    (sequence,) = open_data(path)
    np.testing.assert_allclose(sequence.poses, WORLD, atol=1e-4)


def test_analog_values_alone(written):
    data = bytearray(written.read_bytes())
    struct.pack_into("<H", data, 2, 0)
    written.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="walk.c3d: no points, but 0 analog values"):
        list(open_data(written))
