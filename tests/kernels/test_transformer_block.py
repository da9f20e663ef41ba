"""`transformer_block` against its reference in float64, and that against the layers."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import backend, pack_block, pack_mask, transformer_block, transformer_block_ref
from lifter.layers import AxialAttention, Mlp, TransformerBlock
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

CPU = Target("cpu", "cpu")
AXES = ("joint", "frame", None)
DTYPES = (torch.float32, torch.bfloat16)


class Feed(torch.nn.Module):
    """A block without attention."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.norm2, self.mlp = torch.nn.LayerNorm(dim, eps=1e-6), Mlp(dim, hidden)

    def forward(self, x):
        return x + self.mlp(self.norm2(x))


def build(axis, dim=24, hidden=31, num_heads=4, seed=0, **attention):
    """A block with drawn parameters in float64, and its sizes; 6 channels of a head."""
    torch.manual_seed(seed)
    sizes = {"dim": dim, "hidden": hidden}
    if axis is None:
        block = Feed(dim, hidden)
    else:
        block = TransformerBlock(dim, AxialAttention(dim, num_heads, axis, **attention), (hidden + 0.5) / dim)
        scale = attention.get("scale") or (dim / num_heads) ** -0.5
        sizes |= {"num_heads": num_heads, "axis": axis, "scale": scale}
    for name, p in block.named_parameters():
        torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.dim() > 1 else 0.2)
        p.data += "norm" in name and "weight" in name
    return block.double().eval().requires_grad_(False), sizes


def packed(block, sizes, dtype=torch.float64):
    return pack_block(dict(copy.deepcopy(block).to(dtype).named_parameters()), **sizes)


def make_x(B=2, T=5, J=17, dim=24, dtype=torch.float64, seed=1):
    x = torch.randn(B, T, J, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype)


def check(built, x, **kwargs):
    """Against the same parameters in float64, relative to what PyTorch's layers in this dtype are off by."""
    block, sizes = built
    rounded = copy.deepcopy(block).to(x.dtype)
    ours = CPU.run(transformer_block, x, packed(block, sizes, x.dtype), **kwargs)
    with backend("reference"):
        exact = transformer_block(x.double(), packed(copy.deepcopy(rounded).double(), sizes), **kwargs)
        assert_as_good("out", ours, rounded(x, **kwargs), exact, rounding=64)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
def test_reference_is_the_layers(axis):
    block, sizes = build(axis)
    x = make_x()
    torch.testing.assert_close(transformer_block(x, packed(block, sizes)), block(x))


def test_reference_with_mask_scale_and_without_bias():
    block, sizes = build("frame", scale=0.7, qkv_bias=False)
    x, mask = make_x(), torch.rand(2, 17, 5, 5) < 0.5
    torch.testing.assert_close(transformer_block(x, packed(block, sizes), mask), block(x, mask=mask))


# ---- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("frames", [1, 2, 3, 17, 27, 81, 129, 243])
def test_lengths(frames, axis, dtype):
    check(build(axis), make_x(1, frames, dtype=dtype))


