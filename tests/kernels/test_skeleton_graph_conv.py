"""skeleton_graph_conv against its meaning, written out joint by joint."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import backend, skeleton_graph_conv, skeleton_graph_conv_ref
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

TAIL = ("root", "scale", "shift", "residual")
DIFFERENTIABLE = ("x", *TAIL)
CPU = Target("cpu", "cpu")


def make_inputs(B=2, T=3, J=5, C=4, D=3, tail=TAIL, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    shapes = {"root": (B, T, J, C), "scale": (J,), "shift": (J,), "residual": (B, T, J, C)}
    inputs = {
        "x": torch.randn(B, T, J, C, generator=g),
        "neighbours": torch.randint(-2, J, (J, D), generator=g, dtype=torch.int32),
        "weights": torch.randn(J, D, generator=g),
        **{name: torch.randn(shapes[name], generator=g) for name in TAIL if name in tail},
    }
    return {name: y.to(dtype) if y.is_floating_point() else y for name, y in inputs.items()}


def written_out(x, neighbours, weights, root=None, scale=None, shift=None, residual=None, relu=False):
    y = torch.zeros_like(x)
    for j in range(x.shape[2]):
        for i, w in zip(neighbours[j].tolist(), weights[j].tolist(), strict=True):
            y[:, :, j] += w * x[:, :, i] if i >= 0 else 0
        y[:, :, j] += 0 if root is None else root[:, :, j]
        y[:, :, j] *= 1 if scale is None else scale[j]
        y[:, :, j] += 0 if shift is None else shift[j]
        y[:, :, j] += 0 if residual is None else residual[:, :, j]
    return y.clamp(min=0) if relu else y


def output_and_gradients(function, inputs, dtype=None, device="cpu", dout=None, wanted=DIFFERENTIABLE):
    """The output and the gradients of a fixed random combination of it."""
    inputs = {name: y.to(device, dtype if y.is_floating_point() else None) for name, y in inputs.items()}
    leaves = {name: inputs[name].detach().requires_grad_() for name in wanted if name in inputs}
    out = function(**inputs | leaves)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(99)) if dout is None else dout
    grads = torch.autograd.grad(out, leaves.values(), dout.to(device, out.dtype))
    return {"out": out.detach(), **{f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}}


def check(target, inputs, relu=True, **bounds):
    """Against float64, relative to PyTorch's own error."""
    run = lambda **inputs: target.run(skeleton_graph_conv, **inputs, relu=relu)
    ours = output_and_gradients(run, inputs, device=target.device)
    reference = lambda **inputs: skeleton_graph_conv_ref(**inputs, relu=relu)
    torchs, exact = (output_and_gradients(reference, inputs, dtype) for dtype in (None, torch.float64))
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], **bounds)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 5),
    J=st.integers(1, 20),
    C=st.integers(1, 40),
    D=st.integers(0, 5),
    tail=st.sets(st.sampled_from(TAIL)),
    relu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_reference_is_its_meaning(B, T, J, C, D, tail, relu, seed):
    inputs = make_inputs(B, T, J, C, D, tail, seed, torch.float64)
    torch.testing.assert_close(skeleton_graph_conv(**inputs, relu=relu), written_out(**inputs, relu=relu))


def test_it_is_the_product_with_the_graph_and_commutes_with_a_projection():
    inputs = make_inputs(tail=(), dtype=torch.float64)
    x, neighbours, weights = inputs.values()
    graph = torch.zeros(5, 7, dtype=torch.float64).scatter_add(1, neighbours.long() % 7, weights)[:, :5]  # -1 is column 6
    torch.testing.assert_close(skeleton_graph_conv(**inputs), graph @ x)
    projection = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(
        skeleton_graph_conv(x @ projection, neighbours, weights), skeleton_graph_conv(**inputs) @ projection
    )


