"""`lifter eval`: the figures are those of `evaluate` on what `lift_sequence` gives, and say how they came about."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import benchmarks.windows  # noqa: F401  (registers the form of cmu_pairs_small.npz)
import lifter
from lifter.__main__ import main
from lifter.data import Sequence, open_data, save
from lifter.data.synthetic import open_gait
from lifter.inference.windows import lift_sequence
from lifter.metrics.protocols import PROTOCOLS, evaluate, evaluate_model
from lifter.skeleton import H36M, MPI3DHP

SIZES = {"num_frames": 27, "dim": 16, "depth": 1}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return lifter.create_model("sasmamba", **SIZES).eval()


def test_command(model, shared, tmp_path, capsys):
    lifter.save_pretrained(tmp_path / "tiny.safetensors", model, {"model": "sasmamba", "kwargs": SIZES})
    path = shared / "data" / "cmu_pairs_small.npz"
    arguments = ["eval", str(path), "--checkpoint", str(tmp_path / "tiny.safetensors"), "--select", "2", "1?"]
    told = tmp_path / "told.json"
    assert main([*arguments, "--protocol", "motionbert", "3dhp-annot", "--actions", "--json", str(told)]) == 0
    out = capsys.readouterr().out
    data = open_data(path).select("2", "1?")
    predictions = [lift_sequence(model, sequence.keypoints) for sequence in data]
    actions = [sequence.action for sequence in data]
    fitting = replace(PROTOCOLS["motionbert"], window=27, stride=27)
    expected = evaluate(predictions, [sequence.poses for sequence in data], actions, fitting)
    results = json.loads(told.read_text())["evaluations"]
    assert results[0]["metrics"] == pytest.approx(expected.metrics, rel=1e-4)
    assert results[0]["per_action"].keys() == set(actions) and results[0]["frames"] == 11 * 243
    assert results[0]["protocol"]["root_rule"] == "zeroed" and results[1]["protocol"]["skeleton"] == "lsp"
    for line in (
        "motionbert: root zeroed (joint 0), windows of 27 every 27, whole ones only",
        "3dhp-annot: root as_predicted (mean of joints 2, 3), windows of 27 every 27, per sequence",
        "2,673 frames of 11 sequences",
        *(f"\n{action} " for action in actions),
        f"\nmotionbert{expected.metrics['MPJPE']:>10.2f}",
    ):
        assert line in out
    assert main(arguments) == 0
    assert "root as_predicted (joint 0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--protocol", "vp3d", "cat"], "protocol is cat, expected some of vp3d, "),
        (["--select", "y"], "no sequence matches y"),
        (["--checkpoint", "none.pth"], "none.pth"),
        (["--format", "bvh"], "expected HIERARCHY"),
        ([], "x.npz: no sequence with keypoints and poses"),
    ],
)
def test_mistakes(model, tmp_path, capsys, arguments, message):
    lifter.save_pretrained(tmp_path / "tiny.safetensors", model, {"model": "sasmamba", "kwargs": SIZES})
    save(tmp_path / "x.npz", [Sequence("x", poses=np.ones((3, 17, 3)))])
    assert main(["eval", str(tmp_path / "x.npz"), "--checkpoint", str(tmp_path / "tiny.safetensors"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


class Knows(torch.nn.Module):
    """Gives poses that are off by 10 mm in one joint."""

    def __init__(self, sequence, joint):
        super().__init__()
        poses = sequence.to(H36M).rooted()
        poses[:, joint, 0] += 0.01
        self.num_frames, self.poses = len(poses), torch.from_numpy(poses)
        self.eval()

    def forward(self, keypoints):
        return self.poses.expand(len(keypoints), -1, -1, -1)


@pytest.mark.parametrize("skeleton", [H36M, MPI3DHP])
def test_joints_are_found_by_name(skeleton, tmp_path):
    """Whatever the order of the data: the error is in the joint where it was made, and a protocol's root is its root."""
    order = [H36M.joints.index(joint) for joint in skeleton.joints]
    (one,) = open_gait(1, 30)
    arrays = {"keypoints": one.keypoints[:, order], "poses": one.poses[:, order]}
    one = replace(one, skeleton=skeleton, **arrays, name="test/S9/Greeting")
    save(tmp_path / "x.npz", [one, replace(one, name="blind", keypoints=None)])
    steps = []
    model = Knows(one, H36M.joints.index("right_wrist"))
    names = ("vp3d", "3dhp-univ", "3dhp-annot")
    results = evaluate_model(model, open_data(tmp_path / "x.npz"), names, flip=None, step=lambda: steps.append(1))
    assert [result.metrics["MPJPE"] for result in results] == pytest.approx([10 / 17, 10 / 17, 10 / 14], rel=1e-3)
    assert "1 more lack keypoints or poses" in str(results[0]) and len(steps) == 2
    model = Knows(one, 0)
    results = evaluate_model(model, open_data(tmp_path / "x.npz"), names[:2], flip=None)
    assert [result.metrics["MPJPE"] for result in results] == pytest.approx([10 / 17, 0], abs=1e-3)
    with pytest.raises(ValueError, match="no frames of 1 sequences count under mmpose"):
        evaluate_model(model, open_data(tmp_path / "x.npz"), ["mmpose"], flip=None)  # S9_Greeting is on its blocklist
