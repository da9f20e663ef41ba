from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lifter import kernels
from lifter.kernels import MixSynthSizes, backend, mixsynth_encoder, mixsynth_encoder_ref
from lifter.kernels.mixsynth_encoder import packed_size, unpack_mixsynth
from lifter.layers import MixSynthEncoder
from lifter.rewrite.rules.mixsynthformer import pack_encoder
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

CPU = Target("cpu", "cpu")
TINY = MixSynthSizes(7, 3, 6, 8, 16, 2, 2, 2)
# frames, keyframes, poses, dim, hidden, depth, r_t, r_s: the official configurations
OFFICIAL = {
    "h36m": MixSynthSizes(101, 11, 51, 64, 128, 4, 4, 4),
    "jhmdb": MixSynthSizes(11, 2, 30, 128, 256, 5, 4, 4),
    "3dpw": MixSynthSizes(51, 6, 42, 32, 64, 4, 4, 4),
    "3dpw_smpl": MixSynthSizes(51, 6, 144, 64, 128, 4, 4, 4),
    "aist_smpl": MixSynthSizes(101, 11, 144, 128, 256, 5, 4, 4),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Network(nn.Module):
    """The layers of a MixSynthFormer under its names, of any sizes; all parameters are drawn, in float64."""

    def __init__(self, sizes, seed=0):
        super().__init__()
        frames, keyframes, poses, dim, hidden, depth, r_t, r_s = sizes
        self.l_interp = nn.Linear(keyframes, frames) if keyframes else nn.Identity()
        self.encoder_emb, self.fc, self.norm = nn.Linear(poses, dim), nn.Linear(dim, poses), nn.LayerNorm(dim)
        self.encoder = MixSynthEncoder(frames, dim, depth, mlp_ratio=(hidden + 0.5) / dim, r_t=r_t, r_s=r_s)
        self.double().requires_grad_(False)
        for i, (name, p) in enumerate(self.named_parameters()):
            noise = torch.randn(p.shape, dtype=p.dtype, generator=generator(seed + i))
            p.copy_(noise * p.shape[-1] ** -0.5 if p.dim() > 1 else 0.2 * noise + ("norm" in name and "weight" in name))

    def forward(self, x):
        x = self.l_interp(x.mT).mT
        return self.fc(self.norm(self.encoder(self.encoder_emb(x)))) + x


def make_weights(sizes, seed=0):
    return pack_encoder(dict(Network(sizes, seed).named_parameters()), sizes)


def make_x(sizes, N=1, dtype=torch.float32, seed=1):
    return torch.randn(N, sizes.keyframes or sizes.frames, sizes.poses, generator=generator(seed)).to(dtype)


def check(target, sizes, N=1, dtype=torch.float32, **bounds):
    """Against float64, relative to PyTorch's own error."""
    weights, x = make_weights(sizes), make_x(sizes, N, dtype)
    ours = target.run(mixsynth_encoder, x, weights.float(), sizes)
    torchs, exact = mixsynth_encoder_ref(x, weights.float(), sizes), mixsynth_encoder_ref(x.double(), weights, sizes)
    assert_as_good("out", ours, torchs, exact, **{"rounding": 32, **bounds})


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r_t, r_s", [(1, 1), (1, 4), (4, 1), (2, 3), (9, 8)])
@torch.no_grad()
def test_reference_is_the_layers(r_t, r_s):
    """Layers that tests/layers/test_synth_attention.py compares with the paper's equations."""
    for keyframes in (0, 3):
        sizes = MixSynthSizes(9, keyframes, 5, 8, 12, 2, r_t, r_s)
        network, x = Network(sizes), make_x(sizes, 2, torch.float64)
        weights = pack_encoder(dict(network.named_parameters()), sizes)
        torch.testing.assert_close(mixsynth_encoder(x, weights, sizes), network(x))


@pytest.mark.parametrize("sizes", [TINY, TINY._replace(r_t=1), TINY._replace(r_s=1, dim=70, hidden=130), OFFICIAL["h36m"]])
def test_packing_keeps_every_element(sizes):
    model = Network(sizes)
    weights = pack_encoder(dict(model.named_parameters()), sizes)
    assert weights.shape == (packed_size(sizes),) and weights.dtype == torch.float64
    w, layer = unpack_mixsynth(weights, sizes), model.encoder.layers[-1]
    last = sizes.depth - 1
    for ours, theirs in {
        "interpolation": model.l_interp.weight, "embedding": model.encoder_emb.weight, "fc": model.fc.weight,
        "norm_bias": model.norm.bias, f"{last}.fc1": layer.ff.fc1.weight, f"{last}.fc2": layer.ff.fc2.weight,
        f"{last}.proj_bias": layer.synth_att.proj.bias, f"{last}.norm2": layer.norm2.weight,
    }.items():  # fmt: skip
        assert torch.equal(w[ours], theirs), ours


def test_gradcheck_of_packing_and_reference():
    sizes = MixSynthSizes(4, 2, 2, 4, 5, 1, 2, 2)
    model = Network(sizes)
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}

    def function(x, *values):
        return mixsynth_encoder(x, pack_encoder(dict(zip(parameters, values)), sizes), sizes)

    assert torch.autograd.gradcheck(function, (make_x(sizes, 2, torch.float64).requires_grad_(), *parameters.values()))


