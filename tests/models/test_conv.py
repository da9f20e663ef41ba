"""ConvLifter: frames and their neighbours to poses."""

import pytest
import torch

import lifter
from lifter.models import ConvLifter, LinearLifter

TINY = {"dim": 16, "depth": 2}


def test_starts_from_the_linear_estimates():
    """Training begins at the fit of the linear layer."""
    torch.manual_seed(0)
    pairs = [(torch.randn(50, 17, 2), torch.randn(50, 17, 3))]
    model, linear = ConvLifter(**TINY), LinearLifter()
    model.fit(pairs)
    linear.fit(pairs)
    assert torch.equal(model(pairs[0][0][None]), linear(pairs[0][0][None]))


@pytest.mark.parametrize("frames", [1, 2, 9, 40])
def test_reach(frames):
    """A pose depends on `depth * (kernel_size // 2)` frames to each side, and on all of them."""
    torch.manual_seed(0)
    model = ConvLifter(**TINY, kernel_size=3).eval()
    torch.nn.init.normal_(model.head.weight)
    keypoints = torch.randn(1, frames, 17, 2, requires_grad=True)
    middle = frames // 2
    model(keypoints)[0, middle].sum().backward()
    seen = keypoints.grad[0].abs().sum((1, 2)) > 0
    assert seen.nonzero()[:, 0].tolist() == list(range(max(0, middle - 2), min(frames, middle + 3)))


def test_an_even_window_has_no_middle():
    with pytest.raises(ValueError, match="kernel_size is 4, expected an odd number"):
        lifter.create_model("conv", kernel_size=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen(dtype):
    torch.manual_seed(0)
    model = lifter.create_model("conv", **TINY).eval().to(dtype)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    keypoints = torch.randn(1, 13, 17, 2)
    bound = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(lifter.freeze(model)(keypoints), model(keypoints), rtol=bound, atol=bound)
