"""Keypoints and 3D poses as people save them: what is read is the same in every form."""

import gzip
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifter.data import detect, open_data
from lifter.data.keypoints import COCO, LAYOUTS, to_h36m
from lifter.data.mocap import film, y_up
from lifter.inference.sources import find_sources
from lifter.skeleton import H36M

from .conftest import save_json
from .test_damaged import OTHER, nodes, replaced
from .test_detectors import expected, landmarks

SIZE = (640, 480)
# Somebody who stands, COCO's joints.
BODY = np.array(
    [
        (300, 110), (305, 105), (295, 105), (310, 108), (290, 108), (320, 130), (280, 130), (328, 160), (272, 160), (330, 190),
        (270, 190), (312, 200), (288, 200), (313, 245), (287, 245), (314, 290), (286, 290),
    ],
    np.float64,
)  # fmt: skip


def clip(frames=4, offset=0.0, joints=17):
    """(T, J, 3) of somebody who walks to the right, with confidences."""
    body = BODY
    if joints == 33:
        body = np.tile(BODY[:1], (33, 1))
        body[list(LAYOUTS["mediapipe"].coco)] = BODY
    moved = body + np.arange(frames)[:, None, None] * (2, 0) + (offset, 0)
    return np.concatenate((moved, np.full((frames, len(body), 1), 0.75)), -1)


def people_of(poses, **more):
    """ultralytics' Results.summary() of a frame."""
    return [
        {
            "name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 1.0, "y1": 1.0, "x2": 9.0, "y2": 9.0}, **more,
            "keypoints": {"x": pose[:, 0].tolist(), "y": pose[:, 1].tolist(), "visible": pose[:, 2].tolist()},
        }
        for pose in poses
    ]  # fmt: skip


def named(pose):
    return [{"y": y, "x": x, "score": c, "name": name} for name, (x, y, c) in zip(COCO, pose.tolist())]


def parts(pose):
    return [{"part": name, "score": c, "position": {"x": x, "y": y}} for name, (x, y, c) in zip(COCO, pose.tolist())]


def columns(pose, short=False):
    """Joints by names, as "left_hip" or "LHip"."""
    names = [name.replace("left_", "L ").replace("right_", "R ").title().replace(" ", "") for name in COCO] if short else COCO
    return {name: {"x": x, "y": y, "score": c} for name, (x, y, c) in zip(names, pose.tolist())}


ONE = clip()
JSON = {
    "ultralytics, a list of results": [people_of([pose]) for pose in ONE],
    "ultralytics, results one after another": [person for pose in ONE for person in people_of([pose])],
    "ultralytics, texts": [json.dumps(people_of([pose])) for pose in ONE],
    "names apart": {"keypoint_names": list(COCO)[::-1], "frames": ONE[:, ::-1].tolist()},
    "ultralytics, lines": "\n".join(json.dumps(people_of([pose])) for pose in ONE),
    "by frames": {str(number): people_of([pose]) for number, pose in enumerate(ONE)},
    "by names of frames": {f"frame_{number:04}.jpg": people_of([pose]) for number, pose in enumerate(ONE)},
    "frames in a dict": {"fps": 25, "frames": [{"frame": n, "people": people_of([pose])} for n, pose in enumerate(ONE)]},
    "a person in each row": [{"frame_id": number, "keypoints": pose.tolist()} for number, pose in enumerate(ONE)],
    "rows and scores": [{"frame": n, "keypoints": p[:, :2].tolist(), "scores": p[:, 2].tolist()} for n, p in enumerate(ONE)],
    "people of rtmlib": [{"keypoints": [p[:, :2].tolist()], "scores": [p[:, 2].tolist()]} for p in ONE],
    "lists": ONE.tolist(),
    "lists of people": ONE[:, None].tolist(),
    "rows of numbers": ONE.reshape(4, -1).tolist(),
    "lines of lists": "\n".join(json.dumps({"frame": n, "keypoints": [pose.tolist()]}) for n, pose in enumerate(ONE)),
    "a list around each body": [{"frame_id": n, "persons": [{"keypoints": [pose.tolist()]}]} for n, pose in enumerate(ONE)],
    "by times": {f"{number / 25:.3f}": people_of([pose]) for number, pose in enumerate(ONE)},
    "MoveNet": [[{"keypoints": named(pose), "score": 0.8}] for pose in ONE],
    "MoveNet, one": [{"keypoints": named(pose), "score": 0.8} for pose in ONE],
    "PoseNet": [{"score": 0.9, "keypoints": parts(pose)} for pose in ONE],
    "names in another order": [{"keypoints": named(pose)[::-1]} for pose in ONE],
    "a dict of joints": [{"timestamp": 0.04 * number, "pose": columns(pose)} for number, pose in enumerate(ONE)],
    "joints by short names": [{"frame": n, "joints": columns(pose, short=True)} for n, pose in enumerate(ONE)],
    "tracked by AlphaPose": {"1": {str(n): {"keypoints": p.reshape(-1).tolist(), "scores": None} for n, p in enumerate(ONE)}},
}  # fmt: skip


