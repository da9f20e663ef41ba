from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import (
    causal_conv1d_fn,
    causal_conv1d_ref,
    causal_conv1d_update,
    causal_conv1d_update_ref,
)
from tests.conftest import assert_as_good
from tests.kernels.samples import Sample

LAST = "channels last"


def make_inputs(
    batch=2, dim=5, length=9, width=4, layout="", bias=True, states=False, numbers=False, dtype=torch.float32, seed=0
):
    """Tensors by name, None if absent; with a layout of LAST x lies as half of a (B, L, 2 D) map."""
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    x = randn(batch, length, 2 * dim)[..., dim:].transpose(1, 2) if layout == LAST else randn(batch, dim, length)
    starts = torch.rand(batch, length, generator=g) < 0.3
    return dict(
        x=x.to(dtype),
        weight=randn(dim, width),
        bias=randn(dim) if bias else None,
        seq_idx=(starts.cumsum(1) - 1).int() if numbers else None,  # -1, padding, before the first start
        initial_states=randn(batch, dim, width - 1).to(dtype) if states else None,
    )


def results(function, inputs, dtype=None, device="cpu", activation="silu"):
    """Outputs and the gradient of every input, for fixed random gradients of the outputs."""
    final = inputs["seq_idx"] is None
    moved = {
        name: None if x is None else x.detach().to(device, dtype if dtype and x.is_floating_point() else x.dtype)
        for name, x in inputs.items()
    }
    leaves = {name: x.requires_grad_() for name, x in moved.items() if x is not None and x.is_floating_point()}
    given = function(**moved, return_final_states=final, activation=activation)
    found = dict(zip(("out", "final_states"), given if final else (given,)))
    g = torch.Generator().manual_seed(99)
    grads = [torch.randn(x.shape, generator=g).to(device, x.dtype) for x in found.values()]
    gradients = torch.autograd.grad(list(found.values()), list(leaves.values()), grads)
    found.update(zip([f"d{name}" for name in leaves], gradients))
    return {name: x.detach() for name, x in found.items()}


def check(target, inputs, activation="silu", **bounds):
    with target.forced():
        ours = results(causal_conv1d_fn, inputs, device=target.device, activation=activation)
    torchs = results(causal_conv1d_ref, inputs, activation=activation)
    exact = results(causal_conv1d_ref, inputs, torch.float64, activation=activation)
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], dtype=inputs["x"].dtype, **bounds)


layouts = pytest.mark.parametrize("layout", ["", LAST])


def test_the_reference_is_a_padded_convolution():
    x, weight, bias, *_ = make_inputs(2, 7, 20).values()
    expected = F.silu(F.conv1d(x, weight[:, None], bias, padding=3, groups=7)[..., :20])
    torch.testing.assert_close(causal_conv1d_ref(x, weight, bias, activation="silu"), expected)


@layouts
@pytest.mark.parametrize("length", [1, 2, 3, 17, 243, 1100])
def test_lengths(target, layout, length):
    if target.slow and length > 17:
        length = 70  # still several blocks
    check(target, make_inputs(1, 3, length, layout=layout, states=True))


@layouts
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
def test_widths_and_activations(target, layout, width, activation):
    check(target, make_inputs(2, 5, 19, width, layout), activation)


@layouts
@pytest.mark.parametrize("dim", [1, 17, 300])
def test_channels(target, layout, dim):
    if target.slow:
        dim = min(dim, 40)  # still several blocks
    check(target, make_inputs(1 if target.slow else 3, dim, 11, layout=layout, states=True))


@layouts
@pytest.mark.parametrize("width", [2, 4])
def test_packed_sequences(target, layout, width):
    inputs = make_inputs(2, 5, 40, width, layout, numbers=True)
    check(target, inputs)
    out = target.run(causal_conv1d_fn, **inputs, activation="silu").cpu()
    for b, numbers in enumerate(inputs["seq_idx"]):
        for number in numbers.unique():
            own = numbers == number
            alone = causal_conv1d_ref(inputs["x"][b : b + 1, :, own], inputs["weight"], inputs["bias"], activation="silu")
            torch.testing.assert_close(out[b, :, own], alone[0] if number >= 0 else torch.zeros_like(alone[0]))