def test_a_batch_norm_over_joints_and_what_follows():
    inputs, norm = make_inputs(dtype=torch.float64), torch.nn.BatchNorm1d(5).double().eval()
    for name in ("running_mean", "running_var", "weight", "bias"):
        torch.nn.init.uniform_(getattr(norm, name), 0.5, 1.5)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    fused = skeleton_graph_conv(**inputs | {"scale": scale, "shift": norm.bias - scale * norm.running_mean}, relu=True)
    y = skeleton_graph_conv(**{name: inputs[name] for name in ("x", "neighbours", "weights")}) + inputs["root"]
    expected = (inputs["residual"] + norm(y.flatten(0, 1)).view(y.shape)).relu()
    torch.testing.assert_close(fused, expected)
    assert (fused == 0).any() and (fused > 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    inputs = make_inputs(T=9, C=33, dtype=dtype)
    ours = skeleton_graph_conv(**inputs, relu=True)
    exact = written_out(**{name: y.double() if y.is_floating_point() else y for name, y in inputs.items()}, relu=True)
    torch.testing.assert_close(ours, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17, 27, 81, 129, 243])
def test_lengths(target, frames):
    check(target, make_inputs(*((1, frames, 2, 5) if target.slow else (3, frames, 17, 20))))


def test_a_long_clip():
    check(CPU, make_inputs(1, 4131, 17, 8))


@pytest.mark.parametrize("channels", [1, 2, 3, 15, 16, 17, 64, 100, 128, 129, 300, 512])
@pytest.mark.parametrize("relu", [False, True])
def test_channels(target, channels, relu):
    check(target, make_inputs(1, 3, 2 if target.slow else 7, channels), relu)


@pytest.mark.parametrize("joints, neighbours", [(1, 0), (1, 1), (1, 4), (2, 0), (2, 1), (17, 3), (25, 1), (40, 6)])
def test_graphs(target, joints, neighbours):
    check(target, make_inputs(1 if target.slow else 2, 2, joints, 5, neighbours))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("relu", [False, True])
def test_reduced_precision(target, dtype, relu):
    check(target, make_inputs(1, 27, 3 if target.slow else 17, 40, dtype=dtype), relu)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 40),
    J=st.integers(1, 20),
    C=st.integers(1, 150),
    D=st.integers(0, 5),
    tail=st.sets(st.sampled_from(TAIL)),
    relu=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, C, D, tail, relu, dtype, seed):
    if target.slow:
        B, J, D = 1 + B % 2, 1 + J // 4, 1 + D // 3
    # Among many draws some sums cancel.
    check(target, make_inputs(B, T, J, C, D, tail, seed, dtype), relu, factor=4, rounding=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    for channels in (20, 37, 128, 200):
        check(CPU, make_inputs(2, 9, 17, channels, dtype=dtype))


LAYOUTS = {
    "sliced": lambda x: F.pad(x, (3, 2, 1, 0, 1, 1, 1, 0))[1:, 1:-1, 1:, 3:-2],
    "every second": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "frames inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels outside": lambda x: x.movedim(3, 0).contiguous().movedim(0, 3),
    "channels apart": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, layout):
    """Views give what their copies give, bit for bit."""
    inputs, view = make_inputs(2, 3, 4, 5), LAYOUTS[layout]
    dout = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(9))
    run = lambda inputs, dout: output_and_gradients(
        lambda **inputs: target.run(skeleton_graph_conv, **inputs, relu=True), inputs, device=target.device, dout=dout
    )
    views = inputs | {name: view(inputs[name]) for name in ("x", "root", "residual")}
    views |= {name: inputs[name].t().contiguous().t() for name in ("neighbours", "weights")}
    views |= {name: inputs[name].repeat_interleave(2)[::2] for name in ("scale", "shift")}
    assert not any(y.is_contiguous() for y in views.values())
    ours, expected = run(views, view(dout)), run(inputs, dout)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_strides_of_zero(target):
    inputs = make_inputs(1, 1, 4, 5)
    expanded = inputs | {name: inputs[name].expand(2, 3, -1, -1) for name in ("x", "root", "residual")}
    expanded["scale"] = inputs["scale"][:1].expand(4)
    run = lambda inputs: output_and_gradients(
        lambda **inputs: target.run(skeleton_graph_conv, **inputs, relu=True), inputs, device=target.device,
        dout=torch.ones(()).expand(2, 3, 4, 5),
    )  # fmt: skip
    ours, expected = run(expanded), run({name: y.clone() for name, y in expanded.items()})
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_repeats_with_any_number_of_threads(target):
    inputs, threads, results = make_inputs(*((1, 40, 2, 5) if target.slow else (2, 243, 17, 32))), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 3):
            torch.set_num_threads(count)
            run = lambda **inputs: target.run(skeleton_graph_conv, **inputs, relu=True)
            results.append(output_and_gradients(run, inputs, device=target.device))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result[name], results[0][name]) for result in results for name in result)