def test_gzip(tmp_path):
    """Compressed files are read; what is cut or would fill the memory is refused."""
    path = tmp_path / "walk.json.gz"
    path.write_bytes(gzip.compress(json.dumps(JSON["lists"]).encode()))
    (sequence,) = open_data(path, size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)
    assert find_sources([tmp_path], tmp_path / "out")[0].path == path
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="walk.json.gz: cut short"):
        open_data(path, size=SIZE)
    path.write_bytes(gzip.compress(b"[" + b" " * 2**25))
    with pytest.raises(ValueError, match="walk.json.gz: unfolds to more than 100 times its size"):
        open_data(path, size=SIZE)
    np.save(tmp_path / "x.npy", ONE)
    (tmp_path / "x.npy.gz").write_bytes(gzip.compress((tmp_path / "x.npy").read_bytes()))
    (sequence,) = open_data(tmp_path / "x.npy.gz", size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)


@pytest.mark.parametrize("what", ["people", "landmarks", "results"])
def test_a_file_for_each_frame(tmp_path, what):
    """A folder is one clip, also for `lift`; one of clips is not."""
    for number, (pose, blaze) in enumerate(zip(ONE, clip(joints=33)), 3):
        data = {"people": people_of([pose]), "landmarks": landmarks(blaze), "results": {"results": people_of([pose])}}[what]
        save_json(tmp_path / "in" / f"frame_{number:05}.json", data)
    (sequence,) = open_data(tmp_path / "in", size=SIZE)
    wanted = expected(clip(joints=33), "mediapipe", size=SIZE) if what == "landmarks" else expected(ONE, size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, wanted, atol=1e-6)
    assert sequence.start == 3 and len(find_sources([tmp_path / "in"], tmp_path / "out")) == 1
    for number in range(3):
        save_json(tmp_path / "clips" / f"clip_{number}.json", ONE.tolist())
    assert len(find_sources([tmp_path / "clips"], tmp_path / "out")) == 3


@pytest.mark.parametrize("form", JSON)
def test_json(tmp_path, form):
    """All forms give the same, without a notice but for frames that are only guessed."""
    data = JSON[form]
    path = tmp_path / ("walk.jsonl" if isinstance(data, str) else "walk.json")
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    assert detect(path) == "frames"
    (sequence,) = open_data(path, size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)
    assert sequence.start == 0 and sequence.fps == (25 if "dict" in form or "times" in form else None)


def test_two_people_of_one_image(tmp_path):
    """ultralytics' result.to_json() is of one image; results of a video one after another are told by who stands where."""
    one, other = clip(), clip(offset=250)
    path = save_json(tmp_path / "result.json", people_of([one[0], other[0]]))
    assert [len(sequence) for sequence in open_data(path, size=SIZE)] == [1, 1]
    path = save_json(tmp_path / "results.json", [p for pair in zip(one, other) for p in people_of(pair)])
    with pytest.warns(UserWarning, match="8 people without numbers of frames: read as 4 frames"):
        first, second = open_data(path, size=SIZE)
    np.testing.assert_allclose(first.keypoints, expected(one, size=SIZE), atol=1e-6)
    np.testing.assert_allclose(second.keypoints, expected(other, size=SIZE), atol=1e-6)


