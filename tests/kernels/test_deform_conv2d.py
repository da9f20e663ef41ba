"""deform_conv2d on every backend, against equation 3 of the deformable convolution paper and float64 autograd."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels.deform_conv2d import _out_size, deform_conv2d, deform_conv2d_ref
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

NAMES = ("input", "offset", "weight", "bias", "mask")


def case(size, channels, kernel, out=None, groups=None, batch=2, stride=1, padding=1, dilation=1, offset_groups=1,
         mask=False, bias=True):  # fmt: skip
    """Depthwise unless `out` and `groups` are given."""
    return dict(
        size=size, channels=channels, kernel=kernel, out=out or channels, groups=groups or channels, batch=batch,
        geometry=(stride, padding, dilation), offset_groups=offset_groups, mask=mask, bias=bias,
    )  # fmt: skip


CASES = {
    "clip": case((9, 17), 16, (3, 3)),
    "7x7": case((5, 6), 6, (7, 7), padding=3, batch=1, bias=False),
    "odd": case((5, 4), 18, (2, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2), offset_groups=2, mask=True),
    "partial": case((4, 3), 69, (3, 2), offset_groups=3, batch=1),
    "one": case((1, 1), 1, (1, 1), padding=0, mask=True),
    "wide": case((3, 35), 70, (1, 3), padding=(0, 1), batch=1),
    "dense": case((5, 6), 8, (3, 3), out=5, groups=1),
    "grouped": case((5, 4), 12, (3, 2), out=9, groups=3, stride=2, padding=2, offset_groups=2, mask=True, bias=False),
    "multiplier": case((4, 4), 5, (3, 3), out=10, groups=5, dilation=2, padding=2, mask=True),
}
SMALL = ("odd", "grouped")


def draw(case, dtype=torch.float64, seed=0, spread=2.0):
    """Arguments of deform_conv2d, channels-last. Places are inside, outside, on pixels and on the border."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    stride, padding, dilation = ((v, v) if isinstance(v, int) else v for v in case["geometry"])
    batch, channels = case["batch"], case["channels"]
    taps = case["offset_groups"] * case["kernel"][0] * case["kernel"][1]
    size = _out_size(case["size"], case["kernel"], stride, padding, dilation)
    offset = spread * normal(batch, 2 * taps, *size)
    on_pixels = torch.rand(offset.shape, generator=g) < 0.2
    arguments = dict(
        input=normal(batch, *case["size"], channels).permute(0, 3, 1, 2),
        offset=torch.where(on_pixels, offset.round(), offset),
        weight=normal(case["out"], channels // case["groups"], *case["kernel"]),
        bias=normal(case["out"]) if case["bias"] else None,
        mask=torch.rand(batch, taps, *size, generator=g, dtype=torch.float64) if case["mask"] else None,
    )
    arguments = {name: None if x is None else x.to(dtype) for name, x in arguments.items()}
    return dict(arguments, stride=stride, padding=padding, dilation=dilation)


def oracle(input, offset, weight, bias, stride, padding, dilation, mask):
    """The paper's equation 3: what a place reads is the sum over all pixels times max(0, 1 - |distance|) per axis."""
    x, offset, weight = input.double().numpy(), offset.double().numpy(), weight.double().numpy()
    (batch, channels, height, width), (out_channels, group_channels, kh, kw) = x.shape, weight.shape
    per_offset = channels // (offset.shape[1] // (2 * kh * kw))
    out = np.zeros((batch, out_channels, *offset.shape[2:]))
    for b, i, j in np.ndindex(batch, *offset.shape[2:]):
        for c, u, v in np.ndindex(channels, kh, kw):
            tap = c // per_offset * kh * kw + u * kw + v
            y = i * stride[0] - padding[0] + u * dilation[0] + offset[b, 2 * tap, i, j]
            z = j * stride[1] - padding[1] + v * dilation[1] + offset[b, 2 * tap + 1, i, j]
            rows = np.maximum(0, 1 - np.abs(y - np.arange(height)))
            columns = np.maximum(0, 1 - np.abs(z - np.arange(width)))
            read = rows @ x[b, c] @ columns * (1 if mask is None else mask[b, tap, i, j].item())
            group = c // group_channels
            share = out_channels // (channels // group_channels)
            for o in range(group * share, (group + 1) * share):
                out[b, o, i, j] += weight[o, c % group_channels, u, v] * read
    return torch.from_numpy(out) + (0 if bias is None else bias.double()[:, None, None])


def gradients(function, arguments, dtype=None):
    """[out, gradient of every tensor] of a fixed random combination of the outputs."""
    leaves = {n: x.to(dtype).detach().requires_grad_() for n, x in arguments.items() if isinstance(x, torch.Tensor)}
    out = function(**{**arguments, **leaves})
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    out.backward(dout.to(out))
    return {"out": out.detach(), **{n: x.grad for n, x in leaves.items()}}


def check_gradients(target, arguments):
    """On values that `dtype` holds exactly, so that all three computations start from the same."""
    dtype = arguments["input"].dtype
    ours = gradients(lambda **a: target.run(deform_conv2d, **a), arguments, dtype)
    torchs = gradients(deform_conv2d_ref, arguments, dtype)
    exact = gradients(deform_conv2d_ref, arguments, torch.float64)
    # The interpreter cuts off where hardware rounds, and sampled columns are rounded before they are multiplied.
    factor = 3 if dtype == torch.float32 else 4
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], factor=factor)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_reference_is_the_definition(name):
    arguments = draw(CASES[name])
    torch.testing.assert_close(deform_conv2d_ref(**arguments), oracle(**arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["odd", "grouped", "one"])
def test_gradcheck_of_the_reference(name):
    arguments = draw(CASES[name])
    # Away from whole numbers, where the derivative jumps.
    arguments["offset"] = (
        arguments["offset"].floor()
        + 0.2
        + 0.6 * torch.rand(arguments["offset"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    tensors = {n: x.requires_grad_() for n, x in arguments.items() if isinstance(x, torch.Tensor)}
    assert torch.autograd.gradcheck(
        lambda *xs: deform_conv2d(**{**arguments, **dict(zip(tensors, xs))}), tuple(tensors.values()), fast_mode=True
    )


@pytest.mark.parametrize("file", ["dcn3", "dcn7"])
def test_golden(backend, shared, file):
    with np.load(shared / "golden" / "sasmamba_units.npz") as golden:
        x, offset, weight, bias, expected = (
            torch.from_numpy(golden[f"{file}/{key}"]) for key in ("input", "offset", "weight", "bias", "output")
        )
    out = deform_conv2d(x, offset, weight, bias, padding=weight.shape[2] // 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_derivative_at_whole_places(backend):
    """torchvision's choice where it jumps: that of the right; at -1 therefore the first pixel, at H nothing."""
    x = torch.tensor([2.0, 3.0, 7.0]).view(1, 1, 3, 1)
    for place, slope in ((-2.0, 0), (-1.0, 2), (0.0, 1), (1.0, 4), (2.0, -7), (3.0, 0)):
        offset = torch.tensor([place, 0.0]).view(1, 2, 1, 1).requires_grad_()
        deform_conv2d(x, offset, torch.ones(1, 1, 1, 1), stride=3).sum().backward()
        assert offset.grad[0, 0].item() == slope, place


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels(target, name, dtype):
    if target.slow and dtype != torch.float32 and name not in SMALL:
        pytest.skip("not in Triton's interpreter, which is slow: the small cases run in every dtype")
    check_gradients(target, draw(CASES[name], dtype))


@pytest.mark.parametrize("name", SMALL)
def test_places_in_float32(target, name):
    """A bfloat16 input keeps float32 offsets and mask, and their gradients are float32."""
    arguments = draw(CASES[name], torch.bfloat16)
    sharp = {n: x.float() + 1e-3 * torch.rand(x.shape) for n, x in arguments.items() if n in ("offset", "mask")}
    leaves = {n: x.clone().requires_grad_() for n, x in sharp.items()}
    out = target.run(deform_conv2d, **{**arguments, **leaves})
    exact = gradients(deform_conv2d_ref, {**arguments, **sharp}, torch.float64)
    rounded = deform_conv2d_ref(**{**arguments, **sharp})
    assert_as_good("out", out.detach(), rounded, exact["out"], factor=4)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    out.backward(dout.to(out))
    assert all(x.grad.dtype == torch.float32 for x in leaves.values())


@st.composite
def cases(draw):
    number = lambda low, high: draw(st.integers(low, high))
    pair = lambda low, high: (number(low, high), number(low, high))
    kernel, dilation, padding, stride = pair(1, 3), pair(1, 2), pair(0, 2), pair(1, 3)
    size = tuple(max(1, d * (k - 1) + 1 - 2 * p) + number(0, 4) for k, d, p in zip(kernel, dilation, padding))
    offset_groups, weight_groups = number(1, 2), number(1, 2)
    channels = offset_groups * weight_groups * number(1, 10)
    groups, out = draw(st.sampled_from([(channels, channels), (weight_groups, weight_groups * number(1, 3))]))
    return case(
        size, channels, kernel, out=out, groups=groups, batch=number(0, 2), stride=stride, padding=padding,
        dilation=dilation, offset_groups=offset_groups, mask=draw(st.booleans()), bias=draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), seed=st.integers(0, 2**16))
def test_any_shape(target, case, seed):
    arguments = draw(case, torch.float32, seed)
    if case["batch"]:
        check_gradients(target, arguments)
    else:
        ours = gradients(lambda **a: target.run(deform_conv2d, **a), arguments, torch.float32)
        assert ours["out"].shape == (0, case["out"], *arguments["offset"].shape[2:])
        assert all(not ours[n].any() for n in ours)


@pytest.mark.parametrize("name", ["clip", "odd", "wide", "grouped"])
def test_every_instruction_set(instruction_set, name):
    check_gradients(Target("cpu", "cpu"), draw(CASES[name], torch.float32))


@pytest.mark.parametrize("name", SMALL)
def test_places_far_away(target, name):
    """Nothing outside is read, whatever the offset: not even pixels that are NaN, on the way to an integer or after."""
    arguments = draw(CASES[name], torch.float32)
    arguments["input"] = torch.full_like(arguments["input"], torch.nan)
    arguments["bias"] = torch.arange(float(arguments["weight"].shape[0]))
    far = (1e4, 2.0**31, -(2.0**31), 2.0**63, 1e30, -1e30, torch.inf, -torch.inf, torch.nan)
    offset = torch.tensor(far).repeat(arguments["offset"].numel() // len(far) + 1)[: arguments["offset"].numel()]
    offset = offset.view_as(arguments["offset"]).requires_grad_()
    out = target.run(deform_conv2d, **{**arguments, "offset": offset})
    assert torch.equal(out, arguments["bias"].to(out).view(-1, 1, 1).expand_as(out))
    out.sum().backward()
    assert not offset.grad.any()
    # One mad offset among good ones is a sample of zero, no more.
    arguments = draw(CASES[name], torch.float32)
    mad, away = arguments["offset"].clone(), arguments["offset"].clone()
    mad[:, 1], away[:, 1] = torch.nan, 100.0
    ours, zero = (target.run(deform_conv2d, **{**arguments, "offset": offset}) for offset in (mad, away))
    assert torch.equal(ours, zero) and torch.isfinite(ours).all()


@pytest.mark.parametrize("name", SMALL)
def test_strides(target, name):
    """Sliced, transposed and expanded arguments are what their copies are."""
    arguments = draw(CASES[name], torch.float32)
    x, offset, mask = arguments["input"], arguments["offset"], arguments["mask"]
    batch, channels, height, width = x.shape
    roomy = torch.full((batch, height + 3, 2 * width, channels + 5), torch.nan)
    roomy[:, 2:-1, ::2, 3:-2] = x.permute(0, 2, 3, 1)
    flat = torch.full((batch, channels, height, 2 * width), torch.nan)
    flat[..., ::2] = x
    expanded = mask[:1, :, :1].expand_as(mask)
    copies = dict(arguments, mask=expanded.contiguous())
    expected = gradients(lambda **a: target.run(deform_conv2d, **a), copies, torch.float32)
    offset_last = offset.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    views = ((roomy[:, 2:-1, ::2, 3:-2].permute(0, 3, 1, 2), offset_last), (flat[..., ::2], offset))
    for view, chosen in views:
        strided = dict(arguments, input=view, offset=chosen, mask=expanded)
        ours = gradients(lambda **a: target.run(deform_conv2d, **a), strided, torch.float32)
        assert all(torch.equal(ours[n], expected[n]) for n in expected)


def test_memory_format(backend):
    for name in ("clip", "dense"):
        arguments = draw(CASES[name], torch.float32)
        last = deform_conv2d(**arguments)
        first = deform_conv2d(**{**arguments, "input": arguments["input"].contiguous()})
        assert last.is_contiguous(memory_format=torch.channels_last) and first.is_contiguous()
        assert torch.equal(last, first)


class Recorded(TorchDispatchMode):
    def __enter__(self):
        self.ops = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.ops.append(function)
        return function(*args, **(kwargs or {}))


def test_a_clip_is_not_copied(target):
    arguments = draw(CASES["clip"], torch.float32)
    with Recorded() as recorded:
        target.run(deform_conv2d, **arguments)
    real = [op.name() for op in recorded.ops if not op.is_view and not op.name().startswith("aten::_to_copy")]
    assert real == [f"lifter{'_triton' if target.backend == 'triton' else ''}::deform_conv2d"]


@pytest.mark.parametrize("name", ["clip", "odd", "dense"])
def test_repeats(target, name):
    if target.slow and name != "odd":
        pytest.skip("not in Triton's interpreter, which is slow: the odd case stands for the others")
    arguments = draw(CASES[name], torch.float32)
    if name == "dense":  # its products are torch's own, which may sum them in any order: of quarters they are exact
        arguments |= {n: (4 * x).round() / 4 for n, x in arguments.items() if isinstance(x, torch.Tensor)}
    run = lambda: gradients(lambda **a: target.run(deform_conv2d, **a), arguments, torch.float32)
    first, threads = run(), torch.get_num_threads()
    try:
        for count in (1,) if target.slow else (1, 2, 3):
            torch.set_num_threads(count)
            again = run()
            same = NAMES if name != "dense" else ("out",)
            assert all(torch.equal(first[n], again[n]) for n in same if n in first)
    finally:
        torch.set_num_threads(threads)


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


def test_compile_with_inductor():
    arguments = draw(CASES["clip"], torch.float32)
    x = arguments["input"].permute(0, 2, 3, 1)

    def block(clip):
        return deform_conv2d(**{**arguments, "input": clip.permute(0, 3, 1, 2)}).permute(0, 2, 3, 1) + clip

    torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), block(x))


def test_float64_runs_on_the_reference():
    arguments = draw(CASES["odd"])
    assert torch.equal(deform_conv2d(**arguments), deform_conv2d_ref(**arguments))


def test_flops(target):
    for name in SMALL:
        arguments = draw(CASES[name], torch.float32)
        batch, channels = arguments["input"].shape[:2]
        out_channels, group_channels, kh, kw = arguments["weight"].shape
        samples = batch * arguments["offset"][0, 0].numel() * kh * kw * channels
        product = 2 * samples * out_channels // (channels // group_channels)
        leaves = {n: x.clone().requires_grad_() for n, x in arguments.items() if isinstance(x, torch.Tensor)}
        with FlopCounterMode(display=False) as counter:
            out = target.run(deform_conv2d, **{**arguments, **leaves})
        product = product if name == "grouped" else 2 * samples
        assert counter.get_total_flops() == 8 * samples + product
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 2 * (8 * samples + product)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(input=torch.zeros(6, 5, 4)), ValueError, r"input has shape \(6, 5, 4\), expected \(B, Cin, H, W\)"),
        (dict(input=torch.zeros(2, 6, 6, 5, dtype=torch.int32)), TypeError, "input has dtype torch.int32"),
        (dict(input=torch.zeros(2, 6, 2, 1)), ValueError, r"input has shape .* output would be \(0, -1\)"),
        (dict(input=torch.zeros(2, 6, 6, 5, dtype=torch.bfloat16)), TypeError, "weight has dtype torch.float32"),
        (dict(input="clip"), TypeError, "input is str"),
        (dict(offset=torch.zeros(2, 18, 5, 4)), ValueError, r"offset has shape \(2, 18, 5, 4\), expected .*, 4, 3\)"),
        (dict(offset=torch.zeros(1, 18, 4, 3)), ValueError, r"offset has shape \(1, 18, 4, 3\), expected \(2, "),
        (dict(offset=torch.zeros(2, 17, 4, 3)), ValueError, "offset has 17 channels"),
        (dict(offset=torch.zeros(2, 9, 4, 3)), ValueError, "offset has 9 channels"),
        (dict(offset=torch.zeros(2, 72, 4, 3)), ValueError, "offset has 72 channels"),
        (dict(offset=torch.zeros(2, 0, 4, 3)), ValueError, "offset has 0 channels"),
        (dict(offset=torch.zeros(2, 18, 4, 3, device="meta")), ValueError, "offset is on meta"),
        (dict(mask=torch.zeros(2, 18, 4, 3)), ValueError, r"mask has shape \(2, 18, 4, 3\), expected \(2, 9, 4, 3\)"),
        (dict(weight=torch.zeros(6, 6, 3)), ValueError, "weight has shape"),
        (dict(weight=torch.zeros(6, 4, 3, 3)), ValueError, "weight has shape .* no groups of the 6 channels"),
        (dict(weight=torch.zeros(5, 2, 3, 3)), ValueError, "weight has shape .* no groups of the 6 channels"),
        (dict(weight=torch.zeros(6, 0, 3, 3)), ValueError, "weight has shape"),
        (dict(bias=torch.zeros(5)), ValueError, r"bias has shape \(5,\), expected \(6,?\)"),
        (dict(stride=0), ValueError, "stride is 0"),
        (dict(padding=(1, -1)), ValueError, r"padding is \(1, -1\)"),
        (dict(dilation=(1, 1, 1)), ValueError, r"dilation is \(1, 1, 1\)"),
        (dict(stride=1.5), ValueError, "stride is 1.5"),
    ],
)
def test_bad_input(change, error, message):
    good = dict(
        input=torch.zeros(2, 6, 6, 5), offset=torch.zeros(2, 18, 4, 3), weight=torch.zeros(6, 1, 3, 3),
        bias=torch.zeros(6), mask=torch.zeros(2, 9, 4, 3),
    )  # fmt: skip
    deform_conv2d(**good)
    with pytest.raises(error, match=f"deform_conv2d: {message}"):
        deform_conv2d(**{**good, **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(groups, B=2, T=5):
    """`groups`: of the weight; four make a depthwise convolution."""
    inputs = draw(case((T, 3), 4, (3, 2), groups=groups, batch=B, offset_groups=2, mask=True), torch.float32)
    return Sample(deform_conv2d, inputs, gradients=NAMES, maps=("input", "weight", "bias"), selects=("offset",), exact=False)


SAMPLES = {"deform_conv2d depthwise": partial(sample, 4), "deform_conv2d grouped": partial(sample, 2)}