@pytest.mark.parametrize("axis", AXES)
def test_4131_frames(axis):
    check(build(axis, dim=8, num_heads=2), make_x(1, 4131, 2, 8, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dim, hidden", [(128, 512), (512, 1024)])
def test_official_widths(dim, hidden, axis, dtype):
    """Several groups of rows meet a panel."""
    check(build(axis, dim, hidden, num_heads=8), make_x(2, 17, dim=dim, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", AXES)
def test_instruction_sets(instruction_set, axis, dtype):
    check(build(axis, dim=40), make_x(T=9, dim=40, dtype=dtype))


@given(
    sizes=st.tuples(st.integers(0, 3), st.integers(1, 11), st.integers(1, 20)),
    width=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 60)),
    axis=st.sampled_from(AXES), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sizes(sizes, width, axis, dtype, seed):
    (B, T, J), (num_heads, half, hidden) = sizes, width
    dim = 2 * half * num_heads
    built, x = build(axis, dim, hidden, num_heads, seed), make_x(max(B, 1), T, J, dim, dtype, seed)
    check(built, x) if B else None
    assert transformer_block(x[:B], packed(*built, dtype)).shape == (B, T, J, dim)


@pytest.mark.parametrize("kind", ["bool", "additive", "packed"])
def test_masks(kind):
    built, x = build("frame"), make_x(60, 40, 2, dtype=torch.float32)  # more clips than go through at once
    for shape in ((60, 2, 40, 40), (1, 2, 40, 40), (60, 1, 40, 40)):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
        mask[..., 0] = True
        if kind == "additive":
            mask = torch.zeros(shape).masked_fill(~mask, -torch.inf)
        check(built, x, mask=pack_mask(mask) if kind == "packed" else mask)


def calls(function):
    """Count the calls of the op, which tells whether there is a kernel."""
    with torch.autograd.profiler.profile() as profile:
        function()
    return sum(event.name == "lifter::transformer_block" for event in profile.function_events)


KERNELS = [(None, 512, 1, 1), ("joint", 512, 2, 1), ("joint", 514, 1, 0), (None, 15, 1, 0)]  # axis, dim, heads, calls


@pytest.mark.parametrize("axis, dim, heads, ran", KERNELS)
def test_what_has_a_kernel(axis, dim, heads, ran):
    """Heads of 256 channels at most, if there are any."""
    weights = packed(*build(axis, dim, num_heads=heads), torch.float32)
    assert calls(lambda: transformer_block(make_x(1, 2, 2, dim, torch.float32), weights)) == ran


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_widths_and_dtypes_without_a_kernel(dtype):
    """16 bits of 15 channels are no whole pairs."""
    built, x = build("joint", dim=15, num_heads=3), make_x(dim=15, dtype=dtype)
    weights = packed(*built, dtype)
    torch.testing.assert_close(transformer_block(x, weights), transformer_block_ref(x, weights))


@pytest.mark.parametrize("axis", AXES)
def test_strided_and_empty(axis):
    weights, x = packed(*build(axis), torch.float32), make_x(T=6, dtype=torch.float32)
    expected = transformer_block(x, weights)
    for strided in (torch.stack([x, x], -1)[..., 0], x.transpose(1, 2).contiguous().transpose(1, 2)):
        assert not strided.is_contiguous() and torch.equal(transformer_block(strided, weights), expected)
    for nothing in (x[:0], x[:, :0], x[:, :, :0]):
        assert transformer_block(nothing, weights).shape == nothing.shape
    assert torch.equal(transformer_block(x, weights), expected)  # again, bit for bit


@pytest.mark.parametrize("axis", AXES)
def test_clips_do_not_depend_on_their_neighbours(axis):
    """300 clips go through in several parts."""
    weights, x = packed(*build(axis), torch.float32), make_x(300, 3, dtype=torch.float32)
    whole, one = transformer_block(x, weights)[211:212], transformer_block(x[211:212], weights)
    torch.testing.assert_close(whole, one, atol=1e-5, rtol=1e-5)


# ---- around it -------------------------------------------------------------------------------------------------------


def test_derivatives_are_the_references():
    weights, x = packed(*build("joint"), torch.float32), make_x(T=3, dtype=torch.float32).requires_grad_()
    transformer_block(x, weights).square().sum().backward()
    assert x.grad.abs().sum() > 0
    sum_of = lambda x: transformer_block(x, weights).square().sum()
    torch.testing.assert_close(torch.func.grad(sum_of)(x.detach()), x.grad)


@pytest.mark.parametrize("axis", AXES)
def test_gradcheck_of_the_reference(axis):
    weights, x = packed(*build(axis, dim=8, num_heads=2)), make_x(1, 2, 2, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transformer_block_ref(x, weights), x)


@pytest.mark.parametrize("axis", AXES)
def test_opcheck_and_compile(axis):
    p, x = packed(*build(axis), torch.float32), make_x(T=3, dtype=torch.float32)
    mask = torch.ones(2, 17, 3, 3, dtype=torch.bool) if axis == "frame" else None
    axes = {"joint": 0, "frame": 1, None: -1}
    args = x, p.weights, p.vectors, mask, axes[axis], p.hidden, p.num_heads, p.scale, p.eps
    torch.library.opcheck(torch.ops.lifter.transformer_block.default, args)
    call = partial(transformer_block, x, p, mask)
    torch.testing.assert_close(torch.compile(call, fullgraph=True, backend="aot_eager")(), call())


@pytest.mark.parametrize("axis", AXES)
def test_flops_are_those_of_the_layers(axis):
    block, sizes = build(axis)
    x, weights = make_x(dtype=torch.float32), packed(block, sizes, torch.float32)
    with FlopCounterMode(display=False) as ours:
        transformer_block(x, weights)
    with FlopCounterMode(display=False) as theirs:
        block.float()(x)
    assert ours.get_total_flops() == theirs.get_total_flops()


def test_bad_input():
    weights, feed = packed(*build("frame"), torch.float32), packed(*build(None), torch.float32)
    x = make_x(dtype=torch.float32)
    cases = [
        (dict(x=x[..., :23]), ValueError, r"x has shape \(2, 5, 17, 23\), expected \(B, T, J, 24\)"),
        (dict(x=x[0]), ValueError, "x has shape"),
        (dict(x=x.bfloat16()), TypeError, "weights has dtype torch.float32, expected x's, torch.bfloat16"),
        (dict(x=x.int()), TypeError, "x has dtype torch.int32"),
        (dict(packed=weights._replace(hidden=30)), ValueError, "weights has shape"),
        (dict(packed=weights._replace(weights=weights.weights[1:])), ValueError, "weights has shape"),
        (dict(packed=weights._replace(vectors=weights.vectors[1:])), ValueError, "vectors has shape"),
        (dict(packed=weights._replace(vectors=weights.vectors.double())), TypeError, "vectors has dtype torch.float64"),
        (dict(packed=weights._replace(num_heads=5)), ValueError, "num_heads is 5, expected a divisor of dim, 24"),
        (dict(packed=weights._replace(hidden=0)), ValueError, "hidden is 0, expected at least 1"),
        (dict(packed=weights._replace(axis="time")), ValueError, "axis is 'time', expected 'joint', 'frame' or None"),
        (dict(packed=feed, mask=torch.ones(2, 17, 5, 5)), ValueError, "mask is given, expected none without attention"),
        (dict(mask=torch.ones(2, 17, 5, 4)), ValueError, "mask has shape"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=f"transformer_block: {message}"):
            transformer_block(**{"x": x, "packed": weights, **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    block = packed(*build("frame", dim=4, hidden=4, num_heads=2), torch.float32)
    mask = torch.ones(B, 3, T, T, dtype=torch.bool).tril()
    return Sample(transformer_block, {"x": make_x(B, T, 3, 4, torch.float32), "packed": block, "mask": mask})


SAMPLES = {"transformer_block": sample}
