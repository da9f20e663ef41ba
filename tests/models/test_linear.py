"""The linear lifter: frames by themselves, and a fit that nothing else betters."""

import pytest
import torch

import lifter


def drawn(frames, joints=17, channels=2):
    torch.manual_seed(0)
    return torch.randn(frames, joints, channels), torch.randn(frames, joints, 3)


def test_frames_by_themselves():
    keypoints, _ = drawn(11, 5, 3)
    model = lifter.create_model("linear", in_channels=3, num_joints=5).eval()
    poses = model(keypoints[None])
    assert poses.shape == (1, 11, 5, 3)
    torch.testing.assert_close(model(keypoints[None, 4:5]), poses[:, 4:5])
    assert model.half()(keypoints[None].half()).dtype == torch.float16


@pytest.mark.parametrize("penalty", [1e-4, 0.1])
def test_fit(penalty):
    """In parts or in one: no gradient is left of the mean squared error and the penalty."""
    keypoints, poses = drawn(60, 4)
    model = lifter.create_model("linear", num_joints=4)
    model.fit([(keypoints[:7].numpy(), poses[:7].numpy()), (keypoints[7:], poses[7:])], penalty)
    error = (model(keypoints[None])[0] - poses).square().sum((1, 2)).mean() + penalty * model.linear.weight.square().sum()
    assert max(gradient.abs().max() for gradient in torch.autograd.grad(error, list(model.parameters()))) < 1e-5


def test_errors():
    model = lifter.create_model("linear")
    with pytest.raises(ValueError, match="LinearLifter: no frames to fit to"):
        model.fit([])
    with pytest.raises(ValueError, match=r"keypoints \(5, 17, 3\) and poses \(5, 17, 3\), expected \(T, 17, 2 and 3\)"):
        model.fit([drawn(5, channels=3)])
    with pytest.raises(ValueError, match=r"LinearLifter: keypoints have shape \(1, 5, 17, 3\), expected \(B, T, 17, 2\)"):
        model(torch.zeros(1, 5, 17, 3))
