import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from lifter.kernels import skeleton_scan, skeleton_scan_ref
from lifter.kernels.skeleton_scan import DIRECTIONS
from tests.conftest import assert_as_good
from tests.kernels.samples import Sample

ALL = ("T-f", "S-f", "T-b", "S-b")
NAMES = ("x", "x_proj_weight", "dt_proj_weight", "dt_proj_bias", "A", "D")


def make_inputs(B=1, T=5, J=17, C=6, N=4, R=1, directions=ALL, groups=None, terms=1, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g)
    K = len(directions)
    return dict(
        x=randn(B, T, J, C).to(dtype),
        x_proj_weight=(randn(K, R + 2 * N, C) / C**0.5).to(dtype),
        dt_proj_weight=randn(K, C, R) / R**0.5,
        dt_proj_bias=randn(K, C),
        A=-4 * torch.rand(K, C, N, generator=g),
        D=randn(K, C),
        gather=torch.randint(-1, J, (K, len(groups or [1]), terms, J), generator=g).int() if terms else None,
        channel_groups=groups,
        directions=directions,
    )


def output_and_gradients(function, inputs, dtype=None, device="cpu"):
    leaves = {name: inputs[name].detach().to(device=device, dtype=dtype or inputs[name].dtype) for name in NAMES}
    for x in leaves.values():
        x.requires_grad_()
    gather = inputs["gather"] if inputs["gather"] is None else inputs["gather"].to(device)
    out = function(**leaves, gather=gather, channel_groups=inputs["channel_groups"], directions=inputs["directions"])
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(99)).to(device, out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), dout)
    return {"out": out.detach(), **{f"d{name}": g for name, g in zip(leaves, grads)}}


def check(target, inputs, **bounds):
    with target.forced():
        ours = output_and_gradients(skeleton_scan, inputs, device=target.device)
    torchs = output_and_gradients(skeleton_scan_ref, inputs)
    exact = output_and_gradients(skeleton_scan_ref, inputs, torch.float64)
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], dtype=inputs["x"].dtype, **bounds)


def test_reference_is_four_scans_written_out():
    """Against loops over frames and joints that share nothing with the reference but the formula."""
    B, T, J, C, N, R = 1, 3, 4, 2, 2, 1
    inputs = make_inputs(B, T, J, C, N, R, terms=2)
    p = {name: inputs[name].double() for name in NAMES}
    out = torch.zeros(B, T, J, C, dtype=torch.float64)
    frame_major = [(t, v) for t in range(T) for v in range(J)]
    joint_major = [(t, v) for v in range(J) for t in range(T)]
    for k, order in enumerate([frame_major, joint_major, frame_major[::-1], joint_major[::-1]]):
        h = torch.zeros(C, N, dtype=torch.float64)
        for t, v in order:
            joints = [int(j) for j in inputs["gather"][k, 0, :, v] if j >= 0]
            u = sum((p["x"][0, t, j] for j in joints), torch.zeros(C, dtype=torch.float64))
            dt, b, c = (p["x_proj_weight"][k] @ u).split([R, N, N])
            delta = torch.log1p(torch.exp(p["dt_proj_weight"][k] @ dt + p["dt_proj_bias"][k]))[:, None]
            h = torch.exp(delta * p["A"][k]) * h + delta * b * u[:, None]
            out[0, t, v] += h @ c + p["D"][k] * u
    double = {name: x.double() if name in NAMES else x for name, x in inputs.items()}
    torch.testing.assert_close(skeleton_scan_ref(**double), out)


@pytest.mark.parametrize("frames", [1, 2, 3, 9, 17, 27, 81, 243])
def test_clip_lengths(target, frames, monkeypatch):
    if target.slow and frames > 9:
        pytest.skip("not in Triton's interpreter, which takes seconds per frame: no clip longer than 9 is run there")
    if target.slow:
        monkeypatch.setattr("lifter.kernels.triton._scan.LONG", 128)  # of 9 frames spans, as of a long clip
    check(target, make_inputs(T=frames, C=3, N=3))


def test_a_long_clip():
    with torch.no_grad():
        inputs = make_inputs(T=4131, J=2, C=4, N=2)
        exact = skeleton_scan_ref(**{name: x.double() if name in NAMES else x for name, x in inputs.items()})
        assert_as_good("out", skeleton_scan(**inputs), skeleton_scan_ref(**inputs), exact)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_direction(target, direction):
    check(target, make_inputs(directions=(direction,), T=6, J=5))


