"""What all ops share: vmap, torch.func, forward mode, and FLOPs where no kernel runs."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from lifter import _library, kernels
from lifter.kernels import _op, deform_conv2d, selective_scan_fn, skeleton_scan
from tests.kernels import test_selective_scan, test_skeleton_scan


def calls(device="cpu"):
    """Every differentiable op as a function of one of its inputs, and that input."""
    move = lambda inputs: {name: x.to(device) if torch.is_tensor(x) else x for name, x in inputs.items()}
    scan = move(test_selective_scan.make_inputs(1, 4, 9, 3))
    skeleton = move(test_skeleton_scan.make_inputs(T=2, J=3, C=4, N=3))
    g = torch.Generator().manual_seed(0)
    x, offset, weight = (torch.randn(*s, generator=g).to(device) for s in ((1, 4, 3, 5), (1, 18, 3, 5), (4, 1, 3, 3)))
    return {
        "selective_scan": (lambda delta: selective_scan_fn(**scan | {"delta": delta}, delta_softplus=True), scan["delta"]),
        "skeleton_scan": (lambda A: skeleton_scan(**skeleton | {"A": A}), skeleton["A"]),
        "deform_conv2d": (lambda weight: deform_conv2d(x, offset, weight, padding=1), weight),
    }


@pytest.mark.parametrize("op", calls())
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_an_op_that_needs_gradients(target, op):
    function, x = calls(target.device)[op]
    xs = torch.stack([x, 0.5 * x]).requires_grad_()
    with target.forced():
        ours, expected = torch.vmap(function)(xs), torch.stack([function(x) for x in xs])
        gradients = [torch.autograd.grad(y.square().sum(), xs)[0] for y in (ours, expected)]
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*gradients)


def dual(function, x):
    with forward_ad.dual_level():
        return function(forward_ad.make_dual(x, x))


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "grad of vmap": lambda f, x: torch.func.grad(lambda xs: torch.vmap(f)(xs).sum())(x[None]),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "forward mode": dual,
}


@pytest.mark.parametrize("op", calls())
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_derivative_is_lost(op, transform):
    function, x = calls()[op]
    with pytest.raises(RuntimeError, match=f"{op}: the kernels have gradients for torch.autograd, not for torch.func"):
        TRANSFORMS[transform](function, x)
    with kernels.backend("reference"):
        TRANSFORMS[transform](function, x)


@pytest.mark.parametrize("op", calls())
def test_flops_need_no_kernels(op):
    def flops(device):
        function, x = calls(device)[op]
        with FlopCounterMode(display=False) as counter:
            function(x)
        return counter.get_total_flops()

    with kernels.backend("reference"):
        products = flops("cpu")
    assert products < flops("meta") == flops("cpu")


def test_a_slow_call_is_reported_once_where_it_stands(monkeypatch):
    monkeypatch.setattr(_library, "loaded", False)
    _op._warn_slow.cache_clear()
    function, x = calls()["deform_conv2d"]
    with pytest.warns(UserWarning, match="lifter.deform_conv2d runs its slow PyTorch reference on cpu") as warnings:
        function(x), function(x)
    assert [warning.filename for warning in warnings] == [__file__]
