"""Variants of files that people have: each is read as it is meant, or what was assumed is said."""

import gzip
import json
import warnings

import numpy as np
import pytest

from lifter._notices import told
from lifter.data import detect, files, open_data
from lifter.data.files import frame_rate, integer
from lifter.data.frames import frames_of
from lifter.data.keypoints import COCO
from lifter.data.names import without_prefix
from lifter.inference.sources import find_sources
from lifter.skeleton import H36M

from .conftest import save_json
from .test_loose import BODY, ONE, SIZE, clip, people_of
from .test_table import wide, write_csv

OTHER = clip(offset=250)
PELVIS, OTHERS = ONE[:, [11, 12], 0].mean(1), OTHER[:, [11, 12], 0].mean(1)


def read(path, size=SIZE):
    """([(first frame, pelvis x in each frame)] of each sequence, the sequences, what was said)."""
    said = []
    with told(said.append):
        found = list(open_data(path, size=size))
    return [(each.start, each.pixels()[:, 0, 0].tolist()) for each in found], found, "\n".join(said)


def assert_walk(path, *walks, said="", size=SIZE):
    """`walks`: (first frame, pelvis x); in order of these."""
    got, found, notices = read(path, size)
    assert sorted(got) == [(start, pytest.approx(list(x), abs=0.01)) for start, x in sorted(walks, key=str)]
    assert said in notices and bool(said) == bool(notices), notices
    return found


def entries(poses=ONE, **more):
    """AlphaPose's results; a function in `more` makes a value of the frame's number."""
    make = lambda number: {key: value(number) if callable(value) else value for key, value in more.items()}
    return [{"image_id": f"{n}.jpg", "keypoints": pose.reshape(-1).tolist(), **make(n)} for n, pose in enumerate(poses)]


def frames(poses=ONE, **more):
    """The same as people save them."""
    make = lambda number: {key: value(number) if callable(value) else value for key, value in more.items()}
    return [{**make(number), "keypoints": pose.tolist()} for number, pose in enumerate(poses)]


# ---- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [["a", "b"], [0.0, 1.0], [[[4]], [[5]]], [-1, -1], ["-1", "-1"], ["None", "None"]])
def test_ids(tmp_path, ids):
    """Texts, floats and lists are ids; -1 and words for nobody are none."""
    assert_walk(save_json(tmp_path / "x.json", entries(idx=ids[0]) + entries(OTHER, idx=ids[1])), (0, PELVIS), (0, OTHERS))


def test_ids_that_never_recur(tmp_path):
    data = entries(idx=lambda n: 2 * n) + entries(OTHER, idx=lambda n: 2 * n + 1)
    path = save_json(tmp_path / "x.json", data)
    assert_walk(path, (0, PELVIS), (0, OTHERS), said="none of which is in two frames: people are followed by place")


TWO = tuple(enumerate((ONE, OTHER)))


@pytest.mark.parametrize(
    "data",
    [
        {"person_1": ONE.tolist(), "person_2": OTHER.tolist()},
        {"tracks": [{"track_id": n, "keypoints": poses.tolist()} for n, poses in TWO]},
        {"people": [{"id": n, "frames": poses.tolist()} for n, poses in TWO]},
        [person for n, poses in TWO for person in frames(poses, frame=lambda number: number, person=n)],
    ],
)
def test_people_before_frames(tmp_path, data):
    assert_walk(save_json(tmp_path / "x.json", data), (0, PELVIS), (0, OTHERS))


def test_rows_of_people_without_ids(tmp_path):
    """A joint that is there twice in a frame is another person's."""
    rows = [["frame", "keypoint", "x", "y"]]
    rows += [[n, name, *xy[:2]] for n, pair in enumerate(zip(ONE, OTHER)) for pose in pair for name, xy in zip(COCO, pose)]
    assert_walk(write_csv(tmp_path / "x.csv", rows), (0, PELVIS), (0, OTHERS))


def test_prefixes():
    assert without_prefix(["Sub01_LSHO", "Sub01_RSHO"]) == ["LSHO", "RSHO"]
    assert without_prefix(["PoseLandmark.NOSE", "PoseLandmark.LEFT_EYE"]) == ["NOSE", "LEFT_EYE"]
    assert without_prefix(["left_hip", "left_knee"]) == ["hip", "knee"] and without_prefix(["a.b"]) == ["a.b"]


