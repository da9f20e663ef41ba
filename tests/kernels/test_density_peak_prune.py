import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import backend, density_peak_prune, density_peak_prune_ref
from tests.conftest import Target
from tests.kernels.samples import Sample


def make_x(B=2, T=27, C=16, seed=0, dtype=torch.float32):
    """Tokens at different distances from their middle: their densities are well apart."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, C, generator=generator) * torch.rand(B, T, 1, generator=generator)
    return (x + 3).to(dtype)


def make_others(B=2, T=27, seed=1):
    """A mask with an empty row and a full one, noise, and frames that are not valid."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.randint(0, 18, (B, T, T), generator=generator) - 6).clamp(min=0) / 17
    mask[:, 0], mask[:, -1] = 0, 1
    noise = torch.rand(B, T, generator=generator)
    return {"mask": mask, "noise": noise, "valid": torch.rand(B, T, generator=generator) < 0.8}


def intervals(x, k=2, mask=None, noise=None, valid=None, eps=0.0):
    """Float64: what the scores may be if densities differ by `eps`; written out, with eps = 0, what they are."""
    x = x.double()
    B, T, C = x.shape
    distance = ((x[:, :, None] - x[:, None]).square().sum(-1) / C).sqrt()
    hidden = torch.zeros(B, T, T, dtype=torch.bool)
    hidden |= False if mask is None else mask == 0
    hidden |= False if valid is None else ~valid[:, None].expand(B, T, T)
    low, high = torch.zeros(B, T).double(), torch.zeros(B, T).double()
    for b in range(B):
        distance[b, hidden[b]] = distance[b].max() + 1
        density = (-(distance[b].sort(-1).values[:, :k] ** 2).mean(-1)).exp()
        density += 0 if noise is None else 1e-6 * noise[b].double()
        if mask is not None:
            support = 1 + mask[b].double().sum(-1)
            density *= support / support.sum()
        density *= 1 if valid is None else valid[b]
        eps_b = eps * density.max()
        for t in range(T):
            certain = possible = (density > density[t]) | ((density == density[t]) & (torch.arange(T) < t))
            if eps:
                certain, possible = density > density[t] + eps_b, density > density[t] - eps_b
                possible[t] = False
            low[b, t] = density[t] * min([distance[b].max(), *distance[b, t, possible]])
            high[b, t] = density[t] * min([distance[b].max(), *distance[b, t, certain]])
    return low, high


def chosen_of(scores, kept):
    """The frames of the largest scores, of equal ones the first, in order of time."""
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :kept].sort().values


def check(target, x, kept, k=2, separated=True, rounding=1e-5, **others):
    """The indices are the reference's if no choice is close, and always those of our scores, which are right up to
    rounding, given that densities may be on either side of each other if closer than that."""
    indices, scores = (y.cpu() for y in target.run(density_peak_prune, x, kept, k, **others))
    B, T, _ = x.shape
    assert (indices.shape, indices.dtype, scores.shape, scores.dtype) == ((B, kept), torch.int64, (B, T), torch.float32)
    assert torch.equal(indices, chosen_of(scores, kept))
    low, high = intervals(x.float(), k, **others, eps=rounding)
    slack = rounding * high.abs().max()
    assert ((scores >= low - slack) & (scores <= high + slack)).all()
    if separated:
        assert torch.equal(indices, density_peak_prune_ref(x.double(), kept, k, **others)[0])


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ("mask",), ("noise",), ("valid",), ("mask", "noise", "valid")], ids=str)
@pytest.mark.parametrize("k", [1, 2, 5, 27])
def test_reference_is_density_peaks_written_out(names, k):
    x, others = make_x().double(), make_others()
    others = {name: others[name] for name in names}
    indices, scores = density_peak_prune(x, 9, k, **others)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, intervals(x, k, **others)[0])
    assert torch.equal(indices, chosen_of(scores, 9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden(shared, target, dtype):
    """HoT's clustering with its recorded noise."""
    arrays = dict(np.load(shared / "golden" / "hot_cluster.npz"))
    for i, case in enumerate(json.loads(str(arrays["config"]))["cases"]):
        x, noise = (torch.from_numpy(arrays[f"{i}/{name}"]) for name in ("x", "noise"))
        valid = torch.from_numpy(arrays[f"{i}/token_mask"]) > 0 if case["masked"] else None
        if target.slow and len(x) * case["N"] > 200:
            continue
        runs = (lambda *args: target.run(density_peak_prune, *args)) if dtype == torch.float32 else density_peak_prune_ref
        indices, scores = runs(x.to(dtype), case["cluster_num"], case["k"], None, noise, valid)
        assert torch.equal(indices.cpu(), torch.from_numpy(arrays[f"{i}/index_sorted"])), i
        order = scores.cpu().argsort(dim=-1, descending=True, stable=True)[:, : case["cluster_num"]]
        assert torch.equal(order, torch.from_numpy(arrays[f"{i}/index_down"])), i


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17, 27, 32, 33, 49, 81, 129, 243])
def test_lengths(target, frames):
    B = 1 if target.slow else 3
    check(target, make_x(B, frames, 8), max(1, frames // 3), min(2, frames))


def test_a_long_clip():
    x = make_x(1, 1024, 8)
    indices, scores = density_peak_prune(x, 300)
    expected, exact = density_peak_prune_ref(x.double(), 300)
    assert torch.equal(indices, expected)
    torch.testing.assert_close(scores.double(), exact, rtol=1e-4, atol=1e-6)


def test_many_clips():
    """More than are worked on at a time."""
    check(Target("cpu", "cpu"), make_x(30, 70, 512), 20)


@pytest.mark.parametrize("channels", [1, 2, 3, 15, 64, 129, 300, 512])
def test_channels(target, channels):
    check(target, make_x(1 if target.slow else 2, 20, channels), 7)


def test_every_number_of_kept_frames(target):
    x = make_x(1 if target.slow else 2, 9, 5)
    for kept in range(1, 10):
        check(target, x, kept)
    assert torch.equal(target.run(density_peak_prune, x, 9)[0].cpu(), torch.arange(9).expand(len(x), 9))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 16, 33, 40])
