from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import axial_attention, axial_attention_ref, pack_mask, unpack_mask
from lifter.kernels.axial_attention import kept
from tests.conftest import Target, assert_as_good
from tests.kernels.samples import Sample

AXES = ("joint", "frame")
MASKS = ("visible", "added", "nothing", "packed", "few")
SEED = 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_qkv(B=1, T=5, J=4, H=2, D=8, dtype=torch.float32, seed=0):
    return torch.randn(B, T, J, 3, H, D, generator=generator(seed)).to(dtype)


def make_mask(kind, B, T, J):
    """"visible" is bool, "added" is added; with "nothing" every third query may look at nothing.

    "packed" is that in words, and so is "few", by which a query looks at one key in ten.
    """
    if kind is None:
        return None
    mask = torch.randn(B, J, T, T, generator=generator(1))
    if kind == "added":
        return torch.where(mask > 1, -torch.inf, mask)
    mask = mask > (1.3 if kind == "few" else -0.5)
    mask[:, :, ::3] &= kind == "visible"
    return pack_mask(mask) if kind in ("packed", "few") else mask


def output_and_gradients(function, qkv, dtype=None, device="cpu", dout=None):
    """The output and its gradient, of a fixed random combination.

    That of queries, keys and values in one: alone, the first two may be nothing but what rounding leaves of zero.
    """
    leaf = qkv.detach().to(device, dtype).requires_grad_()
    out = function(leaf)
    dout = torch.randn(out.shape, generator=generator(99)).to(device, out.dtype) if dout is None else dout
    (dqkv,) = torch.autograd.grad(out, leaf, dout)
    return {"out": out.detach(), "dqkv": dqkv}


def check(target, qkv, axis, mask=None, scale=None, dropout_p=0.0, **bounds):
    """Against float64 with the same weights dropped, relative to PyTorch's own error."""
    torch.manual_seed(SEED)
    seed = torch.randint(2**31, (1,), device=target.device).cpu()
    torch.manual_seed(SEED)
    ours = output_and_gradients(
        lambda qkv: target.run(axial_attention, qkv, axis, mask, scale, dropout_p), qkv, device=target.device
    )
    reference = lambda qkv: axial_attention_ref(qkv, axis, mask, scale, dropout_p, seed)
    torchs, exact = (output_and_gradients(reference, qkv, dtype) for dtype in (None, torch.float64))
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name], **bounds)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", [None, *MASKS])
def test_reference_is_attention_written_out(axis, kind):
    """Against loops over queries and keys that share nothing with the reference but the formula."""
    B, T, J, H, D = 2, 4, 3, 2, 3
    qkv, scale = make_qkv(B, T, J, H, D, torch.float64), 0.7
    mask = make_mask(kind, B, T, J) if axis == "frame" else None
    visible = unpack_mask(mask, T) if kind in ("packed", "few") and axis == "frame" else mask
    out = torch.zeros(B, T, J, H, D, dtype=torch.float64)
    for b, t, j, h in torch.cartesian_prod(*map(torch.arange, (B, T, J, H))):
        keys = [(t, s) for s in range(J)] if axis == "joint" else [(s, j) for s in range(T)]
        weights = []
        for t_key, j_key in keys:
            score = scale * (qkv[b, t, j, 0, h] @ qkv[b, t_key, j_key, 1, h])
            if mask is not None and kind == "added":
                score = score + mask[b, j, t, t_key]
            hidden = mask is not None and kind != "added" and not visible[b, j, t, t_key]
            weights.append(torch.zeros(()) if hidden else torch.exp(score))
        total = sum(weights)
        for weight, (t_key, j_key) in zip(weights, keys):
            out[b, t, j, h] += (weight / total if total > 0 else 0) * qkv[b, t_key, j_key, 2, h]
    torch.testing.assert_close(axial_attention(qkv, axis, mask, scale), out.flatten(3))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", [None, "visible", "added"])
def test_reference_is_torchs_attention(axis, kind):
    qkv = make_qkv(2, 6, 5, dtype=torch.float64)
    mask = make_mask(kind, 2, 6, 5) if axis == "frame" else None
    order = (3, 0, 1, 4, 2, 5) if axis == "joint" else (3, 0, 2, 4, 1, 5)
    out = F.scaled_dot_product_attention(*qkv.permute(order), attn_mask=None if mask is None else mask[:, :, None])
    out = out.permute((0, 1, 3, 2, 4) if axis == "joint" else (0, 3, 1, 2, 4)).flatten(3)
    torch.testing.assert_close(axial_attention(qkv, axis, mask), out)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", [None, "added", "packed"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_gradcheck_of_the_reference(axis, kind, dropout_p):
    mask = make_mask(kind, 1, 4, 3) if axis == "frame" else None

    def function(qkv):
        torch.manual_seed(SEED)
        return axial_attention(qkv, axis, mask, dropout_p=dropout_p)

    assert torch.autograd.gradcheck(function, make_qkv(1, 4, 3, 1, 2, torch.float64).requires_grad_())


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 27, 32, 33, 64, 65, 81, 129, 243])
def test_lengths(target, axis, length):
    rows, H = (1, 1) if target.slow else (3, 2)
    T, J = (rows, length) if axis == "joint" else (length, rows)
    check(target, make_qkv(1, T, J, H, 5), axis)