# ---- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "change", [{}, {"keyframes": 0}, {"r_t": 1}, {"r_s": 1}, {"frames": 17, "dim": 33, "poses": 70, "r_s": 4}]
)
def test_every_backend(target, change, dtype):
    check(target, TINY._replace(depth=1 if target.slow else 2, **change), 2, dtype)


@pytest.mark.parametrize("frames", [1, 2, 3, 17, 27, 81])
def test_lengths_of_every_backend(target, frames):
    check(target, MixSynthSizes(frames, 0, 3, 4, 8, 1, min(frames, 4), 2), 2)


def test_windows_beyond_triton(target):
    """On the GPU too large a network runs on the reference."""
    check(target, MixSynthSizes(520, 0, 2, 4, 4, 1, 64, 2), 2)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes(name, N):
    check(CPU, OFFICIAL[name], N)


@pytest.mark.parametrize("frames", [1, 2, 3, 17, 27, 81, 129, 243])
@pytest.mark.parametrize("N", [1, 5])
def test_lengths(frames, N):
    check(CPU, MixSynthSizes(frames, 2, 6, 8, 16, 2, min(frames, 4), 4), N)


def test_a_long_window():
    check(CPU, MixSynthSizes(4131, 0, 2, 4, 4, 1, 64, 2))


@pytest.mark.parametrize("r_t, r_s", [(1, 1), (1, 4), (4, 1), (3, 5), (33, 20)])
@pytest.mark.parametrize("N", [1, 4])
def test_reductions(r_t, r_s, N):
    check(CPU, MixSynthSizes(33, 4, 10, 20, 24, 2, r_t, r_s), N)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["h36m", "jhmdb", "3dpw"])
