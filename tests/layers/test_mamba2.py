"""The Mamba-2 layer: mamba-ssm's interface, and the formula of its paper."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lifter.layers import Mamba2, RMSNormGated, mamba_split_conv1d_scan_combined

KEYS = [
    "dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight", "out_proj.weight",
]  # fmt: skip
SIZES = [
    dict(ngroups=2),
    dict(d_ssm=16, D_has_hdim=True, norm_before_gate=True, bias=True, conv_bias=False, d_conv=3, dt_limit=(0.01, 0.05)),
    dict(rmsnorm=False, d_conv=2),
]


def layer(**kwargs):
    torch.manual_seed(0)
    return Mamba2(**dict(d_model=16, d_state=5, headdim=8, layer_idx=2) | kwargs)


def formula(layer, u):
    """The layer step by step, in the dtype of its weights: the output, and the last state."""
    H, P, G, N, inner = layer.nheads, layer.headdim, layer.ngroups, layer.d_state, layer.d_ssm
    unit = layer.d_inner - inner
    z0, x0, z, xBC, dt = layer.in_proj(u).split([unit, unit, inner, inner + 2 * G * N, H], -1)
    xBC = F.silu(layer.conv1d(xBC.mT)[..., : u.shape[1]]).mT
    x, B, C = xBC.split([inner, G * N, G * N], -1)
    B, C = (y.unflatten(-1, (G, N)).repeat_interleave(H // G, 2) for y in (B, C))
    x, dt, A = x.unflatten(-1, (H, P)), F.softplus(dt + layer.dt_bias).clamp(*layer.dt_limit), -layer.A_log.exp()
    D = layer.D.view(H, -1)
    h, ys = u.new_zeros(len(u), H, P, N), []
    for l in range(u.shape[1]):
        drive = dt[:, l, :, None, None] * x[:, l, :, :, None] * B[:, l, :, None]
        h = torch.exp(dt[:, l] * A)[..., None, None] * h + drive
        ys.append((h * C[:, l, :, None]).sum(-1) + D * x[:, l])
    y, gate = torch.stack(ys, 1).flatten(2), F.silu(z)
    if layer.rmsnorm:
        y = y if layer.norm_before_gate else y * gate
        groups = y.unflatten(-1, (G, -1))
        y = (groups * (groups.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).flatten(2) * layer.norm.weight
    if layer.norm_before_gate or not layer.rmsnorm:
        y = y * gate
    return layer.out_proj(torch.cat([F.silu(z0) * x0, y], -1)), h


def cache(offset=0):
    return SimpleNamespace(key_value_memory_dict={}, seqlen_offset=offset)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("length", [1, 70])
def test_it_is_the_formula(sizes, length):
    ours, exact = layer(**sizes), layer(**sizes).double()
    if ours.rmsnorm:
        for each in (ours, exact):
            torch.nn.init.normal_(each.norm.weight, generator=torch.Generator().manual_seed(1))
        ours.norm.weight.data.copy_(exact.norm.weight)
    u, weight = torch.randn(2, length, 16), torch.randn(2, length, 16)
    out, (expected, _) = ours(u), formula(exact, u.double())
    torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-4)
    (out * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), exact.parameters()):
        error = (p.grad - q.grad).abs().max() / q.grad.abs().max().clamp(min=1e-6)  # of a single step A has none
        assert error < 1e-4, (name, error)


def test_names_and_kinds_of_parameters():
    ours = layer(dtype=torch.bfloat16)
    assert list(ours.state_dict()) == KEYS
    assert {name for name, p in ours.named_parameters() if p.dtype == torch.float32} == {"A_log", "D"}
    unwanted = {name for name, p in ours.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert unwanted == {"dt_bias", "A_log", "D"}
    wide = Mamba2(768)  # of Mamba2-130M
    assert wide.in_proj.weight.shape == (2 * 1536 + 2 * 128 + 24, 768) and wide.conv1d.weight.shape == (1792, 1, 4)


def test_the_start():
    ours = layer(d_model=1024, d_state=1, headdim=1, conv_init=0.01, A_init_range=(2, 3))
    dt, A = F.softplus(ours.dt_bias), ours.A_log.exp()
    assert 0.00099 < dt.min() < 0.0015 and 0.07 < dt.max() < 0.101
    assert 0.008 < dt.median() < 0.0125  # log-uniform: the geometric mean
    assert 2 <= A.min() < 2.01 and 2.99 < A.max() <= 3.0001
    assert torch.equal(ours.D, torch.ones(2048)) and 0.0099 < ours.conv1d.weight.abs().max() <= 0.01


@pytest.mark.parametrize("sizes", SIZES)
def test_prompt_and_any_number_of_steps_make_the_sequence(sizes):
    ours, memory = layer(**sizes), cache()
    u, parts, done = torch.randn(3, 80, 16), [], 0
    with torch.no_grad():
        whole, (_, state) = ours(u), formula(ours, u)
        for count in (2, 1, 1, 5, 71):
            memory.seqlen_offset = done
            parts.append(ours(u[:, done : done + count], inference_params=memory))
            done += count
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(memory.key_value_memory_dict[2][1], state, atol=1e-5, rtol=1e-4)
        memory.seqlen_offset = 0  # another sequence
        torch.testing.assert_close(ours(u[:, :9], inference_params=memory), whole[:, :9], atol=1e-5, rtol=1e-4)


def test_steps_have_the_gradients_of_the_sequence():
    ours, u = layer(), torch.randn(2, 6, 16)
    expected = torch.autograd.grad(ours(u).square().sum(), list(ours.parameters()))
    states = ours.allocate_inference_cache(2, None)
    steps = [ours.step(u[:, i : i + 2], *states)[0] for i in range(0, 6, 2)]
    gradients = torch.autograd.grad(torch.cat(steps, 1).square().sum(), list(ours.parameters()))
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_packed_and_flat_sequences():
    ours, u = layer(), torch.randn(1, 9, 16)
    index = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]]).int()
    expected = torch.cat([ours(u[:, :4]), ours(u[:, 4:])], 1)
    torch.testing.assert_close(ours(u, seq_idx=index), expected)
    assert torch.equal(ours(u[0, :6], seqlen=3), ours(u[0, :6].view(2, 3, 16)).flatten(0, 1))


def test_a_norm_without_a_gate_is_that_of_pytorch():
    norm, x = RMSNormGated(12, eps=1e-3), torch.randn(2, 12)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (12,), norm.weight, 1e-3))


def test_bad_input():
    for arguments, message in (
        (dict(d_conv=5), "d_conv is 5, expected 2 to 4"),
        (dict(headdim=7), "32 scanned channels, expected a multiple of headdim 7 up to 32"),
        (dict(ngroups=3), "ngroups is 3, expected a divisor of the 4 heads"),
        (dict(process_group=1), "process_group is 1, expected None"),
    ):
        with pytest.raises(ValueError, match=f"Mamba2: {message}"):
            layer(**arguments)
    with pytest.raises(ValueError, match="Mamba2: layer_idx is None, expected a number"):
        layer(layer_idx=None)(torch.zeros(1, 2, 16), inference_params=cache())
    with pytest.raises(ValueError, match=r"Mamba2: u has shape \(2, 16\), expected \(B, L, 16\)"):
        layer()(torch.zeros(2, 16))
    heads, channels = torch.zeros(4), torch.zeros(42, 4)
    with pytest.raises(ValueError, match=r"zxbcdt has shape \(1, 2, 79\), expected \(B, L, 78\)"):
        mamba_split_conv1d_scan_combined(torch.zeros(1, 2, 79), channels, None, heads, heads, heads, 64, headdim=8)
    with pytest.raises(ValueError, match="headdim is None, expected the channels of a head"):
        mamba_split_conv1d_scan_combined(torch.zeros(1, 2, 78), channels, None, heads, heads, heads, 64)
