"""Protocols: root rules, blocklists, windows and averages, each against a count by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifter import metrics
from lifter.metrics.protocols import FIGURES, H36M_14, PROTOCOLS, align_root, compare, evaluate
from tests.metrics.official import p_mpjpe

PLAIN = replace(PROTOCOLS["vp3d"], root_rule="as_predicted", scale=1000.0)


def sequences(*lengths, joints=17, dtype=np.float32, root=True):
    """Predictions in metres and targets relative to joint 0."""
    random = np.random.default_rng(0)
    targets = [random.normal(size=(n, joints, 3)) * 0.3 for n in lengths]
    targets = [(x - x[:, :1] if root else x).astype(dtype) for x in targets]
    predictions = [(x + random.normal(size=x.shape) * 0.05).astype(dtype) for x in targets]
    return predictions, targets


def distances(predictions, targets):
    return 1000 * np.linalg.norm(np.float64(predictions) - targets, axis=-1)


def test_root_rules():
    """The rules differ in what they do with a prediction whose root is off: by the root's share, by nothing, by all."""
    torch.manual_seed(0)
    targets = torch.randn(4, 17, 3)
    relative = targets - targets[:, :1]
    predictions = relative.clone()
    predictions[:, 0] += torch.tensor([0.17, 0, 0])
    error = lambda rule: metrics.mpjpe(*align_root(predictions, targets, rule)).item()
    assert error("as_predicted") == pytest.approx(0.01, rel=1e-5)
    assert error("zeroed") == pytest.approx(0, abs=1e-7)
    assert error("shifted") == pytest.approx(0.16, rel=1e-5)
    assert predictions[0, 0, 0] == pytest.approx(0.17)  # the caller's are as they were
    shifted, aim = align_root(targets + 5, targets, "shifted", root=(2, 3))
    torch.testing.assert_close(shifted, aim, atol=1e-5, rtol=0)
    assert aim[:, 2:4].mean(1).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"root is \(2, 3\), expected one joint for rule='zeroed'"):
        align_root(predictions, targets, "zeroed", root=(2, 3))
    with pytest.raises(ValueError, match="rule is 'centred', expected one of"):
        align_root(predictions, targets, "centred")


def test_figures():
    """One sequence: every figure by its formula, in millimetres and percent."""
    (prediction,), (target,) = sequences(300)
    result = evaluate([prediction], [target], ["walk"])
    errors = distances(prediction, target)
    by_hand = {
        "MPJPE": errors.mean(),
        "P-MPJPE": 1000 * p_mpjpe(np.float64(prediction), np.float64(target)).mean(),
        "MPJVE": distances(np.diff(prediction.astype(float), axis=0), np.diff(target.astype(float), axis=0)).mean(),
        "Accel": distances(np.diff(prediction.astype(float), 2, 0), np.diff(target.astype(float), 2, 0)).mean(),
        "PCK@150": 100 * (errors[:, H36M_14] < 150).mean(),
        "AUC": 100 * np.mean([(errors[:, H36M_14] < t).mean() for t in range(0, 151, 5)]),
    }
    for figure, value in by_hand.items():
        assert result.metrics[figure] == pytest.approx(value, rel=1e-9), figure
    assert result.metrics["N-MPJPE"] < result.metrics["MPJPE"]
    assert result.frames == 300 and result.sequences == 1 and result.per_action["walk"] == result.metrics


@pytest.mark.parametrize("average", ["action", "frame", "sequence"])
def test_averages(average):
    predictions, targets = sequences(10, 20, 70)
    predictions[2] = predictions[2] + np.float32(0.2)
    means = [distances(p, t).mean() for p, t in zip(predictions, targets)]
    expected = {
        "action": ((10 * means[0] + 20 * means[1]) / 30 + means[2]) / 2,
        "frame": (10 * means[0] + 20 * means[1] + 70 * means[2]) / 100,
        "sequence": np.mean(means),
    }
    result = evaluate(predictions, targets, ["eat", "eat", "sit"], replace(PLAIN, average=average))
    assert result.metrics["MPJPE"] == pytest.approx(expected[average])
    assert result.per_action["sit"]["MPJPE"] == pytest.approx(means[2])


