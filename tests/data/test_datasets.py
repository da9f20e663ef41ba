"""The data sets, in tiny files written here in the layout of the real ones."""

import contextlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from lifter.data import detect, normalise, open_data
from lifter.data.cameras import Camera, around, image_poses
from lifter.data.formats.h36m import JOINTS, SIZES, cameras
from lifter.data.formats.mpi3dhp import TRAIN_CAMERAS
from lifter.geometry import project
from lifter.skeleton import H36M, JHMDB, LSP, MPI3DHP, PW3D

from .conftest import objects, save_json


def h36m_poses(rng, frames):
    return (rng.normal(0, 0.3, (frames, 32, 3)) + (0, 0, 1)).astype(np.float32)


def made_up(subject):
    """Four cameras of the names of Human3.6M's, other ones for each subject."""
    rng = np.random.default_rng(int(subject[1:]))
    poses = around(rng.normal(0, 0.3, (1, 1, 3)) + (0, 0, 1))
    result = []
    for (id, size), camera in zip(SIZES.items(), poses):
        inner = rng.uniform(900, 1300, 2), rng.uniform(480, 530, 2), rng.uniform(-0.05, 0.05, 5)
        result.append(Camera(*size, *inner[0], *inner[1], camera.rotation, camera.translation, inner[2], id))
    return result


def camera_parameters(subjects):
    """The made up cameras of these subjects, as in camera-parameters.json; the lenses are those of the first."""
    intrinsics, extrinsics = {}, {}
    for camera in made_up("S1"):
        k1, k2, k3, along_x, along_y = camera.distortion.tolist()
        matrix = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
        intrinsics[camera.id] = {"calibration_matrix": matrix, "distortion": [k1, k2, along_y, along_x, k3]}
    for subject in subjects:
        extrinsics[subject] = {
            camera.id: {"R": camera.rotation.tolist(), "t": (camera.translation[:, None] * 1000).tolist()}
            for camera in made_up(subject)
        }
    return {"intrinsics": dict(reversed(intrinsics.items())), "extrinsics": extrinsics}


def write_h36m(folder, poses, extra=0, keypoints="gt", joints=17):
    """VideoPose3D's files and the cameras': the exact projections, `extra` frames longer; returns them."""
    calibration = save_json(folder / "camera-parameters.json", camera_parameters(poses))
    positions_2d = {}
    for subject, actions in poses.items():
        positions_2d[subject] = {}
        for action, world in actions.items():
            views = [camera.project(camera.to_camera(world[:, JOINTS])) for camera in cameras(calibration, subject)]
            views = [np.concatenate((view, view[-1:].repeat(extra, 0))).astype(np.float32)[:, :joints] for view in views]
            positions_2d[subject][action] = views
    metadata = {"num_joints": 17, "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]}
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=poses)
    np.savez_compressed(folder / f"data_2d_h36m_{keypoints}.npz", positions_2d=positions_2d, metadata=metadata)
    return positions_2d


