"""`linear`: oneDNN's product against float64, and where PyTorch's own is taken."""

import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import lifter
from lifter.kernels import backend, linear, linear_ref
from lifter.layers import Linear
from tests.conftest import assert_as_good

MODULE = sys.modules["lifter.kernels.linear"]
ROWS = MODULE.ROWS


@pytest.fixture
def prefers_onednn(monkeypatch):
    """As on a processor where oneDNN is the faster."""
    monkeypatch.setattr(MODULE, "PREFERS_ONEDNN", True)


def draw(*rows, inner=24, out=40, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=g)
    return [make(*rows, inner), make(out, inner), make(out) if bias else None]


def ours(result):
    """Return whether oneDNN's op has made the result."""
    return "lifter_linear" in type(result.grad_fn).__name__


def run(function, args):
    leaves = [None if x is None else x.detach().requires_grad_() for x in args]
    out = function(*leaves)
    g = torch.Generator().manual_seed(9)
    dout = torch.randn(out.shape, generator=g).to(out)
    grads = torch.autograd.grad(out, [x for x in leaves if x is not None], dout)
    return [out.detach(), *grads]


def check(args, function=linear):
    with backend("cpu"):
        found = run(function, args)
    exact = run(linear_ref, [None if x is None else x.double() for x in args])
    for name, *three in zip(("out", "dx", "dweight", "dbias"), found, run(linear_ref, args), exact):
        assert_as_good(name, *three)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), max_size=3), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_any_shape(rows, inner, out, bias):
    check(draw(*rows, inner=inner, out=out, bias=bias))


def test_long():
    check(draw(4131, inner=16, out=24))


def test_strides():
    x, weight, bias = draw(6, 10)
    for strided in (x.transpose(0, 1), x[:, ::2], x[..., 3:19], x.mT.contiguous().mT, x[:, :1].expand(-1, 7, -1)):
        check([strided, weight[:, : strided.shape[-1]], bias])
        check([strided, weight.mT.contiguous().mT[:, : strided.shape[-1]], bias.repeat_interleave(2)[::2]])


def test_opcheck():
    x, weight, bias = (x.requires_grad_() for x in draw(5, 3))
    torch.library.opcheck(torch.ops.lifter.linear, (x, weight, bias))
    torch.library.opcheck(torch.ops.lifter.linear, (x.transpose(0, 1), weight, None))


def test_compile_and_checkpoint():
    args = draw(2, 5)
    check(args, torch.compile(linear, fullgraph=True, backend="aot_eager"))
    check(args, lambda *leaves: checkpoint(linear, *leaves, use_reentrant=False))


def test_second_derivatives():
    args = [x.requires_grad_() for x in draw(3, 4)]

    def second():
        gradients = torch.autograd.grad(linear(*args).square().sum(), args, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), args)

    with backend("cpu"):
        found = second()
    for x, y in zip(found, second()):
        torch.testing.assert_close(x / y.abs().max(), y / y.abs().max(), rtol=0, atol=1e-5)


def test_rows_of_a_fast_product(prefers_onednn):
    x, weight, bias = draw(ROWS)
    weight.requires_grad_()
    assert ours(linear(x, weight, bias)) and not ours(linear(x[1:], weight, bias)) and not ours(linear(x[0], weight))
    with backend("reference"):
        assert not ours(linear(x, weight, bias))


def test_pytorch_takes_the_rest(prefers_onednn):
    x, weight, bias = (x.requires_grad_() for x in draw(ROWS))
    for dtype in (torch.float64, torch.bfloat16):
        assert not ours(linear(x.to(dtype), weight.to(dtype), bias.to(dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x[:0], weight, bias).shape == (0, 40) and linear(x.to("meta"), weight.to("meta")).is_meta
    gradient = torch.func.grad(lambda weight: linear(x, weight, bias).sum())(weight.detach())
    torch.testing.assert_close(gradient, x.sum(0).expand(40, -1))
    program = torch.export.export(Linear(24, 40), (x.detach(),))
    assert not any("lifter" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("spoil", [lambda x: x[:, 1:], lambda x: x.long(), lambda x: x.numpy()])
def test_errors_are_those_of_pytorch(prefers_onednn, spoil):
    x, weight, bias = draw(ROWS)
    with pytest.raises((RuntimeError, TypeError)) as expected:
        F.linear(spoil(x), weight, bias)
    with pytest.raises(expected.type) as found:
        linear(spoil(x), weight, bias)
    assert str(found.value) == str(expected.value)


def test_flops():
    def flops():
        with FlopCounterMode(display=False) as counter:
            sum(y.sum() for y in run(linear, draw(6, 4)))
        return counter.get_total_flops()

    with backend("cpu"):
        counted = flops()
    assert counted == flops() > 0


def test_layer():
    layer, x = Linear(24, 40, bias=False), torch.randn(5, 24)
    other = pickle.loads(pickle.dumps(layer))
    assert isinstance(other, nn.Linear) and torch.equal(other(x), F.linear(x, layer.weight))


@pytest.mark.parametrize("name", ["mixste", "sasmamba", "mixsynthformer_lifter"])
def test_models(name, prefers_onednn):
    """They call it, and train."""
    sizes = {"dim": 32, "depth": 1} | ({"num_frames": 27} if name != "mixsynthformer_lifter" else {})
    torch.manual_seed(0)
    model = lifter.create_model(name, **sizes).eval()
    x = torch.randn(2, model.num_frames, 17, model.in_channels)

    def run():
        model.zero_grad()
        out = model(x)
        out.square().mean().backward()
        return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    with torch.profiler.profile() as profile:
        found = run()
    assert any(event.key == "lifter::linear" for event in profile.key_averages())
    with backend("reference"):
        torch.testing.assert_close(found, run(), rtol=1e-3, atol=1e-4)