def test_differences_stay_within_a_sequence():
    """Cut in two, the difference across the cut is not there; sequences count by their frames, as in VideoPose3D."""
    (prediction,), (target,) = sequences(30)
    parts = [prediction[:10], prediction[10:]], [target[:10], target[10:]]
    result = evaluate(*parts, ["a", "a"])
    per_part = [metrics.mpjve(*map(torch.from_numpy, pair)).item() * 1000 for pair in zip(*parts)]
    assert result.metrics["MPJVE"] == pytest.approx((10 * per_part[0] + 20 * per_part[1]) / 30, rel=1e-5)
    short = evaluate([prediction[:1]], [target[:1]], ["a"])
    assert np.isnan(short.metrics["MPJVE"]) and np.isnan(short.metrics["Accel"]) and short.metrics["MPJPE"] > 0
    both = evaluate([prediction[:1], prediction], [target[:1], target], ["a", "b"])
    alone = evaluate([prediction], [target], ["b"])
    assert both.metrics["MPJVE"] == alone.metrics["MPJVE"]


def test_blocklists():
    motionbert, mmpose = PROTOCOLS["motionbert"], PROTOCOLS["mmpose"]
    assert motionbert.blocks("s_09_act_05_subact_02_ca_01") and not motionbert.blocks("s_09_act_05_subact_01_ca_01")
    assert not motionbert.blocks("s_11_act_05_subact_02_ca_01")
    assert mmpose.blocks("S9_Greeting") and mmpose.blocks("S9_SittingDown_1.54138969") and not mmpose.blocks("S9_Sitting")
    predictions, targets = sequences(243, 243, 243)
    names = ["s_09_act_05_subact_02_ca_01", "s_09_act_05_subact_01_ca_01", "s_11_act_02_subact_01_ca_03"]
    result = evaluate(predictions, targets, ["5", "5", "2"], "motionbert", names=names)
    expected = evaluate(predictions[1:], targets[1:], ["5", "2"], "motionbert", names=names[1:])
    assert result.metrics == expected.metrics and result.frames == 486
    assert result.blocked == (names[0],) and "1 blocked" in str(result)
    assert "blocklist not applied" in str(evaluate(predictions, targets, "552", "motionbert"))
    with pytest.raises(ValueError, match="no frames of 1 sequences count under motionbert"):
        evaluate(predictions[:1], targets[:1], ["5"], "motionbert", names=names[:1])


@pytest.mark.parametrize("length, frames", [(3, 3), (242, 242), (243, 243), (500, 486)])
def test_frames_after_the_last_whole_window(length, frames):
    """MotionBERT drops them, VideoPose3D does not; a sequence without a whole window counts."""
    predictions, targets = sequences(length)
    assert evaluate(predictions, targets, ["a"], "motionbert").frames == frames
    assert evaluate(predictions, targets, ["a"], "vp3d").frames == length


def test_valid_frames():
    """3DHP's: what others hold does not matter; differences need both frames."""
    predictions, targets = sequences(20, root=False)
    valid = np.ones(20, bool)
    valid[[3, 4, 11]] = False
    predictions[0][~valid] = np.nan
    result = evaluate(predictions, targets, ["a"], "3dhp-univ", valid=[valid])
    relative = targets[0] - targets[0][:, 14:15]
    zeroed = predictions[0].copy()
    zeroed[:, 14] = 0
    assert result.frames == 17
    assert result.metrics["MPJPE"] == pytest.approx(distances(zeroed, relative)[valid].mean(), rel=1e-6)
    assert result.metrics["PCK@150"] == pytest.approx(100 * (distances(zeroed, relative)[valid][:, :14] < 150).mean())
    velocity = np.linalg.norm(np.diff(zeroed - relative, axis=0), axis=-1).mean(-1) * 1000
    assert result.metrics["MPJVE"] == pytest.approx(velocity[valid[1:] & valid[:-1]].mean(), rel=1e-6)