def test_h36m(tmp_path, rng):
    poses = {"S1": {"Walking 1": h36m_poses(rng, 5)}, "S9": {"Photo": h36m_poses(rng, 4), "Photo 1": h36m_poses(rng, 3)}}
    pixels = write_h36m(tmp_path, poses, extra=2)
    for path in (tmp_path, tmp_path / "data_3d_h36m.npz", tmp_path / "data_2d_h36m_gt.npz"):
        assert detect(path) == "h36m"
        data = open_data(path)
        assert len(data) == 12 and data.names[:2] == ["S1/Walking 1/54138969", "S1/Walking 1/55011271"]
        for sequence in data:
            subject, action, id = sequence.name.split("/")
            index = list(SIZES).index(id)
            assert (sequence.subject, sequence.action, sequence.fps) == (subject, action, 50)
            assert len(sequence) == len(poses[subject][action])  # the keypoints went on
            size = (1000, 1002) if id in ("54138969", "60457274") else (1000, 1000)
            wanted = normalise(pixels[subject][action][index].astype(np.float64)[: len(sequence)], size)
            np.testing.assert_allclose(sequence.keypoints, wanted, atol=1e-6)
            world = poses[subject][action][:, JOINTS]
            np.testing.assert_allclose(sequence.camera.to_world(sequence.poses.astype(np.float64)), world, atol=1e-5)
    assert open_data(tmp_path).select("S9/Photo/*").names == [f"S9/Photo/{id}" for id in SIZES]
    with pytest.raises(FileNotFoundError, match="data_2d_h36m_cpn.npz"):
        open_data(tmp_path, keypoints="cpn")
    calibration = (tmp_path / "camera-parameters.json").rename(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="camera-parameters.json: .* are in the world"):
        open_data(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.json"):
        open_data(tmp_path, cameras=tmp_path / "none.json")
    assert len(open_data(tmp_path, cameras=calibration)) == 12
    (tmp_path / "data_3d_h36m.npz").unlink()
    for cameras_file, has_camera in ((None, False), (calibration, True)):
        for sequence in open_data(tmp_path, cameras=cameras_file):
            assert sequence.poses is None and (sequence.camera is not None) == has_camera
            assert sequence.size == SIZES[sequence.name.split("/")[2]]


def test_h36m_cameras(tmp_path):
    """Cameras are those of the file, and project as the official code (`lifter.diffusion.project`) does."""
    data = camera_parameters(["S1", "S9"])
    data["extrinsics"]["S1"]["55011271"]["t"] = np.ravel(data["extrinsics"]["S1"]["55011271"]["t"]).tolist()
    path = save_json(tmp_path / "cameras.json", data)
    for camera, wanted in zip(cameras(path, "S1"), made_up("S1"), strict=True):
        for name in ("id", "size", "fx", "fy", "cx", "cy", "distortion", "rotation"):
            np.testing.assert_array_equal(getattr(camera, name), getattr(wanted, name))
        np.testing.assert_allclose(camera.translation, wanted.translation, rtol=1e-12)
    np.testing.assert_allclose(cameras(path, "S9")[2].position, made_up("S9")[2].position)
    points = np.random.default_rng(0).normal(0, 0.5, (2, 9, 17, 3)) + (0, 0, 5)
    for camera in cameras(path, "S9"):
        official = project(torch.from_numpy(points), torch.from_numpy(camera.normalised))
        np.testing.assert_allclose(normalise(camera.project(points), camera.size), official, atol=1e-12)


def test_h36m_distortion(tmp_path):
    """The file's p1, p2 are OpenCV's: a point on the x axis moves along y by p1 r^2 only."""
    data = camera_parameters(["S1"])
    data["intrinsics"]["54138969"]["distortion"] = [0, 0, 0.25, 0, 0]
    camera = cameras(save_json(tmp_path / "cameras.json", data), "S1")[0]
    moved = (camera.project(np.array([0.5, 0, 1])) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    np.testing.assert_allclose(moved, [0.5, 0.25 * 0.25])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data.pop("intrinsics"), "no key 'intrinsics'"),
        (lambda data: data["extrinsics"].pop("S1"), "extrinsics: no key 'S1'"),
        (lambda data: data["intrinsics"].pop("58860488"), "intrinsics: no key '58860488'"),
        (
            lambda data: data["intrinsics"]["58860488"].update(distortion=[0] * 4),
            r"intrinsics: 58860488: distortion: shape \(4,\)",
        ),
        (
            lambda data: data["extrinsics"]["S1"]["58860488"].update(R=np.ones((3, 3)).tolist()),
            "extrinsics: S1/58860488: .* no rotation",
        ),
        (
            lambda data: data["extrinsics"]["S1"]["58860488"].update(t=[[1, 2]]),
            r"extrinsics: S1/58860488: t: shape \(2,\), expected \(3\)",
        ),
    ],
)
def test_bad_h36m_cameras(tmp_path, change, message):
    data = camera_parameters(["S1"])
    change(data)
    with pytest.raises((ValueError, KeyError), match=f"x.json: {message}"):
        cameras(save_json(tmp_path / "x.json", data), "S1")


