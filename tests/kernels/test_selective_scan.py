from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifter.kernels import backend, selective_scan_fn, selective_scan_ref
from tests.conftest import assert_as_good
from tests.kernels.samples import Sample

LENGTHS = [1, 2, 3, 17, 27, 81, 129, 243, 4131]
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def make_inputs(batch, dim, length, states, B="grouped", C="grouped", groups=1, dtype=torch.float32, optional=True, seed=0):
    """Inputs by name, activations in `dtype`; optional ones all there or all None."""
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    layouts = {
        "constant": lambda: randn(dim, states),
        "plain": lambda: randn(batch, states, length).to(dtype),
        "grouped": lambda: randn(batch, groups, states, length).to(dtype),
    }
    inputs = dict(
        u=randn(batch, dim, length).to(dtype),
        delta=randn(batch, dim, length).to(dtype),
        A=-4 * torch.rand(dim, states, generator=g),
        B=layouts[B](),
        C=layouts[C](),
    )
    extra = dict(
        D=randn(dim),
        z=randn(batch, dim, length).to(dtype),
        delta_bias=randn(dim),
        initial_state=randn(batch, dim, states),
    )
    return {**inputs, **(extra if optional else dict.fromkeys(extra))}


def outputs_and_gradients(function, inputs, dtype=None, device="cpu", **kwargs):
    """out, last_state and the gradient of every input, for fixed random gradients of both outputs."""
    leaves = {
        name: None if x is None else x.detach().to(device=device, dtype=dtype or x.dtype).requires_grad_()
        for name, x in inputs.items()
    }
    out, last = function(**leaves, return_last_state=True, **kwargs)
    g = torch.Generator().manual_seed(99)
    grads = [torch.randn(x.shape, generator=g).to(device, x.dtype) for x in (out, last)]
    wanted = [x for x in leaves.values() if x is not None]
    results = dict(zip(("out", "last_state"), (out, last)))
    given = torch.autograd.grad([out, last], wanted, grads)
    results.update(zip([f"d{name}" for name, x in leaves.items() if x is not None], given))
    return {name: x.detach() for name, x in results.items()}


def check(target, inputs, softplus=True, **bounds):
    with target.forced():
        ours = outputs_and_gradients(selective_scan_fn, inputs, device=target.device, delta_softplus=softplus)
    torchs = outputs_and_gradients(selective_scan_ref, inputs, delta_softplus=softplus)
    exact = outputs_and_gradients(selective_scan_ref, inputs, torch.float64, delta_softplus=softplus)
    for name in exact:
        states = [2] if name == "last_state" else ()
        assert_as_good(name, ours[name], torchs[name], exact[name], dtype=inputs["u"].dtype, groups=states, **bounds)


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(target, length, monkeypatch):
    if target.slow and length > 243:
        length = 300  # still several spans and a short last one
        monkeypatch.setattr("lifter.kernels.triton._scan.LONG", 128)
    check(target, make_inputs(1, 3, length, 4))


@pytest.mark.parametrize("states", [1, 3, 16, 17, 40, 256])
def test_states(target, states):
    check(target, make_inputs(1, 3, 70, states))


@pytest.mark.parametrize(
    "B, C",
    [
        ("constant", "constant"), ("constant", "grouped"), ("grouped", "constant"),
        ("plain", "plain"), ("plain", "grouped"), ("grouped", "plain"),
    ],
)  # fmt: skip
def test_layouts_of_B_and_C(target, B, C):
    check(target, make_inputs(1 if target.slow else 2, 6, 67, 3, B, C, groups=3))