# ---- frames, times, rates, sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["frameNo", "Frame", "frame number", "FrameIndex", "image_name"])
def test_keys_without_case_and_marks(tmp_path, key):
    label = (lambda n: f"img_{n + 5:04}.png") if key == "image_name" else (lambda n: n + 5)
    assert_walk(save_json(tmp_path / "x.json", {"frames": frames(**{key: label})}), (5, PELVIS))
    assert_walk(write_csv(tmp_path / "x.csv", wide(ONE, COCO, head=(key,), cells=lambda n: (label(n),))), (5, PELVIS))


def test_arrays_of_frames_and_times(tmp_path):
    """Beside keypoints, in JSON and npz, with gaps."""
    gap = clip(8)[[0, 1, 2, 5, 6, 7]]
    x = clip(8)[:, [11, 12], 0].mean(1)
    numbers = [30, 31, 32, 35, 36, 37]
    save_json(tmp_path / "x.json", {"frame_ids": numbers, "keypoints": gap.tolist()})
    np.savez(tmp_path / "x.npz", keypoints=gap, frame_ids=numbers)
    np.savez(tmp_path / "times.npz", keypoints=gap, timestamps=np.array(numbers) / 25)
    for name, start in (("x.json", 30), ("x.npz", 30), ("times.npz", 0)):
        (found,) = assert_walk(tmp_path / name, (start, x))
        assert found.fps == (25 if name == "times.npz" else None)


@pytest.mark.parametrize("time", ["{:.2f}", "00:00:00.{:03.0f}", "2024-10-01T12:00:00.{:03.0f}Z"])
def test_times_as_text(tmp_path, time):
    write = lambda n: time.format(n / 25 if time == "{:.2f}" else 40 * n)
    (found,) = assert_walk(save_json(tmp_path / "x.json", frames(timestamp=write)), (0, PELVIS))
    assert found.fps == 25


RATES = {"25": 25, "30000/1001": 30000 / 1001, (30000, 1001): 30000 / 1001, "29.97 fps": 29.97, 25: 25}
NO_RATES = (0, 1e9, "25/0", "fast", True, float("nan"), [], None)


@pytest.mark.parametrize("value, wanted", [*RATES.items(), (np.array([25.0]), 25), *((value, None) for value in NO_RATES)])
def test_rates(value, wanted):
    assert frame_rate(value) == (None if wanted is None else pytest.approx(wanted))


NUMBERS = [(12, 12), (12.0, 12), ("12", 12), ("-3", -3), (1.5, None), ("x", None), (True, None), (None, None)]


@pytest.mark.parametrize("value, wanted", NUMBERS)
def test_whole_numbers(value, wanted):
    assert integer(value) == wanted


@pytest.mark.parametrize(
    "told",
    [
        {"width": "640", "height": "480"},
        {"size": {"width": 640, "height": 480}},
        {"image_shape": [480, 640, 3]},
        {"resolution": "640x480"},
        {"canvas_width": 640, "canvas_height": 480},
        {"Image Size": [640, 480]},
    ],
)
def test_sizes(tmp_path, told):
    """The size is of the whole file, or of each frame."""
    for data in ({**told, "fps": "25", "frames": ONE.tolist()}, frames(frame=lambda n: n, fps=25, **told)):
        (found,) = assert_walk(save_json(tmp_path / "x.json", data), (0, PELVIS), size=None)
        assert found.size == SIZE and found.fps == 25


def test_frames_of_different_sizes(tmp_path):
    path = save_json(tmp_path / "x.json", frames(frame=lambda n: n, width=lambda n: 640 + n, height=480))
    with pytest.raises(ValueError, match="x.json: images of 4 different sizes"):
        open_data(path)


def test_videos_and_cameras_of_frames(tmp_path):
    """Two cameras see one place each in the same frames."""
    near = clip(offset=20)
    data = frames(frame=lambda n: n, camera=1) + frames(near, frame=lambda n: n, camera=2)
    assert_walk(save_json(tmp_path / "x.json", data), (0, PELVIS), (0, near[:, [11, 12], 0].mean(1)))


