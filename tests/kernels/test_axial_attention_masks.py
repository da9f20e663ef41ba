"""Masks of axial_attention: bools, numbers, and the words of topk_temporal_mask."""

import pytest
import torch

from lifter.kernels import axial_attention, axial_attention_ref, backend, pack_mask, topk_temporal_mask_ref
from tests.conftest import Target
from tests.kernels.test_axial_attention import MASKS, SEED, check, generator, make_mask, make_qkv, output_and_gradients


def run(target, qkv, mask, dropout_p=0.0):
    torch.manual_seed(SEED)
    function = lambda qkv: target.run(axial_attention, qkv, "frame", mask, dropout_p=dropout_p)
    return output_and_gradients(function, qkv, device=target.device)


def assert_equal(ours, expected, name=None):
    assert all(torch.equal(ours[key], expected[key]) for key in expected), name


def most_pairs(B, T, J):
    mask = torch.randn(B, J, T, T, generator=generator(3)) > -1.5
    return mask | torch.eye(T, dtype=torch.bool)


def stretches(B, T, J):
    """Most of what is close: whole words that nobody in a stretch of frames sees, but for one frame, the last of a block."""
    stretch = torch.arange(T) // 81
    mask = most_pairs(B, T, J) & (stretch == stretch[:, None])
    mask[:, :, 47:48] = True
    return mask


def few_pairs(B, T, J):
    """Anywhere, and one query in five sees nothing."""
    mask = torch.rand(B, J, T, T, generator=generator(3)) < max(0.1, 1 / T)
    mask[:, :, ::5] = False
    return mask


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_masks(target, kind, shape):
    qkv, mask = make_qkv(2, 9, 3), make_mask(kind, shape[0], 9, shape[1])
    check(target, qkv, "frame", mask)
    transposed = mask.mT.contiguous().mT
    copy = mask.expand(2, 3, -1, -1).contiguous()
    assert torch.equal(target.run(axial_attention, qkv, "frame", transposed), target.run(axial_attention, qkv, "frame", copy))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_masks_of_other_dtypes(target, dtype):
    qkv, mask = make_qkv(1, 9, 2), make_mask("added", 1, 9, 2).to(dtype)
    ours, expected = (target.run(axial_attention, qkv, "frame", mask) for mask in (mask, mask.float()))
    assert torch.equal(ours, expected)


def test_a_query_that_may_look_at_nothing(target):
    """Zeros, and no gradient passes, of whole tiles too."""
    qkv = make_qkv(1, 70, 1, 1, 3)
    run = lambda mask: output_and_gradients(
        lambda qkv: target.run(axial_attention, qkv, "frame", mask), qkv, device=target.device
    )
    nothing = torch.zeros(1, 1, 70, 70, dtype=torch.bool)
    for mask in (nothing, torch.full((1, 1, 70, 70), -torch.inf), pack_mask(nothing)):
        assert not any(x.any() for x in run(mask).values())
    before = torch.ones(70, 70, dtype=torch.bool).tril(-1)[None, None]
    for mask in (before, pack_mask(before)):
        results = run(mask)
        assert not results["out"][:, 0].any() and not results["dqkv"][:, 0, :, 0].any()
        assert not results["dqkv"][:, -1, :, 1:].any()
        check(target, qkv, "frame", mask)


def test_a_mask_of_the_lowest_float(target):
    """A query that sees nothing but such keys sees all alike, as in the reference."""
    qkv = make_qkv(1, 40, 1)
    mask = torch.zeros(1, 1, 40, 40)
    mask[:, :, ::2] = torch.finfo(torch.float32).min
    ours = target.run(axial_attention, qkv, "frame", mask).cpu()
    torch.testing.assert_close(ours, axial_attention_ref(qkv, "frame", mask))
    results = output_and_gradients(lambda x: target.run(axial_attention, x, "frame", mask), qkv, device=target.device)
    assert all(x.isfinite().all() for x in results.values())


@pytest.mark.parametrize("kind", [None, *MASKS])
def test_nan_is_not_hidden(target, kind):
    """A query of it gives nothing else, unless it may look at nothing; no other query meets it."""
    qkv, mask = make_qkv(1, 9, 2), make_mask(kind, 1, 9, 2)
    expected = target.run(axial_attention, qkv, "frame", mask)
    qkv[:, 3:5, :, 0] = torch.nan
    out = target.run(axial_attention, qkv, "frame", mask)
    assert torch.equal(out[:, [0, 1, 2, *range(5, 9)]], expected[:, [0, 1, 2, *range(5, 9)]])
    assert torch.equal(out[:, 3:5].isnan(), expected[:, 3:5] != 0)


# ---- in words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [most_pairs, stretches])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 64, 65, 243])
def test_words_are_bools(target, pairs, dtype, T):
    """Bit for bit: what is skipped would have been zeros. On a GPU bools have another layout, and its order of sums."""
    T, J, H = (min(T, 100), 1, 1) if target.slow else (T, 3, 2)
    qkv, mask = make_qkv(1, T, J, H, 5, dtype), pairs(1, T, J)
    for dropout_p in (0.3,) if target.slow else (0.0, 0.3):
        words, bools = (run(target, qkv, chosen, dropout_p) for chosen in (pack_mask(mask), mask))
        if target.device == "cuda":
            torch.testing.assert_close(words, bools)
        else:
            assert_equal(words, bools)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 65, 129, 243])