def test_groups_of_B_and_C_may_differ(target):
    inputs = make_inputs(2, 12, 9, 3, groups=3)
    inputs["C"] = torch.randn(2, 4, 3, 9)
    check(target, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(target, dtype):
    check(target, make_inputs(2, 20, 67, 16, groups=2, dtype=dtype))


@pytest.mark.parametrize("softplus", [False, True])
def test_without_the_optional_inputs(target, softplus):
    inputs = make_inputs(2, 5, 65, 3, optional=False)
    inputs["delta"] = inputs["delta"].abs()
    check(target, inputs, softplus)


@pytest.mark.parametrize("name", NAMES[5:])
def test_each_optional_input_alone(target, name):
    inputs = make_inputs(1, 5, 66, 3)
    check(target, {k: x if k in NAMES[:5] or k == name else None for k, x in inputs.items()})


@pytest.mark.parametrize("batch, dim", [(0, 5), (2, 0)])
def test_nothing_to_scan(target, batch, dim):
    inputs = make_inputs(batch, dim, 70, 3)
    with target.forced():
        results = outputs_and_gradients(selective_scan_fn, inputs, device=target.device, delta_softplus=True)
    assert results["out"].shape == (batch, dim, 70)
    assert all(not results[f"d{name}"].any() for name in NAMES)


def test_exports_with_any_length():
    class Scan(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(-torch.rand(4, 3))

        def forward(self, u, delta, B, C):
            return selective_scan_fn(u, delta, self.A, B, C, delta_softplus=True)

    def inputs(length):
        made = make_inputs(1, 4, length, 3)
        return tuple(made[name] for name in ("u", "delta")) + tuple(made[name][:, 0] for name in ("B", "C"))

    length = {2: torch.export.Dim("L", min=2, max=5000)}
    module = Scan()
    program = torch.export.export(module, inputs(20), dynamic_shapes=(length,) * 4).module()
    for steps in (2, 64, 65, 200):
        torch.testing.assert_close(program(*inputs(steps)), module(*inputs(steps)))


def test_the_reference_exports_as_one_loop():
    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C, state):
            return selective_scan_fn(u, delta, A, B, C, return_last_state=True, initial_state=state)

    def inputs(length):
        made = make_inputs(2, 4, length, 3)
        varying = (made["u"], made["delta"], made["A"], made["B"][:, 0], made["C"][:, 0])
        return (*(x.detach() for x in varying), torch.randn(2, 4, 3))

    length = {2: torch.export.Dim("L", min=2, max=5000)}
    with backend("reference"), torch.no_grad():
        program = torch.export.export(Scan(), inputs(20), dynamic_shapes=(length, length, None, length, length, None))
    assert len(program.graph.nodes) < 50
    for steps in (2, 65):
        x = inputs(steps)
        for actual, expected in zip(program.module()(*x), Scan()(*x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_strided_inputs(target):
    def sliced(x):
        wide = torch.randn(*x.shape[:-1], 2 * x.shape[-1] + 1)
        wide[..., 1::2] = x
        return wide[..., 1::2]

    contiguous = make_inputs(2, 18, 67, 4)
    inputs = {name: x if name in ("D", "delta_bias") else sliced(x) for name, x in contiguous.items()}
    inputs["u"] = contiguous["u"].transpose(1, 2).contiguous().transpose(1, 2)  # as a (B, L, D) model hands it over
    assert not any(inputs[name].is_contiguous() for name in ("u", "delta", "B", "z"))
    with target.forced(), torch.no_grad():
        ours = target.run(selective_scan_fn, **inputs, delta_softplus=True)
        expected = target.run(selective_scan_fn, **contiguous, delta_softplus=True)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last(target, dtype):
    """Maps as a (B, L, D) model has them, here halves of wider ones: outputs and gradients lie so too."""
    plain = make_inputs(*((1, 6, 20, 3) if target.slow else (2, 38, 140, 5)), groups=2, dtype=dtype)
    inputs = {
        name: torch.cat([x, x], -2).mT.contiguous().mT[..., : x.shape[-2], :] if x is not None and x.dim() > 2 else x
        for name, x in plain.items()
    }
    inputs["initial_state"] = plain["initial_state"]
    check(target, inputs)
    moved = {name: x.to(target.device).requires_grad_() for name, x in inputs.items()}
    with target.forced():
        out = selective_scan_fn(**moved, delta_softplus=True)
    maps = [out, *torch.autograd.grad(out.float().sum(), [moved[name] for name in ("u", "delta", "z")])]
    assert all(x.mT.is_contiguous() for x in maps)
    ops = torch.ops.lifter_triton if target.backend == "triton" else torch.ops.lifter
    leaves = list(moved.values())
    torch.library.opcheck(ops.selective_scan.default, (*leaves[:8], True, leaves[8], True))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 3),
    group_dim=st.integers(1, 20),
    groups=st.integers(1, 3),
    length=st.integers(1, 140),
    states=st.integers(1, 20),
    B=st.sampled_from(["constant", "plain", "grouped"]),
    C=st.sampled_from(["constant", "plain", "grouped"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, batch, group_dim, groups, length, states, B, C, dtype, seed):
    if target.slow:
        batch, group_dim, length, dtype = 1, 1 + group_dim % 2, 1 + length % 70, torch.float32
    if "plain" in (B, C):
        groups = 1
    inputs = make_inputs(batch, group_dim * groups, length, states, B, C, groups, dtype, seed=seed)
    check(target, inputs, rounding=64)  # among many draws some sums cancel


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_extreme_exponents(target, scale):
    """Decays that vanish, and growing ones: finite where the reference is."""
    inputs = make_inputs(1, 4, 20, 3, optional=False)
    inputs["A"] = inputs["A"] * scale
    check(target, inputs)
    inputs["A"] = torch.rand(4, 3)
    check(target, inputs)


def test_a_state_carries_a_sequence_over(target):
    whole = make_inputs(1 if target.slow else 2, 3, 150, 5)
    out, last = target.run(selective_scan_fn, **whole, delta_softplus=True, return_last_state=True)
    parts, state = [], whole.pop("initial_state")
    for piece in (slice(0, 1), slice(1, 66), slice(66, 150)):
        cut = {name: x[..., piece] if x.dim() > 2 else x for name, x in whole.items()}
        part, state = target.run(selective_scan_fn, **cut, initial_state=state, delta_softplus=True, return_last_state=True)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, -1), out, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(state, last, atol=2e-5, rtol=2e-5)


def test_repeats_bit_for_bit_on_any_number_of_threads(target):
    inputs = make_inputs(1, 5, 70, 3) if target.slow else make_inputs(2, 70, 130, 16)

    def run():
        with target.forced():
            return outputs_and_gradients(selective_scan_fn, inputs, device=target.device, delta_softplus=True)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(2)
        two = run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("softplus", [False, True])
def test_gradcheck_of_the_reference(softplus):
    inputs = make_inputs(1, 4, 5, 3, groups=2)
    inputs["delta"] = inputs["delta"].abs()
    leaves = [x.double().requires_grad_() for x in inputs.values()]
    call = lambda *xs: selective_scan_fn(*xs[:8], softplus, True, xs[8])
    assert torch.autograd.gradcheck(call, leaves)


def test_flops_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    inputs = make_inputs(2, 6, 70, 3)
    inputs["u"].requires_grad_()
    with FlopCounterMode(display=False) as counter:
        selective_scan_fn(**inputs).sum().backward()
    forward = 2 * (9 * 70 * 6 * 3 + 70 * 6)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(u=torch.zeros(3, 5)), ValueError, r"u has shape \(3, 5\), expected \(B, D, L\)"),
        (dict(u=torch.zeros(2, 6, 0)), ValueError, r"u has shape \(2, 6, 0\), expected at least one step"),
        (dict(delta=torch.zeros(2, 6, 8)), ValueError, r"delta has shape \(2, 6, 8\), expected \(2, 6, 9\)"),
        (dict(A=torch.zeros(5, 4)), ValueError, r"A has shape \(5, 4\), expected \(6, N\)"),
        (dict(A=torch.zeros(6, 257)), ValueError, "expected 1 to 256 states"),
        (dict(B=torch.zeros(2, 5, 9)), ValueError, r"B has shape \(2, 5, 9\), expected"),
        (dict(C=torch.zeros(2, 4, 4, 9)), ValueError, "C has 4 groups, which do not divide the 6 channels"),
        (dict(D=torch.zeros(7)), ValueError, r"D has shape \(7,\), expected \(6,\)"),
        (dict(z=torch.zeros(2, 6, 1)), ValueError, r"z has shape \(2, 6, 1\)"),
        (dict(delta_bias=torch.zeros(6, 1)), ValueError, r"delta_bias has shape \(6, 1\)"),
        (dict(initial_state=torch.zeros(2, 6, 5)), ValueError, r"initial_state has shape \(2, 6, 5\)"),
        (dict(u=torch.zeros(2, 6, 9, dtype=torch.int64)), TypeError, "u has dtype torch.int64"),
        (dict(A=torch.zeros(6, 4, dtype=torch.complex64)), TypeError, "A has dtype torch.complex64"),
        (dict(delta=torch.zeros(2, 6, 9).bfloat16()), TypeError, "delta has dtype torch.bfloat16, expected u's"),
        (dict(u=[1.0]), TypeError, "u is list, expected a tensor"),
        (dict(A=torch.zeros(6, 4, device="meta")), ValueError, "A is on meta, expected u's device, cpu"),
    ],
)
def test_bad_input(change, error, message):
    inputs = {**make_inputs(2, 6, 9, 4), **change}
    with pytest.raises(error, match=message):
        selective_scan_fn(**inputs)


def test_nan_goes_on(target):
    """From the step that has it, where the exponent of softplus is bounded too."""
    inputs = {name: None if x is None else x.to(target.device) for name, x in make_inputs(1, 2, 6, 3, optional=False).items()}
    inputs["delta"][0, 0, 2] = torch.nan
    with target.forced():
        out = selective_scan_fn(**inputs, delta_softplus=True).cpu()
    assert out[0, 0, 2:].isnan().all() and not out[0, 0, :2].isnan().any() and not out[0, 1].isnan().any()


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(layout, B=2, T=5):
    optional = layout == "grouped"
    inputs = make_inputs(B, 4, T, 2, layout, layout, groups=2, optional=optional)
    gradients = NAMES if optional else NAMES[:5]
    maps = ("u", "delta", "z") + (("B", "C") if optional else ())
    options = {"delta_softplus": optional, "return_last_state": optional}
    return Sample(selective_scan_fn, inputs | options, gradients, maps, exact=False)


SAMPLES = {"selective_scan_fn grouped": partial(sample, "grouped"), "selective_scan_fn constant": partial(sample, "constant")}
