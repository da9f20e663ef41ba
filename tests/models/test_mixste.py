"""MixSTE against the official code's numbers, and as a host of other temporal mixers."""

from functools import partial

import pytest
import torch
from torch import nn

import lifter
from lifter import kernels
from lifter.layers import AxialAttention, Retention, SkeletonMixer, shared_decays
from lifter.models import MixSTE, PoseRetNet
from lifter.verify import verify
from tests.models.eager import assert_as_good_as_eager, assert_compiles, assert_exports, eager_mixers

TINY = {"num_frames": 7, "dim": 16, "depth": 2, "num_heads": 2, "drop_path": 0.0}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = MixSTE(**TINY | kwargs).eval()
    for position in (model.Spatial_pos_embed, model.Temporal_pos_embed):
        nn.init.normal_(position, std=0.2)
    return model


def keypoints(batch=2, frames=7, joints=17, channels=2):
    torch.manual_seed(1)
    return torch.randn(batch, frames, joints, channels)


def test_golden(golden, backend):
    (result,) = verify(golden("mixste"), backend)
    assert result.passed, result


def test_golden_in_float64(shared):
    (result,) = verify(shared / "golden" / "mixste.npz", "reference", "float64")
    assert result.absolute < 1e-6, result  # the official code's own float32 rounding


def test_parameter_count():
    assert sum(p.numel() for p in lifter.create_model("mixste").parameters()) == 33_783_811


class Masked(AxialAttention):
    """Frames see their neighbours only."""

    def forward(self, x):
        n = torch.arange(x.shape[1])
        return super().forward(x, ((n[:, None] - n).abs() < 2)[None, None])


MIXERS = {
    "attention": partial(AxialAttention, 16, 2, "frame"),
    "retention": partial(Retention, 16, 2, shared_decays(2)),
    "scan": partial(SkeletonMixer, 16, d_state=2, directions=("S-f", "S-b")),
    "masked attention": partial(Masked, 16, 2, "frame"),
}


@pytest.mark.parametrize("mixer", MIXERS)
def test_temporal_mixers_are_interchangeable(backend, mixer):
    if backend == "triton" and mixer != "retention":
        pytest.skip("not on Triton, whose interpreter takes minutes: retention and the gradients of the ops stand for it")
    model = tiny(temporal_mixer=MIXERS[mixer], depth=1)
    x = keypoints(batch=1, frames=3)
    y = model(x)
    y.square().sum().backward()
    assert y.shape == x.shape[:3] + (3,) and y.isfinite().all()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}


def test_with_retention_and_no_position_it_is_poseretnet():
    retnet = PoseRetNet(**TINY)
    decay = retnet.TTEblocks[0].attn.decay.data
    model = tiny(temporal_mixer=partial(Retention, 16, 2, decay, chunk_size=7))
    nn.init.zeros_(model.Temporal_pos_embed)
    weights = model.state_dict()
    del weights["Temporal_pos_embed"]
    lifter.load_checkpoint(retnet.eval(), weights)
    with kernels.backend("reference"), torch.no_grad():
        assert torch.equal(retnet(keypoints()), model(keypoints()))


def test_mask():
    """A boolean mask of the frames, the same for all joints: two halves of a clip that do not see each other."""
    model = tiny()
    x = keypoints(frames=6)
    half = torch.arange(6) // 3
    with kernels.backend("reference"), torch.no_grad():
        masked = model(x, mask=(half[:, None] == half)[None, None])
        torch.testing.assert_close(masked[:, :3], model(x[:, :3]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(masked, model(x))


def test_shorter_clip_is_a_prefix_of_the_position():
    model, short = tiny(), tiny(num_frames=4)
    weights = model.state_dict()
    weights["Temporal_pos_embed"] = weights["Temporal_pos_embed"][:, :4]
    lifter.load_checkpoint(short, weights)
    with kernels.backend("reference"), torch.no_grad():
        assert torch.equal(model(keypoints(frames=4)), short(keypoints(frames=4)))


@pytest.mark.parametrize("kwargs", [{"qkv_bias": False}, {"qk_scale": 0.3}, {"num_joints": 5, "in_channels": 3}], ids=str)
def test_variants(kwargs):
    model = tiny(**kwargs)
    x = keypoints(joints=kwargs.get("num_joints", 17), channels=kwargs.get("in_channels", 2))
    with kernels.backend("reference"), torch.no_grad():
        y = model(x)
        with eager_mixers():
            expected = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_dropout_only_in_training():
    model = tiny(drop=0.3, attn_drop=0.3, drop_path=0.5)
    x = keypoints()
    with kernels.backend("reference"), torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))
    assert [block.drop_path.p for block in model.TTEblocks] == [0.0, 0.5]


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_pytorchs(name, dtype):
    model = tiny(dim=64, num_heads=4)
    assert_as_good_as_eager(model, dtype, name, keypoints())


def test_autocast():
    model = tiny()
    with kernels.backend("reference"), torch.no_grad():
        expected = model(keypoints())
        with torch.autocast("cpu", torch.bfloat16):
            got = model(keypoints())
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 16 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_empty_batch(backend):
    assert tiny()(keypoints(batch=0)).shape == (0, 7, 17, 3)


def test_compile_and_export():
    assert_compiles(tiny(), keypoints())
    assert_exports(tiny(), keypoints())


def test_errors():
    with pytest.raises(ValueError, match="MixSTE: keypoints have 8 frames, expected 1 to num_frames=7"):
        tiny()(keypoints(frames=8))
    with pytest.raises(ValueError, match=r"shape \(2, 7, 16, 2\), expected \(B, T, 17, 2\)"):
        tiny()(keypoints(joints=16))
    with pytest.raises(TypeError, match="torch.int64"):
        tiny()(keypoints().long())
    with pytest.raises(ValueError, match="dim is 16, expected a multiple of num_heads=3"):
        tiny(num_heads=3)
