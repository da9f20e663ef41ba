"""DeciWatch and SmoothNet, which refine poses, against the official codes' numbers."""

import pytest
import torch

import lifter
from lifter.inference.windows import overlap_average
from lifter.models import DeciWatch, SmoothNet
from lifter.verify import verify

NAMES = ["deciwatch", "deciwatch_boolmask", "deciwatch_postnorm", "smoothnet"]


def deciwatch(**kwargs):
    torch.manual_seed(0)
    return DeciWatch(**{"num_frames": 9, "num_joints": 5, "dim": 8, "hidden": 8, "depth": 1, "interval": 4} | kwargs).eval()


@pytest.mark.parametrize("name", NAMES)
def test_golden(shared, name):
    (result,) = verify(shared / "golden" / f"{name}.npz")
    assert result.passed, result


@pytest.mark.parametrize(
    "name, parameters",
    [("deciwatch", 1_709_414), ("deciwatch_3dpw", 242_708), ("deciwatch_jhmdb", 1_687_868), ("smoothnet", 761_572)],
)
def test_parameter_count(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in lifter.create_model(name).parameters()) == parameters


@pytest.mark.parametrize("kwargs", [{}, {"masks": "boolean"}, {"pre_norm": False, "activation": "gelu"}], ids=str)
def test_what_deciwatch_reads(kwargs):
    """Every fourth pose, each with an influence on all; flat poses are the same poses."""
    model = deciwatch(**kwargs)
    x = torch.randn(2, 9, 5, 3)
    other = x.clone()
    other[:, torch.arange(9) % 4 != 0] = torch.randn(2, 6, 5, 3)
    with torch.no_grad():
        poses = model(x)
        assert torch.equal(model(other), poses) and torch.equal(model(x.flatten(2)), poses.flatten(2))
        assert torch.equal(model.half()(x.half()), model(x.half())) and model(x.half()).dtype == torch.float16
    recovered, denoised = deciwatch(**kwargs, drop=0.0).train()(x)
    torch.testing.assert_close(recovered, deciwatch(**kwargs)(x))
    torch.testing.assert_close(denoised, deciwatch(**kwargs).refine_all(x)[1][:, ::4])
    y = deciwatch(**kwargs)(x.requires_grad_())
    (gradient,) = torch.autograd.grad(y[:, 1].sum(), x)
    assert gradient[:, ::4].abs().amax((2, 3)).min() > 0


def test_without_the_second_transformer():
    """Poses between the denoised ones are on a line."""
    model = deciwatch(recovering=False)
    with torch.no_grad():
        poses, denoised = model.refine_all(torch.randn(1, 9, 5, 3))
    torch.testing.assert_close(poses[:, ::4], denoised[:, ::4])
    torch.testing.assert_close(poses[:, 3], poses[:, 0].lerp(poses[:, 4], 0.75))


def test_smoothnet_slides():
    torch.manual_seed(0)
    model = SmoothNet(6, dim=8, hidden=4, depth=1).eval()
    x = torch.randn(2, 10, 17, 3)
    with torch.no_grad():
        poses = model(x)
        for i in range(2):
            expected = overlap_average(torch.cat([model(x[i : i + 1, start : start + 6]) for start in range(5)]), 1)
            torch.testing.assert_close(poses[i], expected)
        assert torch.equal(model(x.flatten(2)), poses.flatten(2))
        assert SmoothNet(6, dim=8, hidden=4, depth=1, out_frames=4).eval()(x[:, :6]).shape == (2, 4, 17, 3)


def test_errors():
    poses = lambda frames, joints=17: torch.zeros(1, frames, joints, 3)
    for match, call in (
        (r"DeciWatch: num_frames is 8, expected a multiple of interval=4 and 1", lambda: deciwatch(num_frames=8)),
        (r"DeciWatch: frames of poses are 8, expected a multiple of interval=4 and 1", lambda: deciwatch()(poses(8, 5))),
        (r"DeciWatch: poses have shape \(1, 9, 4, 3\), expected", lambda: deciwatch()(poses(9, 4))),
        (r"DeciWatch: masks is 'int', expected one of added, boolean", lambda: deciwatch(masks="int")),
        (r"SmoothNet: poses have 5 frames, expected at least num_frames=6", lambda: SmoothNet(6)(poses(5))),
        (r"SmoothNet: poses have 7 frames, expected num_frames=6", lambda: SmoothNet(6, out_frames=5)(poses(7))),
        (r"SmoothNet: out_frames is 7, expected 1 to num_frames=6", lambda: SmoothNet(6, out_frames=7)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="SmoothNet: poses have dtype torch.int64"):
        SmoothNet(6)(torch.zeros(1, 6, 17, 3, dtype=torch.int64))