def test_directions_in_any_order_and_number(target):
    check(target, make_inputs(directions=("S-b", "T-f", "S-f"), T=6, J=5))


@pytest.mark.parametrize("terms", [0, 1, 3])
def test_gather(target, terms):
    check(target, make_inputs(B=1 if target.slow else 2, T=3, terms=terms))


def test_channel_groups(target):
    check(target, make_inputs(C=40, groups=[20, 13, 7], terms=2, T=4, J=6))


@pytest.mark.parametrize("states, rank", [(1, 1), (16, 4), (17, 3), (40, 2)])
def test_states_and_rank(target, states, rank):
    check(target, make_inputs(T=2 if target.slow else 4, J=17, C=5, N=states, R=rank))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(target, dtype):
    sizes = {"T": 2} if target.slow else {"B": 2}
    check(target, make_inputs(C=20, N=4, R=2, terms=3, dtype=dtype, **sizes))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 12),
    J=st.integers(1, 19),
    C=st.integers(1, 40),
    N=st.integers(1, 18),
    R=st.integers(1, 4),
    directions=st.permutations(ALL).flatmap(lambda d: st.integers(1, 4).map(lambda n: tuple(d[:n]))),
    terms=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, C, N, R, directions, terms, seed):
    if target.slow:
        B, T, J, C, N = 1, min(T, 3), 1 + J % 8, 1 + C % 4, 1 + N % 4
    inputs = make_inputs(B, T, J, C, N, R, directions, None, terms, seed=seed)
    check(target, inputs, rounding=64)  # among many draws some sums cancel


def make_exact(**sizes):
    """Each projection is a channel of its own, or zero: the product with torch's own weights is exact, in any order."""
    inputs = make_inputs(**sizes)
    weight = inputs["x_proj_weight"]
    return inputs | {"x_proj_weight": torch.eye(weight[..., 0].numel(), weight.shape[-1]).view_as(weight)}


def test_strided_inputs(target):
    inputs = make_exact(B=1, C=3) if target.slow else make_exact(B=2, C=40)
    strided = dict(inputs, x=torch.stack([inputs["x"], inputs["x"]], -1)[..., 0])
    strided["gather"] = inputs["gather"].transpose(0, 3).contiguous().transpose(0, 3)
    assert not strided["x"].is_contiguous()
    with torch.no_grad():
        assert torch.equal(target.run(skeleton_scan, **strided), target.run(skeleton_scan, **inputs))


