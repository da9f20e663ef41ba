import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import selective_scan_fn, selective_state_update, selective_state_update_ref
from tests.conftest import assert_as_good
from tests.kernels.samples import Sample


def make_inputs(batch=2, dim=6, states=5, groups=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    row = (batch, states) if groups is None else (batch, groups, states)
    return dict(
        state=randn(batch, dim, states),
        x=randn(batch, dim).to(dtype),
        dt=randn(batch, dim).to(dtype),
        A=-4 * torch.rand(dim, states, generator=g),
        B=randn(*row).to(dtype),
        C=randn(*row).to(dtype),
        D=randn(dim),
        z=randn(batch, dim).to(dtype),
        dt_bias=randn(dim),
    )


def step(function, inputs, dtype=None, device="cpu"):
    moved = {name: None if x is None else x.to(device=device, dtype=dtype or x.dtype).clone() for name, x in inputs.items()}
    out = function(**moved, dt_softplus=True)
    return {"out": out, "state": moved["state"]}


def check(target, inputs):
    with target.forced():
        ours = step(selective_state_update, inputs, device=target.device)
    torchs, exact = step(selective_state_update_ref, inputs), step(selective_state_update_ref, inputs, torch.float64)
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], groups=[exact[name].dim() - 1] if name == "state" else ())


@pytest.mark.parametrize("states", [1, 3, 16, 17, 64, 256])
def test_states(target, states):
    check(target, make_inputs(states=states))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups(target, groups):
    check(target, make_inputs(groups=groups))


