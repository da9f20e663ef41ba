"""`alternating_transformer` against its reference in float64, and that against the layers of the models."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import alternating_transformer, alternating_transformer_ref, backend, pack_mask
from lifter.kernels._panels import pack_panels, panels_size, unpack_panels
from lifter.kernels.alternating_transformer import linears_and_vectors
from lifter.models import MixSTE, PoseRetNet
from lifter.rewrite.rules.trunks import pack_trunk
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

CPU = Target("cpu", "cpu")
TINY = {"dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 1.3, "drop_path": 0.0}  # 6 channels of a head, 31 hidden ones


def build(retains, seed=0, num_frames=9, **kwargs):
    """A model with drawn parameters, in float64."""
    torch.manual_seed(seed)
    if retains:
        model = PoseRetNet(num_frames, **TINY | kwargs)
    else:
        model = MixSTE(num_frames, **TINY | kwargs)
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.dim() > 1 else 0.2)
            p.data += "norm" in name and p.dim() == 1 and "weight" in name
    return model.double().eval().requires_grad_(False)


def packed(model, dtype=torch.float64):
    return pack_trunk(copy.deepcopy(model).to(dtype))


def make_x(model, B=2, T=5, dtype=torch.float64, seed=1):
    shape = B, T, model.num_joints, *model.Spatial_norm.normalized_shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def check(model, x, **kwargs):
    """Against the same parameters in float64, relative to what PyTorch's layers in this dtype are off by."""
    weights = packed(model, x.dtype)
    exact = weights._replace(weights=weights.weights.double(), vectors=weights.vectors.double())
    exact = exact._replace(weights=_repacked(weights, exact))
    ours = CPU.run(alternating_transformer, x, weights, **kwargs)
    with backend("reference"):
        stateless = {"state": None, "return_state": False} if isinstance(model, PoseRetNet) else {}
        torchs = copy.deepcopy(model).to(x.dtype)._lift(x, **stateless | kwargs)
        wide = {name: [s.double() for s in value] if name == "state" else value for name, value in kwargs.items()}
        exact = alternating_transformer(x.double(), exact, **wide)
    if not kwargs.get("return_state"):
        ours, torchs, exact = ((y, []) for y in (ours, torchs, exact))
    assert len(ours[1]) == len(exact[1])
    assert_as_good("poses", ours[0], torchs[0], exact[0], rounding=64)
    for after in zip(ours[1], torchs[1], exact[1], strict=True):
        assert_as_good("state", *after, rounding=64, dtype=x.dtype, groups=[1, 2])


def _repacked(weights, exact):
    """The packed weights in float64, which has no pairs."""
    pieces, rest = [], weights.weights
    for _, *shape, has_bias in linears_and_vectors(weights):
        if has_bias is not None:
            size = panels_size(*shape, weights.weights.dtype)
            pieces.append(pack_panels(unpack_panels(rest[:size], *shape).double()))
            rest = rest[size:]
    return torch.cat(pieces)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_reference_is_mixste(qkv_bias):
    model = build(False, qkv_bias=qkv_bias)
    x = make_x(model)
    torch.testing.assert_close(alternating_transformer(x, packed(model)), model._lift(x))
    mask = torch.rand(2, 17, 5, 5) < 0.5
    torch.testing.assert_close(alternating_transformer(x, packed(model), mask), model._lift(x, mask=mask))


@pytest.mark.parametrize("kwargs", [{}, {"causal": True}, {"joint_decay": False}, {"chunk_size": 2}])
def test_reference_is_poseretnet(kwargs):
    model = build(True, **kwargs)
    x, weights = make_x(model), packed(model)
    torch.testing.assert_close(alternating_transformer(x, weights), model._lift(x, None, False))
    poses, state = alternating_transformer(x, weights, return_state=True)
    expected, before = model._lift(x, None, True)
    for ours, theirs in zip(state, before, strict=True):
        torch.testing.assert_close(ours, theirs)
    more, _ = alternating_transformer(x, weights, state=state, return_state=True)
    torch.testing.assert_close(more, model._lift(x, before, True)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 7), (65, 16), (130, 33)])
def test_panels(shape, dtype):
    weight = torch.randn(shape).to(dtype)
    packed = pack_panels(weight)
    assert packed.shape == (panels_size(*shape, dtype),) and packed.dtype == dtype
    assert torch.equal(unpack_panels(packed, *shape), weight)


