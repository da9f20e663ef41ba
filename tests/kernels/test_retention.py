from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter import kernels
from lifter.kernels import retention, xpos_scale
from lifter.kernels.retention import MAX_XPOS_CHUNK
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

LENGTHS = [1, 2, 3, 17, 27, 81, 129, 243]
LEAVES = ("q", "k", "v", "decay", "initial_state")


def make_inputs(B=1, T=5, J=2, H=2, K=4, V=3, dtype=torch.float32, state=False, positions=True, seed=0, **options):
    """Clips with a decay per joint, of 0.75 and more as PoseRetNet's; with `state` one that goes in and one that comes out."""
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    return {
        "q": randn(B, T, J, H, K).to(dtype),
        "k": randn(B, T, J, H, K).to(dtype),
        "v": randn(B, T, J, H, V).to(dtype),
        "decay": 1 - 2 ** -(2 + 7 * torch.rand(J, H, generator=g)),
        "initial_state": randn(B, J, H, K, V) if state else None,
        "xpos_scale": xpos_scale(K) if positions else None,
        "output_final_state": state,
    } | options


def convert(inputs, dtype=None, device="cpu"):
    """Tensors elsewhere, or in another dtype; those that have a gradient require it."""
    moved = {
        name: x.detach().to(device=device, dtype=dtype or x.dtype) if isinstance(x, torch.Tensor) else x
        for name, x in inputs.items()
    }
    for name in LEAVES:
        if moved[name] is not None:
            moved[name].requires_grad_()
    return moved


def outputs_and_gradients(inputs, dtype=None, device="cpu"):
    """out, final_state and the gradient of every input, for fixed random gradients of both outputs."""
    inputs = convert(inputs, dtype, device)
    results = {name: x for name, x in zip(("out", "final_state"), retention(**inputs)) if x is not None}
    g = torch.Generator().manual_seed(99)
    grads = [torch.randn(x.shape, generator=g).to(device, x.dtype) for x in results.values()]
    wanted = {name: inputs[name] for name in LEAVES if inputs[name] is not None}
    gradients = torch.autograd.grad(list(results.values()), list(wanted.values()), grads)
    return {name: x.detach() for name, x in results.items()} | {f"d{name}": x for name, x in zip(wanted, gradients)}


def check(target, inputs, **bounds):
    with target.forced():
        ours = outputs_and_gradients(inputs, device=target.device)
    with kernels.backend("reference"):
        torchs, exact = outputs_and_gradients(inputs), outputs_and_gradients(inputs, torch.float64)
    for name in exact:
        heads = range(1, exact[name].dim() - 2) if name == "final_state" else ()
        assert_as_good(name, ours[name], torchs[name], exact[name], dtype=inputs["q"].dtype, groups=heads, **bounds)


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("T", LENGTHS)
def test_lengths_and_chunks(target, T, causal):
    for chunk_size in (None, 9, T - 1) if target.slow and T > 27 else (None, 1, 3, 9, T - 1, T, T + 1):
        if chunk_size != 0:
            size = dict(J=1, H=1, K=2, V=1) if target.slow else {}
            check(target, make_inputs(T=T, state=chunk_size == 9, chunk_size=chunk_size, causal=causal, **size))


@pytest.mark.parametrize(
    "options", [{"causal": True}, {"causal": False, "chunk_size": 9}, {"causal": False, "chunk_size": 140}]
)
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("state", [False, True])
def test_several_states(target, options, positions, state):
    """Longer than what a kernel takes at once."""
    size = dict(J=1, H=1, K=6, V=2) if target.slow else dict(J=2, H=3, K=20, V=17)
    check(target, make_inputs(T=300, state=state, positions=positions, **size, **options))


@pytest.mark.parametrize("options", [{"causal": True}, {"causal": False, "chunk_size": 243}])
def test_a_long_clip(options):
    check(Target("cpu", "cpu"), make_inputs(T=4131, J=1, H=1, K=4, V=2, state=True, **options))