def test_repeats_bit_for_bit_on_any_number_of_threads(target):
    inputs = make_exact(B=1, T=3, C=2, N=2, terms=2) if target.slow else make_exact(B=2, C=40, terms=3)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with target.forced():
                results.append(output_and_gradients(skeleton_scan, inputs, device=target.device))
    finally:
        torch.set_num_threads(threads)
    one, two = (result.pop("dx_proj_weight") for result in results)  # torch's own sum, over what dx shows bit for bit
    assert (one - two).abs().max() <= 1e-5 * one.abs().max()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_gradcheck_of_the_reference():
    inputs = make_inputs(T=2, J=3, C=3, N=2, terms=2)
    leaves = [inputs[name].double().requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(lambda *xs: skeleton_scan(*xs, inputs["gather"]), leaves)


def test_flops_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        skeleton_scan(**make_inputs(B=2, T=5, J=17, C=6, N=4, R=1))
    tokens = 2 * 5 * 17
    projection = 2 * tokens * 6 * 4 * (1 + 2 * 4)
    assert counter.get_total_flops() == projection + tokens * 4 * 6 * (2 * 1 + 9 * 4 + 1)


def test_golden_cross_scan(shared, backend):
    """With all weights zero and D = 1 the output is the gathered input."""
    import numpy as np

    golden = np.load(shared / "golden" / "sasmamba_units.npz")
    x = torch.from_numpy(golden["scan/input"]).permute(0, 2, 3, 1).contiguous()  # (B, C, T, J) -> (B, T, J, C)
    expected = torch.from_numpy(golden["scan/sasmamba_v3"])  # (B, 4, C, L)
    B, T, J, C = x.shape
    v = torch.arange(J)
    table = torch.stack([v, 2 * (v // 2), 3 * (v // 3)]).int()
    plain = torch.stack([v, v * 0 - 1, v * 0 - 1]).int()
    for k, direction in enumerate(ALL):
        gather = (plain if k % 2 else table)[None, None]
        zero = torch.zeros(1, C, 1)
        weights = (torch.zeros(1, 3, C), zero, zero[..., 0], zero, torch.ones(1, C))
        got = skeleton_scan(x, *weights, gather, directions=(direction,))
        sequence = expected[:, k].flip(-1) if k & 2 else expected[:, k]
        sequence = sequence.unflatten(-1, (J, T)).transpose(2, 3) if k & 1 else sequence.unflatten(-1, (T, J))
        torch.testing.assert_close(got, sequence.permute(0, 2, 3, 1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=torch.zeros(1, 5, 17)), ValueError, r"x has shape \(1, 5, 17\), expected \(B, T, J, C\)"),
        (dict(x=torch.zeros(1, 0, 17, 6)), ValueError, "expected at least one frame and one joint"),
        (dict(x_proj_weight=torch.zeros(4, 8, 6)), ValueError, r"x_proj_weight has shape .*, expected \(4, 9, 6\)"),
        (dict(dt_proj_weight=torch.zeros(4, 5, 1)), ValueError, r"dt_proj_weight has shape \(4, 5, 1\)"),
        (dict(dt_proj_bias=torch.zeros(24)), ValueError, r"dt_proj_bias has shape \(24,\), expected \(4, 6\)"),
        (dict(A=torch.zeros(24, 4)), ValueError, r"A has shape \(24, 4\), expected \(4, 6, N\)"),
        (dict(A=torch.zeros(4, 6, 300)), ValueError, "expected 1 to 256 states"),
        (dict(D=torch.zeros(24)), ValueError, r"D has shape \(24,\), expected \(4, 6\)"),
        (dict(gather=torch.zeros(4, 1, 1, 16, dtype=torch.int32)), ValueError, r"gather has shape \(4, 1, 1, 16\)"),
        (dict(gather=torch.zeros(4, 1, 0, 17, dtype=torch.int32)), ValueError, "expected at least one term"),
        (dict(gather=torch.zeros(4, 1, 1, 17)), TypeError, "gather has dtype torch.float32, expected torch.int32"),
        (dict(channel_groups=[3, 2]), ValueError, r"channel_groups is \[3, 2\], expected positive sizes that sum to 6"),
        (dict(channel_groups=[3, 3], gather=None), ValueError, "without gather"),
        (dict(directions=("T-f", "S-f", "T-b", "up")), ValueError, "directions is .* expected a sequence of"),
        (dict(directions="T-f"), ValueError, "directions is 'T-f'"),
        (dict(directions=None), ValueError, "directions is None, expected a sequence of"),
        (dict(channel_groups=6), TypeError, "channel_groups is 6, expected a sequence of sizes"),
        (dict(gather=[0]), TypeError, "gather has dtype list"),
        (dict(A=torch.zeros(4, 6, 4, device="meta")), ValueError, "A is on meta, expected x's device, cpu"),
        (dict(x=torch.zeros(1, 5, 17, 6).bfloat16()), TypeError, "x_proj_weight has dtype torch.float32, expected x's"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        skeleton_scan(**{**make_inputs(), **change})


def test_a_gather_that_names_no_joint_is_an_error_not_a_crash(backend):
    inputs = make_inputs()
    inputs["gather"][0, 0, 0, 0] = 17
    with pytest.raises(ValueError, match="skeleton_scan: gather names joint 17, expected less than 17"):
        skeleton_scan(**inputs)


def test_a_compiled_gather_is_checked_by_the_kernel():
    inputs = make_inputs()
    inputs["gather"][0, 0, 0, 0] = 17
    with pytest.raises(RuntimeError, match="gather names joint 17, expected less than 17"):
        torch.compile(skeleton_scan, fullgraph=True, backend="eager")(**inputs)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_the_check_of_gather_is_not_traced(mode):
    inputs = make_inputs()
    scan = lambda x: skeleton_scan(**inputs | {"x": x})
    graph = make_fx(scan, tracing_mode=mode, _allow_non_fake_inputs=True)(inputs["x"])
    assert torch.equal(graph(inputs["x"]), scan(inputs["x"]))


def test_fake_tensors_need_no_values():
    with FakeTensorMode() as mode:
        inputs = {name: mode.from_tensor(x) if torch.is_tensor(x) else x for name, x in make_inputs().items()}
        assert skeleton_scan(**inputs).shape == inputs["x"].shape


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    inputs = make_inputs(B, T, 3, 4, 2, groups=[1, 3])
    # Its projection is PyTorch's product, which may round by strides and by the number of threads.
    return Sample(skeleton_scan, inputs, gradients=NAMES, maps=("x", "x_proj_weight"), exact=False, repeats=False)


SAMPLES = {"skeleton_scan": sample}
