"""BVH files of common rigs: joints by name and by place, axes, units, frames per second, several people."""

import gzip
import re
import warnings

import numpy as np
import pytest

from lifter.data import open_data, write
from lifter.data.formats import bvh
from lifter.skeleton import H36M

# A body that stands, in centimetres with y up: (joint, parent, offset). Each rig has names of its own for these.
BODY = [
    ("hips", None, (0, 95, 0)), ("spine", "hips", (0, 10, 0)), ("chest", "spine", (0, 18, 0)), ("neck", "chest", (0, 22, 0)),
    ("head", "neck", (0, 10, 0)), ("top", "head", (0, 18, 0)),
    *((f"{side} {part}", parent and f"{side} {parent}" or "chest" if part != "thigh" else "hips", (sign * x, y, 0))
      for side, sign in (("left", 1), ("right", -1)) for part, parent, x, y in (
          ("clavicle", "", 4, 18), ("arm", "clavicle", 13, 0), ("forearm", "arm", 28, 0), ("hand", "forearm", 25, 0),
          ("thigh", "", 10, 0), ("shin", "thigh", 0, -43), ("foot", "shin", 0, -43))),
]  # fmt: skip
PARTS = ("clavicle", "arm", "forearm", "hand", "thigh", "shin", "foot")


def rig(middle, sided, name):
    """{our name: the rig's}: of hips, spine, chest, neck, head and top, and of the parts of a side by `name(side, part)`."""
    names = dict(zip(("hips", "spine", "chest", "neck", "head", "top"), middle.split()))
    return names | {f"{side} {a}": name(side, b) for side in ("left", "right") for a, b in zip(PARTS, sided.split())}


RIGS = {
    "mixamo": rig("Hips Spine Spine1 Neck Head HeadTop_End", "Shoulder Arm ForeArm Hand UpLeg Leg Foot",
                  lambda side, part: f"mixamorig:{side.title()}{part}"),
    "unreal": rig("pelvis spine_01 spine_02 neck_01 head head_end", "clavicle upperarm lowerarm hand thigh calf foot",
                  lambda side, part: f"{part}_{side[0]}"),
    "daz": rig("hip abdomenLower chestLower neckLower head top", "Collar ShldrBend ForearmBend Hand ThighBend Shin Foot",
               lambda side, part: f"{side[0]}{part}"),
    "rigify": rig("DEF-spine DEF-spine.001 DEF-spine.003 DEF-neck DEF-head DEF-head_end",
                  "shoulder upper_arm forearm hand thigh shin foot", lambda side, part: f"DEF-{part}.{side[0].upper()}"),
    "vroid": rig("J_Bip_C_Hips J_Bip_C_Spine J_Bip_C_Chest J_Bip_C_Neck J_Bip_C_Head J_Bip_C_HeadEnd",
                 "Shoulder UpperArm LowerArm Hand UpperLeg LowerLeg Foot",
                 lambda side, part: f"J_Bip_{side[0].upper()}_{part}"),
    "smpl": rig("Pelvis Spine1 Spine2 Neck Head Head_end", "Collar Shoulder Elbow Wrist Hip Knee Ankle",
                lambda side, part: f"{side[0].upper()}_{part}"),
    "biped": rig("Bip01 Bip01_Spine Bip01_Spine1 Bip01_Neck Bip01_Head Bip01_HeadNub",
                 "Clavicle UpperArm Forearm Hand Thigh Calf Foot", lambda side, part: f"Bip01 {side[0].upper()} {part}"),
    "xsens": rig("Hips Chest Chest2 Neck Head Head_end", "Collar Shoulder Elbow Wrist Hip Knee Ankle",
                 lambda side, part: f"{side.title()}{part}"),
    "makehuman": rig("root spine05 spine03 neck01 head head_end",
                     "clavicle upperarm01 lowerarm01 wrist upperleg01 lowerleg01 foot",
                     lambda side, part: f"{part}.{side[0].upper()}"),
    "small letters": rig("hips spine chest neck head headend", "collar upperarm forearm hand upleg leg foot",
                         lambda side, part: f"{side}{part}"),
}  # fmt: skip


