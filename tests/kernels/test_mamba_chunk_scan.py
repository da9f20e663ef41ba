import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter import kernels
from lifter.kernels import mamba_chunk_scan_combined, mamba_chunk_scan_ref, selective_scan_ref
from tests.conftest import assert_as_good
from tests.kernels.samples import Sample

OPTIONAL = ("D", "z", "dt_bias", "initial_states", "seq_idx")


def make_inputs(B=2, L=5, H=4, P=3, G=2, N=5, dtype=torch.float32, given=OPTIONAL, seed=0, **options):
    """Maps in `dtype`; of the optional inputs those of `given`. Time steps are about 1, decays from none to e^-4."""
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    inputs = {
        "x": randn(B, L, H, P).to(dtype),
        "dt": randn(B, L, H),
        "A": -4 * torch.rand(H, generator=g),
        "B": randn(B, L, G, N).to(dtype),
        "C": randn(B, L, G, N).to(dtype),
        "chunk_size": 64,
        "D": randn(H, P),
        "z": randn(B, L, H, P).to(dtype),
        "dt_bias": randn(H),
        "initial_states": randn(B, H, P, N),
        "seq_idx": (torch.rand(B, L, generator=g) < 3 / L).cumsum(1).int(),
    }
    inputs |= {name: None for name in OPTIONAL if name not in given}
    return inputs | {"dt_softplus": True, "return_final_states": True} | options


def leaves(inputs, dtype=None):
    floats = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor) and x.is_floating_point()}
    return {name: x.detach().to(dtype or x.dtype).requires_grad_() for name, x in floats.items()}


def outputs_and_gradients(inputs, dtype=None):
    """out, final_states and the gradient of every input, for fixed random gradients of both outputs."""
    given = leaves(inputs, dtype)
    results = dict(zip(("out", "final_states"), mamba_chunk_scan_combined(**inputs | given)))
    g = torch.Generator().manual_seed(99)
    grads = [torch.randn(x.shape, generator=g).to(x.dtype) for x in results.values()]
    gradients = torch.autograd.grad(list(results.values()), list(given.values()), grads)
    return {name: x.detach() for name, x in results.items()} | {f"d{name}": x for name, x in zip(given, gradients)}


def check(inputs, **bounds):
    with kernels.backend("cpu"):
        ours = outputs_and_gradients(inputs)
    with kernels.backend("reference"):
        torchs, exact = outputs_and_gradients(inputs), outputs_and_gradients(inputs, torch.float64)
    for name in exact:
        heads = [1] if name == "final_states" else ()
        assert_as_good(name, ours[name], torchs[name], exact[name], dtype=inputs["x"].dtype, groups=heads, **bounds)


# ---- the meaning -----------------------------------------------------------------------------------------------------


def test_reference_is_a_selective_scan():
    """A selective scan whose channels and states of a head have one decay, one step and one A gives the same."""
    inputs = {name: x.double() for name, x in make_inputs(L=9).items() if isinstance(x, torch.Tensor) and name != "seq_idx"}
    B, L, H, P = inputs["x"].shape
    channels = lambda x: x.flatten(2).mT  # (B, L, H, P) -> (B, H P, L)
    wide = lambda x: x[..., None].expand(*x.shape, P)
    y, state = selective_scan_ref(
        channels(inputs["x"]), channels(wide(inputs["dt"])), wide(inputs["A"]).reshape(-1, 1).expand(-1, 5),
        inputs["B"].movedim(1, 3), inputs["C"].movedim(1, 3), inputs["D"].flatten(), channels(inputs["z"]),
        wide(inputs["dt_bias"]).flatten(), True, True, inputs["initial_states"].flatten(1, 2),
    )  # fmt: skip
    out, final = mamba_chunk_scan_ref(**inputs, dt_softplus=True)
    torch.testing.assert_close(out.flatten(2).mT, y)
    torch.testing.assert_close(final.flatten(1, 2), state)