def test_h36m_detections_of_coco_joints(tmp_path, rng):
    """Write a file as data_2d_h36m_detectron_pt_coco.npz."""
    pixels = rng.uniform(1, 999, (3, 17, 2)).astype(np.float32)
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": [[1], [2]]}
    path = tmp_path / "data_2d_h36m_detectron_pt_coco.npz"
    np.savez_compressed(path, positions_2d={"S1": {"Eating": [pixels] * 4}}, metadata=metadata)
    sequence = open_data(path)["S1/Eating/55011271"]
    np.testing.assert_allclose(sequence.keypoints[:, 9], normalise(pixels[:, 0], (1000, 1000)), atol=1e-6)  # the nose


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda three, two: two["S1"]["Eating"].__setitem__(2, two["S1"]["Eating"][2][:3]), "S1/Eating/58860488: 3 frames"),
        (lambda three, two: two["S1"]["Eating"].pop(), "data_2d_h36m_gt.npz: S1/Eating: 3 cameras, expected 4"),
        (lambda three, two: two["S1"].pop("Eating"), "data_2d_h36m_gt.npz: S1: no key 'Eating'"),
        (lambda three, two: two.pop("S1"), "data_2d_h36m_gt.npz: positions_2d: no key 'S1'"),
        (
            lambda three, two: three.update(S3=three["S1"]) or two.update(S3=two["S1"]),
            "camera-parameters.json: extrinsics: no key 'S3'",
        ),
        (
            lambda three, two: three["S1"].update(Eating=np.zeros((4, 31, 3))),
            r"S1/Eating: shape \(4, 31, 3\), expected \(T, 32",
        ),
        (lambda three, two: three["S1"].update(Eating=three["S1"]["Eating"] * 1000), r"frame 0, joint .*\(metres"),
        (
            lambda three, two: three["S1"]["Eating"].__setitem__((2, 6), np.nan),
            r"poses: frame 2, joint 4 \(left_hip\) is \[nan",
        ),
        (lambda three, two: three.update(S1=[1]), "S1 is a list, expected a dict of actions"),
    ],
)
def test_bad_h36m(tmp_path, rng, change, message):
    three = {"S1": {"Eating": h36m_poses(rng, 4)}}
    two = write_h36m(tmp_path, three)
    change(three, two)
    np.savez(tmp_path / "data_3d_h36m.npz", positions_3d=three)
    np.savez(tmp_path / "data_2d_h36m_gt.npz", positions_2d=two, metadata={})
    with pytest.raises((ValueError, KeyError), match=message):
        list(open_data(tmp_path))


# ---- MotionBERT ------------------------------------------------------------------------------------------------------


def motionbert(rng, frames=7, full=True):
    """One split of the pickle: two sources, the second one's last three frames of another camera's size."""
    camera = {"54138969": (1000, 1002), "55011271": (1000, 1000)}
    source = ["s_09_act_02_subact_01_ca_01"] * (frames - 3) + ["s_09_act_02_subact_01_ca_02"] * 3
    part = {
        "joint_2d": rng.uniform(0, 1000, (frames, 17, 2)).astype(np.float32),
        "confidence": rng.uniform(0, 1, (frames, 17, 1)).astype(np.float32),
        "joint3d_image": rng.uniform(-500, 500, (frames, 17, 3)),
        "camera_name": np.array([list(camera)[name.endswith("2")] for name in source]),
        "source": source,
    }
    if full:
        part |= {"action": ["Directions"] * frames, "2.5d_factor": rng.uniform(3, 5, frames)}
        part["joints_2.5d_image"] = part["joint3d_image"] * part["2.5d_factor"][:, None, None]
    return part