def write_rig(path, names, turn=None, scale=1.0, channels=("Zrotation", "Xrotation", "Yrotation")):
    order = [joint for joint, *_ in BODY]
    parents = [-1 if parent is None else order.index(parent) for _, parent, _ in BODY]
    offsets = np.array([offset for *_, offset in BODY], float) @ (np.eye(3) if turn is None else turn).T * scale
    moving = ("Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation")
    all_channels = [moving, *[channels] * (len(BODY) - 1)]
    motion = np.zeros((2, sum(map(len, all_channels))))
    motion[:, :3] = offsets[0]
    bvh.write(
        path, bvh.Bvh(tuple(names[joint] for joint in order), tuple(parents), offsets, tuple(all_channels), motion, 0.04)
    )


def check_standing(path, heights=(0.95, 1.05, 1.45, 1.55, 1.73, 0.52, 0.09, 1.41)):
    (sequence,) = open_data(path)
    joints = ("pelvis", "spine", "thorax", "neck", "head", "left_knee", "right_ankle", "left_elbow")
    got = dict(zip(H36M.joints, sequence.poses[0]))
    spine = 1.23 if got["spine"][2] > 1.1 else 1.05  # of two that are as near to the middle, one
    np.testing.assert_allclose([got[joint][2] for joint in joints], [heights[0], spine, *heights[2:]], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got["left_shoulder"] - got["right_shoulder"]), 0.34, atol=1e-4)
    return got


@pytest.mark.parametrize("name", RIGS)
def test_names_of_rigs(tmp_path, name):
    write_rig(tmp_path / "x.bvh", RIGS[name])
    got = check_standing(tmp_path / "x.bvh")
    assert got["left_hip"][0] == pytest.approx(0.1) and got["right_wrist"][0] == pytest.approx(-0.7)


SYNTAX = {
    "byte-order mark": lambda text: "\ufeff" + text, "small letters": str.lower, "capitals": str.upper, "one line": str.split,
    "EndSite": lambda text: text.replace("End Site", "EndSite"),
    "UTF-16": lambda text: text.encode("utf-16"), "gzip": lambda text: gzip.compress(text.encode()),
    "name of an end": lambda text: text.replace("End Site", "End site Tip"),
    "comments": lambda text: "# by X\n" + text.replace("MOTION", "// moves\nMOTION").replace("0.04\n", "0.04\n# rows\n"),
    "colons": lambda text: text.replace("Frames: ", "Frames :").replace("Time: ", "Time:"),
    "decimal commas": lambda text: text.replace("0.04", "0,04").replace("OFFSET 0 10 0", "OFFSET 0 10,0 0"),
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "channels first": lambda text: re.sub(r"(OFFSET.*)\n(\s*CHANNELS.*)\n", r"\2\n\1\n", text),
}  # fmt: skip


@pytest.mark.parametrize("name", SYNTAX)
def test_syntax(tmp_path, name):
    """A file as other programs write it."""
    write_rig(tmp_path / "x.bvh", RIGS["small letters"])
    text = SYNTAX[name]((tmp_path / "x.bvh").read_text())
    text = " ".join(text) if isinstance(text, list) else text
    (tmp_path / "x.bvh").write_bytes(text.encode() if isinstance(text, str) else text)
    check_standing(tmp_path / "x.bvh")