@pytest.mark.parametrize("K, V", [(2, 1), (6, 20), (20, 6), (64, 64), (128, 64), (64, 128), (256, 256)])
def test_channels(target, K, V):
    check(target, make_inputs(T=19, J=1, K=K, V=V, state=True, causal=False, chunk_size=9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    inputs = make_inputs(B=2, T=53, J=2, K=20, V=18, dtype=dtype, state=True, causal=False, chunk_size=29)
    check(Target("cpu", "cpu"), inputs)


@pytest.mark.parametrize("K", [1, 5, 33])
def test_odd_channels_without_positions(target, K):
    check(target, make_inputs(T=19, J=1, K=K, V=3, state=True, positions=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{"causal": True}, {"causal": False}])
def test_reduced_precision(target, dtype, options):
    check(target, make_inputs(T=40, K=64, V=64, dtype=dtype, state=True, **options))


@pytest.mark.parametrize("decay", [1.0, 0.01])
@pytest.mark.parametrize("options", [{"causal": True}, {"causal": False}])
def test_extreme_decays(target, decay, options):
    T, size = (300, dict(J=1, H=1, K=2, V=1)) if target.slow else (900, {})
    inputs = make_inputs(T=T, state=True, positions=False, **size, **options)
    inputs["decay"] = torch.full_like(inputs["decay"], decay)
    check(target, inputs, rounding=64)  # with decay 1 long sums cancel


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 150),
    J=st.integers(1, 5),
    H=st.integers(1, 4),
    K=st.integers(1, 70),
    V=st.integers(1, 70),
    chunk_size=st.none() | st.integers(1, 160),
    causal=st.booleans(),
    state=st.booleans(),
    positions=st.booleans(),
    scale=st.sampled_from([None, 0.0, -1.3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, H, K, V, chunk_size, causal, state, positions, scale, dtype, seed):
    if target.slow:
        B, T, J, H = 1 + B % 2, 1 + T % 70, 1 + J % 2, 1 + H % 2
    K += K % 2 if positions else 0
    options = dict(chunk_size=chunk_size, causal=causal, scale=scale)
    # Among many draws some sums cancel.
    check(target, make_inputs(B, T, J, H, K, V, dtype, state, positions, seed, **options), factor=4, rounding=64)


# ---- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, pieces", [({"causal": True}, (1, 13, 27)), ({"causal": False, "chunk_size": 9}, (9, 18, 14))]
)
@pytest.mark.parametrize("positions", [False, True])
def test_a_state_carries_a_clip_over(target, options, pieces, positions):
    """Between any frames if causal, else between any chunks; however the kernels cut the frames of a call themselves."""
    whole = make_inputs(T=sum(pieces), state=True, positions=positions, **options)
    out, final = target.run(retention, **whole)
    outs, state = [], whole["initial_state"]
    for piece in zip(*(whole[name].split(pieces, 1) for name in "qkv")):
        part, state = target.run(retention, **whole | dict(zip("qkv", piece)) | {"initial_state": state})
        outs.append(part)
    torch.testing.assert_close(torch.cat(outs, 1), out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, calls", [("cpu", 1000), ("reference", 100)])
def test_an_endless_stream(name, calls):
    """10^6 frames (the reference: 10^5, where numbers from the first frame would have left float32 long since)."""
    T, g = 1000, torch.Generator().manual_seed(0)
    decay, scale, state, last = torch.full((1,), 0.95), xpos_scale(4), None, None
    options = dict(chunk_size=T if name == "cpu" else 100, causal=True, xpos_scale=scale, output_final_state=True)
    with kernels.backend(name), torch.no_grad():
        for _ in range(calls):
            before, last = last, torch.randn(3, 1, T, 1, 4, generator=g)
            out, state = retention(*last, decay, None, state, **options)
        two = torch.cat([before, last], 2)  # all that is not forgotten
        expected, expected_state = retention(*two, decay, **options)
    torch.testing.assert_close(out, expected[:, T:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, expected_state, atol=1e-5, rtol=1e-5)


def test_states_are_optional(target):
    inputs = make_inputs(state=True, chunk_size=2)
    out, final = target.run(retention, **inputs)
    assert final.dtype == torch.float32 and final.shape == inputs["initial_state"].shape
    alone, nothing = target.run(retention, **inputs | {"output_final_state": False})
    assert nothing is None and torch.equal(alone, out)
    zeros = inputs | {"initial_state": torch.zeros(1, 2, 2, 4, 3)}
    for ours, theirs in zip(target.run(retention, **zeros), target.run(retention, **zeros | {"initial_state": None})):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("through", ["out", "final_state"])
def test_gradients_through_one_output_alone(target, through):
    inputs = make_inputs(T=7, state=True, chunk_size=3, causal=False)
    results = []
    for backend, dtype in ((target.backend, None), ("reference", torch.float64)):
        with kernels.backend(backend):
            moved = convert(inputs, dtype, target.device)
            output = dict(zip(("out", "final_state"), retention(**moved)))[through]
            gradients = torch.autograd.grad(output.square().sum(), [moved[name] for name in LEAVES], allow_unused=True)
        results.append([torch.zeros_like(moved[name]) if x is None else x for name, x in zip(LEAVES, gradients)])
    for ours, exact in zip(*results):
        torch.testing.assert_close(ours.double(), exact, atol=1e-4, rtol=1e-4)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [False, True])
def test_rows_are_clips(target, state):
    """(B J, T, H, K) with one decay per joint, and with one for all."""
    B, T, J, H = 2, 6, 3, 2
    inputs = make_inputs(B, T, J, H, state=state)
    as_rows = lambda x: x.transpose(1, 2).flatten(0, 1) if x.shape[:3] == (B, T, J) else x
    rows = {name: as_rows(x) if name in "qkv" else x for name, x in inputs.items()}
    if state:
        rows["initial_state"] = inputs["initial_state"].flatten(0, 1)
    for decay in (inputs["decay"], inputs["decay"][0]):
        with target.forced():
            ours = outputs_and_gradients(rows | {"decay": decay}, device=target.device)
            dout = torch.randn(rows["v"].shape, generator=torch.Generator().manual_seed(99))  # as there
            clip = convert(inputs | {"decay": decay}, device=target.device)
            out, final = retention(**clip)
            loss = (out * dout.to(target.device).unflatten(0, (B, J)).transpose(1, 2)).sum()
            if state:
                g = torch.Generator().manual_seed(99)
                torch.randn(rows["v"].shape, generator=g)
                loss = loss + (final * torch.randn(B * J, H, 4, 3, generator=g).to(target.device).view_as(final)).sum()
            wanted = [clip[name] for name in LEAVES[: 5 if state else 4]]
            gradients = torch.autograd.grad(loss, wanted)
        torch.testing.assert_close(ours["out"], as_rows(out))
        for name, x in zip(LEAVES, gradients):
            expected = x.flatten(0, 1) if name == "initial_state" else as_rows(x)
            torch.testing.assert_close(ours[f"d{name}"], expected, atol=1e-5, rtol=1e-4)


def test_rows_of_a_batch_share_decays(target):
    """Row b of 6 takes decay[b % 3]; a clip may have one decay for all its joints."""
    inputs = make_inputs(6, 5, 1, 2)
    rows, decay = {name: inputs[name][:, :, 0] for name in "qkv"}, make_inputs(J=3)["decay"]
    out, _ = target.run(retention, **rows, decay=decay)
    for b in range(6):
        alone, _ = target.run(retention, **{name: x[b : b + 1] for name, x in rows.items()}, decay=decay[b % 3])
        assert torch.equal(out[b : b + 1], alone)
    clip = make_inputs()
    alike, _ = target.run(retention, **clip | {"decay": decay[0]})
    assert torch.equal(alike, target.run(retention, **clip | {"decay": decay[:1].expand(2, 2)})[0])


LAYOUTS = {
    "part of a projection": lambda x: torch.stack([x] * 4, 3)[:, :, :, 2],
    "sliced": lambda x: F.pad(x, (3, 2, 1, 0, 0, 1, 1, 1))[:, 1:-1, :-1, 1:, 3:-2],
    "joints outside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "heads outside": lambda x: x.movedim(3, 0).contiguous().movedim(0, 3),
    "channels outside": lambda x: x.movedim(4, 0).contiguous().movedim(0, 4),
    "channels apart": lambda x: x.repeat_interleave(2, 4)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, layout):
    """Views give what their copies give, bit for bit; of the gradients of the outputs too."""
    inputs = make_inputs(2, 7, 3, state=True, chunk_size=3, causal=False)
    dout, dfinal = torch.randn(inputs["v"].shape), torch.randn(inputs["initial_state"].shape)

    def run(change):
        changed = {name: change(inputs[name]) for name in ("q", "k", "v", "initial_state")}
        moved = convert(inputs | changed, device=target.device)
        with target.forced():
            out, final = retention(**moved)
            grads = [change(dout).to(target.device), change(dfinal).to(target.device)]
            gradients = torch.autograd.grad([out, final], [moved[name] for name in LEAVES], grads)
        return out, final, *gradients

    view = LAYOUTS[layout](inputs["q"])
    assert not view.is_contiguous() and torch.equal(view, inputs["q"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(run(LAYOUTS[layout]), run(lambda x: x)))


def test_expanded_inputs(target):
    inputs = make_inputs(2, 5, 3)
    expanded = inputs | {
        "q": inputs["q"][:, :1].expand(-1, 5, -1, -1, -1),
        "k": inputs["k"][:1, :, :1].expand(2, -1, 3, -1, -1),
        "v": inputs["v"][..., :1].expand(-1, -1, -1, -1, 3),
        "decay": inputs["decay"][:1].expand(3, -1),
    }
    results = []
    for change in (lambda x: x, lambda x: x.contiguous() if isinstance(x, torch.Tensor) else x):
        moved = convert({name: change(x) for name, x in expanded.items()}, device=target.device)
        with target.forced():
            out, _ = retention(**moved)
            # the sum's gradient has no strides but 0
            results.append([out, *torch.autograd.grad(out.sum(), [moved[name] for name in LEAVES[:4]])])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results)) and results[0][1].any()


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


def test_repeats_bit_for_bit_on_any_number_of_threads(target):
    size = dict(T=70, J=1, K=2, V=2) if target.slow else dict(B=2, T=300, J=5, K=20, V=17)
    inputs = make_inputs(state=True, **size)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with target.forced():
                results.append(outputs_and_gradients(inputs, device=target.device))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_flops_are_counted(target):
    B, T, J, H, K, V = 2, 10, 2, 3, 4, 5
    inputs = convert(make_inputs(B, T, J, H, K, V, chunk_size=4), device=target.device)
    with target.forced(), FlopCounterMode(display=False) as counter:
        out, _ = retention(**inputs)
        forward = counter.get_total_flops()
        out.sum().backward()
    pairs = 10 + 10 + 3  # frames that see each other, of chunks of 4, 4 and 2
    through_state = 2 * ((T - 4) + (T - 2)) * K * V  # all but the first chunk read it, all but the last write it
    assert forward == B * J * H * (2 * pairs * (K + V) + through_state)
    assert counter.get_total_flops() == forward * 7 // 2
    with target.forced(), FlopCounterMode(display=False) as counter:
        retention(**inputs | {"chunk_size": None, "causal": False})
    assert counter.get_total_flops() == B * J * H * 2 * T * T * (K + V)


@pytest.mark.parametrize("name", [*LEAVES, "xpos_scale"])
def test_no_derivative_is_lost(name):
    inputs = make_inputs(state=True)
    loss = lambda x: retention(**inputs | {name: x})[0].sum()
    with pytest.raises(RuntimeError, match="retention: the kernels support torch.autograd but not torch.func"):
        torch.func.grad(loss)(inputs[name])


def test_the_scales_of_xpos_have_a_gradient_on_the_reference(target):
    inputs = make_inputs()
    inputs["xpos_scale"].requires_grad_()
    with kernels.backend("reference"):
        (gradient,) = torch.autograd.grad(retention(**inputs)[0].sum(), inputs["xpos_scale"])
    assert gradient.any()
    with target.forced(), pytest.raises(ValueError, match="retention: xpos_scale requires a gradient"):
        retention(**{name: x.to(target.device) if isinstance(x, torch.Tensor) else x for name, x in inputs.items()})


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(q=torch.zeros(5, 2, 4)), ValueError, r"q has shape \(5, 2, 4\), expected \(B, T, H, K\) or \(B, T, J, H, K\)"),
        (dict(q=torch.zeros(1, 0, 2, 2, 4)), ValueError, r"q has shape \(1, 0, 2, 2, 4\), expected no empty dimension"),
        (dict(k=torch.zeros(1, 5, 2, 2, 3)), ValueError, r"k has shape \(1, 5, 2, 2, 3\), expected \(1, 5, 2, 2, 4\)"),
        (dict(v=torch.zeros(1, 6, 2, 2, 3)), ValueError, r"v has shape \(1, 6, 2, 2, 3\), expected \(1, 5, 2, 2, V\)"),
        (dict(v=torch.zeros(1, 5, 2, 2, 0)), ValueError, "v has shape .*, expected at least one value channel"),
        (dict(decay=torch.ones(3)), ValueError, r"decay has shape \(3,\), expected \(2,\) or \(2, 2\)"),
        (dict(decay=torch.ones(1, 2)), ValueError, r"decay has shape \(1, 2\), expected \(2,\) or \(2, 2\)"),
        (dict(initial_state=torch.zeros(1, 2, 4, 3)), ValueError, r"initial_state has shape .*, expected \(1, 2, 2, 4, 3\)"),
        (dict(xpos_scale=torch.ones(4)), ValueError, r"xpos_scale has shape \(4,\), expected \(2,\)"),
        (dict(chunk_size=0), ValueError, "chunk_size is 0, expected an integer of at least 1"),
        (dict(chunk_size=2.0), ValueError, "chunk_size is 2.0, expected an integer"),
        (dict(q=torch.zeros(1, 5, 2, 2, 4).long()), TypeError, "q has dtype torch.int64"),
        (dict(k=torch.zeros(1, 5, 2, 2, 4).bfloat16()), TypeError, "k has dtype torch.bfloat16, expected q's, torch.float32"),
        (dict(decay=[0.9, 0.9]), TypeError, "decay is list, expected a tensor"),
        (dict(initial_state=torch.zeros(1, 2, 2, 4, 3).int()), TypeError, "initial_state has dtype torch.int32"),
        (dict(v=torch.zeros(1, 5, 2, 2, 3, device="meta")), ValueError, "v is on meta, expected q's device, cpu"),
        (dict(decay=torch.ones(2, device="meta")), ValueError, "decay is on meta, expected q's device, cpu"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"retention: {message}" if error is ValueError else message):
        retention(**{**make_inputs(), **change})


def test_bad_rows():
    q = torch.zeros(4, 5, 2, 3)
    with pytest.raises(ValueError, match="decay has 3 row groups, expected a divisor of q's 4 rows"):
        retention(q, q, q, torch.ones(3, 2))
    with pytest.raises(ValueError, match="q has 3 key channels, expected an even number with xpos_scale"):
        retention(q, q, q, xpos_scale=torch.ones(1))


def test_a_chunk_too_long_for_xpos():
    T = MAX_XPOS_CHUNK + 1
    q = torch.zeros(1, T, 1, 2)
    with pytest.raises(ValueError, match=f"chunk_size is {T}, expected at most {MAX_XPOS_CHUNK} with xpos_scale"):
        retention(q, q, q, causal=False, xpos_scale=xpos_scale(2))


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(kind, B=2, T=5):
    state = kind == "state"
    inputs = make_inputs(B, T, H=1, state=state, positions=state, chunk_size=3 if state else None, causal=not state)
    return Sample(retention, inputs, LEAVES if state else LEAVES[:-1], maps=("q", "k", "v"))


SAMPLES = {"retention state": partial(sample, "state"), "retention causal": partial(sample, "causal")}
