"""lifter.losses against the official numbers, against formulas written out, and at the edges."""

import numpy as np
import pytest
import torch

from lifter import losses
from lifter.skeleton import H36M
from lifter.verify import verify

LOSSES = {
    "mpjpe": losses.mpjpe,
    "weighted_mpjpe": lambda p, t: losses.weighted_mpjpe(p, t, losses.JOINT_WEIGHTS["h36m"]),
    "n_mpjpe": losses.n_mpjpe,
    "loss_velocity": losses.loss_velocity,
    "tc_loss": lambda p, t: losses.tc_loss(p, losses.JOINT_WEIGHTS["h36m"]),
    "loss_joint": losses.loss_joint,
    "loss_acceleration": losses.loss_acceleration,
    "loss_limb_var": lambda p, t: losses.loss_limb_var(p),
    "loss_limb_gt": losses.loss_limb_gt,
    "loss_angle": losses.loss_angle,
    "loss_angle_velocity": losses.loss_angle_velocity,
    "sym_penalty": lambda p, t: losses.sym_penalty(p),
    "bonelen_consistency_loss": lambda p, t: losses.bonelen_consistency_loss(p),
    "mixste_loss": losses.mixste_loss,
    "poseretnet_loss": losses.poseretnet_loss,
    "sasmamba_loss": losses.sasmamba_loss,
    "motionagformer_loss": losses.motionagformer_loss,
    "masc_pose_loss": losses.masc_pose_loss,
    "htp_loss": losses.htp_loss,
    "mixsynthformer_loss": losses.mixsynthformer_loss,
    "prediction": lambda p, t: losses.mixsynthformer_loss(p, t, history=1),
}
MASKED = ("mpjpe", "n_mpjpe", "loss_velocity", "poseretnet_loss")
IN_TIME = ("loss_velocity", "loss_acceleration", "tc_loss", "loss_limb_var", "loss_angle_velocity", "bonelen_consistency_loss")