def test_nearest_frames(target, k):
    B = 1 if target.slow else 2
    x, others = make_x(B, 40, 5), make_others(B, 40)
    check(target, x, 13, k)
    check(target, x, 13, k, separated=False, **others)  # with so many hidden, some densities are zero


@pytest.mark.parametrize("names", [("mask",), ("noise",), ("valid",), ("mask", "noise", "valid")], ids=str)
def test_masks_noise_and_validity(target, names):
    others = make_others()
    check(target, make_x(), 9, **{name: others[name] for name in names})


@pytest.mark.parametrize("value", [0, 1])
def test_masks_that_are_all_one(target, value):
    """All hidden: all pairs are as far and all frames as dense, so the first are kept. Nothing hidden: no mask."""
    x = make_x()
    mask = torch.full((2, 27, 27), value, dtype=torch.bool)
    indices, scores = target.run(density_peak_prune, x, 9, mask=mask)
    if value:
        assert torch.equal(indices, target.run(density_peak_prune, x, 9)[0])
    else:
        assert torch.equal(indices.cpu(), torch.arange(9).expand(2, 9))
        assert torch.equal(scores, scores[:, :1].expand_as(scores))
    check(target, x, 9, mask=mask, separated=bool(value))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.float64])
def test_masks_of_other_dtypes(target, dtype):
    x, mask = make_x(), (make_others()["mask"] > 0).to(dtype)
    ours, expected = (target.run(density_peak_prune, x, 9, mask=mask) for mask in (mask, mask.float()))
    assert all(map(torch.equal, ours, expected))


