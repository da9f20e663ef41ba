import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import pack_mask, temporal_graph_conv, temporal_graph_conv_ref, topk_temporal_mask_ref
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

MASKS = ("alike", "some", "nothing")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_x(B=1, T=5, J=4, C=8, dtype=torch.float32, seed=0):
    return torch.randn(B, T, J, C, generator=generator(seed)).to(dtype)


def make_graph(T=5):
    """Make scores of both signs, a third of them zero."""
    graph = torch.randn(T, T, generator=generator(1))
    return graph.where(torch.rand(T, T, generator=generator(2)) > 1 / 3, torch.zeros(()))


def make_mask(kind, x):
    """"alike" is HTP's; "some" is not symmetric; with "nothing" every third frame sees nothing."""
    if kind is None:
        return None
    B, T, J, _ = x.shape
    if kind == "alike":
        return topk_temporal_mask_ref(x, max(1, 2 * T // 3))
    mask = torch.rand(B, J, T, T, generator=generator(3)) > 0.4
    mask[:, :, ::3] &= kind == "some"
    return pack_mask(mask)


def output_and_gradients(function, x, graph, dtype=None, device="cpu", dout=None):
    """The output and both gradients, of a fixed random combination. The graph keeps its dtype, unless it is float64."""
    leaf = x.detach().to(device, dtype).requires_grad_()
    edges = graph.detach().to(device, torch.float64 if dtype == torch.float64 else None).requires_grad_()
    out = function(leaf, edges)
    dout = torch.randn(out.shape, generator=generator(99)).to(x.dtype) if dout is None else dout
    dx, dgraph = torch.autograd.grad(out, (leaf, edges), dout.to(device, out.dtype))
    return {"out": out.detach(), "dx": dx, "dgraph": dgraph}


def run(target, x, graph, mask=None, scale=None, dout=None):
    function = lambda x, graph: target.run(temporal_graph_conv, x, graph, mask, scale)
    return output_and_gradients(function, x, graph, device=target.device, dout=dout)


def check(target, x, graph=None, mask=None, scale=None, **bounds):
    """Against float64, relative to PyTorch's own error. Frames and graph are exact in every dtype."""
    graph = make_graph(x.shape[1]) if graph is None else graph
    ours = run(target, x, graph, mask, scale)
    reference = lambda x, graph: temporal_graph_conv_ref(x, graph, mask, scale)
    torchs, exact = (output_and_gradients(reference, x, graph, dtype) for dtype in (None, torch.float64))
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], dtype=x.dtype, **bounds)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, *MASKS])
def test_reference_is_the_formula_written_out(kind):
    """Against loops over frames that share nothing with the reference but the formula."""
    B, T, J, C = 2, 5, 3, 4
    x, graph, scale = make_x(B, T, J, C, torch.float64), make_graph(T).double(), 0.7
    mask = make_mask(kind, x)
    out = torch.zeros(B, T, J, C, dtype=torch.float64)
    for b, t, j in torch.cartesian_prod(*map(torch.arange, (B, T, J))):
        seen = [s for s in range(T) if mask is None or mask[b, j, t, 0].item() >> s & 1]
        weights = {s: torch.exp(scale * (x[b, t, j] @ x[b, s, j])) for s in seen}
        for s in seen:
            out[b, t, j] += weights[s] / sum(weights.values()) * graph[t, s] * x[b, s, j]
    torch.testing.assert_close(temporal_graph_conv(x, graph, mask, scale), out)


@pytest.mark.parametrize("kind", [None, "some", "nothing"])
def test_gradcheck_of_the_reference(kind):
    x, graph = make_x(1, 4, 3, 2, torch.float64).requires_grad_(), make_graph(4).double().requires_grad_()
    mask = make_mask(kind, x.detach())
    assert torch.autograd.gradcheck(lambda x, graph: temporal_graph_conv(x, graph, mask), (x, graph))


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "alike"])
@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17, 27, 32, 33, 47, 48, 49, 64, 65, 81, 129, 243])
def test_lengths(target, frames, kind):
    B, J, C = (1, 1, 5) if target.slow else (2, 3, 20)
    x = make_x(B, frames, J, C)
    check(target, x, mask=make_mask(kind, x))


def test_a_long_clip():
    x = make_x(1, 700, 1, 8)
    check(Target("cpu", "cpu"), x, mask=make_mask("some", x))
    check(Target("cpu", "cpu"), make_x(1, 4131, 1, 2))


