import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lifter.kernels import backend, pack_mask, topk_temporal_mask, topk_temporal_mask_ref, unpack_mask
from tests.conftest import Target
from tests.kernels.samples import Sample


def make_x(B=2, T=27, J=3, C=16, seed=0, dtype=torch.float32):
    """Small integers: their products are exact, in any order, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (B, T, J, C), generator=generator).to(dtype)


def make_normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(target, x, k):
    """Bit for bit what the reference gives."""
    B, T, J, _ = x.shape
    mask = target.run(topk_temporal_mask, x, k).cpu()
    assert (mask.shape, mask.dtype) == ((B, J, T, -(-T // 32)), torch.int32)
    assert torch.equal(mask, topk_temporal_mask_ref(x, k))


def check_up_to_rounding(target, x, k):
    """A bit may differ where a similarity is as close to the k-th or the next as rounding, and only there."""
    B, T, J, C = x.shape
    ours = unpack_mask(target.run(topk_temporal_mask, x, k).cpu(), T)
    frames = x.double().transpose(1, 2)
    itself = torch.eye(T, dtype=torch.bool)
    similarity = (frames @ frames.mT).masked_fill(itself, -torch.inf)
    size = frames.norm(dim=-1, keepdim=True)
    slack = torch.finfo(torch.float32).eps * C**0.5 * size * size.mT
    low, high = similarity - slack, similarity + slack
    must, may = low > high.topk(k + 1)[0][..., k:], high >= low.topk(k)[0][..., k - 1 :]
    must, may = must | must.mT | itself, may | may.mT | itself
    assert (must == may).double().mean() > 0.99
    assert (must <= ours).all() and (ours <= may).all() and torch.equal(ours, ours.mT)


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 9, 25, 26, 100])
def test_reference_is_the_selection_written_out(k):
    x = make_x().double()
    mask = unpack_mask(topk_temporal_mask(x, k), 27)
    for b in range(2):
        for j in range(3):
            similarity = (x[b, :, j] @ x[b, :, j].T).tolist()
            expected = torch.eye(27, dtype=torch.bool)
            for t, row in enumerate(similarity):
                others = sorted((s for s in range(27) if s != t), key=lambda s: (-row[s], s))
                expected[t, others[:k]] = expected[others[:k], t] = True
            assert torch.equal(mask[b, j], expected)


@pytest.mark.parametrize("frames", [1, 31, 32, 33, 64, 243])
def test_bits_of_a_word(frames):
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (2, 3, frames), generator=generator, dtype=torch.bool)
    packed = pack_mask(mask)
    assert packed.shape == (2, 3, -(-frames // 32)) and packed.dtype == torch.int32
    assert torch.equal(unpack_mask(packed, frames), mask)
    words = [sum(1 << s % 32 for s in range(frames) if s // 32 == w and mask[1, 2, s]) for w in range(packed.shape[-1])]
    assert [word % 2**32 for word in packed[1, 2].tolist()] == words


# ---- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 15, 16, 17, 27, 31, 32, 33, 64, 65, 81, 129, 243])
def test_lengths(target, frames):
    B, J = (1, 1) if target.slow else (2, 3)
    check(target, make_x(B, frames, J), max(1, 2 * frames // 3))


@pytest.mark.parametrize("name, frames", [("cpu", 700), ("cpu", 4131), ("triton", 300)])
def test_long_clips(name, frames):
    """On the GPU a program has the fewer frames the more there are."""
    check(Target(name, "cpu"), make_x(1, frames, 1), 2 * frames // 3)


@pytest.mark.parametrize("frames", [27, 243])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pose_clip(frames, dtype):
    """More joints than are worked on at a time."""
    check_up_to_rounding(Target("cpu", "cpu"), make_normal(2, frames, 17, 512).to(dtype), 2 * frames // 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 15, 33, 129, 300])
def test_channels(target, channels):
    check(target, make_x(1, 20, 1 if target.slow else 3, channels), 7)


def test_every_number_of_selected_frames(target):
    x = make_x(1 if target.slow else 2, 9, 1, 5)
    for k in range(1, 12):
        check(target, x, k)
    everything = unpack_mask(target.run(topk_temporal_mask, x, 8).cpu(), 9)
    assert everything.all() and not target.run(topk_temporal_mask, x, 8).cpu().bitwise_right_shift(9).any()


SIMILARITIES = {
    "of either sign": lambda x: x,
    "alike": lambda x: x * 0.3 + 1,
    "along a path": lambda x: x.cumsum(1),
    "of any size": lambda x: x * (3 * x[..., :1]).exp(),
    "tiny": lambda x: x * 1e-18,
    "huge": lambda x: x * 1e17,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SIMILARITIES)
def test_similarities(target, kind, dtype):
    x = make_normal(1, 27 if target.slow else 81, 1, 33)
    for k in (1, 18):
        check_up_to_rounding(target, SIMILARITIES[kind](x).to(dtype), k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equally_similar_frames_the_first_are_selected(target, dtype):
    same = torch.full((1, 40, 2, 7), 0.3).to(dtype)
    for k in (1, 5, 33, 38):
        mask = unpack_mask(target.run(topk_temporal_mask, same, k).cpu(), 40)[0, 1]
        expected = torch.eye(40, dtype=torch.bool)
        expected[:, :k] = expected[:k, :] = True
        expected[:k, k] = expected[k, :k] = True  # the first k do not select themselves
        assert torch.equal(mask, expected)


def test_equal_frames_are_equally_similar(target):
    """Frames are equal, as in padding with the last one: the reference does not choose among them by rounding either."""
    x = make_normal(1, 90, 1, 67)
    x[:, 20:70] = x[:, 19:20] * torch.tensor([1.0, -1]).repeat(25)[None, :, None, None]
    x[:, 80:] = x[:, 79:80]
    for k in (5, 40):
        mask = topk_temporal_mask_ref(x, k)
        assert torch.equal(mask, topk_temporal_mask_ref(x.double(), k))
        assert torch.equal(mask, target.run(topk_temporal_mask, x, k).cpu())


def test_zeros_of_either_sign_are_equal(target):
    x = torch.tensor([-1.0, 1, -1, 1, 1, -1, 0, -0.0])[None, :, None, None] * 1e-30
    for k in range(1, 7):
        check(target, x, k)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    B=st.integers(0, 3),
    T=st.integers(1, 100),
    J=st.integers(1, 4),
    C=st.integers(1, 150),
    k=st.integers(1, 100),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 99),
)
def test_any_shape(target, B, T, J, C, k, dtype, seed):
    if target.slow:
        B, T, J, C = min(B, 1), 1 + T // 2, 1, 1 + C // 4
    check(target, make_x(B, T, J, C, seed, dtype), k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(instruction_set, dtype):
    cpu = Target("cpu", "cpu")
    for frames in (5, 67):
        check(cpu, make_x(2, frames, 3, 37, dtype=dtype), 2 * frames // 3)
        check_up_to_rounding(cpu, make_normal(1, frames, 2, 130).to(dtype), frames // 3)
    test_of_equally_similar_frames_the_first_are_selected(cpu, dtype)
    test_zeros_of_either_sign_are_equal(cpu)


LAYOUTS = {
    "sliced": lambda x: F.pad(x, (3, 2, 1, 0, 1, 1, 1, 0))[1:, 1:-1, 1:, 3:-2],
    "joints outside": lambda x: x.movedim(2, 0).contiguous().movedim(0, 2),
    "frames inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels outside": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "channels apart": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(target, layout):
    x = make_x(2, 9, 2, 5)
    view = LAYOUTS[layout](x)
    assert torch.equal(view, x) and not view.is_contiguous()
    check(target, view, 4)


def test_one_clip_for_all(target):
    x = make_x(1, 9, 2, 5)
    ours = target.run(topk_temporal_mask, x.expand(2, -1, -1, -1), 4)
    assert torch.equal(ours, target.run(topk_temporal_mask, x, 4).expand_as(ours))


def test_repeats_with_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        for x in (make_normal(1, 243, 1, 100), make_normal(2, 81, 5, 600), make_normal(3, 40, 17, 8).bfloat16()):
            masks = []
            for threads in (1, 2, 3, 3):
                torch.set_num_threads(threads)
                with backend("cpu"):
                    masks.append(topk_temporal_mask(x, 30))
            assert all(torch.equal(mask, masks[0]) for mask in masks)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("everywhere", [False, True])
def test_input_that_is_not_finite_gives_some_bits(target, value, everywhere):
    x = make_normal(1, 40, 2, 5)
    x[:, 3, 1] = value
    if everywhere:
        x[:, :, 1] *= value
    mask = target.run(topk_temporal_mask, x, 20).cpu()
    assert (mask[..., -1] & ~0xFF == 0).all()  # 40 frames: 8 bits of the second word
    bits = unpack_mask(mask, 40)
    assert bits.diagonal(dim1=-2, dim2=-1).all()
    assert torch.equal(mask[:, :1], topk_temporal_mask_ref(x[:, :, :1], 20))  # the other joint knows nothing of it


# ---- autograd, compilers, counters -----------------------------------------------------------------------------------


def test_there_is_no_gradient(target):
    x = make_x(1, 9, 2, 5).requires_grad_()
    assert not target.run(topk_temporal_mask, x, 4).requires_grad
    with backend("reference"):
        assert not topk_temporal_mask(x, 4).requires_grad


def test_autocast_rounds_the_tokens(target):
    x = 1 + torch.arange(20.0)[None, :, None, None].to(target.device) / 1000
    with target.forced():
        expected = topk_temporal_mask(x.bfloat16(), 7)
        assert not torch.equal(topk_temporal_mask(x, 7), expected)
        with torch.autocast(target.device, torch.bfloat16):
            assert torch.equal(topk_temporal_mask(x, 7), expected)
            with backend("reference"):
                assert torch.equal(topk_temporal_mask(x, 7), topk_temporal_mask_ref(x.bfloat16(), 7))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_the_products(device):
    with FlopCounterMode(display=False) as flops:
        mask = topk_temporal_mask(make_x(2, 40, 3, 5).to(device), 4)
    assert flops.get_total_flops() == 2 * 2 * 3 * 40 * 40 * 5
    assert (mask.shape, mask.dtype) == ((2, 3, 40, 2), torch.int32)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(x=[0.0]), TypeError, "x is list, expected a tensor"),
        (dict(x=torch.zeros(1, 5, 2, 4).int()), TypeError, "x has dtype torch.int32, expected a real floating-point dtype"),
        (dict(x=torch.zeros(5, 2, 4)), ValueError, r"x has shape \(5, 2, 4\), expected \(B, T, J, C\)"),
        (dict(x=torch.zeros(1, 0, 2, 4)), ValueError, r"x has shape \(1, 0, 2, 4\), expected no empty dimension after"),
        (dict(x=torch.zeros(1, 5, 0, 4)), ValueError, r"x has shape \(1, 5, 0, 4\), expected no empty dimension after"),
        (dict(x=torch.zeros(1, 5, 2, 0)), ValueError, r"x has shape \(1, 5, 2, 0\), expected no empty dimension after"),
        (dict(k=0), ValueError, "k is 0, expected an integer of at least 1"),
        (dict(k=2.0), ValueError, "k is 2.0, expected an integer of at least 1"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=f"topk_temporal_mask: {message}"):
        topk_temporal_mask(**{"x": torch.zeros(1, 5, 2, 4), "k": 2, **change})


@pytest.mark.parametrize("wrong", [[1.0], "x", 3.0, None])
def test_no_mask(wrong):
    for call in (pack_mask, lambda mask: unpack_mask(mask, 4)):
        with pytest.raises(TypeError, match=rf"pack_mask: mask has dtype {type(wrong).__name__}, expected"):
            call(wrong)


def test_masks_of_other_lengths():
    with pytest.raises(ValueError, match=r"unpack_mask: mask has shape \(1, 3, 4, 1\), expected \(1, 3, 4, 2\)"):
        unpack_mask(torch.ones(1, 3, 4, 1, dtype=torch.int32), 33)


# ---- what every op promises: test_conformance.py ---------------------------------------------------------------------


def sample(B=2, T=5):
    return Sample(topk_temporal_mask, {"x": make_x(B, T, 2, 3), "k": 2}, maps=("x",), selects=("x",))


SAMPLES = {"topk_temporal_mask": sample}
