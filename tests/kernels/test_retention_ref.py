"""The reference of retention: one meaning in its parallel and its recurrent form, the official xPos, gradients."""

import pytest
import torch

from lifter.kernels import retention, xpos_scale
from lifter.kernels.retention import xpos
from tests.kernels.test_retention import LEAVES, make_inputs


def turned(x, n, scale, sign):
    """xPos as complex numbers, at frames n (T,) of (T, K)."""
    K = x.shape[-1]
    theta = torch.tensor([10000.0 ** (-2 * d / K) for d in range(K // 2)], dtype=torch.float64)
    factor = torch.polar(scale.double() ** (sign * n[:, None] / 512), n[:, None] * theta)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * factor).flatten(-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("positions", [False, True])
def test_reference_is_the_parallel_form(causal, chunk_size, positions):
    """All frames at once, under the staircase mask, with the frame numbers of the whole clip."""
    T = 11
    inputs = make_inputs(T=T, positions=positions, chunk_size=chunk_size, causal=causal, scale=0.7)
    inputs = {name: x.double() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
    out, final = retention(**inputs | {"output_final_state": True})
    n, chunk = torch.arange(T, dtype=torch.float64), torch.arange(T) // (chunk_size or T)
    seen = torch.ones(T, T).tril() if causal else chunk <= chunk[:, None]
    for j, h in torch.cartesian_prod(*map(torch.arange, (2, 2))):
        q, k, v = (inputs[name][0, :, j, h] for name in "qkv")
        decay, k_last = inputs["decay"][j, h], k
        if positions:
            k_last = turned(k, n - T, inputs["xpos_scale"], -1)
            q, k = turned(q, n, inputs["xpos_scale"], 1), turned(k, n, inputs["xpos_scale"], -1)
        mask = decay ** (n - n[:, None]).abs() * seen
        torch.testing.assert_close(out[0, :, j, h], 0.7 * (q @ k.T * mask) @ v)
        torch.testing.assert_close(final[0, j, h], sum(decay ** (T - 1 - m) * torch.outer(k_last[m], v[m]) for m in range(T)))


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("positions", [False, True])
def test_reference_is_the_recurrent_form(chunk_size, positions):
    """Frame by frame, the state carried along."""
    T = 9
    inputs = make_inputs(T=T, state=True, positions=positions, chunk_size=chunk_size)
    inputs = {name: x.double() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
    out, final = retention(**inputs)
    for j, h in torch.cartesian_prod(*map(torch.arange, (2, 2))):
        q, k, v = (inputs[name][0, :, j, h] for name in "qkv")
        state = inputs["initial_state"][0, j, h]
        for t in range(T):
            query, key = q[t : t + 1], k[t : t + 1]
            if positions:  # of this frame, and of the keys in the state one frame on
                n = torch.zeros(1, dtype=torch.float64)
                query, key = turned(query, n, inputs["xpos_scale"], 1), turned(key, n, inputs["xpos_scale"], -1)
            state = inputs["decay"][j, h] * state + key.T @ v[t : t + 1]
            torch.testing.assert_close(out[0, t, j, h], 4**-0.5 * (query @ state)[0])
            if positions:
                state = turned(state.T, torch.tensor([-1.0], dtype=torch.float64), inputs["xpos_scale"], -1).T
        torch.testing.assert_close(final[0, j, h], state)


def test_defaults_are_those_of_flash_linear_attention(target):
    """Its naive form: causal, a decay of 1 - 2^(-5 - h) per head, q scaled by K^-0.5, no positions; (B, T, H, K)."""
    B, T, H, K, V = 2, 13, 3, 4, 5
    q, k, v = (torch.randn(B, T, H, n) for n in (K, K, V))
    decay, n = 1 - 2.0 ** (-5 - torch.arange(H)), torch.arange(T)
    mask = torch.tril(decay[:, None, None] ** (n[:, None] - n))
    expected = torch.einsum("bhnm,bmhv->bnhv", torch.einsum("bnhk,bmhk->bhnm", q * K**-0.5, k) * mask, v)
    out, final = target.run(retention, q, k, v)
    torch.testing.assert_close(out.cpu(), expected, atol=1e-5, rtol=1e-5)
    assert final is None
    out, final = target.run(retention, q, k, v, output_final_state=True)
    expected = torch.einsum("bmhk,hm,bmhv->bhkv", k, decay[:, None] ** (T - 1 - n), v)
    torch.testing.assert_close(final.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 81, 2000])
@pytest.mark.parametrize("channels", [8, 64])
def test_golden_xpos(shared, channels, offset):
    import numpy as np

    golden = np.load(shared / "golden" / "poseretnet_units.npz")
    load = lambda name: torch.from_numpy(golden[f"xpos{channels}/{name}"])
    x, scale = load("input"), load("scale")
    torch.testing.assert_close(xpos_scale(channels), scale)
    n = offset + torch.arange(x.shape[1])
    for downscale, name in ((False, "up"), (True, "down")):
        expected = load(f"{name}_off{offset}")
        tolerance = 1e-5 * (expected.abs().max().item() if offset == 2000 else 1)
        torch.testing.assert_close(xpos(x, n, scale, downscale), expected, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("options", [{"causal": True}, {"causal": False, "chunk_size": 2}])
@pytest.mark.parametrize("positions", [False, True])
def test_gradcheck_of_the_reference(options, positions):
    inputs = make_inputs(T=5, J=1, K=2, V=1, state=True, positions=positions, **options)
    leaves = [inputs[name].double().requires_grad_() for name in LEAVES]
    function = lambda *leaves: retention(**inputs | dict(zip(LEAVES, leaves)))
    assert torch.autograd.gradcheck(function, leaves)