def poses(batch=2, frames=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, frames, 17, 3, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_golden(shared, dtype):
    results = verify(shared / "golden" / "metrics.npz", "reference", dtype)
    assert len(results) == 47
    for result in results:
        assert result.passed, result


@pytest.mark.parametrize("unit", ["mixste/loss_total_inline", "motionbert/get_angles", "mixsynthformer/jhmdb_pck_0.1"])
def test_wrong_golden_fails(shared, tmp_path, unit):
    """Losses too of which lifter has no counterpart."""
    arrays = dict(np.load(shared / "golden" / "metrics.npz"))
    arrays[f"output/{unit}"] = arrays[f"output/{unit}"] * np.float32(1.0001)
    arrays["output/mixste/norm_loss"] = np.float32(1)
    np.savez(tmp_path / "wrong.npz", **arrays)
    failed = {result.unit: result.message for result in verify(tmp_path / "wrong.npz") if not result.passed}
    assert failed == {unit: "", "mixste/norm_loss": "NotImplementedError: lifter has no such loss or metric"}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    predictions, targets = poses(frames=3)
    assert torch.autograd.gradcheck(lambda p: LOSSES[name](p, targets), predictions.requires_grad_())


@pytest.mark.parametrize("name", MASKED)
def test_gradient_of_the_valid(name):
    """Gradients are finite where a joint is never valid, and zero where a value is not valid, whatever it is."""
    loss, (predictions, targets) = getattr(losses, name), poses(frames=3)
    valid = torch.rand(2, 3, 17, generator=torch.Generator().manual_seed(1)) < 0.6
    valid[..., 4] = False
    assert torch.autograd.gradcheck(lambda p: loss(p, targets, valid=valid), predictions.requires_grad_())
    expected = loss(predictions, targets, valid=valid)
    spoiled = predictions.detach().where(valid[..., None], torch.nan).requires_grad_()
    got = loss(spoiled, targets.where(valid[..., None], torch.inf), valid=valid)
    torch.testing.assert_close(got, expected)
    (gradient,) = torch.autograd.grad(got, spoiled)
    assert gradient.isfinite().all() and (gradient[~valid] == 0).all() and (gradient[valid] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_prediction(name):
    """The gradient is finite where the distances are 0, on bones of constant length and on joints that do not move."""
    still = torch.randn(17, 3, generator=torch.Generator().manual_seed(2)).expand(2, 4, 17, 3).clone().requires_grad_()
    loss = LOSSES[name](still, still.detach())
    (gradient,) = torch.autograd.grad(loss, still)
    assert gradient.isfinite().all()
    if name != "sym_penalty":
        assert loss.abs() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(name, dtype):
    """Half precision gives float32, exact for the rounded poses; mixed dtypes give the wider."""
    predictions, targets = poses(dtype=dtype)
    exact = LOSSES[name](predictions.double(), targets.double())
    got = LOSSES[name](predictions, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=2e-5, atol=1e-6)
    assert LOSSES[name](predictions.double(), targets).dtype == torch.float64


@pytest.mark.parametrize("name", LOSSES)
def test_batches_and_strides(name):
    """The mean over two clips is the mean of theirs, and strides do not matter."""
    predictions, targets = poses()
    whole = LOSSES[name](predictions, targets)
    parts = [LOSSES[name](predictions[i], targets[i]) for i in range(2)]
    torch.testing.assert_close(whole, sum(parts) / 2)
    strided = [x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for x in (predictions, targets)]
    torch.testing.assert_close(LOSSES[name](*strided), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_one_frame_and_none(name):
    predictions, targets = poses(frames=1)
    if name == "prediction":
        with pytest.raises(ValueError, match="history is 1, expected 0 to 0"):
            LOSSES[name](predictions, targets)
    else:
        loss = LOSSES[name](predictions.requires_grad_(), targets)
        assert loss.isfinite() and torch.autograd.grad(loss, predictions)[0].isfinite().all()
        assert (loss == 0) == (name in IN_TIME)
    if name in ("mpjpe", "loss_velocity", "tc_loss", "loss_limb_var", "mixste_loss"):
        with pytest.raises(ValueError, match="expected at least one frame"):
            LOSSES[name](predictions[:, :0].detach(), targets[:, :0])


def test_compiles():
    predictions, targets = poses(dtype=torch.float32)
    loss = lambda p, t: losses.masc_pose_loss(p, t) + losses.mixste_loss(p, t)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(predictions, targets), loss(predictions, targets))


def test_nothing_valid():
    predictions, targets = poses()
    valid = torch.zeros(2, 5, 17, dtype=torch.bool)
    for name in MASKED:
        loss = getattr(losses, name)(predictions.requires_grad_(), targets, valid=valid)
        assert loss == 0 and (torch.autograd.grad(loss, predictions)[0] == 0).all()


def test_sums():
    """The papers' weights of the terms."""
    p, t = poses()
    w = torch.tensor(losses.JOINT_WEIGHTS["h36m"], dtype=p.dtype)
    position, velocity = losses.weighted_mpjpe(p, t, w), losses.loss_velocity(p, t)
    consistency = (w[:, None] * p.diff(dim=1) ** 2).mean()
    torch.testing.assert_close(losses.mixste_loss(p, t), position + 0.5 * consistency + 2 * velocity)
    torch.testing.assert_close(losses.sasmamba_loss(p, t), position + 0.5 * consistency + 20 * velocity)
    torch.testing.assert_close(losses.poseretnet_loss(p, t), position + 1.5 * consistency + 2 * velocity)
    motionagformer = losses.mpjpe(p, t) + 0.5 * losses.n_mpjpe(p, t) + 20 * velocity
    torch.testing.assert_close(losses.motionagformer_loss(p, t), motionagformer)
    torch.testing.assert_close(losses.masc_pose_loss(p, t), motionagformer + 0.5 * (p.diff(dim=1) ** 2).mean())
    torch.testing.assert_close(losses.mixsynthformer_loss(p, t), (p - t).abs().mean())
    torch.testing.assert_close(losses.mixsynthformer_loss(p, t, history=3), losses.mpjpe(p[:, 3:], t[:, 3:]))


def test_scale():
    """N-MPJPE forgets the scale of the prediction; one of zeros stays where it is."""
    p, t = poses()
    torch.testing.assert_close(losses.n_mpjpe(3 * p, t), losses.n_mpjpe(p, t))
    assert losses.n_mpjpe(0.1 * t, t) < 1e-12
    torch.testing.assert_close(losses.n_mpjpe(0 * p, t), losses.mpjpe(0 * p, t))


def test_errors():
    p, t = poses()
    for match, call in (
        (r"predictions have shape \(2, 5, 17, 3\), targets \(2, 4, 17, 3\), expected", lambda: losses.mpjpe(p, t[:, 1:])),
        (r"valid has shape \(2, 5\) and dtype torch.bool, expected", lambda: losses.mpjpe(p, t, p[..., 0, 0] > 0)),
        (r"expected \(2, 5, 17\) and torch.bool", lambda: losses.n_mpjpe(p, t, p[..., 0])),
        (r"valid has shape \(17,\)", lambda: losses.loss_velocity(p, t, torch.ones(17, dtype=torch.bool))),
        (r"weights have shape \(16,\), expected one that broadcasts", lambda: losses.weighted_mpjpe(p, t, torch.ones(16))),
        (r"expected \(..., T, 17, 3\) as h36m", lambda: losses.limb_lengths(p[:, :, 1:])),
        (r"history is 5, expected 0 to 4", lambda: losses.mixsynthformer_loss(p, t, history=5)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="dtype torch.int64, expected a floating-point"):
        losses.mpjpe(p.long(), t)


def test_tables():
    assert all(len(weights) in (14, 17) for weights in losses.JOINT_WEIGHTS.values())
    joints = [set(bone) for bone in H36M.bones]
    assert len(losses.H36M_ANGLES) == len(set(losses.H36M_ANGLES)) == 18
    assert all(joints[a] & joints[b] for a, b in losses.H36M_ANGLES)  # angles are between bones that meet