@pytest.mark.parametrize("dim", [1, 65, 200])
def test_channels(target, dim):
    check(target, make_inputs(batch=3, dim=dim))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(target, dtype):
    check(target, make_inputs(dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_may_differ(target, dtype):
    """All is computed in float32, and only the result is rounded, as in mamba-ssm."""
    inputs = make_inputs()
    inputs |= {"x": inputs["x"].to(dtype), "dt": inputs["dt"].bfloat16(), "z": inputs["z"].half(), "D": inputs["D"].bfloat16()}
    wide = {name: x.float() for name, x in inputs.items()}
    with target.forced():
        ours, expected = (step(selective_state_update, each, device=target.device) for each in (inputs, wide))
    assert torch.equal(ours["out"], expected["out"].to(dtype)) and torch.equal(ours["state"], expected["state"])


def test_without_the_optional_inputs(target):
    check(target, {**make_inputs(), "D": None, "z": None, "dt_bias": None})


def make_heads(shared, batch=2, heads=4, width=6, states=5, groups=2):
    """Inputs with heads; `shared`: whether dt, A and dt_bias are one number for each head."""
    flat = make_inputs(batch, heads * width, states, groups)
    inputs = {name: x.unflatten(x.dim() - 2 if name in ("state", "A") else -1, (heads, width)) for name, x in flat.items()
              if name not in ("B", "C")}  # fmt: skip
    inputs |= {"B": flat["B"], "C": flat["C"]}
    if shared:
        inputs |= {"dt": inputs["dt"][..., 0], "A": inputs["A"][:, 0, 0], "dt_bias": inputs["dt_bias"][:, 0]}
    return inputs


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("width", [1, 6, 70])
def test_heads(target, shared, width):
    """Heads are so many channels; what mamba-ssm expands gives the same."""
    inputs = make_heads(shared, width=width)
    check(target, inputs)
    if shared:
        wide = inputs | {
            "dt": inputs["dt"][..., None].expand(-1, -1, width),
            "A": inputs["A"][:, None, None].expand(-1, width, 5),
            "dt_bias": inputs["dt_bias"][:, None].expand(-1, width),
        }
        with target.forced():
            one, other = (step(selective_state_update, each, device=target.device) for each in (inputs, wide))
        torch.testing.assert_close(one, other)


def test_heads_that_lie_apart(target):
    inputs = {name: x.to(target.device) for name, x in make_heads(True).items()}
    apart = inputs | {"state": inputs["state"].transpose(1, 2).contiguous().transpose(1, 2)}
    with target.forced():
        outs = [selective_state_update(**each, dt_softplus=True) for each in (inputs, apart)]
    assert torch.equal(*outs) and torch.equal(inputs["state"], apart["state"])


def test_strided_state_and_inputs(target):
    inputs = {name: x.to(target.device) for name, x in make_inputs().items()}
    expected = {name: x.clone() for name, x in inputs.items()}
    strided = {name: torch.stack([x, x], -1)[..., 0] if x.dim() > 1 else x for name, x in inputs.items()}
    assert not strided["state"].is_contiguous()
    with target.forced():
        out = selective_state_update(**strided, dt_softplus=True)
        assert torch.equal(out, selective_state_update(**expected, dt_softplus=True))
    assert torch.equal(strided["state"], expected["state"])


def test_a_half_precision_state_is_updated_too(target):
    inputs = {name: x.to(target.device) for name, x in make_inputs().items()}
    inputs["state"] = inputs["state"].bfloat16()
    wide = {**inputs, "state": inputs["state"].float()}
    with target.forced():
        selective_state_update(**inputs, dt_softplus=True)
        selective_state_update(**wide, dt_softplus=True)
    assert torch.equal(inputs["state"], wide["state"].bfloat16())


def test_steps_make_the_scan(target):
    length, inputs = 20, {name: x.to(target.device) for name, x in make_inputs(groups=2).items()}
    sequence = {name: torch.randn(*inputs[name].shape, length, device=target.device) for name in ("x", "dt", "z", "B", "C")}
    kwargs = {"A": inputs["A"], "D": inputs["D"]}
    with target.forced():
        out, last = selective_scan_fn(
            sequence["x"], sequence["dt"], B=sequence["B"], C=sequence["C"], z=sequence["z"], **kwargs,
            delta_bias=inputs["dt_bias"], delta_softplus=True, return_last_state=True, initial_state=inputs["state"],
        )  # fmt: skip
        for i in range(length):
            y = selective_state_update(
                inputs["state"], **{name: x[..., i] for name, x in sequence.items()}, **kwargs,
                dt_bias=inputs["dt_bias"], dt_softplus=True,
            )  # fmt: skip
            torch.testing.assert_close(y, out[..., i], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inputs["state"], last, atol=1e-5, rtol=1e-5)


def test_gradients_go_through_steps_and_state(target):
    """On the reference: those of the scan."""
    inputs = {name: x.to(target.device) for name, x in make_inputs().items()}
    maps = {name: torch.randn(*inputs[name].shape, 4, device=target.device) for name in ("x", "dt", "z", "B", "C")}
    leaves = {name: x.requires_grad_() for name, x in (inputs | maps).items()}
    rest = {"A": leaves["A"], "D": leaves["D"]}
    with target.forced():
        out = selective_scan_fn(
            leaves["x"], leaves["dt"], **rest, B=leaves["B"], C=leaves["C"], z=leaves["z"], delta_bias=leaves["dt_bias"],
            delta_softplus=True, initial_state=leaves["state"],
        )  # fmt: skip
        expected = torch.autograd.grad(out.square().sum(), list(leaves.values()))
        state = leaves["state"].clone()
        steps = [
            selective_state_update(
                state, **{name: leaves[name][..., i] for name in maps}, **rest, dt_bias=leaves["dt_bias"], dt_softplus=True
            )
            for i in range(4)
        ]
        gradients = torch.autograd.grad(torch.stack(steps).square().sum(), list(leaves.values()))
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_groups_may_differ(target):
    inputs = make_inputs(groups=2)
    check(target, {**inputs, "C": torch.randn(2, 3, 5)})


def test_autograd_sees_the_write(target):
    inputs = {name: x.to(target.device) for name, x in make_inputs().items()}
    weight = torch.ones_like(inputs["state"], requires_grad=True)
    saved = (inputs["state"] * weight).sum()
    with target.forced():
        selective_state_update(**inputs)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


def test_flops_are_counted(target):
    inputs = {name: x.to(target.device) for name, x in make_inputs(batch=2, dim=6, states=5).items()}
    with target.forced(), FlopCounterMode(display=False) as counter:
        selective_state_update(**inputs)
    assert counter.get_total_flops() == 2 * 6 * (9 * 5 + 1)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(state=torch.zeros(2, 6)), ValueError, r"state has shape \(2, 6\), expected \(B, D, N\) or \(B, H, P, N\)"),
        (dict(x=torch.zeros(2, 7)), ValueError, r"x has shape \(2, 7\), expected \(2, 6\)"),
        (dict(dt=torch.zeros(2, 6, 1)), ValueError, r"dt has shape"),
        (dict(A=torch.zeros(6, 4)), ValueError, r"A has shape \(6, 4\), expected \(6, 5\)"),
        (dict(B=torch.zeros(2, 4, 5)), ValueError, "B has 4 groups, which do not divide the 6 channels"),
        (dict(C=torch.zeros(3, 5)), ValueError, r"C has shape \(3, 5\)"),
        (dict(state=torch.zeros(2, 3, 2, 5)), ValueError, r"x has shape \(2, 6\), expected \(2, 3, 2\)"),
        (dict(D=torch.zeros(5)), ValueError, r"D has shape \(5,\), expected \(6,\)"),
        (dict(state=torch.zeros(2, 6, 5, dtype=torch.int32)), TypeError, "state has dtype torch.int32"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        selective_state_update(**{**make_inputs(), **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    inputs = make_inputs(B, 3, 2) | {"dt_softplus": True}
    return Sample(selective_state_update, inputs, maps=("x", "dt", "B", "C", "z"), overwrites="state")


SAMPLES = {"selective_state_update": sample}