def test_few_pairs(target, dtype, T):
    J, H = (1, 1) if target.slow else (3, 2)
    qkv, mask = make_qkv(1, T, J, H, 5, dtype), pack_mask(few_pairs(1, T, J))
    for dropout_p in (0.3,) if target.slow else (0.0, 0.3):
        check(target, qkv, "frame", mask, dropout_p=dropout_p, factor=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("D", [3, 20, 64, 150])
@pytest.mark.parametrize("pairs", [most_pairs, stretches, few_pairs])
def test_words_on_every_instruction_set(instruction_set, dtype, D, pairs):
    target, qkv, mask = Target("cpu", "cpu"), make_qkv(1, 100, 2, 2, D, dtype), pairs(1, 100, 2)
    check(target, qkv, "frame", pack_mask(mask), dropout_p=0.2, factor=4)
    if pairs != few_pairs:
        assert_equal(run(target, qkv, pack_mask(mask)), run(target, qkv, mask))


def test_a_long_clip():
    qkv, mask = make_qkv(1, 1500, 1, 1, 2), stretches(1, 1500, 1)
    check(Target("cpu", "cpu"), qkv, "frame", pack_mask(mask))


@pytest.mark.parametrize("pairs", [most_pairs, few_pairs])
def test_layouts_of_words(target, pairs):
    """Shared by clips and joints, or apart in memory: as their copies, bit for bit."""
    T = 40 if target.slow else 70
    qkv, mask = make_qkv(2, T, 2, 1, 3), pack_mask(pairs(2, T, 2))
    views = {
        "words apart": mask.mT.contiguous().mT,
        "every second": mask[:1].repeat_interleave(2, 3)[..., ::2],
        "queries outside": mask[:, :1].transpose(0, 2).contiguous().transpose(0, 2),
        "all alike": mask[:1, :1, :1].expand(-1, -1, T, -1),
    }
    for name, view in views.items():
        assert_equal(run(target, qkv, view), run(target, qkv, view.expand(2, 2, -1, -1).contiguous()), name)


@pytest.mark.parametrize("pairs", [most_pairs, few_pairs])
@pytest.mark.parametrize("T", [1, 33, 70])
def test_bits_after_the_last_frame_mean_nothing(target, pairs, T):
    qkv, mask = make_qkv(1, T, 1, 1, 3), pairs(1, T, 1)
    padded = torch.nn.functional.pad(mask, (0, -T % 32), value=True)
    assert not torch.equal(pack_mask(padded), pack_mask(mask))
    assert_equal(run(target, qkv, pack_mask(padded)), run(target, qkv, pack_mask(mask)))


@pytest.mark.parametrize("k", [1, 8, 30])
def test_the_most_similar_frames(target, k):
    """HTP's attention: a walk along the frames, each of which sees those like it."""
    steps = torch.randn(1, 70, 2, 4, generator=generator(2))
    mask = topk_temporal_mask_ref(steps.cumsum(1), k)
    check(target, make_qkv(1, 70, 2, 1, 4), "frame", mask)


@pytest.mark.parametrize("kind", ["packed", "few"])
def test_words_compiled_and_exported(target, kind):
    class Attend(torch.nn.Module):
        def forward(self, qkv, mask):
            return axial_attention(qkv, "frame", mask)

    qkv, mask = make_qkv().to(target.device), make_mask(kind, 1, 5, 4).to(target.device)
    with target.forced():
        expected = axial_attention(qkv, "frame", mask)
        compiled = torch.compile(Attend(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(qkv, mask), expected)
        torch.testing.assert_close(torch.export.export(Attend(), (qkv, mask)).module()(qkv, mask), expected)


# ---- what is no mask -------------------------------------------------------------------------------------------------


def test_a_mask_has_no_gradient(target):
    qkv, mask = make_qkv().to(target.device), torch.zeros(1, 1, 5, 5, device=target.device, requires_grad=True)
    with target.forced():
        with pytest.raises(ValueError, match=r"mask requires a gradient, which only backend\('reference'\) has"):
            axial_attention(qkv, "frame", mask)
        with torch.no_grad():
            axial_attention(qkv, "frame", mask)
    with backend("reference"):
        axial_attention(qkv, "frame", mask).square().sum().backward()
    assert mask.grad.any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(axis="joint", mask=torch.ones(1, 1, 5, 5)), ValueError, "mask is given with axis 'joint', expected None"),
        (dict(mask=torch.ones(5, 5)), ValueError, r"mask has shape \(5, 5\), expected \(1, 4, 5, 5\) or \(1, 1, 5, 5\)"),
        (dict(mask=torch.ones(1, 4, 4, 4)), ValueError, r"mask has shape \(1, 4, 4, 4\), expected \(1, 4, 5, 5\) or"),
        (dict(mask=torch.ones(1, 1, 5, 5).int()), ValueError,
         r"mask has shape \(1, 1, 5, 5\), expected \(1, 4, 5, 1\) or \(1, 1, 5, 1\)"),
        (dict(mask=torch.ones(1, 4, 5, 1).long()), TypeError,
         r"mask is torch.int64, expected a tensor of bool, int32 \(packed\) or floating point"),
        (dict(mask=[True]), TypeError, r"mask is list, expected a tensor of bool, int32 \(packed\) or floating point"),
        (dict(mask=torch.ones(1, 1, 5, 5, device="meta")), ValueError, "mask is on meta, expected qkv's device, cpu"),
    ],
)  # fmt: skip
def test_bad_masks(change, error, message):
    with pytest.raises(error, match=f"axial_attention: {message}"):
        axial_attention(**{"qkv": make_qkv(), "axis": "frame", **change})