def test_nan_passes(target):
    """From a joint to those that receive from it."""
    inputs = {"x": torch.randn(1, 1, 3, 2), "neighbours": torch.tensor([[1], [2], [-1]], dtype=torch.int32)}
    inputs["x"][0, 0, 1, 0] = torch.nan
    out = target.run(skeleton_graph_conv, **inputs, weights=torch.ones(3, 1), relu=True).cpu()
    assert out.isnan().nonzero().tolist() == [[0, 0, 0, 0]]


def test_a_joint_that_is_none(target):
    """Calls with values check them at once, traced calls when they run."""
    op = (torch.ops.lifter if target.backend == "cpu" else torch.ops.lifter_triton).skeleton_graph_conv
    x, neighbours = torch.ones(1, 1, 2, 3, device=target.device), torch.tensor([[0, 2], [1, 9]], dtype=torch.int32)
    call = lambda: op(x, neighbours.to(x.device), torch.ones(2, 2, device=x.device), None, None, None, None, False)
    if target.backend == "triton":
        assert torch.equal(call(), x)
    else:
        with pytest.raises(RuntimeError, match="neighbours names joint 2, expected less than 2"):
            call()


# ---- autograd, compilers, counters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
def test_gradcheck_of_the_reference(relu):
    inputs = make_inputs(T=2, J=3, C=2, D=2, dtype=torch.float64)
    wanted = [name for name in inputs if name not in ("neighbours", "weights")]
    call = lambda *args: skeleton_graph_conv(**inputs | dict(zip(wanted, args, strict=True)), relu=relu)
    assert torch.autograd.gradcheck(call, tuple(inputs[name].requires_grad_() for name in wanted))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("tail", [TAIL, ("root", "residual"), ("scale", "shift")], ids=str)
def test_every_gradient_alone(target, tail, relu):
    inputs = make_inputs(1, 2, 3, 5, tail=tail)
    run = lambda wanted: output_and_gradients(
        lambda **inputs: target.run(skeleton_graph_conv, **inputs, relu=relu), inputs, device=target.device, wanted=wanted
    )
    together = run(DIFFERENTIABLE)
    for name in ("x", *tail):
        assert torch.equal(run((name,))[f"d{name}"], together[f"d{name}"]), name


@pytest.mark.parametrize("tail", [TAIL, ("root", "residual")], ids=str)
def test_one_tensor_as_all(target, tail):
    """Its gradient is the sum of three, of which two may be the same."""
    inputs = make_inputs(1, 2, 3, 5, tail=tail)
    expected = output_and_gradients(skeleton_graph_conv_ref, inputs | {"root": inputs["x"], "residual": inputs["x"]})
    x = inputs["x"].to(target.device).requires_grad_()
    out = target.run(skeleton_graph_conv, **inputs | {"x": x, "root": x, "residual": x})
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(99)).to(target.device)
    (ours,) = torch.autograd.grad(out, x, dout)
    torch.testing.assert_close(ours.cpu(), expected["dx"] + expected["droot"] + expected["dresidual"])


