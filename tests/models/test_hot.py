"""HoT against the official code's numbers, and what is its own: pruning, recovery, their gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lifter
from benchmarks import tables
from lifter import kernels
from lifter.layers import DensityPeakPrune, FrameRecovery
from lifter.models import HoTMixSTE, HoTMotionAGFormer, MixSTE, TPCMixSTE
from lifter.verify import verify
from tests.models.eager import assert_as_good_as_eager

TINY = {"num_frames": 9, "dim": 16, "depth": 3, "num_heads": 2, "prune_at": 1, "drop_path": 0.0}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = HoTMixSTE(**TINY | kwargs).eval()
    for name in ("Spatial_pos_embed", "Temporal_pos_embed", "pos_embed_token", "x_token"):
        nn.init.normal_(getattr(model, name), std=0.2)
    return model


def keypoints(batch=2, frames=9, joints=17, channels=2):
    torch.manual_seed(1)
    return torch.randn(batch, frames, joints, channels)


def test_golden(shared, backend):
    if backend == "triton":
        pytest.skip("not on Triton, whose interpreter takes minutes: the tests of the ops and of MixSTE stand for it")
    for name in ("hot_mixste", "hot_cluster", "hot_tpc_mixste", "hot_motionagformer"):
        for result in verify(shared / "golden" / f"{name}.npz", backend):
            assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_golden_dtypes(shared, dtype):
    for name in ("hot_mixste", "hot_cluster"):
        for result in verify(shared / "golden" / f"{name}.npz", "reference", dtype):
            assert result.passed, result
            assert dtype != "float64" or result.absolute < 1e-6, result  # the official code's own float32 rounding


def test_counts():
    """The official ones: 88.089 G in full, of which the queries' projection for 16 more joints is saved, and the products
    of the clustering are new; 84.004 G by thop, which also sees the mean over the joints (0.002 G and more)."""
    counts = tables.count("hot_mixste", 243)
    assert (counts["params"], counts["params_paper_convention"]) == (35_000_323, 34_701_315)
    saved, prune = 16 * 243 * 512**2, 243**2 * 512
    assert counts["macs"] / 1e9 == pytest.approx(88.089 + (prune - saved) / 1e9, abs=0.001)
    assert counts["macs_paper_convention"] / 1e9 == pytest.approx(84.004 - saved / 1e9, abs=0.003)


def test_counts_on_motionagformer():
    """The official ones: 30.473 G by thop, which also sees the mean over the joints, less the queries' projection for 16 more
    joints."""
    counts = tables.count("hot_motionagformer", 243)
    assert (counts["params"], counts["params_paper_convention"]) == (11_828_031, 11_767_999)
    assert counts["macs_paper_convention"] / 1e9 == pytest.approx(30.473 - 16 * 243 * 128**2 / 1e9, abs=0.002)


def test_without_recovery_the_centre_is_kept(shared):
    """The official choice; given again it is taken; a shorter clip has a centre, too."""
    torch.manual_seed(0)
    model = TPCMixSTE(9, dim=16, depth=3, num_heads=2, tokens=2, prune_at=1).eval()
    with kernels.backend("reference"), torch.no_grad():
        for frames in (1, 4, 9):
            x = keypoints(frames=frames)
            poses, index = model(x, return_index=True)
            assert poses.shape == (2, min(2, frames), 17, 3) and (index == (frames - 1) // 2).any(1).all()
            assert torch.equal(index.sort(1).values, index)
            torch.testing.assert_close(model(x, index=index), poses)
    with np.load(shared / "golden" / "hot_tpc_mixste.npz") as data:
        golden = {key: torch.from_numpy(data[key]) for key in data.files if key != "config"}
    model = TPCMixSTE(27, dim=16, tokens=7).eval()
    lifter.load_checkpoint(model, {key[6:]: value for key, value in golden.items() if key.startswith("param/")})
    with torch.no_grad():
        _, index = model(golden["input/0"], golden["input/1"], return_index=True)
    assert torch.equal(index, golden["aux/index_sorted"])


def test_motionagformer_is_pruned():
    torch.manual_seed(0)
    model = HoTMotionAGFormer(6, dim=8, dim_rep=8, depth=3, num_heads=2, prune_at=1, k=2, layer_scale=0.5)
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    with kernels.backend("reference"):
        poses = model(keypoints(frames=6, channels=3))
        poses.square().sum().backward()
    assert seen == [6, 2, 2] and poses.shape == (2, 6, 17, 3)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    with pytest.raises(ValueError, match="keypoints have 5 frames, expected exactly num_frames=6"):
        model(keypoints(frames=5, channels=3))
    with pytest.raises(ValueError, match="HoTMotionAGFormer: prune_at is 3, expected 1 to depth - 1 = 2"):
        HoTMotionAGFormer(6, depth=3, prune_at=3)


def test_with_every_frame_kept_nothing_is_pruned():
    model = tiny(tokens=9)
    nn.init.zeros_(model.pos_embed_token)
    host = MixSTE(**{key: value for key, value in TINY.items() if key != "prune_at"}).eval()
    shared = {key: value for key, value in model.state_dict().items() if key in host.state_dict()}
    host.load_state_dict(shared)
    features = {}
    host.head.register_forward_hook(lambda _, args, __: features.update(host=args[0]))
    model.cross_attention.register_forward_hook(lambda _, args, __: features.update(hot=args[1]))
    with kernels.backend("reference"), torch.no_grad():
        model(keypoints()), host(keypoints())
    torch.testing.assert_close(features["hot"], features["host"])


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_kept_frames_of_a_call(kept):
    model, seen = tiny(), []
    model.TTEblocks[2].register_forward_hook(lambda _, args, out: seen.append(out.shape))
    with kernels.backend("reference"), torch.no_grad():
        poses = model(keypoints(), kept=kept)
        assert torch.equal(poses, model(keypoints())) is (kept == 3)
    assert seen[0] == (2, kept, 17, 16) and poses.shape == (2, 9, 17, 3)


def test_noise_decides_between_equal_frames():
    """Noise chooses among the frames of a clip and its repetition, whose tokens are equal: the poses are the same."""
    model = tiny(num_frames=8, tokens=4)
    nn.init.zeros_(model.Temporal_pos_embed)
    x = keypoints(1, 4).repeat(1, 2, 1, 1)
    chosen = []
    model.prune.register_forward_hook(lambda _, args, out: chosen.append(out[1][0]))
    with kernels.backend("reference"), torch.no_grad():
        for noise in (None, torch.arange(8.0)[None].flip(1), torch.arange(8.0)[None]):
            model(x, noise)
    assert chosen[0].tolist() == chosen[1].tolist() == [0, 1, 2, 3] and chosen[2].tolist() == [4, 5, 6, 7]


def test_shorter_clips():
    model = tiny()
    with kernels.backend("reference"), torch.no_grad():
        for frames in (1, 2, 5):
            poses = model(keypoints(frames=frames))
            assert poses.shape == (2, frames, 17, 3) and poses.isfinite().all()


def test_prune_keeps_tokens_and_their_gradients(backend):
    x = torch.randn(2, 7, 3, 5, requires_grad=True)
    kept, indices = DensityPeakPrune()(x, 4)
    assert torch.equal(indices, kernels.density_peak_prune(x.detach().mean(2), 4)[0])
    kept.sum().backward()
    expected = torch.zeros(2, 7).scatter(1, indices, 1.0)[:, :, None, None].expand_as(x)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_recovery_is_torchs_attention(scale):
    torch.manual_seed(0)
    layer = FrameRecovery(8, 2, scale=scale).double()
    queries, x = torch.randn(1, 9, 8).double(), torch.randn(2, 4, 3, 8).double()
    heads = lambda y: y.transpose(1, 2).unflatten(-1, (2, 4)).transpose(2, 3)  # (B, J, H, frames, D)
    q = heads(layer.linear_q(queries[:, :6, None]).expand(2, -1, 3, -1))
    out = F.scaled_dot_product_attention(q, heads(layer.linear_k(x)), heads(layer.linear_v(x)), scale=scale)
    expected = queries[:, :6, None] + layer.proj(out.transpose(2, 3).flatten(3).transpose(1, 2))
    torch.testing.assert_close(layer(queries, x, 6), expected)


def test_gradients_reach_every_weight(backend):
    if backend == "triton":
        pytest.skip("not on Triton, whose interpreter takes minutes: the gradients of the ops stand for it")
    model = tiny()
    model(keypoints()).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_gradcheck_of_the_reference():
    model = tiny(num_frames=4, dim=4, num_joints=2, depth=2, tokens=2).double()
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(model, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_pytorchs(dtype):
    """With the frames fixed: which are kept is a choice."""
    model = tiny(dim=64, num_heads=4, tokens=9)
    assert_as_good_as_eager(model, dtype, "cpu", keypoints())


def test_autocast_dropout_and_empty_batch():
    model = tiny(drop=0.3, attn_drop=0.3)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert model(keypoints()).dtype == torch.float32
        assert torch.equal(model(keypoints()), model(keypoints()))
        assert model(keypoints(batch=0)).shape == (0, 9, 17, 3)
        model.train()
        x = keypoints()
        assert not torch.equal(model(x), model(x))


def test_compile_and_export():
    model = tiny()
    with torch.no_grad():
        expected = model(keypoints())
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(keypoints()), expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(model, (keypoints(),)).module()
        torch.testing.assert_close(exported(keypoints()), expected, rtol=1e-4, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="HoTMixSTE: kept is 4, expected 1 to 3, the smaller of tokens and the frames"):
        tiny()(keypoints(), kept=4)
    with pytest.raises(ValueError, match="HoTMixSTE: kept is 3, expected 1 to 2"):
        tiny()(keypoints(frames=2), kept=3)
    with pytest.raises(ValueError, match="HoTMixSTE: tokens is 10, expected 1 to num_frames=9"):
        tiny(tokens=10)
    with pytest.raises(ValueError, match="HoTMixSTE: prune_at is 3, expected 1 to depth - 1 = 2"):
        tiny(prune_at=3)
    with pytest.raises(ValueError, match=r"shape \(2, 9, 16, 2\), expected \(B, T, 17, 2\)"):
        tiny()(keypoints(joints=16))
    with pytest.raises(ValueError, match=r"noise has shape \(2, 8\), expected \(2, 9\)"):
        tiny()(keypoints(), torch.rand(2, 8))
    with pytest.raises(ValueError, match="FrameRecovery: dim is 16, expected a multiple of num_heads=3"):
        FrameRecovery(16, 3)
    assert lifter.create_model("hot_mixste", dim=16).tokens == 81