@pytest.mark.parametrize("up", ["x", "-x", "y", "-y", "z", "-z"])
def test_up_is_measured(tmp_path, up):
    """Whatever axis is up in the file, and in whatever unit."""
    turns = {"y": np.eye(3), "z": [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "x": [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]}
    turn = np.array(turns[up[-1]]) @ (np.diag([-1, -1, 1]) if up[0] == "-" else np.eye(3))
    for scale in (0.01, 1, 10, 1 / 2.54):
        write_rig(tmp_path / "x.bvh", RIGS["mixamo"], turn, scale)
        check_standing(tmp_path / "x.bvh")


def test_positions_that_are_none(tmp_path):
    """Six channels on every joint, of which the positions are never written."""
    moving = ("Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation")
    write_rig(tmp_path / "x.bvh", RIGS["mixamo"], channels=moving)
    with pytest.warns(UserWarning, match="position channels of 19 joints are all 0"):
        check_standing(tmp_path / "x.bvh")


def test_a_unit_that_is_doubtful(tmp_path):
    write_rig(tmp_path / "x.bvh", RIGS["mixamo"], scale=0.25)
    with pytest.warns(UserWarning, match="x.bvh: a body of 41 units is read as one of 2.31 m; --unit tells"):
        list(open_data(tmp_path / "x.bvh"))
    assert next(iter(open_data(tmp_path / "x.bvh", unit=0.04))).poses[0, 10, 2] == pytest.approx(1.73)


def test_frames_per_second_are_not_invented(tmp_path):
    write_rig(tmp_path / "x.bvh", RIGS["mixamo"])
    text = (tmp_path / "x.bvh").read_text().replace("Frame Time: 0.04", "Frame Time: 0")
    (tmp_path / "x.bvh").write_text(text)
    with pytest.warns(UserWarning, match="the frames per second are not known; --fps tells them"):
        (unknown,), (told,) = open_data(tmp_path / "x.bvh"), open_data(tmp_path / "x.bvh", fps=25)
    assert unknown.fps is None and told.fps == 25
    for name in ("y.bvh", "y.trc"):
        with pytest.warns(UserWarning, match="x: the frames per second are not known: written as 30"):
            write(tmp_path / name, unknown)


@pytest.mark.parametrize("time", ["25", "33.333", "1.5"])
def test_a_frame_time_that_is_none(tmp_path, time):
    """Frames per second, or milliseconds."""
    write_rig(tmp_path / "x.bvh", RIGS["mixamo"])
    text = (tmp_path / "x.bvh").read_text().replace("Frame Time: 0.04", f"Frame Time: {time}")
    (tmp_path / "x.bvh").write_text(text)
    with pytest.warns(UserWarning, match=f"frame time {time}: the frames per second are not known"):
        (sequence,) = open_data(tmp_path / "x.bvh")
    assert sequence.fps is None


def test_angles_that_may_be_radians(tmp_path):
    write_rig(tmp_path / "x.bvh", RIGS["mixamo"])
    text = (tmp_path / "x.bvh").read_text()
    for angle, doubt in (("1.57", True), ("90", False), ("0.01", False)):
        (tmp_path / "x.bvh").write_text(text.replace("0 95 0 0", f"0 95 0 {angle}"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(open_data(tmp_path / "x.bvh"))
        assert any("are they radians?" in str(each.message) for each in caught) == doubt


def test_a_prefix_of_all_names(tmp_path):
    write_rig(tmp_path / "x.bvh", {joint: f"Armature_{name}" for joint, name in RIGS["mixamo"].items()})
    check_standing(tmp_path / "x.bvh")


def test_two_roots(tmp_path):
    """Two people of one file are two sequences."""
    write_rig(tmp_path / "x.bvh", RIGS["mixamo"])
    head, _, motion = (tmp_path / "x.bvh").read_text().partition("MOTION\n")
    frames, time, *rows = motion.splitlines()
    second = head.partition("HIERARCHY\n")[2]
    rows = [f"{row} 100 {row.partition(' ')[2]}" for row in rows]
    (tmp_path / "x.bvh").write_text("\n".join([head + second + "MOTION", frames, time, *rows]))
    one, other = open_data(tmp_path / "x.bvh")
    assert (one.name, other.name) == ("x/0", "x/1")
    np.testing.assert_allclose(other.poses - one.poses, np.broadcast_to([1.0, 0, 0], one.poses.shape), atol=1e-5)