def test_tracked_people(tmp_path):
    """Ids by keys: of people with frames, as AlphaPose's tracked persons, and of frames with people."""
    one, other = clip(6), clip(6, offset=250)
    flat = lambda pose: {"keypoints": pose.reshape(-1).tolist(), "scores": 0.9, "boxes": [1, 2, 3, 4]}
    tracked = {"7": {str(n): flat(p) for n, p in enumerate(one)}, "9": {str(n + 2): flat(p) for n, p in enumerate(other)}}
    by_frame = {}
    for person, frames in tracked.items():
        for frame, entry in frames.items():
            by_frame.setdefault(frame, {})[person] = entry
    for data in (tracked, by_frame):
        people = open_data(save_json(tmp_path / "t.json", data), size=SIZE)
        assert people.names == ["t/7", "t/9"] and people["t/9"].start == 2
        np.testing.assert_allclose(people["t/9"].keypoints, expected(other, size=SIZE), atol=1e-6)


LANDMARKS = clip(3, joints=33)
TASKS = {"x": 0.1, "y": 0.2, "z": -0.3, "visibility": 0.9}
MEDIAPIPE = {
    "lists": [landmarks(pose) for pose in LANDMARKS],
    "none at first": [None, [], *map(landmarks, LANDMARKS)],
    "Tasks": [{"landmarks": [landmarks(pose)], "worldLandmarks": [[TASKS] * 33]} for pose in LANDMARKS],
    "faces first": [{"face_landmarks": [TASKS] * 33, "pose_landmarks": landmarks(pose)} for pose in LANDMARKS],
    "holistic": [
        {"pose_landmarks": landmarks(p), "left_hand_landmarks": None, "face_landmarks": [TASKS] * 468} for p in LANDMARKS
    ],
    "lists of numbers": [[[x / 640, y / 480, -0.1, c] for x, y, c in pose.tolist()] for pose in LANDMARKS],
    "x, y and z": [[[x / 640, y / 480, -0.1] for x, y, c in pose.tolist()] for pose in LANDMARKS],
    "by frames": {str(number): landmarks(pose) for number, pose in enumerate(LANDMARKS)},
    "frames": {"fps": 5, "frames": [{"frame": n, "landmarks": landmarks(p)} for n, p in enumerate(LANDMARKS)]},
    "a dict by number": [{str(number): joint for number, joint in enumerate(landmarks(pose))} for pose in LANDMARKS],
    "ids": [[{"id": n, **joint} for n, joint in enumerate(landmarks(pose))][::-1] for pose in LANDMARKS],
    "pixels": [[{"x": x, "y": y, "visibility": c} for x, y, c in pose.tolist()] for pose in LANDMARKS],
    "tfjs": [{"keypoints": [{"x": x, "y": y, "z": -0.1, "score": c} for x, y, c in p.tolist()]} for p in LANDMARKS],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", MEDIAPIPE)
def test_mediapipe(tmp_path, form):
    path = save_json(tmp_path / "walk.json", MEDIAPIPE[form])
    assert detect(path) == "mediapipe"
    (sequence,) = open_data(path, size=SIZE)
    wanted = expected(LANDMARKS, "mediapipe", size=SIZE)
    np.testing.assert_allclose(sequence.keypoints[..., :2], wanted[..., :2], atol=1e-6)
    np.testing.assert_allclose(sequence.keypoints[..., 2:], 0.75, atol=1e-6)
    assert sequence.keypoints.shape[2] == (2 if form == "x, y and z" else 3)  # z is no confidence
    assert sequence.start == (2 if form == "none at first" else 0)


def test_landmarks_outside(tmp_path):
    """Landmarks below the image stay where they are."""
    poses = clip(3, joints=33)
    poses[:, 27:29, 1] = 600
    (sequence,) = open_data(save_json(tmp_path / "x.json", [landmarks(pose) for pose in poses]), size=SIZE)
    np.testing.assert_allclose(sequence.pixels()[:, [3, 6], 1], 600, atol=1e-3)


def test_times(tmp_path):
    """Milliseconds say the rate, and that frames are missing."""
    data = [{"timestamp_ms": round(1000 * n / 30), "keypoints": named(pose)} for n, pose in zip((0, 1, 2, 5, 6), clip(5))]
    (sequence,) = open_data(save_json(tmp_path / "x.json", data), size=SIZE)
    assert len(sequence) == 7 and sequence.fps == pytest.approx(30, rel=0.02)
    assert (sequence.keypoints[3:5, :, 2] == 0).all() and (sequence.keypoints[[2, 5], :, 2] > 0).all()


def write_array(path, name, array):
    np.save(path / f"{name}.npy", array, allow_pickle=True)
    return path / f"{name}.npy"


def ragged(arrays):
    out = np.empty(len(arrays), object)
    out[:] = arrays
    return out


ARRAYS = {
    "one": ONE,
    "without confidence": ONE[..., :2],
    "people": ONE[:, None],
    "rows": ONE.reshape(4, -1),
    "shares": ONE / (*SIZE, 1),
    "frames": ragged([pose[None] for pose in ONE]),
    "frames of lists": ragged([[pose] for pose in ONE]),
    "percentages": ONE * (1, 1, 100),
}


@pytest.mark.filterwarnings("ignore:.*(read as shares|taken as percentages)")
@pytest.mark.parametrize("form", ARRAYS)
def test_npy(tmp_path, form):
    (sequence,) = open_data(write_array(tmp_path, "x", ARRAYS[form]), size=SIZE)
    columns = 2 if form == "without confidence" else 3
    assert sequence.keypoints.shape[-1] == columns
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE)[..., :columns], atol=1e-6)