def test_motionbert_pickle(tmp_path, rng):
    path = tmp_path / "h36m_sh_conf_cam_source_final.pkl"
    test, train = motionbert(rng), motionbert(rng, full=False)
    train["confidence"] = train["confidence"][..., 0]  # both shapes are in use
    path.write_bytes(pickle.dumps({"train": train, "test": test}))
    assert detect(path) == "motionbert"
    data = open_data(path)
    names = [f"{split}/s_09_act_02_subact_01_ca_0{i}" for split in ("train", "test") for i in (1, 2)]
    assert data.names == names and [len(sequence) for sequence in data] == [4, 3, 4, 3]
    second = data[names[3]]
    assert second.size == (1000, 1000) and second.action == "Directions" and second.fps == 50
    np.testing.assert_allclose(second.keypoints[..., :2], test["joint_2d"][4:] / 500 - 1, atol=1e-6)
    np.testing.assert_array_equal(second.keypoints[..., 2:], test["confidence"][4:])
    np.testing.assert_allclose(second.poses, test["joints_2.5d_image"][4:] / 1000, atol=1e-6)
    target = test["joint3d_image"][4:]
    np.testing.assert_allclose(second.image_poses, (target / 500) - (1, 1, 0), atol=1e-6)
    # The evaluation: predictions to pixels, times the factor, relative to the root.
    scaled = second.factor[:, None, None] * second.image_poses
    np.testing.assert_allclose(scaled - scaled[:, :1], second.rooted(), atol=1e-5)
    first = data[names[0]]
    assert first.poses is None and first.factor is None and first.size == (1000, 1002)
    np.testing.assert_allclose(first.keypoints[..., 1], train["joint_2d"][:4, :, 1] / 500 - 1.002, atol=1e-6)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("source", None, "train: no key 'source'"),
        ("camera_name", ["1"] * 7, "camera_name is 1, expected one of 54138969"),
        ("confidence", np.zeros((6, 17)), "train: confidence has 6 frames, expected 7"),
        ("joint_2d", np.zeros((7, 16, 2)), r"joint_2d: shape \(4, 16, 2\), expected \(4, 17, n\)"),
        ("joint3d_image", 5, "joint3d_image: a int, expected a list"),
        ("joint_2d", ["a"] * 7, "joint_2d: not an array of numbers"),
    ],
)
def test_bad_motionbert(tmp_path, rng, key, value, message):
    part = motionbert(rng)
    part[key] = value
    if value is None:
        del part[key]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"train": part}))
    with pytest.raises((ValueError, KeyError), match=f"x.pkl: .*{message}"):
        list(open_data(tmp_path / "x.pkl"))


def test_motionbert_clips(tmp_path, rng):
    folder = tmp_path / "H36M-SH" / "train"
    folder.mkdir(parents=True)
    clips = [{"data_input": rng.uniform(-1, 1, (9, 17, 3)).astype(np.float32), "data_label": rng.normal(size=(9, 17, 3))}]
    clips.append({"data_input": None, "data_label": clips[0]["data_label"]})  # without 2D, to train on projections
    for i, clip in enumerate(clips):
        (folder / f"{i:08}.pkl").write_bytes(pickle.dumps(clip))
    assert detect(tmp_path) == detect(folder) == detect(folder / "00000000.pkl") == "motionbert-clips"
    one, other = open_data(tmp_path)
    assert one.name == "H36M-SH/train/00000000" and other.keypoints is None
    np.testing.assert_array_equal(one.keypoints, clips[0]["data_input"])
    np.testing.assert_allclose(other.image_poses, clips[0]["data_label"], atol=1e-6)
    (folder / "00000001.pkl").write_bytes(pickle.dumps({"data_label": np.zeros((9, 16, 3))}))
    with pytest.raises(ValueError, match=r"00000001.pkl: data_label: shape \(9, 16, 3\)"):
        list(open_data(tmp_path))


def test_image_poses_are_motionberts():
    """At the root's depth a pixel is a length: x and y are the keypoints, z is the depth in that unit (mmpose's
    camera_to_image_coord, of MotionBERT's preprocessing)."""
    camera = made_up("S1")[0]
    points = np.random.default_rng(0).normal(0, 0.3, (5, 17, 3)) + (0.2, 0.1, 5)
    poses, factor = image_poses(points, camera)
    np.testing.assert_array_equal(poses[..., :2], normalise(camera.project(points), camera.size))
    np.testing.assert_allclose(factor, points[:, 0, 2] * 500 / camera.fx)
    np.testing.assert_allclose(poses[..., 2] * factor[:, None], points[..., 2] - points[:, :1, 2])


# ---- MPI-INF-3DHP ----------------------------------------------------------------------------------------------------


