"""MixSynthFormer as a lifter: what its keyframes' estimates are refined to."""

import pytest
import torch
from torch import nn

import lifter
from lifter.models import ConvLifter, MixSynthFormerLifter

TINY = {"dim": 16, "depth": 1, "interval": 3, "steps": 4}


def test_keyframes_are_estimated_and_refined():
    """The frames between are not read; estimator and refiner are part of the model."""
    torch.manual_seed(0)
    model = lifter.create_model("mixsynthformer_lifter", **TINY).eval()
    assert model.num_frames == 13
    keypoints = torch.randn(2, 13, 17, 2)
    poses = model(keypoints)
    torch.testing.assert_close(poses, model.refiner(model.estimator(keypoints)[:, ::3]))
    other = torch.randn(2, 13, 17, 2)
    other[:, ::3] = keypoints[:, ::3]
    assert poses.shape == (2, 13, 17, 3) and torch.equal(model(other), poses)
    assert any(name.startswith("estimator.") for name, _ in model.named_parameters())
    torch.testing.assert_close(model.train().eval()(keypoints), poses)


def test_fit():
    """The estimator is fitted, if it can be."""
    torch.manual_seed(0)
    pairs = [(torch.randn(50, 17, 2), torch.randn(50, 17, 3))]
    model, linear = MixSynthFormerLifter(**TINY), lifter.create_model("linear")
    model.fit(pairs)
    linear.fit(pairs)
    assert torch.equal(model.estimator.linear.weight, linear.linear.weight)
    MixSynthFormerLifter(**TINY, estimator=nn.Identity()).fit(pairs)


def test_another_estimator():
    estimator = lifter.create_model("mixste", num_frames=5, dim=8, depth=1, num_heads=1)
    model = MixSynthFormerLifter(13, **TINY, estimator=estimator)
    keypoints = torch.randn(1, 13, 17, 2)
    assert model(keypoints).shape == (1, 13, 17, 3)


def test_an_estimator_by_name():
    """Its arguments are those of `create_model`, so a file of weights can tell them."""
    estimator = {"name": "conv", "dim": 8, "depth": 1}
    model = lifter.create_model("mixsynthformer_lifter", **TINY, in_channels=3, estimator=estimator)
    assert isinstance(model.estimator, ConvLifter) and model.estimator.in_channels == 3
    assert model(torch.randn(1, 13, 17, 3)).shape == (1, 13, 17, 3)


def test_errors():
    for estimator in ({"name": "nobody"}, {"dim": 8}, "conv"):
        with pytest.raises(ValueError, match="estimator is .*, expected a module, or a dict with a name of conv, "):
            lifter.create_model("mixsynthformer_lifter", **TINY, estimator=estimator)
    with pytest.raises(ValueError, match="num_frames is 12, expected interval=3"):
        lifter.create_model("mixsynthformer_lifter", num_frames=12, **TINY)
    with pytest.raises(ValueError, match="predict is 5, expected 0"):
        lifter.create_model("mixsynthformer_lifter", predict=5, **TINY)
    model = lifter.create_model("mixsynthformer_lifter", **TINY)
    with pytest.raises(ValueError, match="keypoints have 12 frames, expected num_frames=13"):
        model(torch.zeros(1, 12, 17, 2))


@pytest.mark.parametrize("name, kwargs", [("linear", {}), ("mixsynthformer_lifter", TINY)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen(name, kwargs, dtype):
    """Models too of which no parameter is left."""
    torch.manual_seed(0)
    model = lifter.create_model(name, **kwargs).eval().to(dtype)
    keypoints = torch.randn(13, 17, 2)
    frozen = lifter.freeze(model)
    poses = lifter.Stream(frozen, 13 if kwargs else 1).push(keypoints).poses
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(poses, model(keypoints[None])[0].detach(), rtol=bound, atol=bound)