def test_npy_of_several_people(tmp_path):
    """Frames in which somebody is missing."""
    one, other = clip(), clip(offset=250)
    frames = [np.stack(pair) for pair in zip(one, other)]
    frames[1], frames[2] = frames[1][:1], np.zeros((0, 17, 3))
    people = list(open_data(write_array(tmp_path, "x", ragged(frames)), size=SIZE))
    assert [len(sequence) for sequence in people] == [4, 4]
    np.testing.assert_allclose(people[1].keypoints[[0, 3]], expected(other, size=SIZE)[[0, 3]], atol=1e-6)


def test_npz(tmp_path):
    """Keypoints with what may stand beside them."""
    path = tmp_path / "x.npz"
    np.savez(path, keypoints=ONE[..., :2], scores=ONE[..., 2], size=SIZE, fps=24.0)
    (sequence,) = open_data(path)
    assert detect(path) == "npz" and sequence.fps == 24 and sequence.size == SIZE
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)
    np.savez(path, keypoints=ONE[:, None], width=640, height=480)
    (sequence,) = open_data(path)
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)
    np.savez(path, keypoints=clip(joints=33) / (*SIZE, 1), frame_size=SIZE)
    with pytest.warns(UserWarning, match="read as shares"):
        (sequence,) = open_data(path)
    np.testing.assert_allclose(sequence.keypoints, expected(clip(joints=33), "mediapipe", size=SIZE), atol=1e-6)


def test_npz_of_rows(tmp_path):
    """A row for each person in a frame."""
    one, other = clip(), clip(offset=250)
    rows = np.stack((one, other), 1).reshape(-1, 17, 3)
    frames, ids = np.repeat(np.arange(4) + 10, 2), np.tile((3, 8), 4)
    np.savez(tmp_path / "x.npz", keypoints=rows[..., :2], scores=rows[..., 2], frame_ids=frames, track_ids=ids)
    people = open_data(tmp_path / "x.npz", size=SIZE)
    assert people.names == ["x/3", "x/8"] and people["x/8"].start == 10
    np.testing.assert_allclose(people["x/8"].keypoints, expected(other, size=SIZE), atol=1e-6)


def test_movenet_outputs(tmp_path):
    """y comes before x."""
    outputs = (ONE / (*SIZE, 1))[:, None, None][..., [1, 0, 2]]
    for path in (write_array(tmp_path, "x", outputs), save_json(tmp_path / "x.json", outputs.tolist())):
        with pytest.warns(UserWarning, match="as MoveNet's, in which y comes before x"):
            (sequence,) = open_data(path, size=SIZE)
        np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)


def test_a_head_of_lines(tmp_path):
    lines = [{"fps": 25, "width": 640, "height": 480}, *({"frame": n, "keypoints": named(pose)} for n, pose in enumerate(ONE))]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (sequence,) = open_data(tmp_path / "x.jsonl")
    assert (sequence.fps, sequence.size, sequence.start) == (25, SIZE, 0)
    np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)


