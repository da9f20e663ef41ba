"""TCPFormer against the official code's numbers, and its proxies."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lifter
from benchmarks import tables
from lifter import kernels
from lifter.models import TCPFormer
from lifter.models.tcpformer import CrossAttention, ProxyAttention
from lifter.verify import verify
from tests.conftest import assert_as_good
from tests.models.eager import assert_as_good_as_eager, assert_compiles
from tests.models.test_motionagformer import keypoints, randomised

TINY = {"num_frames": 6, "dim": 16, "dim_rep": 24, "depth": 2, "num_heads": 2, "layer_scale": 0.5}


def tiny(**kwargs):
    torch.manual_seed(0)
    return randomised(TCPFormer(**TINY | kwargs).eval())


def test_golden(golden, backend):
    (result,) = verify(golden("tcpformer"), backend)
    assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_golden_dtypes(shared, dtype):
    (result,) = verify(shared / "golden" / "tcpformer.npz", "reference", dtype)
    assert result.passed, result
    assert dtype != "float64" or result.absolute < 1e-6, result  # the official code's own float32 rounding


def test_counts():
    """The official ones: 140.146 G in full, of which the products of two maps (T x T/3 x T per head, joint and layer) are
    replaced by two with the values."""
    counts = tables.count("tcpformer", 243)
    assert (counts["params"], counts["params_paper_convention"]) == (35_118_259, 34_904_867)
    assert round(counts["macs_paper_convention"] / 1e9, 3) == 109.215
    maps, values = 16 * 17 * 8 * 243 * 81 * 243, 2 * 16 * 17 * 243 * 81 * 128
    assert counts["macs"] / 1e9 == pytest.approx(140.146 + (values - maps) / 1e9, abs=0.001)


def test_official_checkpoint(shared):
    with np.load(shared / "golden" / "tcpformer.npz") as data:
        official = {f"module.{key[6:]}": torch.from_numpy(data[key]) for key in data.files if key.startswith("param/")}
    model = TCPFormer(27, dim=32, dim_rep=48, depth=1, num_heads=4)
    assert lifter.load_checkpoint(model, {"epoch": 1, "model": official}) == ([], [])
    assert all(torch.equal(tensor, official[f"module.{key}"]) for key, tensor in model.state_dict().items())


def test_cross_attention_is_torchs():
    torch.manual_seed(0)
    layer = CrossAttention(8, 2, qkv_bias=True).double()
    x, memory = torch.randn(2, 3, 5, 8).double(), torch.randn(2, 7, 5, 8).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.wq.weight, layer.wk.weight, layer.wv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([layer.wq.bias, layer.wk.bias, layer.wv.bias]))
        theirs.out_proj.load_state_dict(layer.proj.state_dict())
    joints = lambda y: y.transpose(1, 2).flatten(0, 1)
    out, weights = layer(x, memory)
    expected, maps = theirs(joints(x), joints(memory), joints(memory), average_attn_weights=False)
    torch.testing.assert_close(joints(out), expected)
    torch.testing.assert_close(weights.flatten(0, 1), maps)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_proxy_attention_is_the_official_sum_of_maps(share):
    """share * softmax + (1 - share) * back there, a matrix T x T that ours never makes."""
    torch.manual_seed(0)
    layer, x = ProxyAttention(8, 2, "frame", qkv_bias=False).double(), torch.randn(2, 6, 3, 8).double()
    there, back = torch.rand(2, 3, 2, 4, 6).double(), torch.rand(2, 3, 2, 6, 4).double()
    q, k, v = layer.qkv(x).unflatten(-1, (3, 2, 4)).permute(3, 0, 2, 4, 1, 5)
    weights = share * (q @ k.mT / 2).softmax(-1) + (1 - share) * back @ there
    expected = layer.proj((weights @ v).permute(0, 3, 1, 2, 4).flatten(3))
    torch.testing.assert_close(layer(x, there, back, share), expected)


def test_every_layer_passes_the_proxies_on():
    model, seen = tiny(), []
    for layer in model.temporal_layers:
        layer.register_forward_hook(lambda _, args, out: seen.append((args[1], out[1])))
    with kernels.backend("reference"), torch.no_grad():
        model(keypoints(frames=9))
    first = model.center_pose + model.center_pos_embed
    assert torch.equal(seen[0][0], first.expand(2, -1, -1, -1))
    assert seen[1][0] is seen[0][1] and seen[1][1].shape == (2, 2, 17, 16)  # two, also for nine frames


@pytest.mark.parametrize("training", [False, True])
def test_everything_is_trained(training):
    model = tiny(drop=0.1 * training, attn_drop=0.1 * training, drop_path=0.1 * training).train(training)
    model(keypoints()).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_gradients():
    model = tiny(dim=4, num_heads=1, depth=1).double()
    with kernels.backend("reference"):
        assert torch.autograd.gradcheck(model, keypoints(1).double().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_bfloat16_is_as_good_as_pytorchs(name):
    assert_as_good_as_eager(tiny(dim=64, num_heads=4), torch.bfloat16, name, keypoints())


def test_autocast():
    model, x = tiny(), keypoints()
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 16 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


@torch.no_grad()
def test_frozen():
    model, x = tiny(), keypoints()
    exact = copy.deepcopy(model).double()(x.double())
    assert_as_good("poses", lifter.freeze(model)(x), model(x), exact, factor=2, rounding=64)


def test_empty_batch(backend):
    assert tiny()(keypoints()[:0]).shape == (0, 6, 17, 3)


def test_compile():
    assert_compiles(tiny(depth=1), keypoints())


def test_errors():
    with pytest.raises(ValueError, match="TCPFormer: keypoints have 7 frames, expected a multiple of 3, the parts of a clip"):
        tiny()(keypoints(frames=7))
    with pytest.raises(ValueError, match=r"TCPFormer: keypoints have shape \(2, 6, 16, 3\), expected \(B, T, 17, 3\)"):
        tiny()(keypoints(joints=16))
    with pytest.raises(ValueError, match="TCPFormer: keypoints have 0 frames, expected at least 1"):
        tiny()(keypoints(frames=0))
    with pytest.raises(ValueError, match="TCPFormer: num_frames is 8, expected a multiple of 3"):
        tiny(num_frames=8)
