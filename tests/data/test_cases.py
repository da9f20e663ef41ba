"""The small files of ../shared/cases, which stand for kinds of files that people have: what is right for each."""

import re

import numpy as np
import pytest

from lifter.__main__ import main
from lifter._notices import told
from lifter.data import detect, open_data
from lifter.inference.sources import find_sources
from lifter.skeleton import H36M

SIZE = (1280, 720)


@pytest.fixture(scope="module")
def cases(shared):
    if not (shared / "cases").is_dir():
        pytest.skip(f"needs the cases: none in {shared}")
    return shared / "cases"


def read(path, **options):
    """(sequences, what was said)."""
    said = []
    with told(said.append):
        return list(open_data(path, **options)), "\n".join(said)


def track(sequence, joint="pelvis", axis="x"):
    """Return the place of a joint in each frame, in pixels."""
    return sequence.pixels()[:, H36M.joints.index(joint), "xy".index(axis)]


def walk(first, frames, step=1):
    return pytest.approx(np.arange(frames) * step + first, abs=0.01)


# file, [(first frame, pelvis x in each frame)] of each sequence, what is said
WALKS = [
    ("01-alphapose-idx-zero/alphapose-results.json", [(0, walk(200, 10, 2)), (0, walk(900, 10, -2))], "id 0: several people"),
    ("06-posetrack-joint-names/val.json", [(0, walk(400, 4))], ""),
    ("08-openpose-keypoint-scale", [(0, walk(400, 4))], "read as shares of the image"),
    ("09-pose2sim-folder/cam01_json", [(0, walk(400, 6))], ""),
    ("11-openpose-two-videos", [(0, walk(200, 4)), (0, walk(900, 4))], ""),
    *((f"12-frame-names/{name}.json", [(1, walk(310, 5, 10))], "") for name in ("cam", "ffmpeg", "nodot", "paren", "path")),
    ("13-reid-far-apart/gap.json", [(0, walk(300, 50)), (3000, walk(3300, 50))], "id 1"),
    ("13-reid-far-apart/alphapose-results.json", [(0, walk(300, 50)), (3, walk(700, 1)), (4000, walk(700, 1))], "id 2"),
    ("14-mmpose-meta-h36m/results.json", [(1, walk(401, 4))], ""),
    ("15-coco-every-10th/ann.json", [(0, walk(300, 31, 10))], "every 10th frame only, of 0 to 30"),
    ("17-coco-num-keypoints-0/ann.json", [(0, walk(300, 4))], "left out"),
    ("18-coco-bbox-only/ann.json", [(0, walk(300, 4))], "1 of 5 annotations left out; the first: .*no key 'keypoints'"),
    ("19-mixed-idx/a.json", [(0, walk(300, 6))], "1 of 6 detections have no id, and are left out"),
    *((f"20-ultralytics/{name}", [(0, walk(300, 4))], "") for name in ("frames.json", "kp_framelist.npy", "kp_n17_3.npy")),
    ("20-ultralytics/predictions.json", [(0, walk(300, 4))], ""),
    ("20-ultralytics/result.json", [(0, walk(300, 1))], ""),
    ("20-ultralytics/xyn.npy", [(0, walk(300, 4))], "read as shares of the image"),
    ("21-vp3d-infer-npz/clip.mp4.npz", [(0, walk(300, 4))], ""),
    ("22-tracked-person/01_0001_alphapose_tracked_person.json", [(0, walk(300, 4)), (0, walk(700, 4))], ""),
    ("24-mhformer-npz/keypoints.npz", [(0, walk(300, 4))], "in the order of coco"),
    ("26-detectron2/coco_instances_results.json", [(0, walk(300, 4))], "up to 7.3 are no confidences: taken as logits"),
    ("27-yolo-zero-with-confidence/kp.npy", [(0, walk(300, 6))], ""),
    ("27-yolo-zero-with-confidence/kp_xy.npy", [(0, walk(300, 6))], ""),
    *((f"28-mediapipe/{name}.json", [(0, walk(300, 3))], "") for name in ("dictframes", "listlists", "movenet")),
    ("28-mediapipe/tfjs_blazepose.json", [(0, walk(300, 3))], "read as 3 frames in a row"),
    ("28-mediapipe/faces_first.json", [(0, walk(300, 3))], ""),
    ("28-mediapipe/first_frames_none.json", [(2, walk(300, 3))], ""),
    ("28-mediapipe/holistic.json", [(0, walk(300, 3))], ""),
    ("28-mediapipe/pixels.json", [(0, walk(300, 3))], "read as pixels"),
    ("28-mediapipe/portrait.json", [(0, walk(300, 3))], "the file says that size is 720x1280"),
    ("28-mediapipe/tasks.json", [(0, walk(300, 3))], ""),
    ("28-mediapipe/tasks_py.json", [(0, walk(300, 3))], ""),
    ("30-size-too-small/a.json", [(0, walk(1500, 5))], "x is up to 15.. and y up to 990, outside the image of 1280x720"),
]


@pytest.mark.parametrize("name, sequences, said", WALKS, ids=[name for name, *_ in WALKS])
def test_keypoints(cases, name, sequences, said):
    found, notices = read(cases / name, size=SIZE)
    assert [(sequence.start, track(sequence)) for sequence in found] == sequences
    assert is_said(said, notices)
    for sequence in found:
        confidences = sequence.keypoints[..., 2:]
        assert confidences.min(initial=1) >= 0 and confidences.max(initial=0) <= 1


