"""lifter.metrics and lifter.metrics.procrustes: against NumPy in float64, at degenerate poses, over batches."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifter import metrics
from lifter.metrics import procrustes
from tests.metrics.official import p_mpjpe as official_p_mpjpe

FUNCTIONS = {
    "mpjpe": metrics.mpjpe, "p_mpjpe": metrics.p_mpjpe, "n_mpjpe": metrics.n_mpjpe, "mpjve": metrics.mpjve,
    "accel": metrics.accel, "pck": metrics.pck, "auc": metrics.auc,
}  # fmt: skip
CLASSES = {
    "mpjpe": metrics.MPJPE, "p_mpjpe": metrics.PMPJPE, "n_mpjpe": metrics.NMPJPE, "mpjve": metrics.MPJVE,
    "accel": metrics.Accel, "pck": metrics.PCK, "auc": metrics.AUC,
}  # fmt: skip
IN_TIME = {"mpjve": 1, "accel": 2}


def poses(*lead, joints=17, noise=0.1, dtype=torch.float64, seed=0):
    """Predictions and targets of a body's size."""
    generator = torch.Generator().manual_seed(seed)
    targets = 0.3 * torch.randn(*lead, joints, 3, generator=generator, dtype=torch.float64)
    predictions = targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)
    return predictions.to(dtype), targets.to(dtype)


def rotation(seed=0):
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


def expected(predictions, targets):
    return torch.from_numpy(official_p_mpjpe(predictions.double().numpy(), targets.double().numpy()))


# ---- Procrustes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 17, 27, 81, 129, 243, 4131])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 10.0])
def test_p_mpjpe(length, noise):
    predictions, targets = poses(length, noise=noise)
    errors = metrics.p_mpjpe(predictions, targets, reduction="frame")
    torch.testing.assert_close(errors, expected(predictions, targets), rtol=1e-9, atol=0)


@given(st.integers(1, 30), st.integers(3, 40), st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 5.0, 1e4]))
def test_p_mpjpe_random(frames, joints, seed, mirrored, offset):
    """Any joints, far from the origin, and reflections, which are not undone."""
    predictions, targets = poses(frames, joints=joints, seed=seed)
    predictions = predictions * torch.tensor([-1.0 if mirrored else 1.0, 1, 1]) + offset
    errors = metrics.p_mpjpe(predictions, targets, reduction="frame")
    torch.testing.assert_close(errors, expected(predictions - offset, targets), rtol=1e-6, atol=1e-11 * (1 + offset))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_p_mpjpe_rounds_only_its_result(dtype):
    """To 1e-6 of the code in float64, from 3 m away, where the code in float32 is off by more."""
    predictions, targets = poses(2000, noise=0.05, dtype=dtype)
    targets = targets + torch.tensor([0, 0, 3], dtype=dtype)
    errors = metrics.p_mpjpe(predictions, targets, reduction="frame")
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors.double(), expected(predictions, targets), rtol=1e-6, atol=0)


def test_similar_poses_align():
    """Poses that differ by rotation, scale and place only; `procrustes` gives the poses whose distances are the errors."""
    _, targets = poses(5, 7)
    predictions = 2.5 * targets @ rotation() + torch.tensor([1.0, -2, 3])
    torch.testing.assert_close(procrustes.procrustes(predictions, targets), targets)
    assert metrics.p_mpjpe(predictions, targets) < 1e-12
    predictions, targets = poses(5, 7)
    aligned = procrustes.procrustes(predictions, targets)
    torch.testing.assert_close((aligned - targets).norm(dim=-1), metrics.p_mpjpe(predictions, targets, reduction="none"))


