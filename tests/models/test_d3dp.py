"""D3DP's denoiser against the official code's numbers, and its two forms against each other."""

import math

import pytest
import torch
from torch import nn

import lifter
from benchmarks import tables
from lifter import kernels
from lifter.models import D3DP
from lifter.models.d3dp import SCHEDULE, time_embedding
from lifter.verify import verify
from tests.models.eager import assert_as_good_as_eager, assert_compiles

TINY = {"num_frames": 5, "dim": 16, "depth": 2, "num_heads": 2, "drop_path": 0.0}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = D3DP(**TINY | kwargs).eval()
    for position in (model.Spatial_pos_embed, model.Temporal_pos_embed):
        nn.init.normal_(position, std=0.2)
    return model


def inputs(batch=2, hypotheses=3, frames=5, channels=2):
    torch.manual_seed(1)
    keypoints = torch.randn(batch, frames, 17, channels)
    return keypoints, torch.randn(batch, hypotheses, frames, 17, 3), torch.tensor([999, 3])[:batch]


@pytest.mark.parametrize("name", ["d3dp_denoiser", "d3dp_denoiser_train"])
def test_golden(shared, backend, name):
    if backend == "triton" and name == "d3dp_denoiser":
        pytest.skip("not on Triton, whose interpreter takes minutes: d3dp_denoiser_train stands for it")
    (result,) = verify(shared / "golden" / f"{name}.npz", backend)
    assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_golden_dtypes(shared, dtype):
    (result,) = verify(shared / "golden" / "d3dp_denoiser.npz", "reference", dtype)
    assert result.passed, result


def test_counts():
    """The official code's parameters and thop's and all products of one call, T = 243."""
    counts = tables.count("d3dp", 243)
    assert (counts["params"], counts["params_paper_convention"]) == (34_835_459, 34_702_339)
    assert round(counts["macs_paper_convention"] / 1e9, 3) == 139.046
    assert round(counts["macs"] / 1e9, 3) == 147.430


def test_time_embedding():
    """Half sines, half cosines; the first frequency is 1, the last 1e-4."""
    embedding = time_embedding(torch.tensor([0, 999]), 8)
    assert embedding.dtype == torch.float64
    assert embedding[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    expected = [f(999 * 10 ** (-4 * i / 3)) for f in (math.sin, math.cos) for i in range(4)]
    torch.testing.assert_close(embedding[1], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_hypotheses_are_independent():
    """The form with hypotheses is that without, hypothesis by hypothesis; time may be one for all clips."""
    model = tiny()
    keypoints, poses, time = inputs()
    with kernels.backend("reference"), torch.no_grad():
        together = model(keypoints, poses, time)
        apart = torch.stack([model(keypoints, poses[:, h], time) for h in range(3)], 1)
        assert together.shape == poses.shape
        torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)
        shared = model(keypoints, poses, time[:1])
        torch.testing.assert_close(shared, model(keypoints, poses, time[:1].expand(2)), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(model(keypoints, poses, time + 100), together)


def test_embedding_once_is_the_same():
    """`embed` holds all that the keypoints say, and the layer in two parts is the layer of both."""
    model = tiny(in_channels=3)
    keypoints, poses, time = inputs(channels=3)
    with kernels.backend("reference"), torch.no_grad():
        embedded = model.embed(keypoints)
        assert torch.equal(model.denoise(embedded, poses, time), model(keypoints, poses, time))
        layer = model.Spatial_patch_to_embedding
        whole = nn.functional.linear(torch.cat((keypoints, poses[:, 0]), -1), layer.weight, layer.bias)
        torch.testing.assert_close(layer(keypoints, 0) + layer(poses[:, 0], 3), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_checkpoint(prefix):
    """An official file has a prefix and the tables of its schedule; without those it is not one."""
    trained, model = tiny(timesteps=50), tiny(timesteps=50)
    nn.init.normal_(trained.head[1].weight)
    weights = {f"{prefix}pose_estimator.{key}": value for key, value in trained.state_dict().items()}
    buffers = {prefix + name: torch.zeros(50, dtype=torch.float64) for name in SCHEDULE}
    lifter.load_checkpoint(model, {"epoch": 7, "model_pos": buffers | weights})
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), trained.state_dict().values(), strict=True))
    lifter.load_checkpoint(tiny(), trained.state_dict())
    with pytest.raises(ValueError, match=r"betas is \(50,\), expected \(1000,\)"):
        lifter.load_checkpoint(tiny(), buffers | weights)
    with pytest.raises(KeyError, match="missing keys: betas"):
        lifter.load_checkpoint(model, weights)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_half_precision_is_as_good_as_pytorchs(name):
    model, dtype = tiny(dim=64, num_heads=4), torch.bfloat16
    assert_as_good_as_eager(model, dtype, name, *inputs())


def test_everything_is_trained():
    model = tiny(drop=0.1).train()
    keypoints, poses, time = inputs()
    model(keypoints, poses[:, 0], time).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_gradients():
    model = tiny(dim=4, num_heads=1, depth=1).double()
    keypoints, poses, time = inputs(batch=1, hypotheses=1, frames=2)
    arguments = keypoints.double().requires_grad_(), poses.double().requires_grad_(), time.double()
    with kernels.backend("reference"):
        assert torch.autograd.gradcheck(model, arguments, fast_mode=True)


def test_empty_batch(backend):
    keypoints, poses, time = inputs()
    assert tiny()(keypoints[:0], poses[:0], time[:0]).shape == (0, 3, 5, 17, 3)


def test_compile():
    assert_compiles(tiny(), *inputs())


def test_errors():
    model, (keypoints, poses, time) = tiny(), inputs()
    with pytest.raises(ValueError, match=r"D3DP: keypoints have shape \(2, 5, 17, 3\), expected \(B, T, 17, 2\)"):
        model(poses[:, 0], poses, time)
    with pytest.raises(ValueError, match="keypoints have 6 frames, expected 1 to num_frames=5"):
        model(*inputs(frames=6))
    for wrong in (poses[:1], poses[:, :, 1:], poses[..., :2], poses[:, 0, 0]):
        with pytest.raises(ValueError, match=r"poses have shape .*, expected \(2, 5, 17, 3\) or \(2, H, 5, 17, 3\)"):
            model(keypoints, wrong, time)
    with pytest.raises(TypeError, match="poses have dtype torch.int64"):
        model(keypoints, poses.long(), time)
    with pytest.raises(ValueError, match=r"time has shape \(3,\), expected \(2,\) or \(1,\)"):
        model(keypoints, poses, torch.zeros(3))
    for dim in (0, 2, 9):
        with pytest.raises(ValueError, match=f"dim is {dim}, expected an even number of at least 4"):
            tiny(dim=dim)
