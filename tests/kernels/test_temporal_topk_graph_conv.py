"""temporal_topk_graph_conv against its meaning, written out frame by frame."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import backend, temporal_topk_graph_conv, unpack_mask
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

TAIL = ("root", "scale", "shift", "residual")
CPU = Target("cpu", "cpu")


def make_inputs(B=2, T=9, J=3, C=5, D=4, S=None, tail=TAIL, seed=0, dtype=torch.float32):
    """`S` windows, or None for values without that dimension."""
    g = torch.Generator().manual_seed(seed)
    several = () if S is None else (S,)
    like = (B, T, J, *several, D)
    shapes = {"values": like, "root": like, "scale": (T, *several), "shift": (T, *several), "residual": like}
    names = ("values", *(name for name in TAIL if name in tail))
    inputs = {"x": torch.randn(B, T, J, C, generator=g), **{name: torch.randn(shapes[name], generator=g) for name in names}}
    return {name: y.to(dtype) for name, y in inputs.items()}


def make_exact(B=2, T=9, J=3, C=5, *args, **kwargs):
    """Tokens of a few ones of either sign, times a power of two: products and cosines are exact, and many are equal."""
    inputs = make_inputs(B, T, J, C, *args, **kwargs)
    x, g = inputs["x"], torch.Generator().manual_seed(1)
    ones = x.float().abs().argsort(-1).argsort(-1) < (4 if C > 3 else 1)
    size = 2.0 ** torch.randint(-1, 3, (B, T, J, 1), generator=g)
    return inputs | {"x": (ones * x.float().sign() * size).to(x.dtype)}


def output_and_gradients(call, inputs, dout=None, device="cpu"):
    """`call(x, **others)`: the result, and the gradients of all but x, by name."""
    leaves = {name: y.detach().to(device).requires_grad_(name != "x") for name, y in inputs.items()}
    out = call(**leaves)
    if dout is None:
        dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    wanted = [y for y in leaves.values() if y.requires_grad]
    gradients = torch.autograd.grad(out, wanted, dout.to(out.device, out.dtype))
    return {"out": out.detach(), **{f"d{name}": g for name, g in zip(list(leaves)[1:], gradients, strict=True)}}


def check(target, inputs, relu=True, **options):
    """The output and the gradients are as good as the reference's in the same dtype."""
    call = lambda **inputs: temporal_topk_graph_conv(**inputs, relu=relu, **options)
    with target.forced():
        ours = output_and_gradients(call, inputs, device=target.device)
    with backend("reference"):
        torchs = output_and_gradients(call, inputs)
        exact = output_and_gradients(call, {name: y.double() for name, y in inputs.items()})
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name])


def check_choice(target, x, k=2, similarity="dot"):
    """Whole clips: a frame is chosen or not as it should, but where its similarity is as close to the k-th as rounding."""
    (B, T, J, C), k = x.shape, min(k, x.shape[1])
    op = (torch.ops.lifter if target.backend == "cpu" else torch.ops.lifter_triton).temporal_topk_graph_conv
    values = torch.zeros(B, T, J, 1, 1, dtype=x.dtype)
    _, graph = op(x.to(target.device), values.to(target.device), k, [T], similarity == "cosine", False, *[None] * 4, False)
    ours = unpack_mask(graph.cpu(), T)[:, :, 0]
    assert (ours.sum(-1) == k).all()
    frames = x.double().transpose(1, 2)
    frames = F.normalize(frames, dim=-1) if similarity == "cosine" else frames
    similar, size = frames @ frames.mT, frames.norm(dim=-1, keepdim=True)
    slack = 2 * torch.finfo(torch.float32).eps * C**0.5 * size * size.mT
    low, high = similar - slack, similar + slack
    may = high >= low.topk(k)[0][..., k - 1 :]
    must = low > high.topk(k + 1)[0][..., k:] if k < T else torch.ones_like(may)
    assert (must == may).double().mean() > 0.99 and (must <= ours).all() and (ours <= may).all()


def chosen_of(x, t, begin, end, k, similarity, ties):
    """The frames of begin..end that frame t of one clip and joint, (T, C), chooses."""
    norm = lambda y: y / y.norm().clamp(min=1e-12) if similarity == "cosine" else y
    similar = [(norm(x[t]) @ norm(x[s])).item() for s in range(begin, end)]
    order = sorted(range(begin, end), key=lambda s: (-similar[s - begin], s))[:k]
    return [s for s in range(begin, end) if s in order or (ties == "all" and similar[s - begin] == similar[order[-1] - begin])]


