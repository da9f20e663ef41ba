"""MixSynthFormer in one op call: when it is, and that it never sees parameters of yesterday."""

import copy
import pickle

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
    """How often the op is called."""

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
    """That the op runs, with the parameters that the model has."""
    x = poses().to(model.norm.weight.dtype) if x is None else x
    assert calls(model, x) == 1
    with backend("reference"):
        torchs, exact = model(x), copy.deepcopy(model).double()(x.double())
    assert_as_good("poses", model(x), torchs, exact, rounding=64)


@pytest.mark.parametrize("kwargs", [{}, {"interpolation": "linear"}, {"predict": 2}, {"r_t": 1, "r_s": 1}, {"num_joints": 24}])
@pytest.mark.parametrize("frames", [3, 7, 8, 23])
@torch.no_grad()
def test_one_call_for_all_windows(kwargs, frames):
    if "predict" in kwargs and frames > 7:
        pytest.skip("prediction takes its history alone")
    x = torch.randn(2, frames, kwargs.get("num_joints", 3), 2)
    assert_follows(build(**kwargs), x)


@torch.no_grad()
def test_layers_run_where_the_op_cannot():
    x = poses()
    for kwargs in ({"variant": "paper"}, {"branches": ("spatial",)}, {"depth": 0}):
        assert calls(build(**kwargs), x) == 0
    model = build()
    assert calls(model.double(), x) == 0
    model.float().train()
    assert calls(model, x) == 0
    model.eval().encoder.layers[1].ff.drop.train()  # Monte Carlo dropout
    assert calls(model, x) == 0 and not torch.equal(model(x), model(x))
    model.eval()
    assert calls(model, x) == 1
    seen = []
    hook = model.norm.register_forward_hook(lambda *args: seen.append(args))
    assert calls(model, x) == 0 and seen
    hook.remove()
    assert calls(model, x) == 1
    with torch.enable_grad():
        assert calls(model, x) == 0 and model(x).requires_grad
        assert calls(model.requires_grad_(False), x) == 1
        assert calls(model, x.requires_grad_()) == 0


@torch.no_grad()
def test_parameters_that_change():
    model = build()
    assert_follows(model)
    before = model._packed.packed
    assert_follows(model)
    assert model._packed.packed is before  # packed once

    with torch.enable_grad():
        model(poses()).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert_follows(model)
    assert model._packed.packed is not before
    for last in (model.fc.bias, model.encoder.layers[1].synth_att.synth_token.se.fc[0].weight):
        last.mul_(2)
        assert_follows(model)
    other = build()
    for p in other.parameters():
        p.normal_()
    model.load_state_dict(other.state_dict())
    assert_follows(model)
    model.load_state_dict({name: p.clone() + 1 for name, p in other.state_dict().items()}, assign=True)
    assert_follows(model)
    model.norm.weight = nn.Parameter(torch.rand(8))
    assert_follows(model)
    nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in model.parameters())), model.parameters())
    model.eval()  # that wrote through .data
    assert_follows(model)


@torch.no_grad()
def test_copies_and_casts():
    model = build()
    model(poses())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        assert other._packed is None
        other.fc.bias.add_(1)
        assert_follows(other)
    assert_follows(model)
    for dtype in (torch.bfloat16, torch.float16):
        model.to(dtype)
        assert_follows(model)
    model.float()
    assert_follows(model)
    assert not any("packed" in name for name in model.state_dict())


def test_made_in_inference_mode():
    """Such parameters do not count their changes."""
    with torch.inference_mode():
        model = build()
        assert_follows(model)
        model.fc.bias.add_(1)
        assert_follows(model)


@torch.no_grad()
def test_layers_that_were_changed_run():
    """Parametrizations and pruning, before and after the first call."""
    changes = (
        lambda layer: nn.utils.parametrizations.weight_norm(layer),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    )
    for change in changes:
        for called in (False, True):
            model = build()
            if called:
                model(poses())
            change(model.fc)
            assert calls(model, poses()) == 0 and model(poses()).isfinite().all()
    with torch.inference_mode():
        part = nn.Linear(8, 6)
    model = build()
    model.fc = part
    assert_follows(model)


@torch.no_grad()
def test_frozen():
    model, x = build(), poses()
    expected = model(x)
    frozen = lifter.freeze(model)
    for p in model.parameters():
        p.zero_()
    assert torch.equal(frozen(x), expected) and calls(frozen, x) == 1
    with torch.enable_grad():
        assert calls(frozen, x) == 1
        x.requires_grad_()
        assert calls(frozen, x) == 0 and frozen(x).requires_grad
    inside = lifter.freeze(nn.Sequential(build(), nn.Flatten(2), nn.Linear(6, 4)))
    assert calls(inside, x) == 1 and type(inside[2]) is not nn.Linear
    assert calls(lifter.freeze(build(variant="paper")), x) == 0


@torch.no_grad()
def test_compile_and_export():
    model, x = build(), poses(8)
    expected = model(x)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    program = torch.export.export(model, (x,))
    assert any("mixsynth_encoder" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), expected)