def test_gradients_of_the_reference():
    inputs = make_inputs(B=1, L=3, H=2, P=2, G=1, N=2, seq_idx=torch.tensor([[4, 4, 1]]).int(), dt_limit=(0.1, 2.0))
    given = leaves(inputs, torch.float64)
    call = lambda *xs: mamba_chunk_scan_combined(**inputs | dict(zip(given, xs)))
    assert torch.autograd.gradcheck(call, tuple(given.values()))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_packed_sequences_are_sequences(name):
    """Packed sequences keep their states and gradients apart: two begin inside a chunk, one with a chunk."""
    lengths = [50, 14, 70, 66]
    whole = make_inputs(B=1, L=200, given=("D", "z", "dt_bias", "initial_states"))
    index = torch.tensor([3, 0, 1, 0]).repeat_interleave(torch.tensor(lengths)).int()[None]
    along = ("x", "dt", "B", "C", "z")
    with kernels.backend(name):
        packed = leaves(whole)
        out, final = mamba_chunk_scan_combined(**whole | packed | {"seq_idx": index})
        apart = leaves(whole)
        parts = zip(*(apart[k].split(lengths, 1) for k in along))
        each = [
            mamba_chunk_scan_combined(**whole | apart | dict(zip(along, part)) | ({"initial_states": None} if i else {}))
            for i, part in enumerate(parts)
        ]
        expected = torch.cat([y for y, _ in each], 1)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(final, each[-1][1], atol=1e-5, rtol=1e-4)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        for y, state in ((out, final), (expected, each[-1][1])):
            ((y * weight).sum() + state.sum()).backward()
    for k in packed:
        torch.testing.assert_close(packed[k].grad, apart[k].grad, atol=1e-4, rtol=1e-4, msg=lambda text, k=k: f"{k}: {text}")


def test_a_state_carries_a_sequence_over():
    pieces, along = (1, 70, 58), ("x", "dt", "B", "C", "z")
    whole = make_inputs(L=sum(pieces), given=("D", "z", "dt_bias", "initial_states"))
    with kernels.backend("cpu"):
        out, final = mamba_chunk_scan_combined(**whole)
        outs, state = [], whole["initial_states"]
        for piece in zip(*(whole[name].split(pieces, 1) for name in along)):
            part, state = mamba_chunk_scan_combined(**whole | dict(zip(along, piece)) | {"initial_states": state})
            outs.append(part)
        assert torch.equal(mamba_chunk_scan_combined(**whole | {"return_final_states": False}), out)
    torch.testing.assert_close(torch.cat(outs, 1), out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-4)
    assert final.dtype == torch.float32 and final.shape == whole["initial_states"].shape


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_limits_of_time_steps(name):
    """A step beyond them is the limit, and has no gradient."""
    dt = torch.tensor([-1.0, 0.0, 0.05, 0.1, 0.7, 2.0, 3.0])
    inputs = make_inputs(B=1, L=7, H=1, G=1, given=(), dt_softplus=False, dt_limit=(0.1, 2.0)) | {"dt": dt.view(1, 7, 1)}
    free = inputs | {"dt": dt.clamp(0.1, 2.0).view(1, 7, 1), "dt_limit": (0.0, 9.0)}
    with kernels.backend(name):
        ours, expected = outputs_and_gradients(inputs), outputs_and_gradients(free)
    assert torch.equal(ours["out"], expected["out"])
    inside = (dt >= 0.1) & (dt <= 2.0)
    assert torch.equal(ours["ddt"].flatten(), expected["ddt"].flatten().where(inside, 0))


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("L", [1, 2, 3, 4, 5, 63, 64, 65, 200])
def test_lengths(L):
    check(make_inputs(L=L))


@pytest.mark.parametrize("H, P, G, N", [(1, 1, 1, 1), (3, 20, 3, 17), (20, 4, 1, 3), (2, 64, 1, 128)])
def test_heads_groups_and_channels(H, P, G, N):
    check(make_inputs(1, 70, H, P, G, N))


@pytest.mark.parametrize("given", [(), *((name,) for name in OPTIONAL)])
def test_each_optional_input_alone(given):
    check(make_inputs(1, 70, given=given))