def test_body_25b(tmp_path):
    """OpenPose's two layouts of 25 joints are told apart by the bones."""
    more = np.tile(ONE[:, :1], (1, 8, 1))
    for layout in ("body25", "body25b"):
        poses = np.concatenate((ONE, more), 1)
        poses[:, list(LAYOUTS[layout].coco)] = ONE
        if layout == "body25":
            poses[:, 1] = ONE[:, 5:7].mean(1)
            poses[:, 8] = ONE[:, 11:13].mean(1)
        for number, pose in enumerate(poses):
            frame = {"people": [{"pose_keypoints_2d": pose.reshape(-1).tolist()}]}
            save_json(tmp_path / layout / f"a_{number:012}_keypoints.json", frame)
        (sequence,) = open_data(tmp_path / layout, size=SIZE)
        np.testing.assert_allclose(sequence.keypoints, expected(ONE, size=SIZE), atol=1e-6)


def test_videopose3d_inference(tmp_path):
    """Nobody in a frame, and the size in the metadata."""
    poses = [np.stack((p[:, 0], p[:, 1], np.zeros(17), p[:, 2])).astype(np.float32)[None] for p in ONE]
    keypoints = np.empty((4, 2), object)
    for number, pose in enumerate(poses):
        keypoints[number, 0], keypoints[number, 1] = [], pose if number != 1 else []
    boxes = np.empty((4, 2), object)
    path = tmp_path / "clip.mp4.npz"
    np.savez_compressed(path, boxes=boxes, segments=[None] * 4, keypoints=keypoints, metadata={"w": 640, "h": 480})
    (sequence,) = open_data(path)
    wanted = expected(ONE, size=SIZE)
    np.testing.assert_allclose(sequence.keypoints[[0, 2, 3]], wanted[[0, 2, 3]], atol=1e-6)
    np.testing.assert_allclose(sequence.keypoints[1, :, :2], wanted[1, :, :2], atol=1e-6)  # between its neighbours
    assert sequence.size == SIZE and (sequence.keypoints[1, :, 2] == 0).all()


# ---- 3D --------------------------------------------------------------------------------------------------------------

POSES = np.array(
    [
        (0, 0, 0), (-0.13, 0, 0), (-0.13, 0.45, 0.05), (-0.13, 0.9, 0), (0.13, 0, 0), (0.13, 0.45, 0.05), (0.13, 0.9, 0),
        (0, -0.24, 0), (0, -0.48, 0), (0, -0.6, -0.05), (0, -0.72, 0), (0.15, -0.45, 0), (0.2, -0.2, 0.1), (0.2, -0.1, -0.2),
        (-0.15, -0.45, 0), (-0.2, -0.2, 0.1), (-0.2, -0.1, -0.2),
    ]
)  # fmt: skip
POSES = POSES + np.arange(5)[:, None, None] * (0.01, 0, 0.02)  # in a camera: y down
WAYS = {"-y": lambda p: p, "z": lambda p: p[..., [0, 2, 1]] * (1, 1, -1), "y": lambda p: p * (1, -1, -1)}