# ---- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frames", [1, 2, 3, 17, 27, 81])
def test_attention(frames, dtype):
    model = build(False, num_frames=frames + 1)
    check(model, make_x(model, T=frames, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frames", [1, 2, 3, 17, 27, 81])
def test_retention(frames, dtype):
    model = build(True, chunk_size=9)
    g = torch.Generator().manual_seed(2)
    state = [torch.randn(2, 17, 4, 6, 6, generator=g) for _ in range(2)]
    if frames > 1 or dtype == torch.float32:  # of one frame without a past the norm leaves but the sign of q k
        check(model, make_x(model, T=frames, dtype=dtype))
    check(model, make_x(model, T=frames, dtype=dtype), state=state, return_state=True)


@pytest.mark.parametrize("retains", [False, True])
def test_official_width(retains):
    """Several groups of rows meet a panel."""
    model = build(retains, num_frames=17, dim=512, num_heads=8, depth=1, mlp_ratio=2.0)
    check(model, make_x(model, B=2, T=17, dtype=torch.float32))
    check(model, make_x(model, B=2, T=17, dtype=torch.bfloat16))


@pytest.mark.parametrize("retains", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instruction_sets(instruction_set, dtype, retains):
    model = build(retains, dim=40)
    check(model, make_x(model, T=9, dtype=dtype))


@given(
    data=st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 3), st.integers(1, 9), st.integers(1, 60)),
    retains=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sizes(data, retains, dtype):
    B, T, num_heads, half, hidden = data
    dim = 2 * half * num_heads
    model = build(retains, num_frames=11, dim=dim, num_heads=num_heads, depth=1, mlp_ratio=(hidden + 0.5) / dim)
    check(model, make_x(model, B, T, dtype))


@pytest.mark.parametrize("kind", ["bool", "additive", "packed"])
def test_masks(kind):
    model = build(False, num_frames=40)
    x = make_x(model, B=60, T=40, dtype=torch.float32)[:, :, :2]  # more clips than go through at once
    model.num_joints = 2
    for shape in ((60, 2, 40, 40), (1, 2, 40, 40), (60, 1, 40, 40)):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
        mask[..., 0] = True
        if kind == "additive":
            mask = torch.zeros(shape).masked_fill(~mask, -torch.inf)
        check(model, x, mask=pack_mask(mask) if kind == "packed" else mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_widths_and_dtypes_without_a_kernel(dtype):
    """16 bits of 15 channels are no whole pairs."""
    model = build(False, dim=15, num_heads=3)
    x, weights = make_x(model, dtype=dtype), packed(model, dtype)
    torch.testing.assert_close(alternating_transformer(x, weights), alternating_transformer_ref(x, weights)[0])


def test_strided_and_empty():
    model = build(True)
    weights, x = packed(model, torch.float32), make_x(model, T=6, dtype=torch.float32)
    expected = alternating_transformer(x, weights)
    wide = torch.stack([x, x], -1)[..., 0]
    assert not wide.is_contiguous() and torch.equal(alternating_transformer(wide, weights), expected)
    state = alternating_transformer(x, weights, return_state=True)[1]
    strided = [s.mT.contiguous().mT for s in state]
    assert torch.equal(alternating_transformer(x, weights, state=strided), alternating_transformer(x, weights, state=state))
    poses, state = alternating_transformer(x[:0], weights, return_state=True)
    assert poses.shape == (0, 6, 17, 3) and [s.shape for s in state] == [(0, 17, 4, 6, 6)] * 2


def test_clips_do_not_depend_on_their_neighbours():
    """300 clips go through in several parts, with their states."""
    model = build(True, chunk_size=2)
    weights, x = packed(model, torch.float32), make_x(model, B=300, T=3, dtype=torch.float32)
    _, state = alternating_transformer(x, weights, return_state=True)
    poses, after = alternating_transformer(x, weights, state=state, return_state=True)
    one, last = alternating_transformer(x[211:212], weights, state=[s[211:212] for s in state], return_state=True)
    torch.testing.assert_close(poses[211:212], one, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[1][211:212], last[1], atol=1e-5, rtol=1e-5)


def test_repeats_bit_for_bit():
    model = build(False)
    weights, x = packed(model, torch.bfloat16), make_x(model, dtype=torch.bfloat16)
    assert torch.equal(alternating_transformer(x, weights), alternating_transformer(x, weights))


# ---- around it -------------------------------------------------------------------------------------------------------


def test_derivatives_are_the_references():
    model = build(True)
    weights, x = packed(model, torch.float32), make_x(model, T=3, dtype=torch.float32).requires_grad_()
    alternating_transformer(x, weights).square().sum().backward()
    assert x.grad.abs().sum() > 0
    sum_of = lambda x: alternating_transformer(x, weights).sum()
    torch.testing.assert_close(torch.func.grad(sum_of)(x.detach()), torch.autograd.grad(sum_of(x), x)[0])


def test_gradcheck_of_the_reference():
    model = build(False, dim=8, num_heads=2, depth=1, num_frames=3)
    x, weights = make_x(model, B=1, T=2)[..., :2, :].contiguous().requires_grad_(), packed(model)._replace(num_joints=2)
    assert torch.autograd.gradcheck(lambda x: alternating_transformer_ref(x, weights)[0], x)


@pytest.mark.parametrize("retains", [False, True])
def test_opcheck_and_compile(retains):
    model = build(retains)
    weights, x = packed(model, torch.float32), make_x(model, T=3, dtype=torch.float32)
    p = weights
    rest = p.positions, p.hidden, p.num_heads, p.depth, p.scale, p.chunk_size, p.causal, retains
    state = alternating_transformer(x, p, return_state=True)[1] if retains else []
    mask = None if retains else torch.ones(2, 17, 3, 3, dtype=torch.bool)
    args = x, p.weights, p.vectors, mask, p.xpos_scale, state, *rest
    torch.library.opcheck(torch.ops.lifter.alternating_transformer.default, args)
    call = partial(alternating_transformer, x, p, mask, state or None, retains)
    ours, expected = torch.compile(call, fullgraph=True, backend="aot_eager")(), call()
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("retains, streams", [(False, False), (True, False), (True, True)])
def test_flops_are_those_of_the_layers(retains, streams):
    model = build(retains, **{"chunk_size": 2} if retains else {}).float()
    weights, x = packed(model, torch.float32), make_x(model, T=5, dtype=torch.float32)
    state = alternating_transformer(x, weights, return_state=True)[1] if streams else None
    with FlopCounterMode(display=False) as ours:
        alternating_transformer(x, weights, state=state, return_state=streams)
    with FlopCounterMode(display=False) as theirs:
        model._lift(x, state, streams) if retains else model._lift(x)
    assert ours.get_total_flops() == theirs.get_total_flops()


def test_bad_input():
    model = build(True)
    weights, x = packed(model, torch.float32), make_x(model, dtype=torch.float32)
    state = alternating_transformer(x, weights, return_state=True)[1]
    still, clip = packed(build(False), torch.float32), x
    cases = [
        (dict(x=x[..., :23]), ValueError, r"x has shape \(2, 5, 17, 23\), expected \(B, T, 17, 24\)"),
        (dict(x=x[:, :0]), ValueError, "x has 0 frames, expected at least 1"),
        (dict(x=x.bfloat16()), TypeError, "weights has dtype torch.float32, expected x's, torch.bfloat16"),
        (dict(x=x.int()), TypeError, "x has dtype torch.int32"),
        (dict(packed=weights._replace(depth=3)), ValueError, "weights has shape"),
        (dict(packed=weights._replace(weights=weights.weights[1:])), ValueError, "weights has shape"),
        (dict(packed=weights._replace(vectors=weights.vectors[1:])), ValueError, "vectors has shape"),
        (dict(packed=weights._replace(vectors=weights.vectors.double())), TypeError, "vectors has dtype torch.float64"),
        (dict(packed=weights._replace(num_heads=5)), ValueError, "num_heads is 5, expected a divisor of dim, 24"),
        (dict(packed=weights._replace(hidden=0)), ValueError, "hidden is 0, expected at least 1"),
        (dict(packed=weights._replace(chunk_size=0)), ValueError, "chunk_size is 0, expected 1 to 32768"),
        (dict(packed=weights._replace(xpos_scale=torch.ones(4))), ValueError, r"xpos_scale has shape \(4,\), expected \(3,\)"),
        (dict(state=state[:1]), ValueError, "state has 1 tensors, expected one per temporal block, 2"),
        (dict(state=[s[:1] for s in state]), ValueError, r"state\[0\] has shape \(1, 17, 4, 6, 6\), expected \(2, 17"),
        (dict(mask=torch.ones(2, 17, 5, 5, dtype=torch.bool)), ValueError, "mask is given, expected none with retention"),
        (dict(packed=still, state=state), ValueError, "a state is given or asked for, expected none with attention"),
        (dict(packed=still, return_state=True), ValueError, "a state is given or asked for, expected none with attention"),
        (dict(packed=still, x=torch.cat([x, x], 1)), ValueError, "x has 10 frames, expected 1 to 9"),
        (dict(packed=still, mask=torch.ones(2, 17, 5, 4)), ValueError, "mask has shape"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=f"alternating_transformer: {message}"):
            alternating_transformer(**{"x": clip, "packed": weights, **change})


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    model = build(False, num_frames=T)
    inputs = {"x": make_x(model, B, T, torch.float32), "packed": packed(model, torch.float32)}
    return Sample(alternating_transformer, inputs)


SAMPLES = {"alternating_transformer": sample}