@pytest.mark.parametrize("relu", [False, True])
def test_what_is_kept_for_the_backward(target, relu):
    """The output for its sign, and only for the gradient of the scale what was summed."""
    inputs = {name: y.to(target.device) for name, y in make_inputs().items()}
    for name in ("x", "root", "residual", "scale"):
        inputs[name].requires_grad_()
        with target.forced():
            out = skeleton_graph_conv(**inputs, relu=relu)
        kept = {y.data_ptr() for y in out.grad_fn.saved_tensors if y is not None}
        maps = {key: y.data_ptr() for key, y in (inputs | {"out": out}).items()}
        wanted = ({"out"} if relu else set()) | ({"x", "root"} if name == "scale" else set())
        assert {key for key in ("x", "root", "residual", "out") if maps[key] in kept} == wanted


@pytest.mark.parametrize("wanted, products", [((), 1), (("x",), 2), (("x", "scale"), 3)])
def test_flops_are_a_product_per_neighbour(wanted, products):
    inputs = {name: y.to("meta").requires_grad_(name in wanted) for name, y in make_inputs().items()}
    with FlopCounterMode(display=False) as flops:
        out = skeleton_graph_conv(**inputs)
        if wanted:
            out.sum().backward()
    assert flops.get_total_flops() == products * 2 * 2 * 3 * 5 * 4 * 3 and out.shape == (2, 3, 5, 4)


def test_half_precision_and_float32_on_meta_keep_their_dtype():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out = skeleton_graph_conv(**{name: y.to("meta") for name, y in make_inputs(dtype=dtype).items()})
        assert (out.dtype, out.device.type) == (dtype, "meta")


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=[0.0]), TypeError, "x is list, expected a tensor"),
        (dict(x=torch.zeros(5, 4)), ValueError, r"x has shape \(5, 4\), expected \(B, T, J, C\)"),
        (dict(x=torch.zeros(2, 0, 5, 4)), ValueError, r"x has shape \(2, 0, 5, 4\), expected no empty dimension after"),
        (dict(neighbours=torch.zeros(5, 3)), TypeError, "neighbours has dtype torch.float32, expected torch.int32"),
        (dict(neighbours=[0]), TypeError, "neighbours has dtype list, expected torch.int32"),
        (dict(neighbours=torch.zeros(4, 3).int()), ValueError, r"neighbours has shape \(4, 3\), expected \(5, D\)"),
        (dict(neighbours=torch.full((5, 3), 5).int()), ValueError, "neighbours names joint 5, expected less than 5"),
        (dict(weights=torch.zeros(5, 2)), ValueError, r"weights has shape \(5, 2\), expected \(5, 3\)"),
        (dict(weights=torch.zeros(5, 3).requires_grad_()), ValueError, "weights requires a gradient, which it does not have"),
        (dict(root=torch.zeros(2, 3, 5, 3)), ValueError, r"root has shape \(2, 3, 5, 3\), expected \(2, 3, 5, 4\)"),
        (dict(root=torch.zeros(2, 3, 5, 4).half()), TypeError, "root has dtype torch.float16, expected x's, torch.float32"),
        (dict(residual=torch.zeros(1)), ValueError, r"residual has shape \(1,\), expected \(2, 3, 5, 4\)"),
        (dict(scale=torch.zeros(4)), ValueError, r"scale has shape \(4,\), expected \(5,\)"),
        (dict(shift=torch.zeros(5, device="meta")), ValueError, "shift is on meta, expected x's device, cpu"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"skeleton_graph_conv: {message}"):
        skeleton_graph_conv(**make_inputs() | change)


def test_the_reference_takes_gradients_of_forward_mode():
    inputs = make_inputs(tail=())
    with backend("reference"):
        _, tangent = torch.func.jvp(lambda x: skeleton_graph_conv(**inputs | {"x": x}), (inputs["x"],), (inputs["x"],))
    torch.testing.assert_close(tangent, skeleton_graph_conv_ref(**inputs))


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(tail, B=2, T=5):
    inputs = make_inputs(B, T, 3, 2, 2, tail) | {"relu": bool(tail)}
    return Sample(skeleton_graph_conv, inputs, ("x", *tail), maps=("x", "root", "residual"))


SAMPLES = {"skeleton_graph_conv": partial(sample, TAIL), "skeleton_graph_conv sum": partial(sample, ())}