def test_other_sequences_are_not_read(target):
    """Not even multiplied by zero."""
    inputs = make_inputs(1, 20, 30, numbers=True)
    inputs["seq_idx"] = torch.arange(30).div(15, rounding_mode="floor").int()[None]
    inputs["x"][..., :15] = float("inf")
    assert target.run(causal_conv1d_fn, **inputs)[..., 15:].isfinite().all()


@layouts
def test_without_the_optional_inputs(target, layout):
    check(target, make_inputs(2, 5, 33, layout=layout, bias=False), None)


@layouts
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(target, layout, dtype):
    check(target, make_inputs(2, 20, 37, layout=layout, states=True, dtype=dtype))


@layouts
def test_every_instruction_set(instruction_set, layout):
    from tests.conftest import Target

    for dtype in (torch.float32, torch.bfloat16):
        check(Target("cpu", "cpu"), make_inputs(2, 21, 530, layout=layout, states=True, dtype=dtype))
    check(Target("cpu", "cpu"), make_inputs(2, 21, 70, 3, layout, numbers=True))


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 3), dim=st.integers(1, 40), length=st.integers(1, 80), width=st.integers(2, 4),
    layout=st.sampled_from(["", LAST]), bias=st.booleans(), extra=st.sampled_from(["", "states", "numbers"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), activation=st.sampled_from([None, "silu"]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(target, batch, dim, length, width, layout, bias, extra, dtype, activation, seed):
    if target.slow:
        batch, dim, length = 1, 1 + dim % 5, 1 + length % 20
    inputs = make_inputs(batch, dim, length, width, layout, bias, extra == "states", extra == "numbers", dtype, seed)
    check(target, inputs, activation, rounding=64)  # among many draws some sums cancel


def test_layouts_agree_and_stay(target):
    plain = make_inputs(1, 6, 37, states=True)
    wide = torch.randn(1, 6, 75)
    wide[..., 1::2] = plain["x"]
    made = {
        "steps": plain["x"],
        "channels": plain["x"].transpose(1, 2).contiguous().transpose(1, 2),
        "neither": wide[..., 1::2],
    }
    found = {name: target.run(results, causal_conv1d_fn, {**plain, "x": x}, device=target.device) for name, x in made.items()}
    with target.forced():
        outs = {name: causal_conv1d_fn(x.to(target.device), plain["weight"].to(target.device)) for name, x in made.items()}
    assert outs["steps"].is_contiguous() and outs["neither"].is_contiguous()
    assert outs["channels"].transpose(1, 2).is_contiguous()
    for name in found["steps"]:
        assert torch.equal(found["steps"][name], found["neither"][name]), name
        torch.testing.assert_close(found["steps"][name], found["channels"][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch, dim", [(0, 5), (2, 0)])
@layouts
def test_nothing_to_do(target, layout, batch, dim):
    with target.forced():
        found = results(causal_conv1d_fn, make_inputs(batch, dim, 7, layout=layout, states=True), device=target.device)
    assert found["out"].shape == (batch, dim, 7) and not found["dweight"].any()


def test_states_carry_a_sequence_over(target):
    x, weight, bias, *_ = (y if y is None else y.to(target.device) for y in make_inputs(2, 6, 30).values())
    call = lambda x, states: target.run(
        causal_conv1d_fn, x, weight, bias, initial_states=states, return_final_states=True, activation="silu"
    )
    whole, last = call(x, None)
    parts, states = [], None
    for piece in (slice(0, 1), slice(1, 3), slice(3, 30)):
        part, states = call(x[..., piece], states)
        parts.append(part)
    assert torch.equal(states, last)
    torch.testing.assert_close(torch.cat(parts, -1), whole)


def test_final_states_are_written_where_asked(target):
    inputs = {name: y if y is None else y.to(target.device) for name, y in make_inputs(2, 6, 2).items()}
    place = torch.full((2, 6, 3), 9.0, device=target.device)
    with target.forced():
        _, given = causal_conv1d_fn(**inputs, return_final_states=True, final_states_out=place)
    assert given is place
    assert torch.equal(place, F.pad(inputs["x"], (1, 0)))


@layouts
def test_repeats_bit_for_bit_on_any_number_of_threads(target, layout):
    inputs = make_inputs(2, 3, 20, layout=layout, states=True) if target.slow else make_inputs(2, 300, 700, layout=layout)
    found, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with target.forced():
                found.append(results(causal_conv1d_fn, inputs, device=target.device))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_gradcheck_of_the_reference():
    inputs = {
        name: None if x is None else x.double().requires_grad_() for name, x in make_inputs(1, 3, 5, states=True).items()
    }
    call = lambda x, w, b, states: causal_conv1d_fn(x, w, b, None, states, True, activation="silu")
    assert torch.autograd.gradcheck(call, [x for x in inputs.values() if x is not None])


def test_exports_with_any_length():
    class Convolution(torch.nn.Module):
        def forward(self, x, weight):
            return causal_conv1d_fn(x, weight, activation="silu")

    weight = torch.randn(4, 3)
    lengths = {2: torch.export.Dim("L", min=2, max=5000)}
    program = torch.export.export(Convolution(), (torch.randn(1, 4, 20), weight), dynamic_shapes=(lengths, None)).module()
    for length in (2, 65, 200):
        x = torch.randn(1, 4, length)
        torch.testing.assert_close(program(x, weight), causal_conv1d_fn(x, weight, activation="silu"))


def test_flops_are_counted():
    inputs = make_inputs(2, 6, 70, 3)
    inputs["x"].requires_grad_()
    with FlopCounterMode(display=False) as counter:
        causal_conv1d_fn(**inputs).sum().backward()
        causal_conv1d_update(inputs["x"][..., 0].detach(), torch.zeros(2, 6, 3), inputs["weight"])
    assert counter.get_total_flops() == 3 * (2 * 2 * 6 * 70 * 3) + 2 * 2 * 6 * 3


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.zeros(3, 5)), ValueError, r"x has shape \(3, 5\), expected \(B, D, L\)"),
        (dict(x=torch.zeros(2, 5, 0)), ValueError, "expected at least one step"),
        (dict(weight=torch.zeros(6, 4)), ValueError, r"weight has shape \(6, 4\), expected \(5, W\)"),
        (dict(weight=torch.zeros(5, 5)), ValueError, "expected a width of 2 to 4"),
        (dict(bias=torch.zeros(4)), ValueError, r"bias has shape \(4,\), expected \(5,\)"),
        (dict(initial_states=torch.zeros(2, 5, 4)), ValueError, r"initial_states has shape \(2, 5, 4\), expected \(2, 5, 3\)"),
        (dict(seq_idx=torch.zeros(2, 9)), TypeError, "seq_idx has dtype torch.float32, expected torch.int32"),
        (dict(seq_idx=torch.zeros(2, 8).int()), ValueError, r"seq_idx has shape \(2, 8\), expected \(2, 9\)"),
        (dict(seq_idx=torch.zeros(2, 9).int(), return_final_states=True), ValueError, "expected neither initial_states nor"),
        (dict(activation="relu"), ValueError, "activation is 'relu', expected None, 'silu' or 'swish'"),
        (dict(x=torch.zeros(2, 5, 9, dtype=torch.int64)), TypeError, "x has dtype torch.int64"),
        (dict(weight=[1.0]), TypeError, "weight is list, expected a tensor"),
        (dict(bias=torch.zeros(5, device="meta")), ValueError, "bias is on meta, expected x's device, cpu"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d_fn(**{**make_inputs(), **change})


# ---- update ----------------------------------------------------------------------------------------------------------


def make_step(batch=3, dim=5, length=None, width=4, size=4, rows=None, ring=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    return dict(
        x=randn(*((batch, dim) if length is None else (batch, dim, length))).to(dtype),
        conv_state=randn(batch if rows is None else 6, dim, size).to(dtype),
        weight=randn(dim, width),
        bias=randn(dim),
        cache_seqlens=torch.randint(0, 50, (batch,), generator=g).int() if ring else None,
        conv_state_indices=None if rows is None else torch.tensor(rows, dtype=torch.int32),
    )


def step(function, inputs, dtype=None, device="cpu"):
    moved = {
        name: None if x is None else x.to(device, dtype if dtype and x.is_floating_point() else x.dtype, copy=True)
        for name, x in inputs.items()
    }
    return {"out": function(**moved, activation="silu"), "state": moved["conv_state"]}


def check_step(target, inputs):
    with target.forced():
        ours = step(causal_conv1d_update, inputs, device=target.device)
    torchs, exact = step(causal_conv1d_update_ref, inputs), step(causal_conv1d_update_ref, inputs, torch.float64)
    assert_as_good("out", ours["out"], torchs["out"], exact["out"])
    assert torch.equal(ours["state"].cpu(), torchs["state"])


@pytest.mark.parametrize("width, size", [(2, 1), (3, 2), (3, 5), (4, 3), (4, 4), (4, 17)])
@pytest.mark.parametrize("length", [None, 2, 7])
@pytest.mark.parametrize("ring", [False, True])
def test_update(target, width, size, length, ring):
    check_step(target, make_step(2, 3, length, width, size, ring=ring))


@pytest.mark.parametrize("dim", [1, 33, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_update_of_channels_and_dtypes(target, dim, dtype):
    check_step(target, make_step(1 if target.slow else 3, dim, dtype=dtype))


@pytest.mark.parametrize("ring", [False, True])
def test_update_of_chosen_rows(target, ring):
    inputs = make_step(3, 20, 2, rows=[4, -1, 0], ring=ring)
    check_step(target, inputs)
    with target.forced():
        ours = step(causal_conv1d_update, inputs, device=target.device)
    assert not ours["out"][1].any()
    assert torch.equal(ours["state"][[1, 2, 3, 5]].cpu(), inputs["conv_state"][[1, 2, 3, 5]])


def test_update_of_strided_states(target):
    inputs = {name: x if x is None else x.to(target.device) for name, x in make_step(2, 20, 2).items()}
    strided = {**inputs, "conv_state": inputs["conv_state"].transpose(1, 2).contiguous().transpose(1, 2)}
    strided["x"] = torch.stack([inputs["x"]] * 2, -1)[..., 0]
    plain = {**inputs, "conv_state": inputs["conv_state"].clone()}
    with target.forced():
        assert torch.equal(causal_conv1d_update(**strided), causal_conv1d_update(**plain))
    assert torch.equal(strided["conv_state"], plain["conv_state"])


def test_update_of_a_state_of_another_dtype(target):
    inputs = {name: x if x is None else x.to(target.device) for name, x in make_step(dtype=torch.bfloat16).items()}
    wide = {**inputs, "conv_state": inputs["conv_state"].float()}
    with target.forced():
        assert torch.equal(causal_conv1d_update(**inputs), causal_conv1d_update(**wide))
    assert torch.equal(inputs["conv_state"].float(), wide["conv_state"])


def test_updates_make_the_convolution(target):
    x, weight, bias, *_ = (y if y is None else y.to(target.device) for y in make_inputs(2, 6, 12).values())
    state = torch.zeros(2, 6, 3, device=target.device)
    with target.forced():
        whole, last = causal_conv1d_fn(x, weight, bias, return_final_states=True, activation="silu")
        for i in range(12):
            out = causal_conv1d_update(x[..., i], state, weight, bias, "silu")
            torch.testing.assert_close(out, whole[..., i])
    assert torch.equal(state, last)


@pytest.mark.parametrize("ring", [False, True])
def test_gradients_go_through_updates_and_state(target, ring):
    """On the reference: those of the convolution."""
    x, weight, bias, *_ = (y if y is None else y.to(target.device) for y in make_inputs(2, 6, 9).values())
    before = torch.randn(2, 6, 3, device=target.device)
    leaves = [y.requires_grad_() for y in (x, weight, bias, before)]
    with target.forced():
        out = causal_conv1d_fn(x, weight, bias, initial_states=before, activation="silu")
        expected = torch.autograd.grad(out.square().sum(), leaves)
        state, outs = before.clone(), []
        for i in range(0, 9, 3):
            seqlens = torch.full((2,), i, dtype=torch.int32, device=target.device) if ring else None
            outs.append(causal_conv1d_update(x[..., i : i + 3], state, weight, bias, "silu", seqlens))
        gradients = torch.autograd.grad(torch.cat(outs, -1).square().sum(), leaves)
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_update_opcheck_and_flags_its_write(target):
    x, state, *rest = (y if y is None else y.to(target.device) for y in make_step(2, 3, 2, rows=[1, 5], ring=True).values())
    weight, bias, seqlens, rows = rest
    ops = torch.ops.lifter_triton if target.backend == "triton" else torch.ops.lifter
    torch.library.opcheck(ops.causal_conv1d_update.default, (x, state, weight, bias, True, seqlens, rows))
    saved = (state * torch.ones_like(state, requires_grad=True)).sum()
    with target.forced():
        causal_conv1d_update(x, state, weight, bias, "silu", seqlens, rows)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


def test_update_compiles_whole(target):
    inputs = make_step(2, 3, rows=[1, 5])
    with target.forced():
        expected = step(causal_conv1d_update, inputs, device=target.device)
        ours = step(torch.compile(causal_conv1d_update, fullgraph=True, backend="aot_eager"), inputs, device=target.device)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.zeros(3)), ValueError, r"x has shape \(3,\), expected \(B, D\) or \(B, D, L\)"),
        (dict(conv_state=torch.zeros(2, 5, 4)), ValueError, r"conv_state has shape \(2, 5, 4\), expected \(3, 5, S\)"),
        (dict(conv_state=torch.zeros(3, 5, 2)), ValueError, r"expected at least 3 steps \(W-1\)"),
        (dict(conv_state=torch.zeros(3, 5, 4).int()), TypeError, "conv_state has dtype torch.int32"),
        (dict(cache_seqlens=torch.zeros(3)), TypeError, "cache_seqlens has dtype torch.float32, expected torch.int32"),
        (dict(conv_state_indices=torch.zeros(2).int()), ValueError, r"conv_state_indices has shape \(2,\), expected \(3,\)"),
        (dict(conv_state_indices=torch.tensor([0, 1, 3]).int()), ValueError, "names row 3, expected less than 3"),
        (dict(activation=True), ValueError, "activation is True"),
    ],
)
def test_update_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d_update(**{**make_step(), **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(kind, B=2, T=5):
    inputs = make_inputs(B, 3, T, states=kind == "states", numbers=kind == "packed")
    inputs |= {"activation": "silu", "return_final_states": kind == "states"}
    gradients = ("x", "weight", "bias") + (("initial_states",) if kind == "states" else ())
    return Sample(causal_conv1d_fn, inputs, gradients, maps=("x", "initial_states"), exact=False)


def update_sample(B=2, T=5):
    inputs = make_inputs(B, 3, T)
    inputs = {name: inputs[name] for name in ("x", "weight", "bias")} | {"activation": "silu"}
    inputs["conv_state"] = torch.randn(B, 3, 4, generator=torch.Generator().manual_seed(1))
    return Sample(causal_conv1d_update, inputs, maps=("x",), overwrites="conv_state", exact=False)


SAMPLES = {
    "causal_conv1d_fn states": partial(sample, "states"),
    "causal_conv1d_fn packed": partial(sample, "packed"),
    "causal_conv1d_update": update_sample,
}
