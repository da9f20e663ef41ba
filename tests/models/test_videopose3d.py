"""VideoPose3D against the official code's numbers, and its two forms against each other."""

import numpy as np
import pytest
import torch

import lifter
from lifter.models import VideoPose3D
from lifter.verify import verify

TINY = {"channels": 8, "widths": (3, 3)}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = VideoPose3D(**TINY | kwargs).eval()
    for norm in (model.expand_bn, *model.layers_bn):
        norm.running_mean.normal_(std=0.2)
    return model


@pytest.mark.parametrize("name", ["videopose3d", "videopose3d_causal"])
def test_golden(shared, backend, name):
    (result,) = verify(shared / "golden" / f"{name}.npz", backend)
    assert result.passed, result


def test_one_frame_form_is_the_official_one(shared):
    """TemporalModelOptimized1f's pose of each window, by our model and by its name."""
    with np.load(shared / "golden" / "videopose3d.npz") as data:
        weights = {key[6:]: torch.from_numpy(data[key]) for key in data.files if key.startswith("param/")}
        keypoints, expected = (torch.from_numpy(data[key]) for key in ("input/0", "aux/optimized1f_all_windows"))
    model = lifter.registry.official_model("common.model.TemporalModelOptimized1f").build(17, 2, 17, [3, 3, 3], channels=32)
    lifter.load_checkpoint(model.eval(), weights)
    with torch.no_grad():
        poses = torch.cat([model(keypoints[:, i : i + 27]) for i in range(5)], 1)
    torch.testing.assert_close(poses, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, {"causal": True}, {"dense": True}, {"widths": (5, 3, 1)}], ids=str)
def test_both_forms(kwargs):
    """A clip gives what its windows give; a pose depends on its own window and on nothing else."""
    model = tiny(**kwargs)
    frames = model.num_frames
    x = torch.randn(2, frames + 4, 17, 2)
    with torch.no_grad():
        poses = model(x)
        assert poses.shape == (2, 5, 17, 3)
        torch.testing.assert_close(poses, torch.cat([model(x[:, i : i + frames]) for i in range(5)], 1), rtol=1e-5, atol=1e-6)
        others = torch.cat((torch.randn(2, 2, 17, 2), x[:, 2:-2], torch.randn(2, 2, 17, 2)), 1)
        torch.testing.assert_close(model(others)[:, 2], poses[:, 2], rtol=1e-5, atol=1e-6)
        assert model.margins == ((frames - 1, 0) if model.causal else (frames // 2, frames // 2))


@pytest.mark.parametrize("frames, parameters", [(27, 8_555_571), (81, 12_753_971), (243, 16_952_371)])
def test_parameter_count(frames, parameters):
    with torch.device("meta"):
        model = lifter.create_model("videopose3d", frames)
    assert model.num_frames == frames and sum(p.numel() for p in model.parameters()) == parameters


def test_errors():
    with pytest.raises(ValueError, match="VideoPose3D: keypoints have 8 frames, expected at least 9"):
        tiny()(torch.zeros(1, 8, 17, 2))
    with pytest.raises(ValueError, match=r"VideoPose3D: num_frames is 26, expected 27, the product of widths=\(3, 3, 3\)"):
        lifter.create_model("videopose3d", 26)
    with pytest.raises(ValueError, match=r"VideoPose3D: widths is \(3, 4\), expected odd numbers"):
        tiny(widths=(3, 4))