DEGENERATE = {
    "zero prediction": lambda p, t: (0 * p, t),
    "zero target": lambda p, t: (p, 0 * t),
    "both zero": lambda p, t: (0 * p, 0 * t),
    "one place": lambda p, t: (p[:, :1].expand_as(p), t),
    "collinear prediction": lambda p, t: (p[..., :1] * torch.tensor([1.0, 2, 3]), t),
    "collinear target": lambda p, t: (p, t[..., :1] * torch.tensor([1.0, 2, 3])),
    "both collinear": lambda p, t: (p[..., :1] * torch.tensor([3.0, 2, 1]), t[..., :1] * torch.tensor([1.0, 2, 3])),
    "planar": lambda p, t: (p * torch.tensor([1.0, 1, 0]), t * torch.tensor([1.0, 1, 0])),
    "nearly planar": lambda p, t: (p * torch.tensor([1.0, 1, 1e-9]), t * torch.tensor([1.0, 1, 1e-9])),
    "mirrored": lambda p, t: (t * torch.tensor([-1.0, 1, 1]), t),
    "point-mirrored": lambda p, t: (-t, t),
    "equal": lambda p, t: (t, t),
    "tiny": lambda p, t: (1e-30 * p, t),
    "huge": lambda p, t: (1e30 * p, t),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_poses(case, dtype):
    """The official code's figures; where that divides by 0, all joints are at the target's mean."""
    predictions, targets = (x.to(dtype) for x in DEGENERATE[case](*poses(50)))
    errors = metrics.p_mpjpe(predictions, targets, reduction="frame")
    if case in ("zero prediction", "zero target", "both zero", "one place"):
        official = (targets - targets.mean(1, keepdim=True)).norm(dim=-1).mean(1).double()
    else:
        official = expected(predictions, targets)
    torch.testing.assert_close(errors.double(), official, rtol=1e-5, atol=1e-7)


def test_p_mpjpe_is_the_least():
    """No rotation near it, nor another scale, gives a smaller sum of squares."""
    predictions, targets = poses(20)
    aligned = procrustes.procrustes(predictions, targets)
    mean = aligned.mean(1, keepdim=True)
    best = (aligned - targets).square().sum((1, 2))
    for seed in range(5):
        turn = torch.linalg.matrix_exp(0.01 * (rotation(seed) - rotation(seed).mT))
        assert ((mean + (aligned - mean) @ turn - targets).square().sum((1, 2)) > best).all()
        assert ((mean + (aligned - mean) * (1 + 0.01 * (seed - 2.5)) - targets).square().sum((1, 2)) > best).all()


def test_speed(record_property):
    """Noise does not break this bound; the goal, 5 times the NumPy code, is measured on a quiet machine."""
    predictions, targets = poses(20_000, noise=0.05, dtype=torch.float32)
    arrays = predictions.numpy(), targets.numpy()
    seconds = {metrics.p_mpjpe: [], official_p_mpjpe: []}
    for _ in range(3):
        for run, args in ((metrics.p_mpjpe, (predictions, targets)), (official_p_mpjpe, arrays)):
            start = time.perf_counter()
            run(*args)
            seconds[run].append(time.perf_counter() - start)
    ratio = min(seconds[official_p_mpjpe]) / min(seconds[metrics.p_mpjpe])
    record_property("summary", f"P-MPJPE: {ratio:.1f} times the NumPy code")
    assert ratio > 2


# ---- all metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_formulas(name):
    """Written out for one joint at a time."""
    p, t = (x.numpy() for x in poses(6))
    if name == "p_mpjpe":
        errors = official_p_mpjpe(p, t)
    elif name in IN_TIME:
        offset = np.diff(p - t, n=IN_TIME[name], axis=0)
        errors = np.sqrt((offset**2).sum(-1)).mean(-1)
    else:
        scale = (p * t).sum((1, 2)) / (p * p).sum((1, 2)) if name == "n_mpjpe" else np.ones(6)
        distances = np.sqrt(((scale[:, None, None] * p - t) ** 2).sum(-1))
        errors = distances.mean(-1)
        if name == "pck":
            errors = (distances < 0.15).mean(-1)
        if name == "auc":
            errors = np.mean([(distances < 0.005 * k).mean(-1) for k in range(31)], axis=0)
    got = FUNCTIONS[name](torch.from_numpy(p), torch.from_numpy(t), reduction="frame")
    np.testing.assert_allclose(got, errors, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("lead", [(1,), (2,), (3,), (27,), (2, 5), (2, 3, 4)])
def test_reductions(name, lead):
    predictions, targets = poses(*lead)
    frames = max(0, lead[-1] - IN_TIME.get(name, 0))
    errors = FUNCTIONS[name](predictions, targets, reduction="none")
    assert errors.shape == (*lead[:-1], frames, 17)
    run = lambda reduction: FUNCTIONS[name](predictions, targets, reduction=reduction)
    torch.testing.assert_close(run("frame"), errors.mean(-1))
    if frames == 0:
        with pytest.raises(ValueError, match=f"{name}: predictions have shape .* of which there is no mean"):
            run("mean")
        return
    torch.testing.assert_close(run("mean"), errors.mean())
    torch.testing.assert_close(run("joint"), errors.reshape(-1, 17).mean(0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_valid(name):
    """Invalid joints do not count, whatever they hold; of differences no frame may be invalid."""
    predictions, targets = poses(2, 6)
    valid = torch.rand(2, 6, 17, generator=torch.Generator().manual_seed(1)) < 0.7
    spoiled = predictions if name == "p_mpjpe" else predictions.where(valid[..., None], torch.nan)
    function = FUNCTIONS[name]
    used = valid
    for _ in range(IN_TIME.get(name, 0)):
        used = torch.stack([a & b for a, b in pairwise(used.unbind(1))], 1)
    if name == "n_mpjpe":
        errors = function(predictions.where(valid[..., None], 0), targets.where(valid[..., None], 0), reduction="none")
    else:
        errors = function(predictions, targets, reduction="none")
    got = function(spoiled, targets, valid)
    torch.testing.assert_close(got, errors[used].mean())
    joints = function(spoiled, targets, valid, reduction="joint")
    torch.testing.assert_close(joints[3], errors[..., 3][used[..., 3]].mean())
    assert function(predictions, targets, torch.zeros_like(valid)) == 0


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_named(name, value):
    """In the middle of a chunk of many, and of several dimensions."""
    for argument, order in (("predictions", 1), ("targets", -1)):
        broken, whole = poses(3, 2000)
        broken[1, 1234, 5, 2] = value
        broken[2, 7, 0, 0] = value
        with pytest.raises(ValueError, match=f"{argument} are not finite in frame 1, 1234"):
            FUNCTIONS[name](*(broken, whole)[::order])


def test_too_large_is_told():
    predictions, targets = poses(3)
    with pytest.raises(ValueError, match="coordinates are too large"):
        metrics.p_mpjpe(1e200 * predictions, targets)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes_and_strides(name):
    predictions, targets = poses(2, 9)
    whole = FUNCTIONS[name](predictions, targets, reduction="frame")
    strided = [x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for x in (predictions, targets)]
    torch.testing.assert_close(FUNCTIONS[name](*strided, reduction="frame"), whole)
    for other in (torch.float32, torch.bfloat16, torch.float16):
        rounded = predictions.to(other), targets.to(other)
        exact = FUNCTIONS[name](*(x.double() for x in rounded))
        got = FUNCTIONS[name](*rounded)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact.double(), rtol=2e-6, atol=2e-7)
        mixed = FUNCTIONS[name](rounded[0], rounded[1].float())
        torch.testing.assert_close(mixed, got)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors(name):
    predictions, targets = poses(4)
    with pytest.raises(ValueError, match=rf"{name}: predictions have shape \(4, 17, 3\), targets \(3, 17, 3\)"):
        FUNCTIONS[name](predictions, targets[1:])
    with pytest.raises(TypeError, match=f"{name}: targets have dtype torch.int64, expected a floating-point"):
        FUNCTIONS[name](predictions, targets.long())
    with pytest.raises(ValueError, match=f"{name}: reduction is 'sum', expected one of"):
        FUNCTIONS[name](predictions, targets, reduction="sum")
    with pytest.raises(ValueError, match=f"{name}: predictions have shape"):
        FUNCTIONS[name](predictions[:, :0], targets[:, :0])
    with pytest.raises(ValueError, match=r"valid has shape \(17,\)|expected \(..., T, J, C\)"):
        FUNCTIONS[name](predictions, targets, predictions[0, :, 0] > 0)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - IN_TIME.keys()))
def test_a_single_pose(name):
    predictions, targets = poses(1)
    valid = torch.arange(17) < 9
    for mask in (None, valid):
        batched = None if mask is None else mask[None]
        expected = FUNCTIONS[name](predictions, targets, batched)
        torch.testing.assert_close(FUNCTIONS[name](predictions[0], targets[0], mask), expected)


def test_hits_are_nearer():
    """At the threshold is no hit, MPI-INF-3DHP's rule; on Sub-JHMDB it is one."""
    targets = torch.zeros(1, 3, 3)
    predictions = torch.tensor([[[0.0, 0, 0], [0, 0.15, 0], [0.0, 0, 0.2]]])
    assert metrics.pck(predictions, targets, reduction="none").tolist() == [[1, 0, 0]]
    np.testing.assert_allclose(metrics.auc(predictions, targets, reduction="none"), [[30 / 31, 0, 0]], rtol=1e-6)
    off = torch.tensor([[[0.0, 0.1]]])
    assert metrics.jhmdb_pck(off, 0 * off, torch.tensor([[0.0, 0, 50, 20]]), (100, 100), 0.2).item() == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_classes(name):
    """Batch by batch is all at once; merged is as if updated; of chosen joints only their errors."""
    predictions, targets = poses(6, 5)
    whole = FUNCTIONS[name](predictions, targets)
    first, second = CLASSES[name](), CLASSES[name]()
    with pytest.raises(ValueError, match="no valid frame"):
        first.compute()
    first.update(predictions[:2], targets[:2])
    first.update(predictions[2:3].float(), targets[2:3].float())
    second.update(predictions[3:], targets[3:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.double(), rtol=1e-6, atol=0)
    first.reset()
    valid = torch.rand(6, 5, 17, generator=torch.Generator().manual_seed(1)) < 0.7
    first.update(predictions, targets, valid)
    torch.testing.assert_close(first.compute(), FUNCTIONS[name](predictions, targets, valid).double(), rtol=1e-6, atol=0)
    some = CLASSES[name](joints=(1, 4, 16))
    some.update(predictions, targets)
    errors = FUNCTIONS[name](predictions, targets, reduction="none")[..., [1, 4, 16]]
    torch.testing.assert_close(some.compute(), errors.double().mean())
    with pytest.raises(ValueError, match="merge_state: other is a"):
        some.merge_state(first)


def test_class_options():
    predictions, targets = poses(5)
    metric = metrics.PCK(threshold=150.0)
    metric.update(1000 * predictions, 1000 * targets)
    torch.testing.assert_close(metric.compute(), metrics.pck(predictions, targets).double())


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gpu(name):
    """Some frames by SVD, too."""
    predictions, targets = poses(3, 5000)
    targets[1, :100] *= torch.tensor([1.0, 0, 0])
    metric = CLASSES[name]()
    metric.update(predictions.cuda(), targets.cuda())
    assert metric.compute().is_cuda
    torch.testing.assert_close(metric.compute().cpu(), FUNCTIONS[name](predictions, targets))