@pytest.mark.parametrize("channels", [1, 3, 8, 17, 33, 64, 100, 256, 512, 1000])
def test_channels(target, channels):
    check(target, make_x(1, 18, 1 if target.slow else 2, channels), rounding=32)  # sums of many


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_htp_calls_it(dtype):
    x = make_x(1, 243, 2, 512, dtype)
    check(Target("cpu", "cpu"), x, mask=make_mask("alike", x), rounding=32)  # sums of 512


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [None, *MASKS])
@pytest.mark.parametrize("T, C", [(17, 64), (50, 13)])
def test_reduced_precision(target, dtype, kind, T, C):
    x = make_x(1, T, 1 if target.slow else 3, C, dtype)
    check(target, x, mask=make_mask(kind, x))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 110),
    J=st.integers(1, 20),
    C=st.integers(1, 70),
    kind=st.sampled_from([None, *MASKS]),
    scale=st.sampled_from([None, 0.0, -1.3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, C, kind, scale, dtype, seed):
    if target.slow:
        B, T, J = 1, 1 + T // 2, 1 + J % 2
    x = make_x(B, T, J, C, dtype, seed)
    # Among many draws some sums cancel.
    check(target, x, mask=make_mask(kind, x), scale=scale, factor=4, rounding=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [None, *MASKS])
def test_every_instruction_set(instruction_set, dtype, kind):
    for frames, channels in ((29, 20), (70, 33)):
        x = make_x(2, frames, 3, channels, dtype)
        check(Target("cpu", "cpu"), x, mask=make_mask(kind, x))


LAYOUTS = {
    "sliced": lambda x: F.pad(x, (3, 2, 1, 0, 1, 1))[:, 1:-1, 1:, 3:-2],
    "every second": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "frames inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "clips inside": lambda x: x.movedim(0, 2).contiguous().movedim(2, 0),
    "channels outside": lambda x: x.movedim(3, 0).contiguous().movedim(0, 3),
    "channels apart": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "one frame for all": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, layout):
    """Views give what their copies give, bit for bit."""
    x, graph, dout = LAYOUTS[layout](make_x(2, 9, 3, 5)), make_graph(9), LAYOUTS[layout](make_x(2, 9, 3, 5, seed=7))
    mask = make_mask("some", x)
    apart = mask.repeat_interleave(2, -1)[..., ::2], graph.mT.contiguous().mT
    assert not any(y.is_contiguous() for y in (x, dout, *apart))
    ours = run(target, x, apart[1], apart[0], dout=dout)
    expected = run(target, x.contiguous(), graph, mask, dout=dout.contiguous())
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_gradient_without_strides(target):
    x, graph = make_x(2, 9, 3, 5), make_graph(9)
    ones = torch.ones(())
    ours, expected = (run(target, x, graph, dout=dout) for dout in (ones.expand_as(x), torch.ones_like(x)))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("frames", [9, 40])
def test_masks(target, kind, frames):
    x = make_x(2, frames, 2)
    check(target, x, mask=make_mask(kind, x))


def test_a_mask_of_ones_is_none(target):
    """Bits beyond the last frame mean nothing."""
    x, graph = make_x(1, 40, 2), make_graph(40)
    ours, expected = (run(target, x, graph, mask) for mask in (torch.full((1, 2, 40, 2), -1, dtype=torch.int32), None))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_frame_that_sees_nothing(target):
    """Zeros, and no gradient passes, of whole tiles too."""
    x, graph = make_x(1, 70, 1, 3), make_graph(70)
    assert not any(y.any() for y in run(target, x, graph, torch.zeros(1, 1, 70, 3, dtype=torch.int32)).values())
    mask = torch.ones(70, 70, dtype=torch.bool).tril(-1)[None, None]
    results = run(target, x, graph, pack_mask(mask))
    assert not results["out"][:, 0].any() and not results["dgraph"].cpu()[~mask[0, 0]].any()
    check(target, x, graph, pack_mask(mask))


def test_a_graph_of_zeros_has_a_gradient(target):
    x = make_x(1, 20, 2)
    results = run(target, x, torch.zeros(20, 20))
    assert not results["out"].any() and not results["dx"].any() and results["dgraph"].all()
    check(target, x, torch.zeros(20, 20))


@pytest.mark.parametrize("scale", [30.0, -30.0])
def test_large_scores(target, scale):
    """Scores of thousands: exp of them alone is infinite, or zero."""
    # A score is rounded by 2^-12, and with it the weight that the backward computes from lse.
    check(target, 3 * make_x(1, 20, 2), scale=scale, rounding=2**13)


@pytest.mark.parametrize("kind", [None, *MASKS])
def test_lse(target, kind):
    """All backends give the same: that of the scaled and masked scores."""
    ops = torch.ops.lifter_triton if target.backend == "triton" else torch.ops.lifter
    x, graph = make_x(2, 37, 3), make_graph(37)
    mask = make_mask(kind, x)
    _, lse = ops.temporal_graph_conv(*(None if y is None else y.to(target.device) for y in (x, graph, mask)), 0.7)
    frames = x.transpose(1, 2)
    scores = 0.7 * frames @ frames.mT
    if mask is not None:
        bits = mask[..., None] >> torch.arange(32, dtype=torch.int32) & 1
        scores = scores.masked_fill(bits.flatten(-2)[..., :37] == 0, -torch.inf)
    torch.testing.assert_close(lse.cpu(), scores.logsumexp(-1).transpose(1, 2))


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeats_bit_for_bit_on_any_number_of_threads(target, dtype):
    """A part of the graph's gradient is summed over many clips and joints."""
    x = make_x(1 if target.slow else 7, 50, 2 if target.slow else 11, 9, dtype)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(target, x, make_graph(50), make_mask("alike", x)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)
    check(target, x, mask=make_mask("alike", x))


def test_clips_in_groups(monkeypatch):
    """On the GPU, where all of them have no room."""
    import lifter.kernels.triton.temporal_graph_conv as module

    target, x = Target("triton", "cpu"), make_x(3, 20, 2)
    graph, mask = make_graph(20), make_mask("some", x)
    expected = run(target, x, graph, mask)
    monkeypatch.setattr(module, "ROOM", 4 * 2 * 20 * 32 * 4)  # two clips forward, one backward
    ours = run(target, x, graph, mask)
    assert torch.equal(ours["out"], expected["out"]) and torch.equal(ours["dx"], expected["dx"])
    torch.testing.assert_close(ours["dgraph"], expected["dgraph"])


def test_a_joint_depends_on_no_other(target):
    x, graph = make_x(2, 40, 3), make_graph(40)
    out = target.run(temporal_graph_conv, x, graph)
    x[0, :, 1] *= 10
    changed = target.run(temporal_graph_conv, x, graph)
    assert torch.equal(changed[1], out[1]) and torch.equal(changed[0, :, ::2], out[0, :, ::2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_graphs_of_other_dtypes(target, dtype):
    x, graph = make_x(), make_graph().to(dtype)
    ours, expected = run(target, x, graph), run(target, x, graph.float())
    assert torch.equal(ours["out"], expected["out"]) and torch.equal(ours["dgraph"], expected["dgraph"].to(dtype))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_the_products(device):
    x, graph = make_x(2, 6, 5).to(device).requires_grad_(), make_graph(6).to(device).requires_grad_()
    with FlopCounterMode(display=False) as flops:
        out = temporal_graph_conv(x, graph)
        out.sum().backward()
    assert flops.get_total_flops() == (2 + 4) * 2 * 2 * 5 * 6 * 6 * 8  # two products forward, four backward
    assert (out.shape, x.grad.shape, graph.grad.shape) == ((2, 6, 5, 8), (2, 6, 5, 8), (6, 6))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=[0.0]), TypeError, "x is list, expected a tensor"),
        (dict(x=torch.zeros(1, 5, 4, 8).int()), TypeError, "x has dtype torch.int32, expected a real floating-point dtype"),
        (dict(x=torch.zeros(5, 4, 8)), ValueError, r"x has shape \(5, 4, 8\), expected \(B, T, J, C\)"),
        (dict(x=torch.zeros(1, 5, 0, 8)), ValueError, r"x has shape \(1, 5, 0, 8\), expected no empty dimension after"),
        (dict(graph=torch.zeros(5, 5).bool()), TypeError, "graph has dtype torch.bool, expected a real floating-point dtype"),
        (dict(graph=torch.zeros(5, 4)), ValueError, r"graph has shape \(5, 4\), expected \(5, 5\)"),
        (dict(graph=torch.zeros(5, 5, device="meta")), ValueError, "graph is on meta, expected x's device, cpu"),
        (dict(mask=torch.ones(1, 4, 5, 5).bool()), TypeError, "mask has dtype torch.bool, expected torch.int32"),
        (dict(mask=1), TypeError, "mask has dtype int, expected torch.int32"),
        (dict(mask=torch.ones(1, 4, 5, 2).int()), ValueError, r"mask has shape \(1, 4, 5, 2\), expected \(1, 4, 5, 1\)"),
        (dict(mask=torch.ones(1, 1, 5, 1).int()), ValueError, r"mask has shape \(1, 1, 5, 1\), expected \(1, 4, 5, 1\)"),
        (dict(mask=torch.ones(1, 4, 5, 1, device="meta").int()), ValueError, "mask is on meta, expected x's device, cpu"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"temporal_graph_conv: {message}"):
        temporal_graph_conv(**{"x": make_x(), "graph": make_graph(), **change})

# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    x = make_x(B, T, 2, 3)
    inputs = {"x": x, "graph": make_graph(T), "mask": make_mask("some", x)}
    return Sample(temporal_graph_conv, inputs, gradients=("x", "graph"), maps=("x",))


SAMPLES = {"temporal_graph_conv": sample}