def test_frames_that_are_not_valid_come_last(target):
    x, valid = make_x(1, 12, 6), torch.arange(12)[None] < 5
    for kept in (3, 5, 8):
        indices, scores = (y.cpu() for y in target.run(density_peak_prune, x, kept, valid=valid))
        assert (indices < 5).sum() == min(kept, 5) and torch.equal(indices, chosen_of(scores, kept))
        assert not scores[0, 5:].any()
    padded = target.run(density_peak_prune, x, 3, valid=valid)[0]
    assert torch.equal(padded, target.run(density_peak_prune, x[:, :5], 3)[0])


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_of_equal_frames_the_first_is_kept(target, copies):
    """A clip of repeated frames, anywhere in it: one of each is at zero distance from nothing denser."""
    different = make_x(2, 11, 40)
    order = torch.randperm(11 * copies, generator=torch.Generator().manual_seed(3))
    x = different.repeat_interleave(copies, 1)[:, order]
    first = torch.stack([(order // copies == n).nonzero()[0, 0] for n in range(11)]).sort().values
    for dtype in (torch.float32, torch.bfloat16):
        indices, scores = (y.cpu() for y in target.run(density_peak_prune, x.to(dtype), 11))
        assert torch.equal(indices, first.expand(2, 11))
        assert (scores > 0).sum() == 22
    same = torch.full((1, 20, 7), 0.3)
    assert torch.equal(target.run(density_peak_prune, same, 6)[0].cpu(), torch.arange(6)[None])


def test_noise_decides_between_nearest_neighbours(target):
    """Two frames that are each other's nearest are equally dense."""
    x = torch.tensor([0.0, 1.0, 5.0, 6.5])[None, :, None]
    for noise, expected in ((None, [0, 2]), ([1.0, 0, 1, 0], [0, 2]), ([0, 1.0, 0, 1], [1, 3])):
        noise = None if noise is None else torch.tensor([noise])
        assert target.run(density_peak_prune, x, 2, noise=noise)[0].tolist() == [expected]


def test_frames_that_are_much_alike(target):
    """Distances of a thousandth of the tokens."""
    check(target, make_x(1, 30, 64) * 1e-3 + torch.randn(64, generator=torch.Generator().manual_seed(4)), 10, separated=False)
    x = make_x(1, 30, 64)
    indices = target.run(density_peak_prune, x + 1000, 10)[0].cpu()
    assert torch.equal(indices, density_peak_prune_ref((x + 1000).double(), 10)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(target, dtype):
    """Inputs are exact, so the results are as good as in float32."""
    check(target, make_x(1 if target.slow else 3, 40, 33, dtype=dtype), 13)
    check(target, make_x(2, 27, 64, dtype=dtype), 9, **make_others())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 60),
    C=st.integers(1, 150),
    kept=st.integers(1, 60),
    k=st.integers(1, 8),
    names=st.sets(st.sampled_from(["mask", "noise", "valid"])),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, C, kept, k, names, dtype, seed):
    if target.slow:
        B, T, C = 1, 1 + T // 2, 1 + C // 4
    others = {name: value for name, value in make_others(B, T, seed).items() if name in names}
    check(target, make_x(B, T, C, seed, dtype), min(kept, T), min(k, T), separated=False, **others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    check(Target("cpu", "cpu"), make_x(2, 67, 37, dtype=dtype), 20, 3)
    check(Target("cpu", "cpu"), make_x(2, 67, 37, dtype=dtype), 20, 3, **make_others(2, 67))
    test_of_equal_frames_the_first_is_kept(Target("cpu", "cpu"), 3)


LAYOUTS = {
    "sliced": lambda x: F.pad(x, (3, 2, 1, 0, 1, 1))[1:-1, 1:, 3:-2],
    "frames outside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "last outside": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "last apart": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, layout):
    """Views give what their copies give, bit for bit."""
    x, others = make_x(2, 9, 5), make_others(2, 9)
    expected = target.run(density_peak_prune, x, 4, **others)
    view = LAYOUTS[layout]
    views = {name: view(y[:, :, None].expand(2, 9, 9))[:, :, 0] for name, y in others.items() if y.dim() == 2}
    assert not view(x).is_contiguous()
    ours = target.run(density_peak_prune, view(x), 4, mask=view(others["mask"]), **views)
    assert all(map(torch.equal, ours, expected))


def test_one_clip_for_all(target):
    x, mask = make_x(1, 9, 5), make_others(1, 9)["mask"]
    ours = target.run(density_peak_prune, x.expand(2, -1, -1), 4, mask=mask.expand(2, -1, -1))
    expected = target.run(density_peak_prune, x, 4, mask=mask)
    assert all(torch.equal(a, b.expand_as(a)) for a, b in zip(ours, expected))


def test_repeats_with_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        for x in (make_x(1, 243, 100), make_x(5, 81, 600), make_x(3, 40, 8, dtype=torch.bfloat16)):
            results = []
            for threads in (1, 2, 3, 3):
                torch.set_num_threads(threads)
                with backend("cpu"):
                    results.append(density_peak_prune(x, 30))
            assert all(torch.equal(y, z) for result in results for y, z in zip(result, results[0]))
    finally:
        torch.set_num_threads(before)


def test_a_clip_depends_on_no_other(target):
    x, others = make_x(3, 27, 9), make_others(3)
    indices, scores = target.run(density_peak_prune, x, 9, **others)
    x[0] *= 10
    alone = target.run(density_peak_prune, x, 9, **others)
    assert torch.equal(alone[0][1:], indices[1:]) and torch.equal(alone[1][1:], scores[1:])


@pytest.mark.parametrize("x", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_input_that_is_not_finite_gives_some_frames(target, x):
    tokens = make_x(1, 20, 5)
    tokens[:, 3] = x
    indices = target.run(density_peak_prune, tokens, 7)[0].cpu()
    assert indices.shape == (1, 7) and (indices.diff() > 0).all() and 0 <= indices.min() and indices.max() < 20


def test_nan_is_not_hidden(target):
    """Every frame has a distance to every other of its clip: none gets a score, as in the reference."""
    x = make_x(3, 20, 5)
    expected = target.run(density_peak_prune, x, 7)[1]
    x[1, 3, 2] = torch.nan
    scores = target.run(density_peak_prune, x, 7)[1]
    assert scores[1].isnan().all() and density_peak_prune_ref(x, 7)[1][1].isnan().all()
    assert torch.equal(scores[::2], expected[::2])


# ---- autograd, compilers, counters -----------------------------------------------------------------------------------


def test_the_gather_has_a_gradient_and_the_choice_none(target):
    x = make_x(2, 9, 5).to(target.device).requires_grad_()
    with target.forced():
        indices, scores = density_peak_prune(x, 4)
    assert not scores.requires_grad
    x[torch.arange(2)[:, None], indices].sum().backward()
    expected = torch.zeros_like(x).index_put((torch.arange(2)[:, None], indices), torch.ones(()))
    assert torch.equal(x.grad, expected)


def test_autocast_leaves_the_tokens(target):
    x = make_x(1, 9, 5).to(target.device)
    with target.forced():
        expected = density_peak_prune(x, 4)
        with torch.autocast(target.device, torch.bfloat16):
            ours = density_peak_prune(x, 4)
            with backend("reference"):
                reference = density_peak_prune(x, 4)
    assert all(map(torch.equal, ours, expected))
    torch.testing.assert_close(ours[1], reference[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_the_products(device):
    with FlopCounterMode(display=False) as flops:
        indices, scores = density_peak_prune(make_x(2, 9, 5).to(device), 4)
    assert flops.get_total_flops() == 2 * 2 * 9 * 9 * 5
    assert (indices.shape, indices.dtype, scores.shape, scores.dtype) == ((2, 4), torch.int64, (2, 9), torch.float32)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=[0.0]), TypeError, "x is list, expected a tensor"),
        (dict(x=torch.zeros(1, 5, 4).int()), TypeError, "x has dtype torch.int32, expected a real floating-point dtype"),
        (dict(x=torch.zeros(5, 4)), ValueError, r"x has shape \(5, 4\), expected \(B, T, C\)"),
        (dict(x=torch.zeros(1, 0, 4)), ValueError, r"x has shape \(1, 0, 4\), expected no empty dimension after"),
        (dict(x=torch.zeros(1, 5, 0)), ValueError, r"x has shape \(1, 5, 0\), expected no empty dimension after"),
        (dict(kept=0), ValueError, "kept is 0, expected 1 <= kept <= T=5"),
        (dict(kept=6), ValueError, "kept is 6, expected 1 <= kept <= T=5"),
        (dict(k=0), ValueError, "k is 0, expected 1 <= k <= T=5"),
        (dict(k=6), ValueError, "k is 6, expected 1 <= k <= T=5"),
        (dict(kept=2.0), TypeError, "kept is 2.0, expected an integer"),
        (dict(k="2"), TypeError, "k is '2', expected an integer"),
        (dict(mask=torch.ones(1, 4, 5)), ValueError, r"mask has shape \(1, 4, 5\), expected \(1, 5, 5\)"),
        (dict(mask=torch.ones(1, 5, 5).int()), TypeError, "mask is torch.int32, expected a tensor of bool or floating"),
        (dict(mask=1.0), TypeError, "mask is float, expected a tensor of bool or floating point"),
        (dict(noise=torch.ones(1, 4)), ValueError, r"noise has shape \(1, 4\), expected \(1, 5\)"),
        (dict(noise=torch.ones(1, 5).bool()), TypeError, "noise is torch.bool, expected a tensor of floating point"),
        (dict(valid=torch.ones(2, 5).bool()), ValueError, r"valid has shape \(2, 5\), expected \(1, 5\)"),
        (dict(valid=torch.ones(1, 5)), TypeError, "valid is torch.float32, expected a tensor of bool"),
        (dict(valid=torch.ones(1, 5, device="meta").bool()), ValueError, "valid is on meta, expected x's device, cpu"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"density_peak_prune: {message}"):
        density_peak_prune(**{"x": torch.zeros(1, 5, 4), "kept": 2, **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    return Sample(density_peak_prune, {"x": make_x(B, T, 4), "kept": 2, **make_others(B, T)})


SAMPLES = {"density_peak_prune": sample}