def written_out(x, values, k=2, window=None, similarity="dot", ties="first", root=None, scale=None, shift=None,
                residual=None, relu=False):  # fmt: skip
    if values.dim() == 5:
        part = lambda y, i: None if y is None else y[..., i] if y.dim() == 2 else y[:, :, :, i]
        maps = lambda i: [part(y, i) for y in (root, scale, shift, residual)]
        each = [written_out(x, part(values, i), k, w, similarity, ties, *maps(i), relu) for i, w in enumerate(window)]
        return torch.stack(each, 3)
    B, T, J, _ = values.shape
    y = torch.zeros_like(values)
    for b in range(B):
        for j in range(J):
            begin_of = lambda t: t - t % (window or T)
            ends = [min(begin_of(t) + (window or T), T) for t in range(T)]
            rows = [chosen_of(x[b, :, j], t, begin_of(t), ends[t], k, similarity, ties) for t in range(T)]
            for t, row in enumerate(rows):
                y[b, t, j] = sum(values[b, s, j] / (len(row) * len(rows[s])) ** 0.5 for s in row)
    y = y if root is None else y + root
    y = y if scale is None else y * scale[:, None, None]
    y = y if shift is None else y + shift[:, None, None]
    y = y if residual is None else y + residual
    return y.clamp(min=0) if relu else y


# ---- the meaning -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 2),
    T=st.integers(1, 20),
    J=st.integers(1, 3),
    C=st.integers(1, 9),
    k=st.integers(1, 6),
    windows=st.sampled_from([None, 1, 3, 9, 50, (9,), (2, 5, 20)]),
    similarity=st.sampled_from(["dot", "cosine"]),
    ties=st.sampled_from(["first", "all"]),
    tail=st.sets(st.sampled_from(TAIL)),
    relu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_reference_is_its_meaning(B, T, J, C, k, windows, similarity, ties, tail, relu, seed):
    S = len(windows) if isinstance(windows, tuple) else None
    inputs = make_inputs(B, T, J, C, S=S, tail=tail, seed=seed, dtype=torch.float64)
    options = dict(k=k, window=windows, similarity=similarity, ties=ties, relu=relu)
    # Of one channel all cosines are 1, up to rounding; and their signs are exact.
    inputs["x"] = inputs["x"] if C > 1 or similarity == "dot" else inputs["x"].sign()
    torch.testing.assert_close(temporal_topk_graph_conv(**inputs, **options), written_out(**inputs, **options))


def test_it_is_the_mean_of_the_most_similar():
    """Frames 0 and 2 are alike, and 1 and 3; a long frame is most similar to all, but not by its direction."""
    x = torch.tensor([[1.0, 0], [0, 1], [0.9, 0.1], [0.1, 0.9], [5, 4.9]])[None, :, None].double()
    values = torch.tensor([1.0, 2, 4, 8, 16])[None, :, None, None].double()
    ours = temporal_topk_graph_conv(x, values, 2, similarity="cosine").flatten()
    torch.testing.assert_close(ours, torch.tensor([2.5, 5, 2.5, 5, 10]).double())
    ours = temporal_topk_graph_conv(x, values, 2).flatten()  # frame 4 of all, and the best other
    torch.testing.assert_close(ours, torch.tensor([8.5, 9, 8.5, 9, 8.5]).double())


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_equally_similar_frames(backend, similarity):
    """All frames of a window are the same: the first k are chosen, or all, which is MotionAGFormer's rule."""
    x, values = torch.full((1, 40, 1, 3), 0.7), torch.arange(40.0)[None, :, None, None]
    for ties, means in (("first", [0.5, 36.5]), ("all", [17.5, 37.5])):
        ours = temporal_topk_graph_conv(x, values, 2, 36, similarity, ties).flatten()
        torch.testing.assert_close(ours, torch.tensor(means).repeat_interleave(torch.tensor([36, 4])))


@pytest.mark.parametrize("ties", ["first", "all"])
def test_directions_of_one_channel(backend, ties):
    """There are two: nothing is left to rounding."""
    x, values = make_inputs(1, 40, 2, 1)["x"], torch.arange(40.0)[None, :, None, None].expand(1, 40, 2, 1)
    ours = temporal_topk_graph_conv(x, values, 3, similarity="cosine", ties=ties)
    torch.testing.assert_close(ours, temporal_topk_graph_conv(x.sign(), values, 3, ties=ties))