def test_reduced_precision(dtype, name):
    """The arithmetic stays float32: only what comes in and goes out is rounded."""
    check(CPU, OFFICIAL[name], 2, dtype)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    N=st.integers(1, 9),
    frames=st.integers(1, 60),
    keyframes=st.integers(0, 7),
    poses=st.integers(1, 80),
    dim=st.integers(1, 80),
    hidden=st.integers(1, 150),
    depth=st.integers(1, 3),
    r_t=st.integers(1, 8),
    r_s=st.integers(1, 8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_size(N, frames, keyframes, poses, dim, hidden, depth, r_t, r_s, dtype):
    sizes = MixSynthSizes(frames, keyframes, poses, dim, hidden, depth, min(r_t, frames), min(r_s, dim))
    # Norms of few channels divide by differences that may be small.
    check(CPU, sizes, N, dtype, factor=6, rounding=512 if dim < 8 else 64)


@pytest.mark.parametrize("N", [1, 7])
@pytest.mark.parametrize("sizes", [OFFICIAL["3dpw"], MixSynthSizes(29, 4, 19, 37, 70, 2, 1, 3)])
def test_every_instruction_set(instruction_set, sizes, N):
    check(CPU, sizes, N)
    check(CPU, sizes, N, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(target, dtype):
    """Views give what their copies give, bit for bit."""
    sizes, x = TINY._replace(depth=1), make_x(TINY, 2, dtype).to(target.device)
    weights = make_weights(sizes).float().to(target.device)
    mixsynth_encoder = partial(target.run, kernels.mixsynth_encoder)
    expected = mixsynth_encoder(x, weights, sizes)
    for name, layout in {
        "sliced": lambda x: F.pad(x, (3, 2, 1, 2))[:, 1:-2, 3:-2],
        "every second row": lambda x: x.repeat_interleave(2, 1)[:, ::2],
        "rows outside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        "transposed": lambda x: x.mT.contiguous().mT,
        "every second column": lambda x: x.repeat_interleave(2, 2)[..., ::2],
    }.items():
        view = layout(x)
        assert not view.is_contiguous() and torch.equal(mixsynth_encoder(view, weights, sizes), expected), name
    expanded = x[:1].expand(3, -1, -1)
    assert torch.equal(mixsynth_encoder(expanded, weights, sizes), expected[:1].expand(3, -1, -1))
    strided = weights.repeat_interleave(2)[::2]
    assert torch.equal(mixsynth_encoder(x, strided, sizes), expected)


@pytest.mark.parametrize("frames", [4, 20, 101])
def test_windows_do_not_depend_on_each_other_nor_on_threads(frames):
    """Alone, shared by several threads, or in a group: the same bits; and what is not finite stays in its window."""
    sizes = OFFICIAL["3dpw"]._replace(frames=frames, keyframes=2)
    weights, x = make_weights(sizes).float(), make_x(sizes, 23)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(mixsynth_encoder(x, weights, sizes))
            alone = torch.cat([mixsynth_encoder(x[n : n + 1], weights, sizes) for n in (0, 1, 22)])
            results.append(results[0].index_copy(0, torch.tensor([0, 1, 22]), alone))
            assert torch.equal(mixsynth_encoder(x[:2], weights, sizes), results[0][:2])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)
    x[5] = torch.nan
    spoilt = mixsynth_encoder(x, weights, sizes)
    assert spoilt[5].isnan().all()
    assert torch.equal(torch.cat((spoilt[:5], spoilt[6:])), torch.cat((results[0][:5], results[0][6:])))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_weights_of_any_size(scale):
    """Scores of 10^4 and more, sigmoids and GELUs at both ends; a norm restores the size after every part."""
    sizes = OFFICIAL["3dpw"]._replace(depth=2)
    weights, x = make_weights(sizes) * scale, make_x(sizes, 2)
    ours = mixsynth_encoder(x, weights.float(), sizes)
    torchs, exact = (mixsynth_encoder_ref(x.to(w.dtype), w, sizes) for w in (weights.float(), weights))
    # Large scores, with attention weights near 0 or 1, amplify rounding errors.
    assert_as_good("out", ours, torchs, exact, factor=8, rounding=64)


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


class Encoder(torch.nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.register_buffer("weights", make_weights(sizes).float())

    def forward(self, x):
        return mixsynth_encoder(x, self.weights, self.sizes)


def test_gradients_are_those_of_the_reference():
    weights, x = make_weights(TINY).float().requires_grad_(), make_x(TINY, 2).requires_grad_()
    results = []
    for function in (mixsynth_encoder, mixsynth_encoder_ref):
        results.append(torch.autograd.grad(function(x, weights, TINY).square().sum(), (x, weights)))
    for ours, expected in zip(*results):
        assert torch.equal(ours, expected) and expected.any()
    with torch.no_grad():
        assert not mixsynth_encoder(x, weights, TINY).requires_grad
    tangent = torch.func.jvp(lambda x: mixsynth_encoder(x, weights.detach(), TINY), (x.detach(),), (torch.ones_like(x),))[1]
    assert tangent.any()


def test_autocast_leaves_it_alone():
    weights, x = make_weights(TINY).float(), make_x(TINY, 2)
    for name in ("cpu", "reference"):
        with backend(name):
            expected = mixsynth_encoder(x, weights, TINY)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(mixsynth_encoder(x, weights, TINY), expected)


@pytest.mark.parametrize("sizes", [TINY, TINY._replace(keyframes=0, r_t=1), TINY._replace(r_s=1)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_the_layers(sizes, device):
    """But for the difference of the two scores, which is packed: one column where the layers have two."""
    x, weights = make_x(sizes, 3).to(device), make_weights(sizes).float().to(device)
    network = Network(sizes).float().to(device)
    with FlopCounterMode(display=False) as ours:
        mixsynth_encoder(x, weights, sizes)
    with FlopCounterMode(display=False) as layers:
        network(x)
    few = max(1, sizes.frames // 4)
    assert ours.get_total_flops() == layers.get_total_flops() - 2 * 3 * sizes.depth * few * sizes.frames


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.zeros(3, 6)), ValueError, r"x has shape \(3, 6\), expected \(N, 3, 6\)"),
        (dict(x=torch.zeros(2, 7, 6)), ValueError, r"x has shape \(2, 7, 6\), expected \(N, 3, 6\)"),
        (dict(x=torch.zeros(2, 3, 6).int()), TypeError, "x has dtype torch.int32"),
        (dict(x=[1.0]), TypeError, "x is list, expected a tensor"),
        (dict(x=torch.zeros(2, 3, 6, dtype=torch.float64)), TypeError, "weights has dtype torch.float32, expected torch.fl"),
        (dict(x=torch.zeros(2, 3, 6, device="meta")), ValueError, "weights is on cpu, expected x's device, meta"),
        (dict(weights=torch.zeros(5)), ValueError, r"weights has shape \(5,\), expected \(\d+,\)"),
        (dict(weights=make_weights(TINY).bfloat16()), TypeError, "weights has dtype torch.bfloat16, expected torch.float32"),
        (dict(sizes=TINY._replace(r_t=8)), ValueError, "sizes.r_t is 8, expected 1 to 7"),
        (dict(sizes=TINY._replace(r_s=0)), ValueError, "sizes.r_s is 0, expected at least 1"),
        (dict(sizes=TINY._replace(frames=0)), ValueError, "sizes.frames is 0, expected at least 1"),
        (dict(sizes=TINY._replace(depth=0)), ValueError, "sizes.depth is 0, expected at least 1"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"mixsynth_encoder: {message}"):
        mixsynth_encoder(**{"x": make_x(TINY), "weights": make_weights(TINY).float(), "sizes": TINY, **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    sizes = MixSynthSizes(frames=T, keyframes=0, poses=2, dim=4, hidden=4, depth=1, r_t=1, r_s=1)
    return Sample(mixsynth_encoder, {"x": make_x(sizes, B), "weights": make_weights(sizes).float(), "sizes": sizes})


SAMPLES = {"mixsynth_encoder": sample}