def test_a_skip_for_each_head():
    inputs = make_inputs(L=9)
    per_head = inputs | {"D": inputs["D"][:, 0].clone()}
    check(per_head)
    alike = inputs | {"D": per_head["D"][:, None].expand(-1, 3)}
    assert torch.equal(*(mamba_chunk_scan_combined(**each)[0] for each in (per_head, alike)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(dtype):
    check(make_inputs(1, 130, 2, 16, 1, 16, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    check(make_inputs(2, 83, 3, 20, 1, 18, dtype))


@pytest.mark.parametrize("A", [0.0, 0.05, -40.0, -1e6])
def test_extreme_decays(A):
    """Nothing is forgotten, the past grows, and all of it is gone at once."""
    inputs = make_inputs(1, 150, given=("D", "initial_states"))
    check(inputs | {"A": torch.full_like(inputs["A"], A)}, rounding=64)


def test_a_step_that_forgets_all_leaves_the_next_ones_exact():
    """The decay between two steps is not a difference of what lies far before them."""
    inputs = make_inputs(1, 60, 1, 3, 1, 5, given=(), dt_softplus=False)
    dt = torch.full_like(inputs["dt"], 0.01)
    dt[:, 3] = 1e4
    check(inputs | {"dt": dt, "A": torch.tensor([-30.0])})


@settings(max_examples=8, deadline=None)
@given(
    B=st.integers(1, 3),
    L=st.integers(1, 90),
    heads=st.integers(1, 3),
    P=st.integers(1, 40),
    G=st.integers(1, 3),
    N=st.integers(1, 40),
    given=st.sets(st.sampled_from(OPTIONAL)),
    softplus=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(B, L, heads, P, G, N, given, softplus, dtype, seed):
    # Among many draws some sums cancel.
    check(make_inputs(B, L, heads * G, P, G, N, dtype, given, seed, dt_softplus=softplus), factor=4, rounding=64)


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


def test_flops_are_counted():
    inputs = make_inputs(2, 10, 4, 3, 2, 5)
    with FlopCounterMode(display=False) as counter:
        out, _ = mamba_chunk_scan_combined(**inputs | leaves(inputs))
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 4 * 2 * 10 * 4 * 3 * 5
    assert counter.get_total_flops() == forward * 7 // 2


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.zeros(2, 5, 12)), ValueError, r"x has shape \(2, 5, 12\), expected \(B, L, H, P\)"),
        (dict(x=torch.zeros(2, 0, 4, 3)), ValueError, r"x has shape \(2, 0, 4, 3\), expected no empty dimension"),
        (dict(dt=torch.zeros(2, 4, 5)), ValueError, r"dt has shape \(2, 4, 5\), expected \(2, 5, 4\)"),
        (dict(A=torch.zeros(4, 5)), ValueError, r"A has shape \(4, 5\), expected \(4,\)"),
        (dict(B=torch.zeros(2, 5, 3, 5)), ValueError, "B has 3 groups, which do not divide the 4 heads of x"),
        (dict(C=torch.zeros(2, 5, 1, 5)), ValueError, r"C has shape \(2, 5, 1, 5\), expected \(2, 5, 2, 5\)"),
        (dict(D=torch.zeros(3)), ValueError, r"D has shape \(3,\), expected \(4,\) or \(4, 3\)"),
        (dict(z=torch.zeros(2, 5, 4, 2)), ValueError, r"z has shape \(2, 5, 4, 2\), expected \(2, 5, 4, 3\)"),
        (dict(dt_bias=torch.zeros(1)), ValueError, r"dt_bias has shape \(1,\), expected \(4,\)"),
        (dict(initial_states=torch.zeros(2, 4, 5, 3)), ValueError, r"initial_states has shape .*, expected \(2, 4, 3, 5\)"),
        (dict(seq_idx=torch.zeros(2, 5)), TypeError, "seq_idx has dtype torch.float32, expected torch.int32"),
        (dict(seq_idx=torch.zeros(5).int()), ValueError, r"seq_idx has shape \(5,\), expected \(2, 5\)"),
        (dict(chunk_size=0), ValueError, "chunk_size is 0, expected an integer of at least 1"),
        (dict(dt_limit=0.1), ValueError, "dt_limit is 0.1, expected two numbers"),
        (dict(dt_limit=(2.0, 0.1)), ValueError, r"dt_limit is \(2.0, 0.1\), expected the smaller number first"),
        (dict(return_varlen_states=True), ValueError, "return_varlen_states is True, expected False"),
        (dict(x=torch.zeros(2, 5, 4, 3).long()), TypeError, "x has dtype torch.int64, expected a real floating-point dtype"),
        (dict(z=torch.zeros(2, 5, 4, 3).half()), TypeError, "z has dtype torch.float16, expected x's, torch.float32"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"mamba_chunk_scan_combined: {message}"):
        mamba_chunk_scan_combined(**make_inputs() | change)


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    maps, others = ("x", "B", "C", "z"), ("dt", "A", "D", "dt_bias", "initial_states")
    return Sample(mamba_chunk_scan_combined, make_inputs(B, T, 2, 3, 1, 4), maps + others, maps)


SAMPLES = {"mamba_chunk_scan_combined packed": sample}