def test_zeros_of_either_sign_are_equal(backend):
    x = torch.tensor([-1.0, 1, -1, 1, 0, -0.0])[None, :, None, None] * 1e-30
    ours = temporal_topk_graph_conv(x, torch.arange(6.0)[None, :, None, None], 3)
    torch.testing.assert_close(ours, torch.ones(1, 6, 1, 1))


def test_ties_with_degrees_that_differ(backend):
    """Frame 0 has the others at one similarity and takes both, frames 1 and 2 take one: weights 1 / sqrt(d_t d_s)."""
    x = torch.tensor([[1.0, 0, 0], [1, 2, 0], [1, 0, 2]])[None, :, None]
    values = torch.tensor([1.0, 10, 100])[None, :, None, None]
    ours = temporal_topk_graph_conv(x, values, 1, ties="all").flatten()
    torch.testing.assert_close(temporal_topk_graph_conv(x, values, 1), values)
    torch.testing.assert_close(ours, torch.tensor([1 / 3 + (10 + 100) / 3**0.5, 10, 100]))


def test_the_last_window_may_be_shorter():
    inputs = make_inputs(T=11, tail=())
    parts = [temporal_topk_graph_conv(*(y[:, a:b] for y in inputs.values())) for a, b in ((0, 4), (4, 8), (8, 11))]
    torch.testing.assert_close(temporal_topk_graph_conv(**inputs, window=4), torch.cat(parts, 1))


def test_several_windows_are_those_of_each():
    inputs = make_inputs(T=27, S=3)
    ours = temporal_topk_graph_conv(**inputs, window=(3, 9, 27), similarity="cosine", relu=True)
    for i, window in enumerate((3, 9, 27)):
        part = {name: y if name == "x" else y[..., i] if y.dim() == 2 else y[:, :, :, i] for name, y in inputs.items()}
        torch.testing.assert_close(
            ours[:, :, :, i], temporal_topk_graph_conv(**part, window=window, similarity="cosine", relu=True)
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    inputs = make_inputs(T=27, C=33, dtype=dtype)
    exact = temporal_topk_graph_conv(**{name: y.double() for name, y in inputs.items()}, window=9, relu=True)
    ours = temporal_topk_graph_conv(**inputs, window=9, relu=True)
    torch.testing.assert_close(ours, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17, 27, 33, 81, 129, 243])
def test_lengths(target, frames):
    check(target, make_exact(1, frames, 1, 5) if target.slow else make_exact(2, frames, 5, 20))


def test_a_long_clip():
    check(CPU, make_exact(1, 4131, 1, 16, tail=("root",)), relu=False)
    check(CPU, make_exact(1, 4131, 1, 16, tail=("root",), S=2), relu=False, window=(81, 27))


@pytest.mark.parametrize("channels", [1, 3, 16, 33, 128, 300])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_channels(target, channels, similarity):
    check(target, make_exact(1, 19, 1 if target.slow else 4, channels, channels), similarity=similarity)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 40])
@pytest.mark.parametrize("ties", ["first", "all"])
def test_every_number_of_chosen_frames(target, k, ties):
    check(target, make_exact(1, 20, 1 if target.slow else 4), k=k, ties=ties, window=8)