def test_every_protocol():
    """Whatever the dtype, arrays and tensors, also mixed: the same figures; a perfect prediction has none but hits."""
    for name, protocol in PROTOCOLS.items():
        joints = 14 if name == "3dhp-annot" else 17
        _, targets = sequences(5, 300, joints=joints, dtype=np.float64, root=False)
        perfect = [align_root(*(torch.from_numpy(t),) * 2, "shifted", protocol.root)[0] for t in targets]
        result = evaluate(perfect, targets, ["a", "b"], name)
        assert all(result.metrics[figure] < 1e-9 for figure in list(FIGURES)[:5])
        assert result.metrics["PCK@150"] == 100 and result.metrics["AUC"] == pytest.approx(100 * 30 / 31)
        predictions = [p + 0.01 for p in perfect]
        exact = evaluate(predictions, targets, ["a", "b"], name)
        rounded = evaluate([p.float() for p in predictions], targets, ["a", "b"], name)
        assert rounded.metrics == pytest.approx(exact.metrics, rel=1e-4, abs=1e-3)
        text = str(exact)
        assert text.startswith(f"{name}: root {protocol.root_rule}") and f"{exact.frames:,} frames of 2 sequences" in text


def test_side_by_side():
    predictions, targets = sequences(300, 400)
    results = evaluate(predictions, targets, ["a", "b"], ("vp3d", "motionbert", replace(PLAIN, name="mine", window=27)))
    assert [result.protocol.name for result in results] == ["vp3d", "motionbert", "mine"]
    lines = compare(results).splitlines()
    assert "700 frames" in lines[0] and "486 frames" in lines[1] and "windows of 27" in lines[2]
    assert lines[3].split() == list(FIGURES) and [line.split()[0] for line in lines[4:]] == ["vp3d", "motionbert", "mine"]
    assert lines[4].split()[1] == f"{results[0].metrics['MPJPE']:.2f}"


def test_lift_then_evaluate():
    """A protocol's windows, and its figures."""

    class Keypoints(torch.nn.Module):
        def forward(self, x):
            return torch.cat((x, x[..., :1]), -1)

    protocol = replace(PROTOCOLS["motionbert"], window=9, stride=9)
    keypoints = torch.randn(31, 17, 2)
    poses = protocol.lift(Keypoints().eval(), keypoints, flip=None)
    torch.testing.assert_close(poses[..., :2], keypoints)
    assert evaluate([poses], [poses - poses[:, :1]], ["a"], protocol).frames == 27


def test_errors():
    predictions, targets = sequences(5, 6)
    flat = [[x[..., :2] for x in poses] for poses in (predictions, targets)]
    run = lambda p=predictions, t=targets, a="ab", protocol="vp3d", **kwargs: evaluate(p, t, a, protocol, **kwargs)
    for match, call in (
        ("protocol is 'h36m', expected one of vp3d, motionbert, mmpose, 3dhp-univ, 3dhp-annot", lambda: run(protocol="h36m")),
        ("targets has 1 entries, expected 2 as predictions", lambda: run(t=targets[:1])),
        ("actions has 1 entries", lambda: run(a="a")),
        ("names has 3 entries", lambda: run(names="abc")),
        ("no frames of 0 sequences", lambda: run([], [], [])),
        (r"sequence '1': predictions have shape \(6, 17, 3\), targets \(5, 17, 3\)", lambda: run(t=targets[:1] * 2)),
        (r"sequence 'x': predictions have shape \(5, 17, 2\)", lambda: run(*flat, names="xy")),
        (r"sequence '0': valid has shape \(4,\)", lambda: run(valid=[np.ones(4, bool), np.ones(6, bool)])),
        ("root_rule is 'none', average 'action', expected one of", lambda: replace(PLAIN, root_rule="none")),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    predictions[1][4, 3, 2] = np.nan
    with pytest.raises(ValueError, match="sequence 'two': predictions are not finite in frame 4"):
        run(names=["one", "two"])
