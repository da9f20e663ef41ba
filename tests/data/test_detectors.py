"""Every detector's files, written here as the official code writes them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifter.data import detect, normalise, open_data
from lifter.data.keypoints import LAYOUTS, to_h36m

from .conftest import save_json

SIZE = (640, 480)


def people(rng, frames, joints=17):
    """Somebody who hardly moves, anywhere in the image, with confidences."""
    pose = rng.uniform(10, 400, (1, joints, 2)) + rng.uniform(-5, 5, (frames, joints, 2))
    return np.concatenate((pose, rng.uniform(0.1, 1, (frames, joints, 1))), -1)


def expected(keypoints, layout="coco", variant=None, size=SIZE):
    return normalise(to_h36m(keypoints, layout, variant), size).astype(np.float32)


def flat(pose):
    return pose.reshape(-1).tolist()


# ---- writers: (T, J, 3) -> a file or folder ---------------------------------------------------------------------------


def write_alphapose(path, keypoints):
    entries = [
        {"image_id": f"{i}.jpg", "category_id": 1, "keypoints": flat(pose), "score": 2.9, "box": [1, 2, 3, 4], "idx": 1}
        for i, pose in enumerate(keypoints)
    ]
    return save_json(path / "alphapose-results.json", entries)


def write_alphapose_open(path, keypoints):
    frames = {
        f"{i}.jpg": {"version": "AlphaPose v0.3", "people": [{"pose_keypoints_2d": flat(p)}]} for i, p in enumerate(keypoints)
    }
    return save_json(path / "alphapose-results.json", frames)


def write_mmpose(path, keypoints):
    frames = [
        {
            "frame_id": i + 1,
            "instances": [
                {
                    "keypoints": p[:, :2].tolist(),
                    "keypoint_scores": p[:, 2].tolist(),
                    "bbox": [[1, 2, 3, 4]],
                    "bbox_score": 0.9,
                }
            ],
        }
        for i, p in enumerate(keypoints)
    ]
    return save_json(path / "results_video.json", {"meta_info": {"dataset_name": "coco"}, "instance_info": frames})


def write_mmpose_inferencer(path, keypoints):
    file = write_mmpose(path, keypoints)
    return save_json(file, json.loads(file.read_text())["instance_info"])


def write_openpose(path, keypoints):
    for i, pose in enumerate(keypoints):
        person = {"person_id": [-1], "pose_keypoints_2d": flat(pose), "face_keypoints_2d": [], "pose_keypoints_3d": []}
        save_json(path / "video" / f"video_{i:012}_keypoints.json", {"version": 1.3, "people": [person]})
    return path / "video"


def write_coco(path, keypoints):
    images = [{"id": 100 + i, "file_name": f"{i:06}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(len(keypoints))]
    keypoints[..., 2] = 1
    annotations = [
        {
            "id": i,
            "image_id": 100 + i,
            "category_id": 1,
            "track_id": 3,
            "keypoints": flat(pose * (1, 1, 2)),
            "num_keypoints": 17,
        }
        for i, pose in enumerate(keypoints)
    ]
    return save_json(path / "person_keypoints.json", {"images": images, "annotations": annotations, "categories": []})


def landmarks(pose):
    shares = pose / (*SIZE, 1)
    return [{"x": x, "y": y, "z": 0.1, "visibility": v, "presence": 0.9} for x, y, v in shares.tolist()]


def write_mediapipe(path, keypoints):
    """The Tasks API: of each frame a list of people."""
    return save_json(path / "pose.json", [{"pose_landmarks": [landmarks(pose)]} for pose in keypoints])


def write_mediapipe_solutions(path, keypoints):
    return save_json(path / "pose.json", [{"pose_landmarks": {"landmark": landmarks(pose)}} for pose in keypoints])


def write_mediapipe_plain(path, keypoints):
    frames = [landmarks(pose) for pose in keypoints]
    return save_json(path / "pose.json", {"frames": frames, "width": SIZE[0], "height": SIZE[1]})


def write_npy(path, keypoints):
    np.save(path / "keypoints.npy", keypoints)
    return path / "keypoints.npy"


def write_custom(path, keypoints):
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": [[1, 3], [2, 4]]}
    metadata["video_metadata"] = {"video.mp4": {"w": SIZE[0], "h": SIZE[1]}}
    keypoints = keypoints[..., :2].astype(np.float32)
    np.savez_compressed(path / "data_2d_custom_x.npz", positions_2d={"video.mp4": {"custom": [keypoints]}}, metadata=metadata)
    return path / "data_2d_custom_x.npz"


WRITERS = [  # format, layout, whether the file tells the size, writer
    ("alphapose", "coco", False, write_alphapose),
    ("alphapose", "halpe", False, write_alphapose),
    ("openpose", "coco18", False, write_alphapose_open),
    ("mmpose", "coco", False, write_mmpose),
    ("mmpose", "coco", False, write_mmpose_inferencer),
    ("openpose", "body25", False, write_openpose),
    ("openpose", "coco18", False, write_openpose),
    ("coco", "coco", True, write_coco),
    ("mediapipe", "mediapipe", False, write_mediapipe),
    ("mediapipe", "mediapipe", False, write_mediapipe_solutions),
    ("mediapipe", "mediapipe", True, write_mediapipe_plain),
    ("npy", "coco", False, write_npy),
    ("vp3d-custom", "coco", True, write_custom),
]


@pytest.mark.parametrize("format, layout, told, write", WRITERS)
def test_formats(tmp_path, rng, format, layout, told, write):
    keypoints = people(rng, 5, LAYOUTS[layout].joints)
    path = write(tmp_path, keypoints)
    assert detect(path) == format
    options = {} if told else {"size": SIZE}
    variant = LAYOUTS[layout].variants[-1]
    data = open_data(path, variant=variant, **options)
    assert data.format == format and len(data) == 1
    (sequence,) = data
    wanted = expected(keypoints, layout, variant)
    np.testing.assert_allclose(sequence.keypoints, wanted[..., : sequence.keypoints.shape[-1]], atol=1e-5)
    assert sequence.size == SIZE and sequence.start == (1 if write in (write_mmpose, write_mmpose_inferencer) else 0)
    if not told:
        with pytest.raises(ValueError, match=f"{path}: {format} does not tell the size of the image: .*--size"):
            open_data(path)


@pytest.mark.parametrize("joints, layout, body", [(133, "coco", 17), (136, "halpe", 26)])
def test_whole_body(tmp_path, rng, joints, layout, body):
    keypoints = people(rng, 3, joints)
    (sequence,) = open_data(write_alphapose(tmp_path, keypoints), size=SIZE)
    np.testing.assert_allclose(sequence.keypoints, expected(keypoints[:, :body], layout), atol=1e-5)


def test_people_frames_and_holes(tmp_path, rng):
    """Two people by idx; one is away for a frame, and has a joint that was not found."""
    one, other = people(rng, 4), people(rng, 4)
    one[2, 9] = 0
    entries = []
    for frame in (0, 1, 2, 3):
        if frame != 1:
            entries.append({"image_id": f"frame_{frame:04}.png", "idx": 5, "keypoints": flat(one[frame])})
        entries.append({"image_id": f"frame_{frame:04}.png", "idx": [6], "keypoints": flat(other[frame])})
    data = open_data(save_json(tmp_path / "clip.json", entries), size=SIZE, fps=25)
    assert data.names == ["clip/5", "clip/6"] and data["clip/6"].fps == 25
    np.testing.assert_allclose(data["clip/6"].keypoints, expected(other), atol=1e-5)
    got = data["clip/5"].keypoints
    wanted = expected(one)
    np.testing.assert_allclose(got[[0, 3]], wanted[[0, 3]], atol=1e-5)
    np.testing.assert_allclose(got[1, 0, :2], (wanted[0, 0, :2] + wanted[2, 0, :2]) / 2, atol=1e-5)
    np.testing.assert_allclose(got[2, 13, :2], wanted[0, 13, :2] / 3 + wanted[3, 13, :2] * 2 / 3, atol=1e-5)
    assert (got[1, :, 2] == 0).all() and got[2, 13, 2] == 0 and (got[2, :13, 2] > 0).all()


def test_bad_entries_among_good_ones(tmp_path, rng):
    """They are left out, which is said; a joint that is null is missing."""
    walk = people(rng, 3)
    entries = [{"image_id": f"{frame}.jpg", "keypoints": flat(pose)} for frame, pose in enumerate(walk)]
    entries[1]["keypoints"][27:30] = [None] * 3
    bad = [None, 5, {"image_id": "2.jpg", "keypoints": None}, {"image_id": "x", "keypoints": flat(walk[0])}, {"keypoints": []}]
    with pytest.warns(UserWarning, match="x.json: 5 of 8 entries left out; the first: .*entry 1: a NoneType, expected a dict"):
        (sequence,) = open_data(save_json(tmp_path / "x.json", [entries[0], *bad, *entries[1:]]), size=SIZE)
    wanted = expected(walk)
    np.testing.assert_allclose(sequence.keypoints[[0, 2]], wanted[[0, 2]], atol=1e-5)
    assert sequence.keypoints[1, 13, 2] == 0 and (sequence.keypoints[1, :13, 2] > 0).all()
    frames = [{"frame_id": i, "instances": [{"keypoints": p[:, :2].tolist(), "keypoint_scores": [0.5] * 17}, None]} for i, p in
              enumerate(walk)]  # fmt: skip
    with pytest.warns(UserWarning) as said:
        (sequence,) = open_data(save_json(tmp_path / "y.json", [*frames, None]), size=SIZE)
    assert len(sequence) == 3 and [str(each.message).split(": ")[1] for each in said] == [
        "1 of 4 frames left out; the first",
        "3 of 6 instances left out; the first",
    ]


def test_openpose_folder_with_bad_files(tmp_path, rng):
    folder = write_openpose(tmp_path, people(rng, 4, 25))
    (folder / "video_000000000001_keypoints.json").write_text('{"version": 1.3, "peo')
    save_json(folder / "notes.json", {"by": "hand"})
    with pytest.warns(UserWarning, match="video: 2 of 5 frames left out"):
        (sequence,) = open_data(folder, size=SIZE)
    assert len(sequence) == 4 and (sequence.keypoints[1, :, 2] == 0).all()


def test_openpose_frame_without_people(tmp_path, rng):
    keypoints = people(rng, 3, 25)
    folder = write_openpose(tmp_path, keypoints)
    save_json(folder / "video_000000000001_keypoints.json", {"version": 1.3, "people": []})
    (sequence,) = open_data(folder, size=SIZE)
    assert len(sequence) == 3 and (sequence.keypoints[1, :, 2] == 0).all()


def test_openpose_people_without_ids(tmp_path, rng):
    """person_id [-1] is none: two people in one frame are two, in whatever order they are written."""
    one = people(rng, 4, 25)
    other = one + (900, 0, 0)
    folder = write_openpose(tmp_path, one)
    for frame in range(4):
        pair = [{"person_id": [-1], "pose_keypoints_2d": flat(pose[frame])} for pose in (one, other)]
        save_json(folder / f"video_{frame:012}_keypoints.json", {"people": pair[:: -1 if frame == 2 else 1]})
    first, second = open_data(folder, size=SIZE)
    np.testing.assert_allclose(first.keypoints, expected(one, "body25"), atol=1e-5)
    np.testing.assert_allclose(second.keypoints, expected(other, "body25"), atol=1e-5)


def test_custom_of_an_undetected_video(tmp_path):
    path = write_custom(tmp_path, np.full((3, 17, 3), np.nan))
    with pytest.raises(ValueError, match="data_2d_custom_x.npz: video.mp4: no joint in any of 3 frames"):
        list(open_data(path))


ENTRY = {"image_id": "3.jpg", "keypoints": [1.0] * 51, "score": 1.0}
BAD = [
    (
        [{**ENTRY, "keypoints": [1.0] * 50}],
        r"entry 0 \(image_id '3.jpg'\): keypoints: 50 numbers, expected x, y and confidence",
    ),
    ([{**ENTRY, "keypoints": [1.0] * 60}], r"x.json: 20 joints, expected 17 \(coco\)"),
    ([{**ENTRY, "keypoints": ["a"] * 51}], "keypoints: not an array of numbers"),
    ([{**ENTRY, "keypoints": None}], "keypoints: not an array of numbers"),
    ([{"image_id": "4.jpg"}], r"entry 0 \(image_id '4.jpg'\): no key 'keypoints'"),
    ([5, ENTRY["keypoints"]], "JSON of no known format|expected a list of dicts|no person"),
    ([{**ENTRY, "image_id": "frame.jpg"}], "no number of a frame in 'frame.jpg'"),
    (
        [{**ENTRY, "keypoints": [1e300, 1e300, 1.0] * 17}],
        r"frame 0, joint 0 \(pelvis\) is .*expected finite numbers",
    ),
    ([{**ENTRY, "keypoints": [1e9, 1e9, 1.0] * 17}], r"frame 0, joint 0 \(pelvis\).*at most 100"),
    ([{**ENTRY, "keypoints": [float("nan")] * 51}], "no joint in any of 1 frames"),
    ({"people": [{"pose_keypoints_2d": [1, 2]}]}, "frame 0: pose_keypoints_2d: 2 numbers"),
    ({"people": []}, "no person in any frame"),
    ({"people": 3}, "frame 0: people: expected a list of dicts"),
    ({"instance_info": [{"frame_id": 7, "instances": [{"keypoint_scores": [1]}]}]}, "frame 7: no key 'keypoints'"),
    ({"instance_info": [{"frame_id": "a", "instances": []}]}, "frame_id is 'a'"),
    (
        {"instance_info": [{"instances": [{"keypoints": [[1, 2]], "keypoint_scores": [1, 1]}]}]},
        r"shape \(2,\), expected \(1\)",
    ),
    ([{"pose_landmarks": [[{"x": 0.1, "y": 0.1}] * 32]}], "32 joints, expected .*33 .mediapipe"),
    ([[{"x": 0.1}] * 33], "JSON of no known format"),
    ({"annotations": [], "images": []}, "no person in any frame"),
    ({"annotations": [{"image_id": 1, "keypoints": [1] * 51}], "images": [{"id": 2}]}, "annotation 0: images: no key 1"),
    ({"something": 1}, "JSON of no known format"),
    ([], "an empty list, no person in any frame"),
    (3, "JSON of no known format"),
]


@pytest.mark.parametrize("data, message", BAD)
def test_bad_files(tmp_path, data, message):
    path = save_json(tmp_path / "x.json", data)
    with pytest.raises((ValueError, KeyError), match=message) as error:
        list(open_data(path, size=SIZE))
    assert "x.json" in str(error.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                "image_id keypoints idx people pose_keypoints_2d person_id instance_info instances frame_id keypoint_scores "
                "annotations images id frames landmark pose_landmarks x y visibility width height track_id".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(values, st.sampled_from([format for format, _, told, _ in WRITERS if format not in ("npy", "vp3d-custom")]))
def test_any_json(tmp_path_factory, data, format):
    """Never an error but ours, whatever is in the file."""
    path = save_json(tmp_path_factory.getbasetemp() / "any.json", data)
    for forced in (format, None):
        try:
            for sequence in open_data(path, format=forced, size=SIZE):
                assert np.isfinite(sequence.keypoints).all()
        except (ValueError, KeyError) as error:
            assert "any" in str(error)