@pytest.mark.parametrize("windows", [(20,), (9, 3, 9), (4, 6, 12), (50, 7), (1, 40)], ids=str)
@pytest.mark.parametrize("similarity, ties", [("dot", "all"), ("cosine", "first")])
def test_windows(target, windows, similarity, ties):
    """Some that others are made of, some that overlap others, a last one that is shorter."""
    inputs = make_exact(1, 41, 1 if target.slow else 3, S=len(windows))
    check(target, inputs, window=windows, similarity=similarity, ties=ties)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_reduced_precision(target, dtype, similarity):
    check(target, make_exact(1, 27, 1 if target.slow else 5, 33, 40, dtype=dtype), similarity=similarity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_tokens_of_any_kind(target, similarity, dtype):
    for seed, size in enumerate((1, 1e-15, 1e15)):
        x = make_inputs(1, 40 if target.slow else 130, 1, 33, seed=seed)["x"]
        for tokens in (x, 0.3 * x + 1, x.cumsum(1)):
            check_choice(target, (size * tokens).to(dtype), 3, similarity)


def test_a_pose_clip():
    """More joints than are worked on at a time."""
    check_choice(CPU, make_inputs(2, 243, 17, 128)["x"])
    check(CPU, make_exact(1, 243, 17, 128, 16))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 2),
    T=st.integers(1, 70),
    J=st.integers(1, 4),
    C=st.integers(1, 40),
    D=st.integers(1, 40),
    k=st.integers(1, 6),
    windows=st.sampled_from([None, 1, 9, 50, (9,), (2, 5, 20)]),
    similarity=st.sampled_from(["dot", "cosine"]),
    ties=st.sampled_from(["first", "all"]),
    tail=st.sets(st.sampled_from(TAIL)),
    relu=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, C, D, k, windows, similarity, ties, tail, relu, dtype, seed):
    if target.slow:
        B, T, J = 1, 1 + T // 3, 1
    S = len(windows) if isinstance(windows, tuple) else None
    inputs = make_exact(B, T, J, C, D, S, tail, seed, dtype)
    check(target, inputs, relu, k=k, window=windows, similarity=similarity, ties=ties)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    for frames, channels in ((5, 5), (67, 37)):
        inputs = make_exact(2, frames, 3, channels, channels, S=3, dtype=dtype)
        check(CPU, inputs, window=(3, 9, 27), k=3, similarity="cosine")
        check(CPU, inputs, window=(7, 20, frames), ties="all")
    check_choice(CPU, make_inputs(1, 81, 2, 130)["x"].to(dtype))


LAYOUTS = {
    "sliced": lambda y: F.pad(y, (3, 2, *(0, 0) * (y.dim() - 3), 1, 1, 1, 0))[1:, 1:-1, ..., 3:-2],
    "frames inside": lambda y: y.transpose(1, 2).contiguous().transpose(1, 2),
    "channels outside": lambda y: y.movedim(-1, 0).contiguous().movedim(0, -1),
    "channels apart": lambda y: y.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, layout):
    """Views give what their copies give, bit for bit."""
    inputs, view = make_exact(2, 9, 2, S=2), LAYOUTS[layout]
    dout = torch.randn(2, 9, 2, 2, 4, generator=torch.Generator().manual_seed(9))
    call = lambda **inputs: target.run(temporal_topk_graph_conv, **inputs, window=(3, 9), relu=True)
    views = {name: view(y) if y.dim() > 2 else y.t().contiguous().t() for name, y in inputs.items()}
    assert not any(y.is_contiguous() for y in views.values())
    assert all(torch.equal(y, inputs[name]) for name, y in views.items())
    ours = output_and_gradients(call, views, view(dout), target.device)
    expected = output_and_gradients(call, inputs, dout, target.device)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_repeats_with_any_number_of_threads():
    before, results = torch.get_num_threads(), []
    inputs = make_inputs(2, 81, 5, 33, S=3)
    call = lambda **inputs: CPU.run(temporal_topk_graph_conv, **inputs, window=(9, 27, 80), relu=True)
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            results.append(output_and_gradients(call, inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result[name], results[0][name]) for result in results for name in result)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_tokens_that_are_not_finite_choose_some_frames(target, value, similarity):
    x = make_inputs(1, 40, 2)["x"]
    x[:, 3, 1] = value
    values = torch.ones(1, 40, 2, 1)
    ours = target.run(temporal_topk_graph_conv, x, values, 3, 36, similarity)
    torch.testing.assert_close(ours.cpu(), values)  # of as many as always, of its window


# ---- autograd, compilers, counters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [None, (2, 5)])
@pytest.mark.parametrize("ties", ["first", "all"])
def test_gradcheck_of_the_reference(windows, ties):
    inputs = make_inputs(1, 5, 2, 3, 2, S=windows and 2, dtype=torch.float64)
    x = inputs.pop("x").requires_grad_()
    call = lambda *args: temporal_topk_graph_conv(x, **dict(zip(inputs, args, strict=True)), window=windows, ties=ties)
    assert torch.autograd.gradcheck(call, tuple(y.requires_grad_() for y in inputs.values()))
    call(*inputs.values()).sum().backward()
    assert x.grad is None  # what is chosen has no gradient


def test_tokens_that_are_their_own_values():
    x = make_inputs(C=4)["x"].requires_grad_()
    temporal_topk_graph_conv(x, x).sum().backward()
    expected = torch.autograd.functional.vjp(lambda v: temporal_topk_graph_conv(x.detach(), v), x.detach(), torch.ones_like(x))
    torch.testing.assert_close(x.grad, expected[1])