@pytest.mark.parametrize("axis", AXES)
def test_a_long_clip(axis):
    T, J = (1, 4131) if axis == "joint" else (4131, 1)
    check(Target("cpu", "cpu"), make_qkv(1, T, J, 1, 2), axis)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 64, 128, 256])
def test_head_dimensions(target, axis, channels):
    T, J = (2, 17) if axis == "joint" else (17, 2)
    check(target, make_qkv(1, T, J, 1, channels), axis)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length, channels", [(17, 64), (40, 12)])
def test_reduced_precision(target, axis, dtype, length, channels):
    T, J = (2, length) if axis == "joint" else (length, 2)
    check(target, make_qkv(1, T, J, 1 if target.slow else 3, channels, dtype), axis)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 40),
    J=st.integers(1, 20),
    H=st.integers(1, 4),
    D=st.integers(1, 70),
    axis=st.sampled_from(AXES),
    kind=st.sampled_from([None, *MASKS]),
    scale=st.sampled_from([None, 0.0, -1.3]),
    dropout_p=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, H, D, axis, kind, scale, dropout_p, dtype, seed):
    if target.slow:
        B, H = 1 + B % 2, 1 + H % 2
        T, J = (1 + T % 3, J) if axis == "joint" else (T, 1 + J % 3)
    mask = make_mask(kind, B, T, J) if axis == "frame" else None
    # Among many draws some sums cancel.
    check(target, make_qkv(B, T, J, H, D, dtype, seed), axis, mask, scale, dropout_p, factor=4, rounding=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    check(Target("cpu", "cpu"), make_qkv(2, 29, 17, 2, 20, dtype), "joint", dropout_p=0.2)
    check(Target("cpu", "cpu"), make_qkv(2, 29, 3, 2, 20, dtype), "frame", make_mask("nothing", 2, 29, 3))


LAYOUTS = {
    "sliced": lambda x: F.pad(x, (3, 2, 1, 0, 0, 0, 1, 1))[:, :, 1:-1, :, 1:, 3:-2],
    "every second": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "parts last": lambda x: x.movedim(3, 0).contiguous().movedim(0, 3),
    "frames inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "heads outside": lambda x: x.movedim(4, 0).contiguous().movedim(0, 4),
    "channels outside": lambda x: x.movedim(5, 0).contiguous().movedim(0, 5),
    "channels apart": lambda x: x.repeat_interleave(2, 5)[..., ::2],
}


@pytest.mark.parametrize("axis", AXES)
def test_strides(target, axis):
    """Views give what their copies give, bit for bit."""
    qkv = make_qkv(2, 2, 3, 2, 5)
    run = lambda qkv, dout: output_and_gradients(
        lambda qkv: target.run(axial_attention, qkv, axis), qkv, device=target.device, dout=dout.to(target.device)
    )
    dout = torch.randn(2, 2, 3, 10, generator=generator(9))
    expected = run(qkv, dout)
    for name, layout in LAYOUTS.items():
        view = layout(qkv)
        assert not view.is_contiguous() and torch.equal(view, qkv)
        dview = layout(dout.unflatten(3, (1, 2, 5)))[:, :, :, 0].flatten(3)
        ours = run(view, dview)
        assert all(torch.equal(ours[key], expected[key]) for key in expected), name
    expanded = make_qkv(1, 1, 3, 1, 5).expand(2, 2, -1, -1, 2, -1)
    ours, expected = run(expanded, dout[:, :1].expand_as(dout)), run(expanded.clone(), dout[:, :1].expand_as(dout).clone())
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    with target.forced():
        ours, expected = (
            torch.autograd.grad(axial_attention(x, axis).sum(), x)[0]  # a gradient of which every stride is 0
            for x in (qkv.clone().to(target.device).requires_grad_(), qkv.to(target.device).requires_grad_())
        )
    assert torch.equal(ours, expected) and ours.any()


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores(target, axis, sign):
    """Scores of 10^4 and more, all positive or all negative: exp of them alone is infinite, or zero."""
    qkv = make_qkv(1, 9, 9, 1)
    qkv[:, :, :, :2] = 75 * qkv[:, :, :, :2].abs()
    # A score is rounded by 2^-11, and with it the weight that the backward computes from lse.
    check(target, qkv, axis, scale=sign * 8**-0.5, rounding=2**14)


# ---- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout_p", [1e-3, 0.1, 0.5, 0.9])
def test_dropout(target, axis, dtype, dropout_p):
    T, J = (2, 17) if axis == "joint" else (40, 2)
    check(target, make_qkv(2, T, J, 1 if target.slow else 2, 8, dtype), axis, dropout_p=dropout_p, factor=4)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dropout_p", [0.2, 0.75])
def test_dropped_weights_are_those_of_the_hash(target, axis, dropout_p):
    """Equal keys and the unit vectors as values show the weights themselves."""
    B, rows, H, N = 2, 3, 2, 40
    eye = torch.eye(N)[None, :, None] if axis == "frame" else torch.eye(N)[None, None]
    qkv = torch.zeros(B, *((N, rows) if axis == "frame" else (rows, N)), 3, H, N)
    qkv[:, :, :, 2] = eye[..., None, :]
    torch.manual_seed(SEED)
    seed = torch.randint(2**31, (1,), device=target.device).cpu()
    torch.manual_seed(SEED)
    weights = target.run(axial_attention, qkv, axis, dropout_p=dropout_p).cpu().unflatten(3, (H, N))
    weights = weights.permute((0, 2, 3, 1, 4) if axis == "frame" else (0, 1, 3, 2, 4))
    expected = kept(weights.shape, dropout_p, seed)
    assert torch.equal(weights > 0, expected)
    torch.testing.assert_close(weights[expected], torch.full_like(weights[expected], 1 / (N * (1 - dropout_p))))
    deviation = (dropout_p * (1 - dropout_p) / expected.numel()) ** 0.5
    assert abs(expected.float().mean() - (1 - dropout_p)) < 4 * deviation
    # Neither heads nor queries nor keys share what they drop.
    flat = expected.flatten(0, 2).float() - (1 - dropout_p)
    for dim in range(3):
        correlation = (flat * flat.roll(1, dim)).mean() / (dropout_p * (1 - dropout_p))
        assert abs(correlation) < 4 / flat.numel() ** 0.5


def test_dropout_draws_one_number(target):
    qkv = make_qkv(1, 9, 2).to(target.device)
    with target.forced():
        torch.manual_seed(SEED)
        first, second = (axial_attention(qkv, "frame", dropout_p=0.5) for _ in range(2))
        torch.manual_seed(SEED)
        torch.randint(2**31, (1,), device=target.device)
        axial_attention(qkv, "frame")
        again = axial_attention(qkv, "frame", dropout_p=0.5)
    assert torch.equal(again, second) and not torch.equal(first, second)


# ---- PyTorch's machinery ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
def test_repeats_bit_for_bit_on_any_number_of_threads(target, axis):
    T, J = (2, 17) if axis == "joint" else (70, 1 if target.slow else 5)
    mask = make_mask("visible", 1, T, J) if axis == "frame" else None
    qkv = make_qkv(1, T, J, 1 if target.slow else 4, 8)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(SEED)
            results.append(
                output_and_gradients(
                    lambda x: target.run(axial_attention, x, axis, mask, dropout_p=0.1), qkv, device=target.device
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("axis, kind, dropout_p", [(1, "visible", 0.2), (1, "added", 0.0)])
def test_opcheck_of_dropout_and_of_other_masks(target, axis, kind, dropout_p):
    ops = torch.ops.lifter_triton if target.backend == "triton" else torch.ops.lifter
    mask = make_mask(kind, 1, 3, 4)
    mask = None if mask is None else mask.to(target.device)
    seed = torch.tensor([7], device=target.device) if dropout_p else None
    qkv = make_qkv(T=3, D=3).to(target.device)
    rest = (mask, axis, 0.5, dropout_p, seed)
    torch.library.opcheck(ops.axial_attention.default, (qkv.clone().requires_grad_(), *rest))
    out, lse = ops.axial_attention(qkv, *rest)
    torch.library.opcheck(ops.axial_attention_bwd.default, (torch.ones_like(out), qkv, out, lse, *rest))


@pytest.mark.parametrize("axis", AXES)
def test_lse(target, axis):
    """All backends give the same: that of the scaled and masked scores, before dropout."""
    ops = torch.ops.lifter_triton if target.backend == "triton" else torch.ops.lifter
    qkv, mask = make_qkv(2, 9, 3), make_mask("nothing", 2, 9, 3) if axis == "frame" else None
    tensors = [None if x is None else x.to(target.device) for x in (qkv, mask, torch.tensor([3]))]
    _, lse = ops.axial_attention(*tensors[:2], AXES.index(axis), 0.7, 0.4, tensors[2])
    q, k, _ = qkv.permute((3, 0, 1, 4, 2, 5) if axis == "joint" else (3, 0, 2, 4, 1, 5))
    scores = 0.7 * q @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
    expected = scores.logsumexp(-1).permute((0, 1, 3, 2) if axis == "joint" else (0, 3, 1, 2))  # (B, T, J, H)
    torch.testing.assert_close(lse.cpu(), expected)


@pytest.mark.parametrize("axis", AXES)
def test_dropout_compiles_whole(target, axis):
    qkv = make_qkv().to(target.device).requires_grad_()
    mask = make_mask("visible", 1, 5, 4).to(target.device) if axis == "frame" else None
    loss = lambda qkv: axial_attention(qkv, axis, mask, dropout_p=0.3).square().mean()
    gradients = []
    with target.forced():
        for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
            torch.manual_seed(SEED)
            gradients.append(torch.autograd.grad(function(qkv), qkv)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_torchs_attention(axis, device):
    qkv = make_qkv(2, 6, 5).to(device).requires_grad_()
    with FlopCounterMode(display=False) as ours:
        axial_attention(qkv, axis).sum().backward()
    products = 2 * 6 * 5 * (5 if axis == "joint" else 6) * 2 * 8
    assert ours.get_total_flops() == (2 + 5) * 2 * products  # two products forward, five backward
    order = (3, 0, 1, 4, 2, 5) if axis == "joint" else (3, 0, 2, 4, 1, 5)
    with FlopCounterMode(display=False) as torchs:
        F.scaled_dot_product_attention(*make_qkv(2, 6, 5).to("meta").permute(order).flatten(1, 2))
    assert torchs.get_total_flops() == 2 * 2 * products


@pytest.mark.parametrize("axis", AXES)
def test_meta_tensors(axis):
    qkv = torch.empty(2, 5, 4, 3, 2, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    mask = torch.empty(1, 1, 5, 5, device="meta") if axis == "frame" else None
    out = axial_attention(qkv, axis, mask, dropout_p=0.1)
    assert (out.shape, out.dtype, out.device.type) == ((2, 5, 4, 16), torch.bfloat16, "meta")
    assert torch.autograd.grad(out.sum(), qkv)[0].shape == qkv.shape


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(axis="time"), ValueError, "axis is 'time', expected 'joint' or 'frame'"),
        (dict(axis=1), ValueError, "axis is 1, expected 'joint' or 'frame'"),
        (dict(axis=["joint"]), ValueError, r"axis is \['joint'\], expected 'joint' or 'frame'"),
        (dict(qkv=torch.zeros(1, 5, 4, 48)), ValueError,
         r"qkv has shape \(1, 5, 4, 48\), expected \(B, T, J, 3, H, D\)"),
        (dict(qkv=torch.zeros(1, 5, 4, 2, 2, 8)), ValueError, r"qkv has shape \(1, 5, 4, 2, 2, 8\), expected"),
        (dict(qkv=torch.zeros(1, 0, 4, 3, 2, 8)), ValueError, "expected no empty dimension after the first"),
        (dict(qkv=torch.zeros(1, 5, 4, 3, 2, 0)), ValueError, "expected no empty dimension after the first"),
        (dict(qkv=torch.zeros(1, 5, 4, 3, 2, 8, dtype=torch.int32)), TypeError,
         "qkv has dtype torch.int32, expected a real floating-point dtype"),
        (dict(qkv=torch.zeros(1, 5, 4, 3, 2, 8, dtype=torch.complex64)), TypeError, "qkv has dtype torch.complex64"),
        (dict(qkv=[0.0]), TypeError, "qkv is list, expected a tensor"),
        (dict(dropout_p=1.0), ValueError, "dropout_p is 1.0, expected 0 <= dropout_p < 1"),
        (dict(dropout_p=-0.1), ValueError, "dropout_p is -0.1, expected 0 <= dropout_p < 1"),
        (dict(dropout_p=float("nan")), ValueError, "dropout_p is nan, expected 0 <= dropout_p < 1"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"axial_attention: {message}" if not message.startswith("expected") else message):
        axial_attention(**{"qkv": make_qkv(), "axis": "frame", **change})

# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(axis, kind, B=2, T=5):
    inputs = {"qkv": make_qkv(B, T, 2, 2, 4), "axis": axis, "mask": make_mask(kind, B, T, 2)}
    return Sample(axial_attention, inputs, gradients=("qkv",), maps=("qkv",))


SAMPLES = {
    "axial_attention joint": partial(sample, "joint", None),
    "axial_attention frame": partial(sample, "frame", "packed"),
}
