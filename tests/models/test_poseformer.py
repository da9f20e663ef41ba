"""PoseFormer and PoseFormerV2 against the official code's numbers, and windows that share frames against windows alone."""

import pytest
import torch

import lifter
from lifter.models.poseformerv2 import DCT
from lifter.verify import verify
from tests.models.windows import assert_clips_are_windows

SIZES = {"poseformer": {}, "poseformerv2": {"kept_frames": 3, "kept_coeffs": 4}}


def tiny(name, **kwargs):
    torch.manual_seed(0)
    return lifter.create_model(name, **{"num_frames": 7, "dim": 4, "depth": 1, "num_heads": 2} | SIZES[name] | kwargs).eval()


# Triton's interpreter takes long for these, and their only op of ours is MixSTE's.
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", SIZES)
def test_golden(shared, backend, name):
    (result,) = verify(shared / "golden" / f"{name}.npz", backend)
    assert result.passed, result


@pytest.mark.parametrize("name", SIZES)
def test_clips(name):
    assert_clips_are_windows(tiny(name))


@pytest.mark.parametrize(
    "name, kwargs, parameters",
    [
        ("poseformer", {"num_frames": 27}, 9_573_455),
        ("poseformer", {}, 9_602_885),
        ("poseformerv2", {"kept_frames": 1, "kept_coeffs": 3}, 14_354_649),
        ("poseformerv2", {}, 14_381_899),
        ("poseformerv2", {"kept_frames": 243, "kept_coeffs": 243}, 14_617_339),
    ],
)
def test_parameter_count(name, kwargs, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in lifter.create_model(name, **kwargs).parameters()) == parameters


@pytest.mark.parametrize("frames, kept", [(1, 1), (5, 5), (8, 3)])
def test_cosine_transform(frames, kept):
    x = torch.randn(2, frames, 3, dtype=torch.float64)
    n = torch.arange(frames)
    rows = [2 * (x * torch.cos(torch.pi * k * (2 * n + 1) / (2 * frames))[:, None]).sum(1) for k in range(kept)]
    transform = DCT(frames, kept).double()
    torch.testing.assert_close(transform(x), torch.stack(rows, 1), rtol=0, atol=1e-5)
    whole = DCT(frames).double()
    torch.testing.assert_close(whole.inverse(whole(x)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_errors(name):
    with pytest.raises(ValueError, match="keypoints have 6 frames, expected at least 7"):
        tiny(name)(torch.zeros(1, 6, 17, 2))


def test_kept_frames():
    with pytest.raises(ValueError, match="kept_frames is 4, expected an odd number of 1 to num_frames=7"):
        tiny("poseformerv2", kept_frames=4)
    with pytest.raises(ValueError, match="kept_coeffs is 8, expected 1 to num_frames=7"):
        tiny("poseformerv2", kept_coeffs=8)