@pytest.mark.parametrize("windows, pairs", [(None, 9), (3, 3), ((3, 9), 12), (50, 9)])
def test_flops_are_those_of_the_pairs_and_of_the_sums(windows, pairs):
    S = len(windows) if isinstance(windows, tuple) else None
    inputs = {name: y.to("meta") for name, y in make_inputs(S=S, dtype=torch.bfloat16).items()}
    with FlopCounterMode(display=False) as flops:
        out = temporal_topk_graph_conv(**inputs, window=windows, k=2)
    assert flops.get_total_flops() == 2 * 2 * 9 * 3 * (pairs * 5 + (S or 1) * 2 * 4)
    assert (out.shape, out.dtype) == (inputs["values"].shape, torch.bfloat16)
    inputs["values"].requires_grad_()
    out = temporal_topk_graph_conv(**inputs, window=windows, k=2)
    with FlopCounterMode(display=False) as flops:
        out.backward(torch.ones_like(out))
    assert flops.get_total_flops() == 2 * 2 * 9 * 3 * (S or 1) * 2 * 4


def test_gradients_that_are_not_asked_for(target):
    """Only those of some, and with the values fixed."""
    inputs = make_inputs(1)
    dout = torch.ones(1, 9, 3, 4)
    call = lambda **inputs: target.run(temporal_topk_graph_conv, **inputs, relu=True)
    everything = output_and_gradients(call, inputs, dout, target.device)
    for name in ("values", *TAIL):
        leaf = inputs[name].to(target.device).requires_grad_()
        (gradient,) = torch.autograd.grad(call(**inputs | {name: leaf}), leaf, dout.to(target.device))
        assert torch.equal(gradient, everything[f"d{name}"]), name


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=[0.0]), TypeError, "x is list, expected a tensor"),
        (dict(values=torch.zeros(2, 9, 3, 4).int()), TypeError, "values has dtype torch.int32, expected a real floating"),
        (dict(x=torch.zeros(5, 4)), ValueError, r"x has shape \(5, 4\), expected \(B, T, J, C\)"),
        (dict(x=torch.zeros(2, 9, 0, 4)), ValueError, r"x has shape \(2, 9, 0, 4\), expected no empty dimension after"),
        (dict(k=0), ValueError, "k is 0, expected an integer of at least 1"),
        (dict(k=2.0), ValueError, "k is 2.0, expected an integer of at least 1"),
        (dict(window=0), ValueError, "window is 0, expected None, a positive integer or a sequence of them"),
        (dict(window=2.0), ValueError, "window is 2.0, expected None, a positive integer or a sequence of them"),
        (dict(window=()), ValueError, r"window is \(\), expected None, a positive integer or a sequence of them"),
        (dict(window=(3, 9)), ValueError, r"values has shape \(2, 9, 3, 4\), expected \(2, 9, 3, 2, D\)"),
        (dict(values=torch.zeros(2, 9, 3, 1, 4)), ValueError, r"values has shape \(2, 9, 3, 1, 4\), expected \(2, 9, 3, D\)"),
        (dict(similarity="l2"), ValueError, "similarity is 'l2', expected 'dot' or 'cosine'"),
        (dict(ties="last"), ValueError, "ties is 'last', expected 'first' or 'all'"),
        (dict(root=torch.zeros(2, 9, 3, 3)), ValueError, r"root has shape \(2, 9, 3, 3\), expected \(2, 9, 3, 4\)"),
        (dict(values=torch.zeros(2, 9, 3, 4).half()), TypeError, "values has dtype torch.float16, expected x's, torch.fl"),
        (dict(scale=torch.zeros(3)), ValueError, r"scale has shape \(3,\), expected \(9,\)"),
        (dict(shift=torch.zeros(9, device="meta")), ValueError, "shift is on meta, expected x's device, cpu"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"temporal_topk_graph_conv: {message}"):
        temporal_topk_graph_conv(**make_inputs() | change)


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(S, window, B=2, T=5):
    inputs = make_inputs(B, T, 2, 3, 2, S) | {"window": window, "relu": S is None}
    return Sample(temporal_topk_graph_conv, inputs, ("values", *TAIL), maps=("x", "values", "root", "residual"))


SAMPLES = {
    "temporal_topk_graph_conv": partial(sample, None, None),
    "temporal_topk_graph_conv windows": partial(sample, 2, (2, 4)),
}