def is_said(pattern, notices):
    return bool(re.search(pattern, notices)) if pattern else notices == ""


def test_joints_by_name(cases):
    """A head that is named, not made of eyes."""
    (person,), _ = read(cases / "06-posetrack-joint-names/val.json", size=SIZE)
    assert track(person, "head", "y") == pytest.approx([180] * 4, abs=0.01)
    (person,), _ = read(cases / "14-mmpose-meta-h36m/results.json", size=SIZE)
    assert track(person, "head", "y") == pytest.approx([205] * 4, abs=0.01)
    assert track(person, "right_ankle", "y") == pytest.approx([390] * 4, abs=0.01)


@pytest.mark.parametrize("name", ["kp.npy", "kp_xy.npy"])
def test_a_joint_at_the_corner_is_missing(cases, name):
    (person,), _ = read(cases / "27-yolo-zero-with-confidence" / name, size=SIZE)
    assert track(person, "left_wrist") == walk(330, 6)


def test_poses_are_no_keypoints(cases):
    """They are not lifted, but may be looked at."""
    (poses,), _ = read(cases / "10-3d-npy/X3D.npy", size=SIZE)
    assert poses.keypoints is None and len(poses) == 5
    for name in ("28-mediapipe/world_only.json", "23-mmpose-3d/results.json"):
        (poses,), _ = read(cases / name, size=SIZE)
        assert poses.keypoints is None and len(poses) == 3


def test_a_folder_is_the_same_everywhere(cases, tmp_path, capsys):
    """For lift, which looks for what to lift, and for inspect and render, which ask for the format."""
    for name in ("08-openpose-keypoint-scale", "09-pose2sim-folder/cam01_json", "11-openpose-two-videos"):
        assert detect(cases / name) == "openpose"
        assert [source.path for source in find_sources([cases / name], tmp_path)] == [cases / name]
    assert [source.place for source in find_sources([cases / "09-pose2sim-folder"], tmp_path)] == ["cam01_json"]
    assert main(["data", "inspect", str(cases / "09-pose2sim-folder"), "--size", "1280x720"]) == 0
    out = capsys.readouterr().out
    assert "cam01_json: openpose" in out and "sequences: 1, 0 of them broken" in out and "frames: 6" in out


# ---- BVH -------------------------------------------------------------------------------------------------------------

STANDING = {"pelvis": 0.95, "spine": 1.05, "thorax": 1.45, "neck": 1.55, "head": 1.73, "left_knee": 0.52, "right_ankle": 0.09}
NO_BVH = {"noframes": "0 values of motion", "two_roots": "162 values of motion, expected 3 frames of 108 channels"}


def standing(cases, name):
    (person,), said = read(cases / name)
    heights = dict(zip(H36M.joints, person.poses[0, :, 2].tolist()))
    assert {joint: heights[joint] for joint in STANDING} == pytest.approx(STANDING, abs=1e-5), name
    assert person.poses[:, 0, 0] == pytest.approx([0, 0.01, 0.02], abs=1e-6)
    return person, said


def test_bvh_positions(cases):
    for name in ("six", "three", "three_root0"):
        person, said = standing(cases, f"03-bvh-six-channels/{name}.bvh")
        assert np.linalg.norm(person.poses[0, 4] - person.poses[0, 5]) == pytest.approx(0.43) and not said


def test_bvh_of_rigs(cases):
    standing(cases, "05-bvh-mixamo-headtop/mixamo.bvh")
    (person,), _ = read(cases / "32-bvh-cmu-spine/cmu.bvh")
    assert person.poses[0, H36M.joints.index("spine"), 2] == pytest.approx(1.07)


def test_bvh_syntax(cases):
    for path in sorted((cases / "29-bvh-syntax").glob("*.bvh")):
        if path.stem in NO_BVH:
            with pytest.raises(ValueError, match=NO_BVH[path.stem]):
                read(path)
            continue
        person, said = standing(cases, path)
        wanted = {
            "zerotime": "the frames per second are not known",
            "wrongcount": "4 frames by its own words, but there are 3",
        }
        assert is_said(wanted.get(path.stem, ""), said), path
        assert person.fps == (None if path.stem == "zerotime" else pytest.approx(30, abs=1e-3))


# ---- hostile files ---------------------------------------------------------------------------------------------------

HOSTILE = {
    "laughs_clip.pkl": "refers to the same parts again and again", "laughs_custom.npz": "refers to the same parts",
    "laughs_mb.pkl": "refers to the same parts", "laughs_pos.npz": "refers to the same parts",
    "liar.pkl": "not a pickle of plain data, or cut short", "bool.npy": "no person in any", "neg.npy": "sizes of 0 or more",
    "chan.bvh": "ends in the middle", "claim.bvh": "no joint for", "dup.bvh": "no joint for", "frametime.bvh": "no joint for",
    "nanoff.bvh": "'nan', expected a number", "framehuge.json": "no pixels", "mm_gap.json": "no pixels",
    "track_gap.json": "no pixels", "evil_obj.npz": "camera-parameters.json|not a pickle",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(cases, name):
    """Refused before anything is made of what they claim to hold."""
    with pytest.raises((ValueError, FileNotFoundError), match=HOSTILE[name]) as error:
        read(cases / "hostile" / name, **({"size": SIZE} if name.endswith(("json", "npy")) else {}))
    assert name in str(error.value)