def test_3dhp(tmp_path, rng):
    arrays = {"data_2d": rng.uniform(0, 2048, (5, 17, 2)), "data_3d": rng.normal(0, 500, (5, 17, 3)) + (0, 0, 3000)}
    np.savez_compressed(tmp_path / "data_train_3dhp.npz", data={"S1 Seq2": [{"0": arrays, "8": arrays}, 50]})
    test = {"TS1": {**arrays, "valid": np.array([1, 0, 1, 1, 0.0])}, "TS6": {**arrays, "valid": np.ones(5)}}
    np.savez_compressed(tmp_path / "data_test_3dhp.npz", data=test)
    train = open_data(tmp_path / "data_train_3dhp.npz")
    assert train.format == "3dhp" and train.names == ["S1/Seq2/0", "S1/Seq2/8"]
    sequence = train["S1/Seq2/8"]
    assert sequence.skeleton is MPI3DHP and sequence.fps == 50 and sequence.subject == "S1"
    np.testing.assert_allclose(sequence.keypoints, arrays["data_2d"] / 1024 - 1, atol=1e-6)
    np.testing.assert_allclose(sequence.poses, arrays["data_3d"] / 1000, atol=1e-6)
    assert (sequence.rooted()[:, 14] == 0).all()
    h36m = sequence.to(H36M)  # in Human3.6M's order: pelvis, right hip, head, left wrist
    np.testing.assert_array_equal(h36m.poses[:, [0, 1, 10, 13]], sequence.poses[:, [14, 8, 0, 7]])
    one, six = open_data(tmp_path / "data_test_3dhp.npz")
    assert one.valid.tolist() == [True, False, True, True, False] and one.size == (2048, 2048)
    assert six.size == (1920, 1080)
    for bad, message in (
        ({"TS1": {"data_2d": arrays["data_2d"]}}, "TS1: no key 'data_3d'"),
        ({"S1 Seq1": [1]}, "S1 Seq1: expected"),
    ):
        np.savez(tmp_path / "bad.npz", data=bad)
        with pytest.raises((ValueError, KeyError), match=f"bad.npz: {message}"):
            list(open_data(tmp_path / "bad.npz"))


def test_3dhp_mat(tmp_path, rng, monkeypatch):
    """annot.mat as scipy returns it: cells of (T, 28 * 2) and (T, 28 * 3), of fourteen cameras."""
    cells = lambda axes: objects([objects([rng.uniform(0, 2000, (20, 28 * axes))]) for _ in range(14)]).reshape(14)
    contents = {"annot2": cells(2), "univ_annot3": cells(3)}
    file = tmp_path / "S1" / "Seq1" / "annot.mat"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"MATLAB 5.0 MAT-file")
    for path in (file, tmp_path):
        assert detect(path) == "3dhp-mat"
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r'annot.mat: reading it needs scipy: pip install -e "\.\[data\]"'):
        list(open_data(tmp_path))
    monkeypatch.setitem(sys.modules, "scipy.io", types.SimpleNamespace(loadmat=lambda file, variable_names: contents))
    data = open_data(tmp_path)
    assert data.names == [f"S1/Seq1/{camera}" for camera in TRAIN_CAMERAS]
    sequence = data["S1/Seq1/4"]
    assert len(sequence) == 20 and sequence.fps is None
    pelvis = contents["univ_annot3"][4][0].reshape(-1, 28, 3)[:, 4] / 1000
    np.testing.assert_allclose(sequence.poses[:, 14], pelvis, atol=1e-6)


def test_3dhp_test_mat(tmp_path, rng, monkeypatch):
    """annot_data.mat as h5py opens it: MATLAB's axes reversed, (T, 1, 17, 2 or 3)."""
    keypoints, poses = rng.uniform(0, 1080, (4, 1, 17, 2)), rng.normal(0, 900, (4, 1, 17, 3))
    contents = {"annot2": keypoints, "univ_annot3": poses, "valid_frame": np.array([[1.0], [1], [0], [1]])}
    file = tmp_path / "TS5" / "annot_data.mat"
    file.parent.mkdir()
    file.write_bytes(b"MATLAB 7.3 MAT-file")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"annot_data.mat: reading it needs h5py"):
        list(open_data(file))
    monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=lambda file, mode: contextlib.nullcontext(contents)))
    (sequence,) = open_data(tmp_path)
    assert sequence.name == "TS5" and sequence.size == (1920, 1080) and sequence.valid.tolist() == [True, True, False, True]
    np.testing.assert_allclose(sequence.keypoints, normalise(keypoints[:, 0], (1920, 1080)), atol=1e-6)
    np.testing.assert_allclose(sequence.poses, poses[:, 0] / 1000, atol=1e-6)
    del contents["annot2"]
    with pytest.raises(KeyError, match="annot_data.mat: annot2"):
        list(open_data(file))


