"""`lifter.freeze` of MixSynthFormer: one call of the op, where it computes what the layers do."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

import lifter
from lifter.kernels import backend
from lifter.models import MixSynthFormer
from tests.conftest import assert_as_good

TINY = {"num_joints": 3, "in_channels": 2, "dim": 8, "depth": 2, "interval": 3, "steps": 2, "r_t": 2, "r_s": 2}


def build(**kwargs):
    torch.manual_seed(0)
    model = MixSynthFormer(**TINY | kwargs).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model


def poses(frames=3, batch=2):
    return torch.randn(batch, frames, 3, 2, generator=torch.Generator().manual_seed(1))


class Calls(TorchDispatchMode):
    """Count the calls of the op."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "lifter::mixsynth_encoder"
        return func(*args, **(kwargs or {}))


def calls(function, *args):
    with Calls() as mode:
        function(*args)
    return mode.count


@torch.no_grad()
def assert_follows(model, x=None):
    """Check that the op runs once the model is frozen, with the model's parameters."""
    x = poses().to(model.norm.weight.dtype) if x is None else x
    frozen = lifter.freeze(model)
    assert calls(model, x) == 0 and calls(frozen, x) == 1
    with backend("reference"):
        torchs, exact = model(x), copy.deepcopy(model).double()(x.double())
    assert_as_good("poses", frozen(x), torchs, exact, rounding=64)


@pytest.mark.parametrize("kwargs", [{}, {"interpolation": "linear"}, {"predict": 2}, {"r_t": 1, "r_s": 1}, {"num_joints": 24}])
@pytest.mark.parametrize("frames", [3, 7, 8, 23])
@torch.no_grad()
def test_one_call_for_all_windows(kwargs, frames):
    if "predict" in kwargs and frames > 7:
        pytest.skip("prediction takes its history alone")
    x = torch.randn(2, frames, kwargs.get("num_joints", 3), 2)
    assert_follows(build(**kwargs), x)


def hook(model):
    model.norm.register_forward_hook(lambda module, args, out: 2 * out)


CHANGES = {
    "hook": hook,
    "forward of an instance": lambda m: setattr(m.fc, "forward", lambda x: 0 * x[..., :6]),
    "method of the model": lambda m: setattr(m, "refine", lambda x: 0 * x),
    "activation": lambda m: setattr(m.encoder.layers[0].ff, "act", nn.GELU("tanh")),
    "norm": lambda m: setattr(m.norm, "eps", 1e-2),
    "parametrization": lambda m: nn.utils.parametrizations.weight_norm(m.fc),
    "pruning": lambda m: prune.l1_unstructured(m.fc, "weight", 0.5),
    "a part of another kind": lambda m: setattr(m, "fc", nn.Sequential(m.fc)),
    "a bias where there is none": lambda m: m.encoder.layers[1].synth_att.synth_token.se.fc.__setitem__(0, nn.Linear(7, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:freeze. MixSynthFormer stays")
@torch.no_grad()
def test_changed_layers_run(change):
    model, x = build(), poses()
    CHANGES[change](model)
    frozen, expected = lifter.freeze(model), model(x)
    assert calls(frozen, x) == 0
    torch.testing.assert_close(frozen(x), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_layers_run_where_the_op_cannot():
    x = poses()
    for kwargs in ({"variant": "paper"}, {"branches": ("spatial",)}, {"depth": 0}):
        assert calls(lifter.freeze(build(**kwargs)), x) == 0
    assert calls(lifter.freeze(build().double()), x) == 0


@torch.no_grad()
def test_parameters_that_changed():
    """Before it is frozen."""
    model = build()
    with torch.enable_grad():
        model(poses()).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert_follows(model)
    for last in (model.fc.bias, model.encoder.layers[1].synth_att.synth_token.se.fc[0].weight):
        last.mul_(2)
        assert_follows(model)
    model.norm.weight = nn.Parameter(torch.rand(8))
    assert_follows(model)
    nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in model.parameters())), model.parameters())
    assert_follows(model)


@torch.no_grad()
def test_casts():
    model = build()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert_follows(model.to(dtype))


def test_made_in_inference_mode():
    with torch.inference_mode():
        assert_follows(build())
    with torch.inference_mode():
        part = nn.Linear(8, 6)
    model = build()
    model.fc = part
    assert_follows(model)


@torch.no_grad()
def test_frozen():
    model, x = build(), poses()
    expected = lifter.freeze(model)(x)
    frozen = lifter.freeze(model)
    for p in model.parameters():
        p.zero_()
    assert torch.equal(frozen(x), expected) and calls(frozen, x) == 1
    with pytest.raises(TypeError, match="frozen model cannot be copied or saved"):
        copy.deepcopy(frozen)
    with torch.enable_grad():
        assert calls(frozen, x) == 1
        x.requires_grad_()
        assert calls(frozen, x) == 0 and frozen(x).requires_grad
    inside = lifter.freeze(nn.Sequential(build(), nn.Flatten(2), nn.Linear(6, 4)))
    assert calls(inside, x) == 1 and type(inside[2]) is not nn.Linear


@torch.no_grad()
def test_compile_and_export():
    model, x = lifter.freeze(build()), poses(8)
    expected = model(x)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    program = torch.export.export(model, (x,))
    assert any("mixsynth_encoder" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), expected)
