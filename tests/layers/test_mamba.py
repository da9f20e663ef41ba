"""The Mamba layer: mamba-ssm's interface, and the formula of its pure-PyTorch path."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lifter.layers import Mamba, Mamba2

KEYS = [
    "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias",
    "out_proj.weight",
]  # fmt: skip
SIZES = [
    dict(d_model=24),
    dict(d_model=10, d_state=5, d_conv=3, expand=3, dt_rank=4, bias=True, conv_bias=False),
    dict(d_model=16, d_conv=2, dt_init="constant"),
]


def formula(layer, x):
    """The layer step by step, in the dtype of its weights."""
    x, z = layer.in_proj(x).transpose(1, 2).chunk(2, dim=1)
    x = F.silu(layer.conv1d(x)[..., : x.shape[-1]])
    dt, B, C = layer.x_proj(x.mT).split([layer.dt_rank, layer.d_state, layer.d_state], -1)
    dt, A = F.softplus(layer.dt_proj(dt)), -layer.A_log.exp()
    h, ys = torch.zeros_like(A), []
    for l in range(x.shape[-1]):
        h = torch.exp(dt[:, l, :, None] * A) * h + (dt[:, l] * x[..., l])[..., None] * B[:, l, None]
        ys.append((h * C[:, l, None]).sum(-1) + layer.D * x[..., l])
    return layer.out_proj((torch.stack(ys, -1) * F.silu(z)).mT), h


def layer(**kwargs):
    torch.manual_seed(0)
    return Mamba(**{"d_model": 16, "layer_idx": 2} | kwargs)


def cache(offset=0):
    return SimpleNamespace(key_value_memory_dict={}, seqlen_offset=offset)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("length", [1, 2, 70])
def test_it_is_the_formula(sizes, length):
    ours = layer(**sizes)
    x = torch.randn(2, length, ours.d_model)
    weight = torch.randn(2, length, ours.d_model)
    out, exact = ours(x), layer(**sizes).double()
    expected, _ = formula(exact, x.double())
    torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-4)
    (out * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), exact.parameters()):
        error = (p.grad - q.grad).abs().max() / q.grad.abs().max().clamp(min=1e-6)  # of a single step A has none
        assert error < 1e-4, (name, error)


def test_names_and_kinds_of_parameters():
    ours = layer(dtype=torch.bfloat16)
    assert list(ours.state_dict()) == KEYS
    assert list(layer(bias=True, conv_bias=False).state_dict()) == [
        *KEYS[:2], "in_proj.weight", "in_proj.bias", "conv1d.weight", *KEYS[5:], "out_proj.bias",
    ]  # fmt: skip
    assert {name for name, p in ours.named_parameters() if p.dtype == torch.float32} == {"A_log", "D"}
    assert {name for name, p in ours.named_parameters() if getattr(p, "_no_weight_decay", False)} == {"A_log", "D"}
    assert ours.conv1d.weight.shape == (32, 1, 4) and ours.dt_rank == 1 and layer(d_model=17).dt_rank == 2


def test_the_start():
    ours = layer(d_model=512, dt_scale=0.5)
    dt = F.softplus(ours.dt_proj.bias)
    assert 0.00099 < dt.min() < 0.0015 and 0.07 < dt.max() < 0.101
    assert 0.008 < dt.median() < 0.0125  # log-uniform: the geometric mean
    torch.testing.assert_close(ours.A_log.exp(), torch.arange(1.0, 17).expand(1024, 16))
    assert torch.equal(ours.D, torch.ones(1024))
    bound = 0.5 * 32**-0.5
    assert 0.99 * bound < ours.dt_proj.weight.abs().max() <= bound
    assert torch.equal(layer(d_model=512, dt_init="constant").dt_proj.weight, torch.full((1024, 32), 32**-0.5))
    assert F.softplus(layer(dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-4).dt_proj.bias).min() > 0.99e-4


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("length", [1, 2, 30])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_prefill_and_steps_make_the_sequence(sizes, length, steps):
    ours, memory = layer(**sizes), cache()
    x = torch.randn(3, length + 6, ours.d_model)
    with torch.no_grad():
        whole = ours(x)
        parts = [ours(x[:, :length], inference_params=memory)]
        conv_state, ssm_state = memory.key_value_memory_dict[2]
        inner, _ = ours.in_proj(x[:, :length]).mT.chunk(2, 1)
        assert torch.equal(conv_state, F.pad(inner, (ours.d_conv, 0))[..., -ours.d_conv :])
        torch.testing.assert_close(ssm_state, formula(ours, x[:, :length])[1], atol=1e-5, rtol=1e-4)
        for i in range(length, length + 6, steps):
            memory.seqlen_offset = i
            parts.append(ours(x[:, i : i + steps], inference_params=memory))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    assert memory.key_value_memory_dict[2][0] is conv_state


def test_steps_have_the_gradients_of_the_sequence():
    ours, x = layer(), torch.randn(2, 6, 16)
    expected = torch.autograd.grad(ours(x).square().sum(), list(ours.parameters()))
    states = ours.allocate_inference_cache(2, None)
    steps = [ours.step(x[:, i : i + 1], *states)[0] for i in range(6)]
    gradients = torch.autograd.grad(torch.cat(steps, 1).square().sum(), list(ours.parameters()))
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_a_cache_made_before():
    ours = layer(dtype=torch.bfloat16)
    states = ours.allocate_inference_cache(3, 2000)
    assert [(s.shape, s.dtype) for s in states] == [((3, 32, 4), torch.bfloat16), ((3, 32, 16), torch.bfloat16)]
    assert all(s.dtype == torch.float32 for s in ours.allocate_inference_cache(3, 2000, dtype=torch.float32))
    ours, memory = layer(), cache()
    states = memory.key_value_memory_dict[2] = ours.allocate_inference_cache(3, 2000)
    x = torch.randn(3, 9, 16)
    with torch.no_grad():
        ours(x[:, :8], inference_params=memory)
        out, *same = ours.step(x[:, 8:], *states)
        torch.testing.assert_close(out, ours(x)[:, 8:], atol=1e-5, rtol=1e-4)
    assert all(a is b for a, b in zip(same, states))


@pytest.mark.parametrize("build", [layer, partial(Mamba2, 16, d_state=5, headdim=8)])
def test_in_bfloat16_and_under_autocast(build):
    torch.manual_seed(0)
    ours, half = build(), build(dtype=torch.bfloat16)
    half.load_state_dict(ours.state_dict())
    x = torch.randn(2, 20, 16)
    expected = ours(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ours(x)
    for y in (half(x.bfloat16()), mixed):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, atol=0.03, rtol=0.03)


def test_no_map_is_copied():
    """Maps keep their channels together from end to end."""
    from torch.profiler import ProfilerActivity, profile

    ours, x = layer(d_model=64), torch.randn(1, 500, 64)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        ours(x)
    copies = [event for event in found.events() if event.name in ("aten::contiguous", "aten::clone", "aten::copy_")]
    assert not [event.input_shapes for event in copies if 500 * 64 <= math.prod(event.input_shapes[0])]
    assert "lifter::causal_conv1d" in {event.name for event in found.events()}


def test_compiles_whole():
    ours, x = torch.nn.Sequential(layer(), Mamba2(16, d_state=5, headdim=8)), torch.randn(2, 9, 16)
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), ours(x))


def test_bad_input():
    for arguments, message in (
        (dict(d_conv=5), "d_conv is 5, expected 2 to 4"),
        (dict(dt_init="zeros"), "dt_init is 'zeros', expected 'random' or 'constant'"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(**arguments)
    with pytest.raises(ValueError, match="layer_idx is None, expected a number"):
        layer(layer_idx=None)(torch.zeros(1, 2, 16), inference_params=cache())
    with pytest.raises(ValueError, match=r"hidden_states has shape \(1, 2, 16\), expected \(B, 1, 16\)"):
        layer().step(torch.zeros(1, 2, 16), *layer().allocate_inference_cache(1, 1))
    with pytest.raises(ValueError, match=r"Mamba: hidden_states has shape \(2, 16\), expected \(B, L, 16\)"):
        layer()(torch.zeros(2, 16))
