"""On a GPU alone: every model against its reference ops, in bfloat16, its gradients, and as a CUDA graph; every op as one."""

import copy
from functools import partial

import pytest
import torch

import lifter
from benchmarks import gpu, inputs, kernels, models
from benchmarks.__main__ import Setup
from benchmarks.accuracy import error
from lifter import diffusion
from lifter.kernels import backend

pytestmark = pytest.mark.gpu
SETUP = Setup("cuda", inputs.synthetic_gait(2), "quick", seconds=0.0, patience=0.0)
FRAMES = 81
CASES = [case for case in kernels.all_cases(SETUP) if not case.compiled]


@pytest.fixture(params=lifter.list_models())
def network(request):
    """A model, and what it takes."""
    frames = max(FRAMES, models.window(request.param) or 0)
    model = models.build(request.param, frames, "cuda")
    return model, models.inputs(model, SETUP, frames, 2)


def test_model(network):
    model, given = network
    with torch.no_grad():
        ours = model(*given)
        with backend("reference"):
            assert error(ours, model(*given)) < 1e-4


def test_model_in_bfloat16(network):
    model, given = network
    half = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        ours = half(*(x.bfloat16() if x.is_floating_point() else x for x in given))
    assert ours.dtype == torch.bfloat16 and error(ours, model(*given)) < 0.2


def test_gradients_of_a_model(network):
    model, given = network
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients():
        found = torch.autograd.grad(model(*given).square().mean(), parameters, allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None])

    ours = gradients()
    with backend("reference"):
        assert error(ours, gradients()) < 1e-3


def check_graph(call):
    replay, output = gpu.captured(call)
    outputs = output if isinstance(output, (tuple, list)) else [output]
    for x in outputs:
        x.fill_(-1)
    replay()
    expected = call()
    assert error(output, expected) < 1e-5


def test_model_as_a_graph(network):
    model, given = network
    with torch.no_grad():
        check_graph(partial(model, *given))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op_as_a_graph(case):
    check_graph(case.implementations()["lifter"])


def test_sampler_as_a_graph():
    model = models.build("d3dp", 27, "cuda")
    clips, noise = torch.randn(1, 27, 17, 2, device="cuda"), torch.randn(2, 1, 3, 27, 17, 3, device="cuda")
    with torch.no_grad():
        check_graph(lambda: diffusion.sample(model, clips, hypotheses=3, steps=2, noise=noise))


def test_host_and_device_apart():
    x = torch.randn(4096, 4096, device="cuda")
    found = gpu.apart(lambda: x @ x, 2e-3, torch.float32, "cuda")
    assert 0 < found["host"] < found["device"] and found["graph"] == pytest.approx(found["device"], rel=0.3)
    found = gpu.apart(lambda: x.sum().item() * x[0], 1e-3, torch.float32, "cuda")
    assert found["graph_note"].startswith("no graph") and torch.isfinite(x @ x).all()  # and all goes on
