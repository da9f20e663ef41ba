"""MotionBERT against the official code's numbers, with attention and with retention along the frames."""

from functools import partial

import numpy as np
import pytest
import torch

import lifter
from lifter import kernels
from lifter.layers import SkeletonMixer
from lifter.models import MotionBERT
from lifter.verify import verify
from tests.conftest import assert_as_good
from tests.models.eager import assert_compiles, eager_mixers

TINY = {"num_frames": 7, "dim": 16, "dim_rep": 24, "depth": 2, "num_heads": 2}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = MotionBERT(**TINY | kwargs).eval()
    for p in model.parameters():  # the official start, 0.02, leaves nothing to compare
        if p.dim() == 2 and p.requires_grad:
            torch.nn.init.normal_(p, std=0.8 / p.shape[1] ** 0.5)
    return model


def keypoints(batch=2, frames=7, joints=17, channels=3):
    torch.manual_seed(1)
    return torch.randn(batch, frames, joints, channels)


def test_golden(golden, backend):
    (result,) = verify(golden("motionbert"), backend)
    assert result.passed, result


def test_golden_in_float64(shared):
    (result,) = verify(shared / "golden" / "motionbert.npz", "reference", "float64")
    assert result.absolute < 1e-6, result  # the official code's own float32 rounding


def test_parameter_count():
    assert sum(p.numel() for p in lifter.create_model("motionbert").parameters()) == 42_466_317


@pytest.mark.parametrize("temporal_mixer", ["attention", "retention", partial(SkeletonMixer, 16, d_state=2)], ids=str)
def test_temporal_mixers_run_and_train(temporal_mixer):
    model = tiny(temporal_mixer=temporal_mixer, depth=1)
    x = keypoints(batch=1, frames=3)
    with kernels.backend("reference"):
        y = model(x)
        y.square().sum().backward()
    assert y.shape == x.shape and y.isfinite().all()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}


def test_it_starts_with_both_streams_alike():
    torch.manual_seed(0)
    model = MotionBERT(**TINY).eval()
    x = torch.randn(1, 2, 17, 32)
    assert torch.equal(model.ts_attn[0](x).softmax(-1), torch.full((1, 2, 17, 2), 0.5))


def test_representation():
    model = tiny()
    with kernels.backend("reference"), torch.no_grad():
        features = model.represent(keypoints())
        assert features.shape == (2, 7, 17, 24) and features.abs().max() <= 1
        assert torch.equal(model.head(features), model(keypoints()))


@pytest.mark.parametrize("temporal_mixer", ["attention", "retention"])
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_bfloat16_is_as_good_as_pytorchs(name, temporal_mixer):
    model = tiny(dim=64, num_heads=4, temporal_mixer=temporal_mixer)
    x = keypoints()
    with kernels.backend("reference"), torch.no_grad():
        exact = model.double()(x.double())
        model.bfloat16()
        with eager_mixers():
            eager = model(x.bfloat16())
    with kernels.backend(name), torch.no_grad():
        ours = model(x.bfloat16())
    assert_as_good("poses", ours, eager, exact)


def test_empty_batch(backend):
    assert tiny()(keypoints(batch=0)).shape == (0, 7, 17, 3)


def test_compile():
    assert_compiles(tiny(), keypoints())


def test_weights_by_both_names(shared, tmp_path):
    """Official names, and ours after a round trip."""
    with np.load(shared / "golden" / "motionbert.npz") as data:
        official = {f"module.{key[6:]}": torch.from_numpy(data[key]) for key in data.files if key.startswith("param/")}
    model, again = (MotionBERT(27, dim=32, dim_rep=48, depth=2, num_heads=4) for _ in range(2))
    torch.save({"epoch": 1, "model_pos": official}, tmp_path / "best_epoch.bin")
    assert lifter.load_checkpoint(model, tmp_path / "best_epoch.bin") == ([], [])
    assert torch.equal(model.blocks_ts[1].t.attn.qkv.weight, official["module.blocks_ts.1.attn_t.qkv.weight"])
    lifter.save_checkpoint(model, tmp_path / "ours.pth")
    lifter.load_checkpoint(again, tmp_path / "ours.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    del official["module.blocks_st.0.mlp_s.fc1.bias"]
    with pytest.raises(KeyError, match="missing keys: blocks_st.0.mlp_s.fc1.bias'"):
        lifter.load_checkpoint(model, official)


def test_errors():
    with pytest.raises(ValueError, match="MotionBERT: keypoints have 8 frames, expected 1 to num_frames=7"):
        tiny()(keypoints(frames=8))
    with pytest.raises(ValueError, match=r"shape \(2, 7, 17, 2\), expected \(B, T, 17, 3\)"):
        tiny()(keypoints(channels=2))
    with pytest.raises(ValueError, match="temporal_mixer is 'scan', expected 'attention', 'retention' or a callable"):
        tiny(temporal_mixer="scan")
