"""STCFormer against the official code's numbers, and what is its own: halves of the channels, parts, any length."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks import tables
from lifter import kernels
from lifter.models import STCFormer
from lifter.verify import verify


def tiny(**kwargs):
    torch.manual_seed(0)
    return STCFormer(**{"num_frames": 9, "dim": 16, "depth": 2, "num_heads": 2} | kwargs).eval()


def keypoints(batch=2, frames=9, joints=17, channels=2):
    return torch.randn(batch, frames, joints, channels, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["reference", "cpu"])  # the interpreter takes a minute: axial_attention stands for it
def test_golden(shared, name):
    (result,) = verify(shared / "golden" / "stcformer.npz", name)
    assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_golden_dtypes(shared, dtype):
    (result,) = verify(shared / "golden" / "stcformer.npz", "reference", dtype)
    assert result.passed, result
    assert dtype != "float64" or result.absolute < 2e-6, result  # the official code's own float32 rounding


@pytest.mark.parametrize(
    "name, frames, params, seen, macs, products",
    [
        ("stcformer", 27, 4_748_000, 4_747_520, 2.178, 2.204),
        ("stcformer", 81, 4_748_000, 4_747_520, 6.535, 6.726),
        ("stcformer", 243, 4_748_000, 4_747_520, 19.606, 21.205),
        ("stcformer_l", 243, 18_933_184, 18_932_224, 78.196, 81.394),
    ],
)
def test_counts(name, frames, params, seen, macs, products):
    """The official code's parameters, those that thop sees, thop's multiply-accumulates, all products."""
    counts = tables.count(name, frames)
    assert (counts["params"], counts["params_paper_convention"]) == (params, seen)
    assert counts["macs_paper_convention"] / 1e9 == pytest.approx(macs, abs=0.001)
    assert counts["macs"] / 1e9 == pytest.approx(products, abs=0.001)
    assert name == "stcformer" or counts["macs_old_thop"] == 78_107_493_888  # printed by PoseRetNet as of a frame


def test_halves_are_the_official_projection():
    """Rows 3 c, 3 c + 1, 3 c + 2 are query, key and value of channel c; the first half of the channels is spatial."""
    layer, x = tiny().stcformer["stc_block"][0].stc_att.qkv, torch.randn(2, 3, 5, 16)
    official = F.linear(x, layer.weight, layer.bias).unflatten(-1, (16, 3))
    for half, got in enumerate(layer(x).unflatten(-1, (2, 3, 8)).unbind(3)):
        torch.testing.assert_close(got, official[..., 8 * half : 8 * half + 8, :].mT)


def test_any_length():
    model = tiny()
    with kernels.backend("reference"), torch.no_grad():
        for frames in (1, 4, 20):
            poses = model(keypoints(frames=frames))
            assert poses.shape == (2, frames, 17, 3) and poses.isfinite().all()
        assert model(keypoints(batch=0)).shape == (0, 9, 17, 3)


def test_another_skeleton():
    model = tiny(num_joints=4, in_channels=3, parts=(0, 1, 1, 4))
    assert model(keypoints(joints=4, channels=3)).shape == (2, 9, 4, 3)


def test_parts_are_dropped_in_training_only():
    model = tiny(drop=0.0)
    for block in model.stcformer["stc_block"]:
        torch.nn.init.normal_(block.stc_att.emb.weight, std=2000.0)
    x = keypoints()
    with kernels.backend("reference"), torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert len({model(x).sum().item() for _ in range(12)}) > 1


def test_errors():
    with pytest.raises(ValueError, match="dim is 12, expected a multiple of 2 \\* num_heads = 16"):
        STCFormer(dim=12)
    with pytest.raises(ValueError, match="expected a number from 0 to 4 for each of 16 joints"):
        tiny(num_joints=16)
    with pytest.raises(ValueError, match=r"STCFormer: keypoints have shape \(2, 9, 16, 2\)"):
        tiny()(keypoints(joints=16))