@pytest.mark.parametrize("up", WAYS)
@pytest.mark.parametrize("unit", [1, 100, 1000])
def test_3d_npy(tmp_path, up, unit):
    """Metres, centimetres and millimetres, with any axis up: as the file has them, and upright when they are written."""
    path = write_array(tmp_path, "x", WAYS[up](POSES).astype(np.float32) * unit)
    (sequence,) = open_data(path)
    assert sequence.keypoints is None and sequence.up == up
    np.testing.assert_allclose(sequence.poses, WAYS[up](POSES), atol=1e-5)
    np.testing.assert_allclose(y_up(sequence), POSES * (1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("up", WAYS)
def test_film(tmp_path, up):
    """Virtual cameras see them upright."""
    views = list(film(open_data(write_array(tmp_path, "x", WAYS[up](POSES)))))
    for view in views:
        y = view.pixels()[..., 1]
        assert (y[:, H36M.joints.index("head")] < y[:, H36M.joints.index("left_ankle")] - 50).all()
    assert len(views) == 4


def instances(keypoints, **more):
    return [{"keypoints": keypoints.tolist(), "keypoint_scores": [1.0] * 17, **more}]


def write_3d_npz(path, **arrays):
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


RESULTS = {
    "MotionBERT": lambda path: write_array(path, "X3D", POSES),
    "VideoPose3D": lambda path: write_array(path, "out", POSES),
    "MHFormer": lambda path: write_3d_npz(path, reconstruction=POSES),
    "MHFormer, people": lambda path: write_3d_npz(path, reconstruction=POSES[None]),
    "npz": lambda path: write_3d_npz(path, poses_3d=POSES),
    "mmpose": lambda path: save_json(
        path / "results.json", [{"frame_id": n, "instances": instances(pose)} for n, pose in enumerate(POSES)]
    ),
    "mmpose with ids": lambda path: save_json(
        path / "results.json",
        {
            "meta_info": {"keypoint_id2name": {str(n): name for n, name in enumerate(H36M.joints)}},
            "instance_info": [{"frame_id": n, "instances": instances(pose, track_id=4)} for n, pose in enumerate(POSES)],
        },
    ),
    "lists": lambda path: save_json(path / "x.json", POSES.tolist()),
}


@pytest.mark.parametrize("who", RESULTS)
def test_results_of_others(tmp_path, who):
    """Poses to draw and to compare, and no keypoints to lift."""
    (sequence,) = open_data(RESULTS[who](tmp_path))
    assert sequence.keypoints is None and len(sequence) == 5
    np.testing.assert_allclose(sequence.poses, POSES, atol=1e-6)


def test_world_landmarks(tmp_path):
    """MediaPipe's are metres about the hips, y down."""
    coco = np.zeros((5, 17, 3))
    for joint, name in enumerate(COCO):
        place = H36M.joints.index(name) if name in H36M.joints else 9
        coco[:, joint] = POSES[:, place] - POSES[:, 0]
    world = np.zeros((5, 33, 3))
    world[:, list(LAYOUTS["mediapipe"].coco)] = coco
    data = [{"pose_world_landmarks": [{"x": x, "y": y, "z": z, "visibility": 0.9} for x, y, z in p.tolist()]} for p in world]
    (sequence,) = open_data(save_json(tmp_path / "x.json", data))
    assert sequence.keypoints is None and sequence.up == "-y"
    np.testing.assert_allclose(sequence.poses, to_h36m(coco, "coco"), atol=1e-6)


def test_holes_in_poses(tmp_path):
    """Interpolated, and not counted in an evaluation."""
    poses = POSES + (0, 0, 3.0)
    poses[2, 3] = np.nan
    poses[3, 5:7] = 0
    (sequence,) = open_data(write_array(tmp_path, "x", poses))
    np.testing.assert_allclose(sequence.poses, POSES + (0, 0, 3.0), atol=1e-6)
    assert sequence.valid.tolist() == [True, True, False, False, True]


BAD = [
    ({"frames": [{"people": [{"keypoints": [[100, 200]] * 12}]}]}, "12 joints, expected 17"),
    ({"frames": [{"people": []}]}, "JSON of no known format"),
    ([[[[["x"]]]]], "JSON of no known format"),
]


@pytest.mark.parametrize("data, message", BAD)
def test_bad(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        list(open_data(save_json(tmp_path / "x.json", data), size=SIZE))


keys = "frames people keypoints frame_id timestamp track_id scores x y z visibility name position landmarks 0 1 fps".split()
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(keys), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(values, st.sampled_from(["frames", "mediapipe", None]))
def test_any_json(tmp_path_factory, data, format):
    """Never an error but ours, whatever is in the file."""
    read_all(save_json(tmp_path_factory.getbasetemp() / "any.json", data), format)


WHOLE = [data for data in (*JSON.values(), *MEDIAPIPE.values()) if not isinstance(data, str)]
PLACES = [(data, way) for data in WHOLE for way in nodes(data)]


@settings(max_examples=60)
@given(st.sampled_from(PLACES), OTHER)
def test_damaged(tmp_path_factory, place, other):
    """Any part of a file is something else."""
    read_all(save_json(tmp_path_factory.getbasetemp() / "any.json", replaced(*place, other)), None)


def read_all(path, format):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for sequence in open_data(path, format=format, size=SIZE):
                assert all(array is None or np.isfinite(array).all() for array in (sequence.keypoints, sequence.poses))
    except (ValueError, KeyError) as error:
        assert "any" in str(error)