@pytest.mark.parametrize(
    "names, wanted",
    [
        ([f"frame_{n:04}_jpg.rf.{hash}.jpg" for n, hash in enumerate(("3fa9", "b2", "c9d", "e1", "77a"))], [0, 1, 2, 3, 4]),
        ([f"img_2024_10_01_{n:06}.jpg" for n in (123, 124, 125, 126)], [123, 124, 125, 126]),
    ],
)
def test_names_with_other_digits(names, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert frames_of(names, "file") == [("", number) for number in wanted]


def test_frame_ids_that_are_all_the_same(tmp_path):
    data = [{"frame_id": 0, "instances": [{"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist()}]} for p in ONE]
    assert_walk(save_json(tmp_path / "x.json", {"instance_info": data}), (0, PELVIS), said="frames are counted")


def test_some_frames_without_a_number(tmp_path):
    data = frames(frame=lambda n: n + 5)
    del data[2]["frame"]
    path = save_json(tmp_path / "x.json", data)
    assert_walk(path, (0, PELVIS), said="1 of 4 frames have no number: all are counted")


def test_numbered_frames_without_anybody(tmp_path):
    """They do not take the others' numbers away."""
    nobody = [{"frame": 3, "keypoints": []}, {"frame": 4, "keypoints": None}, None]
    assert_walk(save_json(tmp_path / "x.json", [*nobody, *frames(frame=lambda n: n + 5)]), (5, PELVIS))


# ---- what the numbers are --------------------------------------------------------------------------------------------


def test_shares_beside_pixels(tmp_path):
    poses = ONE.copy()
    poses[2:] /= (*SIZE, 1)
    path = save_json(tmp_path / "x.json", entries(poses))
    assert_walk(path, (0, PELVIS), said="2 of 4 bodies are read as shares of the image, which the others are not")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda p: p * (100 / 640, 100 / 480, 1), "are they percentages?"),
        (lambda p: p - (320, 0, 0) - (120, 0, 0), "x is from -1"),
        (lambda p: p * (1, -1, 1) + (0, 480, 0), "upside down in nearly all frames"),
        (lambda p: p[..., [1, 0, 2]], "lying in nearly all frames"),
        (lambda p: p * (1, 1, 0), "read without confidences"),
    ],
)
def test_doubts_are_said(tmp_path, change, said):
    for path in (save_json(tmp_path / "x.json", entries(change(ONE))), save_json(tmp_path / "y.json", change(ONE).tolist())):
        assert said in read(path)[2]
    assert read(save_json(tmp_path / "x.json", entries()))[2] == ""


@pytest.mark.parametrize("nowhere", [(-1, -1, 0.9), (-999, -999, 0.9), (0, 0, 0.9), (None, None, None)])
def test_missing_joints(tmp_path, nowhere):
    data = entries()
    for frame in (1, 2):
        data[frame]["keypoints"][9 * 3 : 10 * 3] = nowhere  # the left wrist
    (found,) = assert_walk(save_json(tmp_path / "x.json", data), (0, PELVIS))
    np.testing.assert_allclose(found.pixels()[:, 13, 0], ONE[:, 9, 0], atol=0.01)


def test_joints_without_names_in_detectors_files(tmp_path):
    """The order of 17 joints is detected from bone lengths."""
    at = dict(zip(COCO, BODY)) | {
        "pelvis": BODY[11:13].mean(0),
        "thorax": BODY[5:7].mean(0),
        "head": (300, 95),
        "neck": BODY[0],
    }
    at["spine"] = (at["pelvis"] + at["thorax"]) / 2
    pose = np.array([(*at[joint], 0.75) for joint in H36M.joints])
    poses = pose + np.arange(4)[:, None, None] * (2, 0, 0)
    assert_walk(save_json(tmp_path / "x.json", entries(poses)), (0, PELVIS), said="in the order of h36m")


# ---- arrays ----------------------------------------------------------------------------------------------------------

AXES = {
    "(T, C, J)": ONE.transpose(0, 2, 1),
    "(C, T, J)": ONE.transpose(2, 0, 1),
    "(J, C, T)": ONE.transpose(1, 2, 0),
    "(1, C, T, J, 1)": ONE.transpose(2, 0, 1)[None, ..., None],
    "all x, all y": ONE[..., :2].transpose(0, 2, 1).reshape(4, -1),
    "all x, all y, all c": ONE.transpose(0, 2, 1).reshape(4, -1),
    "Fortran": np.asfortranarray(ONE),
    "half": ONE.astype(np.float16),
    "big-endian": ONE.astype(">f4"),
}


@pytest.mark.parametrize("form", AXES)
def test_axes(tmp_path, form):
    np.save(tmp_path / "x.npy", AXES[form])
    same = form in ("Fortran", "half", "big-endian")
    assert_walk(tmp_path / "x.npy", (0, PELVIS), said="" if same else "read as")


def test_axes_of_two_people(tmp_path):
    two = np.stack((ONE, OTHER)).transpose(3, 1, 2, 0)[None]
    np.save(tmp_path / "x.npy", two)
    assert_walk(tmp_path / "x.npy", (0, PELVIS), (0, OTHERS), said="coordinates, frames, joints, people")
    np.save(tmp_path / "y.npy", np.zeros((8, 24, 6)))
    with pytest.raises(ValueError, match=r"y.npy: shape \(8, 24, 6\), expected \(T, J, 2 or 3\)"):
        open_data(tmp_path / "y.npy")


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_encodings(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "x.json").write_bytes((mark + json.dumps(entries())).encode(encoding))
    assert_walk(tmp_path / "x.json", (0, PELVIS))
    write_csv(tmp_path / "x.csv", wide(ONE, COCO))
    (tmp_path / "y.csv").write_bytes((mark + (tmp_path / "x.csv").read_text()).encode(encoding))
    assert_walk(tmp_path / "y.csv", (0, PELVIS))


def test_several_values(tmp_path):
    """In lines or not; broken ones are left out."""
    path = tmp_path / "x.json"
    path.write_text("\n\n".join(json.dumps(entry, indent=1) for entry in entries()))
    assert_walk(path, (0, PELVIS))
    path.write_text(json.dumps(entries()[:2]) + json.dumps(entries()[2:]))
    assert_walk(path, (0, PELVIS))
    lines = [json.dumps(entry) for entry in entries()]
    path.write_text("\n".join([*lines[:2], lines[2][:30], lines[3]]))
    assert_walk(path, (0, PELVIS), said="1 of 4 values left out")
    path.write_text("\n".join(lines)[:-9])
    assert_walk(path, (0, PELVIS[:3]), said="1 of 4 values left out")
    path.write_text(json.dumps(entries()) + "}, garbage")
    with pytest.raises(ValueError, match="x.json: "):
        open_data(path, size=SIZE)


def test_gzip_of_several_parts(tmp_path, monkeypatch):
    """Wherever the first one ends in what is read at once."""
    text = json.dumps(entries()).encode()
    first = gzip.compress(text[:500])
    (tmp_path / "x.json.gz").write_bytes(first + gzip.compress(text[500:]))
    for step in (len(first) - 1, len(first), len(first) + 1, 2**16):
        monkeypatch.setattr(files, "STEP", step)
        assert_walk(tmp_path / "x.json.gz", (0, PELVIS))


@pytest.mark.parametrize(
    "start, what", [("version https://git-lfs.github.com/spec/v1\n", "Git LFS"), ("<!DOCTYPE html>", "a web page")]
)
def test_what_stands_for_a_file(tmp_path, start, what):
    (tmp_path / "x.bvh").write_text(start)
    with pytest.raises(ValueError, match=f"x.bvh: {what}|x.bvh: a pointer of {what}"):
        detect(tmp_path / "x.bvh")


def table(change=str, delimiter=",", head="frame"):
    """The text of a CSV file, whose numbers `change` writes."""
    rows = list(wide(ONE, COCO, head=(head,), cells=lambda n: (n,)))
    return "\n".join(delimiter.join(c if isinstance(c, str) else change(c) for c in row) for row in rows) + "\n"


comma = lambda number: str(number).replace(".", ",")
TABLES = {
    "decimal commas": table(comma, ";"),
    "decimal commas and tabs": table(comma, "\t"),
    "spaces": table(delimiter=", "),
    "a comment": "# made by someone\n" + table(),
    "for Excel": "sep=;\n" + table(delimiter=";"),
    "a title": "Video: a.mp4,,\n\n" + table(),
    "joints by falling numbers": None,
    "names with brackets": None,
    "names that end in capitals": None,
}


@pytest.mark.parametrize("form", TABLES)
def test_tables(tmp_path, form):
    path = tmp_path / "x.csv"
    if (text := TABLES[form]) is not None:
        path.write_text(text)
    elif form == "joints by falling numbers":
        write_csv(path, wide(ONE[:, ::-1], [f"kpt{number}" for number in range(16, -1, -1)]))
    else:
        camel = lambda name, axis: "".join(map(str.title, name.split("_"))) + axis.upper()
        name = (lambda name, axis: f"{name} ({axis})") if "brackets" in form else camel
        head = [name(joint, axis) for joint in COCO for axis in "xy"]
        write_csv(path, [head, *ONE[..., :2].reshape(4, -1).tolist()])
    assert_walk(path, (0, PELVIS))


def test_a_short_row(tmp_path):
    text = table()
    (tmp_path / "x.csv").write_text(text[: text.rstrip().rindex("\n") + 40])
    assert_walk(tmp_path / "x.csv", (0, PELVIS[:3]), said="1 of 5 rows left out")


# ---- COCO ------------------------------------------------------------------------------------------------------------


def coco(**more):
    images = [{"id": f"{n:03}", "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(4)]
    annotations = [
        {"id": n, "image_id": f"{n:03}", "category_id": 1, "keypoints": (pose * (1, 1, 2 / 0.75)).reshape(-1).tolist()}
        for n, pose in enumerate(ONE)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": COCO}],
        **more,
    }


def test_coco(tmp_path):
    """Ids that are texts, a rate in `info`, numbers of frames under other keys, animals beside people."""
    (found,) = assert_walk(save_json(tmp_path / "x.json", coco(info={"fps": "25"})), (0, PELVIS), size=None)
    assert found.fps == 25
    data = coco()
    for number, image in enumerate(data["images"]):
        image |= {"frame_index": str(number + 10)}
    assert_walk(save_json(tmp_path / "x.json", data), (10, PELVIS), size=None)
    data = coco()
    data["categories"].append({"id": 2, "name": "dog", "keypoints": ["paw"] * 17})
    data["annotations"] += [{**entry, "category_id": 2} for entry in data["annotations"]]
    said = "4 of 8 annotations left out; the first: "
    assert_walk(save_json(tmp_path / "x.json", data), (0, PELVIS), size=None, said=said)
    data = coco()
    data["images"][1]["id"] = "000"
    with pytest.raises(ValueError, match="several have the id 0"):
        open_data(save_json(tmp_path / "x.json", data))


# ---- folders ---------------------------------------------------------------------------------------------------------


def folder(path, content=lambda pose: people_of([pose]), name="frame_{:04}.json"):
    for number, pose in enumerate(ONE):
        save_json(path / name.format(number), content(pose))
        (path / f"._{name.format(number)}").write_bytes(b"\0\5\x16\7")  # of macOS
    (path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11")
    return path


def assert_one_clip(path, tmp_path, *walks, said=""):
    assert_walk(path, *walks, said=said)
    assert len(find_sources([path], tmp_path / "out")) == 1


def test_folders_whose_files_are_called_as_people(tmp_path):
    """Each is a frame all the same, also of two people; the size stands in each."""
    for number, pair in enumerate(zip(ONE, OTHER)):
        save_json(tmp_path / "a" / f"person_{number:04}.json", {"width": 640, "height": 480, "people": people_of(pair)})
    assert_walk(tmp_path / "a", (0, PELVIS), (0, OTHERS), size=None)
    data = {f"person_{number:04}.jpg": people_of(pair) for number, pair in enumerate(zip(ONE, OTHER))}
    assert_walk(save_json(tmp_path / "x.json", data), (0, PELVIS), (0, OTHERS))


@pytest.mark.parametrize("name", ["frame_{:04}.json", "{:012}_keypoints.json", "{:06}.json"])
def test_folders_with_hidden_files(tmp_path, name):
    flat = lambda pose: {"people": [{"pose_keypoints_2d": pose.reshape(-1).tolist()}]}
    assert_one_clip(
        folder(tmp_path / "a", name=name, **({"content": flat} if "frame" not in name else {})), tmp_path, (0, PELVIS)
    )


def test_folders_with_other_files(tmp_path):
    """A broken one, one of another kind, frames without anybody, compressed ones, arrays."""
    path = folder(tmp_path / "a")
    save_json(path / "config.json", {"threshold": 0.3})
    (path / "frame_0002.json").write_text("{bad")
    assert_one_clip(path, tmp_path, (0, PELVIS), said="1 of 4 files left out")
    path = folder(tmp_path / "b")
    save_json(path / "frame_0000.json", [])
    assert_one_clip(path, tmp_path, (1, PELVIS[1:]))
    for number, pose in enumerate(ONE):
        (tmp_path / "c").mkdir(exist_ok=True), (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "c" / f"{number}.json.gz").write_bytes(gzip.compress(json.dumps(people_of([pose])).encode()))
        np.save(tmp_path / "d" / f"{number}.npy", pose)
    for name in "cd":
        assert_one_clip(tmp_path / name, tmp_path, (0, PELVIS))


def test_yolo_whose_first_frames_are_empty(tmp_path):
    for number, pose in enumerate(ONE):
        values = " ".join(f"{value:.6f}" for value in (pose / (*SIZE, 1)).reshape(-1))
        (tmp_path / f"v_{number + 4}.txt").write_text(f"0 0.5 0.5 0.1 0.3 {values}\n")
        (tmp_path / f"v_{number}.txt").write_text("")
        (tmp_path / f"._v_{number + 4}.txt").write_bytes(b"\0\5")
    assert_walk(tmp_path, (4, PELVIS))
