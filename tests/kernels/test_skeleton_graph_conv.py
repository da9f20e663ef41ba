"""skeleton_graph_conv against its meaning, written out joint by joint."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import backend, skeleton_graph_conv, skeleton_graph_conv_ref
from lifter.kernels._op import registry

TAIL = ("root", "scale", "shift", "residual")


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


def test_strides_and_an_empty_batch():
    inputs = make_inputs()
    views = inputs | {
        "x": F.pad(inputs["x"], (3, 2, 1, 0, 1, 1))[:, 1:-1, 1:, 3:-2],
        "root": inputs["root"].transpose(1, 2).contiguous().transpose(1, 2),
        "residual": inputs["residual"].repeat_interleave(2, -1)[..., ::2],
    }
    assert torch.equal(skeleton_graph_conv(**views), skeleton_graph_conv(**inputs))
    assert skeleton_graph_conv(**make_inputs(B=0)).shape == (0, 3, 5, 4)


# ---- autograd, compilers, counters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
def test_gradients(relu):
    inputs = make_inputs(T=2, J=3, C=2, D=2, dtype=torch.float64)
    wanted = [name for name in inputs if name not in ("neighbours", "weights")]
    call = lambda *args: skeleton_graph_conv(**inputs | dict(zip(wanted, args, strict=True)), relu=relu)
    assert torch.autograd.gradcheck(call, tuple(inputs[name].requires_grad_() for name in wanted))


def test_compile():
    function = torch.compile(skeleton_graph_conv, fullgraph=True, backend="aot_eager")
    for T in (2, 9):
        with backend("reference"):
            ours = function(**make_inputs(T=T), relu=True)
        torch.testing.assert_close(ours, skeleton_graph_conv(**make_inputs(T=T), relu=True))


def test_export():
    class Layer(torch.nn.Module):
        def forward(self, x, neighbours, weights, root):
            return skeleton_graph_conv(x, neighbours, weights, root)

    inputs = tuple(make_inputs(tail=("root",)).values())
    torch.testing.assert_close(torch.export.export(Layer(), inputs).module()(*inputs), skeleton_graph_conv(*inputs))


def test_autocast():
    inputs = make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours = skeleton_graph_conv(**inputs)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), skeleton_graph_conv(**inputs), rtol=0.02, atol=0.02)


def test_flops_are_a_product_per_neighbour():
    with FlopCounterMode(display=False) as flops:
        out = skeleton_graph_conv(**{name: y.to("meta") for name, y in make_inputs().items()})
    assert flops.get_total_flops() == 2 * 2 * 3 * 5 * 4 * 3 and out.shape == (2, 3, 5, 4)


def test_half_precision_and_float32_on_meta_keep_their_dtype():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out = skeleton_graph_conv(**{name: y.to("meta") for name, y in make_inputs(dtype=dtype).items()})
        assert (out.dtype, out.device.type) == (dtype, "meta")


def test_opcheck():
    op = torch.ops.lifter.skeleton_graph_conv
    inputs = {name: y.to("meta") for name, y in make_inputs().items()}
    torch.library.opcheck(op, (*inputs.values(), True), test_utils=("test_schema", "test_faketensor"))
    assert "skeleton_graph_conv" in registry()


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