# ---- DeciWatch -------------------------------------------------------------------------------------------------------


def write_deciwatch(root, rng, dataset, estimator, joints, axes, names, lengths=(4, 6, 3)):
    images = objects([[f"{name}/{frame:05}.jpg" for frame in range(n)] for name, n in zip(names, lengths)])
    key, arrays = f"joints_{axes}d", {}
    for kind in ("gt", estimator):
        folder = root / ("groundtruth_poses" if kind == "gt" else "detected_poses") / dataset / ("" if kind == "gt" else kind)
        folder.mkdir(parents=True)
        arrays[kind] = [rng.uniform(0, 1, (n, joints * axes)) for n in lengths]
        extra = {"imgshape": objects([np.array([240, 320, 3])] * len(names))} if kind == "gt" and axes == 2 else {}
        np.savez(folder / f"{dataset}_{kind}_test.npz", **{"imgname": images, key: objects(arrays[kind])}, **extra)
    return arrays, folder / f"{dataset}_{estimator}_test.npz"


@pytest.mark.parametrize(
    "dataset, estimator, skeleton",
    [("h36m", "fcn", H36M), ("pw3d", "spin", PW3D), ("aist", "spin", LSP), ("jhmdb", "simplepose", JHMDB)],
)
def test_deciwatch(tmp_path, rng, dataset, estimator, skeleton):
    axes = 2 if dataset == "jhmdb" else 3
    names = ["S9/Directions 1/camera0", "S9/Directions 1/camera0", "S11/Eating/camera3"]
    arrays, path = write_deciwatch(tmp_path, rng, dataset, estimator, skeleton.num_joints, axes, names)
    data = open_data(path)
    assert data.format == "deciwatch" and data.names == [names[0], f"{names[0]}/2", names[2]]
    for i, sequence in enumerate(data):
        found, truth = (np.reshape(arrays[kind][i], (-1, skeleton.num_joints, axes)) for kind in (estimator, "gt"))
        assert sequence.skeleton is skeleton
        if dataset == "jhmdb":
            assert sequence.size == (320, 240)
            np.testing.assert_allclose(sequence.keypoints, normalise(found, (320, 240)), atol=1e-6)
            np.testing.assert_allclose(sequence.keypoints_true, normalise(truth, (320, 240)), atol=1e-6)
        else:
            np.testing.assert_allclose(sequence.estimates, found, atol=1e-7)
            np.testing.assert_allclose(sequence.poses, truth, atol=1e-7)
    truth = open_data(tmp_path / "groundtruth_poses" / dataset / f"{dataset}_gt_test.npz")
    assert len(truth) == 3 and all(sequence.estimates is None for sequence in truth)


def test_3dpw_has_the_legs_exchanged(tmp_path, rng):
    _, path = write_deciwatch(tmp_path, rng, "pw3d", "spin", 17, 3, ["a"], (4,))
    sequence = next(iter(open_data(path)))
    assert [PW3D.joints[j] for j in (0, 1, 3, 6, 11, 14)] == [
        "pelvis", "left_hip", "left_ankle", "right_ankle", "left_shoulder", "right_shoulder",
    ]  # fmt: skip
    right = sequence.to(H36M)
    np.testing.assert_array_equal(right.poses[:, :7], sequence.poses[:, [0, 4, 5, 6, 1, 2, 3]])
    np.testing.assert_array_equal(right.estimates[:, 7:], sequence.estimates[:, 7:])


def test_bad_deciwatch(tmp_path, rng):
    _, path = write_deciwatch(tmp_path, rng, "pw3d", "spin", 16, 3, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"pw3d_spin_test.npz: a \(detected\): shape \(4, 48\), expected \(4, 17 x 3\)"):
        list(open_data(path))
    path.rename(path.with_name("other.npz"))
    with pytest.raises(ValueError, match="other.npz: the name is not <set>_gt_<phase>.npz"):
        open_data(path.with_name("other.npz"))
    np.savez(path, imgname=objects([["a/1.jpg"]]), joints_3d=objects([np.zeros((1, 51))]))
    with pytest.raises(ValueError, match="pw3d_spin_test.npz: sequences .* expected as many"):
        open_data(path)
