"""TRC files as Pose2Sim, Sports2D and OpenCap write them."""

import numpy as np
import pytest

from lifter._notices import told
from lifter.data import open_data
from lifter.skeleton import H36M

from .test_loose import POSES

YUP = POSES * (1, -1, -1) + (0, 1.0, 0)
AT = {joint: YUP[:, number] for number, joint in enumerate(H36M.joints)}
LIMBS = {
    f"{letter}{part.title()}": AT[f"{side}_{part}"]
    for letter, side in (("R", "right"), ("L", "left"))
    for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
}
POSE2SIM = {
    "Hip": AT["pelvis"],
    **LIMBS,
    "Neck": AT["thorax"],
    "Head": AT["head"],
    "Nose": AT["neck"],
    "RBigToe": AT["right_ankle"],
}
OPENCAP = {
    "Neck": AT["thorax"],
    **LIMBS,
    "midHip": AT["pelvis"],
    "r.ASIS_study": AT["right_hip"],
    "RHJC_study": AT["right_hip"],
}


def write_trc(path, markers, first=0, fps=60, unit="m", start=0, blank=(), z=True):
    """Write a file as Pose2Sim's make_trc: tabs after the names, and nothing where a marker is missing."""
    frames = len(YUP)
    names = list(markers)
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        "\t".join(map(str, [fps, fps, frames, len(names), unit, fps, start, frames])),
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t\t",
        "\t\t" + "\t".join(f"X{i + 1}\tY{i + 1}\tZ{i + 1}" for i in range(len(names))) + "\t",
    ]
    for frame in range(frames):
        cells = [str(first + frame), str((first + frame) / fps)]
        for name, points in markers.items():
            x, y, depth = points[frame]
            cells += ["", "", ""] if (frame, name) in blank else [str(x), str(y), str(depth if z else 0.0)]
        lines.append("\t".join(cells))
    path.write_text("\n".join(lines) + "\n")
    return path


def world(points):
    return points[..., [0, 2, 1]] * (1, -1, 1)


def test_pose2sim(tmp_path):
    (sequence,) = open_data(write_trc(tmp_path / "walk_0-5.trc", POSE2SIM, blank=[(2, "RKnee"), (4, "RBigToe")]))
    expected = world(YUP)
    expected[:, 7] = (expected[:, 0] + expected[:, 8]) / 2  # the spine, which has no marker
    np.testing.assert_allclose(sequence.poses, expected, atol=1e-6)
    assert (sequence.fps, sequence.start, sequence.up) == (60, 0, "z")
    assert sequence.valid.tolist() == [True, True, False, True, True]


def test_opencap(tmp_path):
    """No head: it is put above the thorax, and this is said."""
    path = write_trc(tmp_path / "jump.trc", OPENCAP, first=1, start=1)
    with pytest.warns(UserWarning, match="jump.trc: no name for the head"):
        (sequence,) = open_data(path)
    limbs = [number for number, joint in enumerate(H36M.joints) if joint not in ("spine", "neck", "head")]
    np.testing.assert_allclose(sequence.poses[:, limbs], world(YUP)[:, limbs], atol=1e-6)
    thorax, neck, head = sequence.poses[0, [8, 9, 10], 2]
    assert sequence.start == 0 and thorax + 0.05 < neck < head - 0.05


def test_z_up(tmp_path):
    """Laboratories' files have z up."""
    markers = {name: world(points) * 1000 for name, points in POSE2SIM.items()}
    (sequence,) = open_data(write_trc(tmp_path / "x.trc", markers, unit="mm"))
    np.testing.assert_allclose(sequence.poses[:, :7], world(YUP)[:, :7], atol=1e-6)


def test_wrong_unit(tmp_path):
    """Metres that are called millimetres."""
    path = write_trc(tmp_path / "x.trc", POSE2SIM, unit="mm")
    with pytest.warns(UserWarning, match="x.trc: a body of 0.001.* m if the file's unit is right; taken as m"):
        (sequence,) = open_data(path)
    np.testing.assert_allclose(sequence.poses[:, :7], world(YUP)[:, :7], atol=1e-6)


def test_pixels(tmp_path):
    """Sports2D's file of pixels."""
    pixels = {name: points * 300 for name, points in POSE2SIM.items()}
    path = write_trc(tmp_path / "x_px.trc", pixels, z=False)
    with pytest.raises(ValueError, match="x_px.trc: all z are 0: these are places in an image"):
        list(open_data(path))


def test_missing_joints(tmp_path):
    some = {name: points for name, points in POSE2SIM.items() if name not in ("RWrist", "LHip")}
    with pytest.raises(ValueError, match="x.trc: no right wrist, left hip among the names Hip, RHip"):
        list(open_data(write_trc(tmp_path / "x.trc", some)))
    path = write_trc(tmp_path / "x.trc", POSE2SIM, blank=[(frame, "RKnee") for frame in range(5)])
    with pytest.raises(ValueError, match="x.trc: right_knee in none of 5 frames"):
        list(open_data(path))


def text(tmp_path):
    return write_trc(tmp_path / "a.trc", POSE2SIM, first=1).read_text()


def reread(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    said = []
    with told(said.append):
        return list(open_data(path)), "\n".join(said)


def test_as_others_write_it(tmp_path):
    """Decimal commas, commas between columns, other encodings and line ends, units in words, trailing tabs."""
    plain = text(tmp_path)
    head, rest = plain.split("\n", 1)
    commas = f"{head}\n{rest.replace('.', ',')}"
    variants = [
        (commas, "utf-8"),
        (plain.replace("\t", ","), "utf-8"),
        (plain, "utf-16"),
        (plain.replace("\n", "\r\n"), "utf-8-sig"),
    ]
    variants += [(plain.replace("\tm\t", f"\t{unit}\t"), "utf-8") for unit in ("meters", "Metre")]
    variants += [(plain.replace("\n", "\t\t\n"), "utf-8"), (plain.replace("Units", "units"), "utf-8")]
    for variant, encoding in variants:
        ((sequence,), said) = reread(tmp_path / "b.trc", variant, encoding)
        assert not said and sequence.fps == 60
        np.testing.assert_allclose(sequence.poses[:, 0], world(YUP)[:, 0], atol=1e-5)


def test_what_contradicts_itself_is_said(tmp_path):
    plain = text(tmp_path)
    ((sequence,), said) = reread(tmp_path / "b.trc", plain.replace("60\t60\t", "120\t60\t"))
    assert sequence.fps == 60 and "DataRate is 120, but the times are of 60" in said
    ((sequence,), said) = reread(tmp_path / "b.trc", plain[: plain.rstrip().rindex("\n") + 20])
    assert len(sequence) == len(YUP) - 1 and "1 of 5 frames left out" in said and "5 frames by its own words" in said


def test_gaps(tmp_path):
    """Frames that are not there are filled in and marked; after a long gap another sequence begins."""
    plain = text(tmp_path)
    for later, starts in ((6, [0]), (506, [0, 505])):
        lines = plain.splitlines()
        lines[-1] = "\t".join([str(later), str(later / 60), *lines[-1].split("\t")[2:]])
        found, said = reread(tmp_path / "b.trc", "\n".join(lines))
        assert [sequence.start for sequence in found] == starts
        assert ("no marker for more than 30 frames: read as 2 sequences" in said) == (len(starts) == 2)
        if len(starts) == 1:
            assert found[0].valid.tolist() == [True] * 4 + [False, True]
