"""PoseMamba against the official code's numbers, and where it differs from SasMamba."""

import pytest
import torch

import lifter
from lifter import kernels
from lifter.models.posemamba import LIMBS, PoseMamba, limb_gather
from lifter.verify import verify


def test_golden(shared, backend):
    if backend == "triton":
        pytest.skip("the interpreter is slow: sasmamba_conv7 and the units stand for it")
    (result,) = verify(shared / "golden" / "posemamba.npz", backend)
    assert result.passed, result


@pytest.mark.parametrize(
    "name, params", [("posemamba_s", 1_470_211), ("posemamba_b", 4_742_659), ("posemamba_l", 9_450_499)]
)
def test_parameter_count(name, params):
    assert sum(p.numel() for p in lifter.create_model(name).parameters()) == params


@pytest.mark.parametrize(
    "kwargs", [{}, {"in_channels": 3}, {"num_joints": 15}, {"directions": ("S-b", "T-f")}], ids=str
)
def test_variants_run_and_train(kwargs):
    torch.manual_seed(0)
    model = PoseMamba(**{"num_frames": 3, "dim": 8, "depth": 2, "drop_path": 0.0} | kwargs)
    x = torch.randn(2, 3, kwargs.get("num_joints", 17), kwargs.get("in_channels", 2))
    with kernels.backend("reference"):
        y = model(x)
        y.square().sum().backward()
    assert y.shape == (*x.shape[:3], 3) and y.isfinite().all()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def test_limb_gather():
    table = limb_gather(("T-f", "S-f", "T-b"))
    assert table.shape == (3, 1, 2, 17)
    assert table[0, 0].tolist() == [list(range(17)), list(LIMBS)] and torch.equal(table[0], table[2])
    assert table[1, 0].tolist() == [list(range(17)), [-1] * 17]


def test_errors():
    with pytest.raises(ValueError, match="num_joints is 14"):
        PoseMamba(num_joints=14)
    with pytest.raises(ValueError, match="PoseMamba: keypoints have 10 frames"):
        PoseMamba(num_frames=9, dim=8, depth=1)(torch.zeros(1, 10, 17, 2))
