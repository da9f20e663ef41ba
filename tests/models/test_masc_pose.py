"""MASC-Pose: its modules against the paper's equations, its counts, its ablations."""

import copy

import pytest
import torch
from torch import nn

import lifter
from benchmarks import published, tables
from lifter import kernels
from lifter.layers import AMTM, SAGCN, STGC
from lifter.layers.multi_scale import within
from lifter.models import MASCPose
from lifter.skeleton import H36M
from tests.conftest import assert_as_good
from tests.models.eager import assert_as_good_as_eager, assert_compiles
from tests.models.test_motionagformer import keypoints, randomised

TINY = {"num_frames": 6, "scales": (1, 2, 3), "dim": 16, "dim_rep": 24, "depth": 3, "num_heads": 2, "layer_scale": 0.5}
PATH = [(0, 1), (1, 2), (2, 3)]

# Tables III to V.
ABLATIONS = {
    "baseline": {"amtm": False, "sagcn": False},
    "only AMTM": {"sagcn": False},
    "only SAGCN": {"amtm": False},
    "without adaptive aggregation": {"adaptive_aggregation": False},
    "without multi-scale fusion": {"adaptive_scales": False},
    "small scales": {"scales": (1, 2)},
    "large scales": {"scales": (2, 3, 6)},
    "two hops": {"hops": 2},
    "four hops": {"hops": 4},
}


def tiny(**kwargs):
    torch.manual_seed(0)
    return randomised(MASCPose(**TINY | kwargs).eval())


# ---- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("adaptive", [False, True])
def test_sagcn_is_equation_1(hops, adaptive):
    torch.manual_seed(0)
    layer, x = SAGCN(6, 4, PATH, hops, adaptive).double(), torch.randn(2, 3, 4, 6).double()
    if adaptive:
        nn.init.normal_(layer.balance)
    distance = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    adjacency = ((distance > 0) & (distance <= hops)).double()
    degrees = adjacency.sum(1) ** -0.5
    w_self, w_nei = layer.balance.softmax(0) if adaptive else (0.5, 0.5)
    own, received = layer.U(x), layer.V(degrees[:, None] * adjacency * degrees @ x)
    torch.testing.assert_close(layer(x), (w_self * own + w_nei * received).relu())


def windowed(layer, x, i, window):
    """Equations 3 to 6 for one scale: (B, T, J, C)."""
    own, values = (linear(x).chunk(len(layer.windows), -1)[i] for linear in (layer.U, layer.V))
    norm = layer.norms[i]
    cut = lambda y: y.unflatten(1, (-1, window)).transpose(2, 3)  # (B, windows, J, frame, C)
    frames, own, values = cut(x), cut(own), cut(values)
    similar = torch.cosine_similarity(frames[..., :, None, :], frames[..., None, :, :], -1)
    neighbours = similar.topk(min(layer.k, window)).indices
    received = [values.gather(3, index[..., None].expand(values.shape)) for index in neighbours.unbind(-1)]
    y = sum(received) / len(received) + own
    mean, var = norm.running_mean, norm.running_var
    if layer.training:
        mean, var = y.mean((0, 1, 2, 4)), y.var((0, 1, 2, 4), correction=0)
    y = (y - mean[:, None]) / (var + norm.eps).sqrt()[:, None] * norm.weight[:, None] + norm.bias[:, None]
    return y.relu().transpose(2, 3).flatten(1, 2)


@pytest.mark.parametrize("training", [False, True])
def test_stgc_is_equations_3_to_9(training):
    torch.manual_seed(0)
    layer, x = randomised(STGC(5, (2, 3, 6))).double().train(training), torch.randn(2, 12, 4, 5).double()
    expected = torch.stack([windowed(layer, x, i, window) for i, window in enumerate((2, 3, 6))], 3)
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_amtm_is_equations_2_and_10(adaptive):
    torch.manual_seed(0)
    layer, x = randomised(AMTM(8, (2, 3), adaptive=adaptive)).double().eval(), torch.randn(2, 6, 4, 8).double()
    scales = layer.stgc(x)
    weights = torch.full((2, 4, 2), 0.5).double()
    if adaptive:
        weights = layer.scale_weights(x)
        torch.testing.assert_close(weights, layer.selector(x.mean(1)).softmax(-1))
        assert weights.shape == (2, 4, 2) and weights.std() > 0
    expected = sum(weights[:, None, :, s, None] * scales[:, :, :, s] for s in range(2))
    torch.testing.assert_close(layer(x), expected)


def test_hops():
    """Joints within so many bones, the joint itself not among them."""
    assert within(PATH, 1) == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)}
    assert within(PATH, 2) == within(PATH, 1) | {(0, 2), (2, 0), (1, 3), (3, 1)}
    assert within(PATH, 3) == within(PATH, 4) == {(i, j) for i in range(4) for j in range(4) if i != j}
    assert len(within(H36M.bones, 1)) == 32


# ---- the model -------------------------------------------------------------------------------------------------------


def test_counts():
    """13.0 M parameters and 53.4 G, 219 M per frame, at 243 frames; a third of that at 81."""
    counts = tables.count("masc_pose", 243)
    for params in (counts["params"], counts["params_paper_convention"]):
        assert published.as_printed(params, "13.0M")
    macs = counts["macs_paper_convention"]
    assert published.as_printed(macs, "53.4G") and published.as_printed(macs / 243, "219M")
    assert tables.count("masc_pose", 81)["macs_paper_convention"] == pytest.approx(macs / 3, rel=1e-4)
    rows = [row for row in published.ROWS if row.model == "masc_pose"]
    assert {row.printed for row in rows} == {"13.0M / 53.4G", "13.0M / 219M/frame"}


@pytest.mark.parametrize("frames, scales", [(243, (9, 27, 81)), (81, (3, 9, 27))])
def test_scales_of_the_paper(frames, scales):
    with torch.device("meta"):
        model = lifter.create_model("masc_pose", num_frames=frames, depth=1)
    assert model.scales == model.layers[0].graph_temporal.mixer.stgc.windows == scales


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_run_and_train(name):
    model = tiny(**ABLATIONS[name]).train()
    with kernels.backend("reference"):
        poses = model(keypoints())
        poses.square().sum().backward()
        with torch.no_grad():
            assert not torch.equal(poses, tiny().train()(keypoints()))
    assert poses.shape == (2, 6, 17, 3) and poses.isfinite().all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_memory_of_the_layers():
    """It starts as the embedding, takes in every third layer, and is added in the end."""
    model, seen, fused = tiny(depth=7), [], []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, args, out: seen.append(out))
    for fusion in model.fusions:
        fusion.register_forward_hook(lambda _, args, out: fused.append((*args, out)))
    ends = []
    model.norm.register_forward_hook(lambda _, args, out: ends.append(args[0]))
    with kernels.backend("reference"), torch.no_grad():
        x = keypoints()
        model(x)
        embedded = model.joints_embed(x) + model.pos_embed
    assert len(fused) == 2 and fused[0][1] is seen[2] and fused[1][1] is seen[5]
    assert torch.equal(fused[0][0], embedded) and fused[1][0] is fused[0][2]
    assert torch.equal(ends[0], seen[6] + fused[1][2])


@pytest.mark.parametrize("frames", [6, 12, 18])
def test_any_multiple_of_the_scales(frames):
    """A clip of two, far apart in time, has the windows of each: only attention and the mean over frames join them."""
    model = tiny()
    with kernels.backend("reference"), torch.no_grad():
        poses = model(keypoints(frames=frames))
        stgc = model.layers[0].graph_temporal.mixer.stgc
        x = torch.randn(1, frames, 17, 16)
        torch.testing.assert_close(stgc(x)[:, :6], stgc(x[:, :6]))
    assert poses.shape == (2, frames, 17, 3) and poses.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_everything_is_trained(training):
    model = tiny(drop=0.1 * training, drop_path=0.1 * training).train(training)
    model(keypoints(4)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_gradients():
    model = tiny(dim=4, num_heads=1).double()
    with kernels.backend("reference"):
        assert torch.autograd.gradcheck(model, keypoints(1).double().requires_grad_(), fast_mode=True)


def test_every_backend_gives_the_reference(backend):
    model, x = tiny(), keypoints()
    with torch.no_grad():
        ours = model(x)
        with kernels.backend("reference"):
            expected, exact = model(x), copy.deepcopy(model).double()(x.double())
    assert_as_good("poses", ours, expected, exact)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_bfloat16_is_as_good_as_pytorchs(name):
    assert_as_good_as_eager(tiny(dim=64, num_heads=4), torch.bfloat16, name, keypoints())


def test_autocast():
    model, x = tiny(), keypoints()
    with kernels.backend("reference"), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        poses = model(x)
    assert poses.dtype == torch.float32 and poses.isfinite().all()


@torch.no_grad()
def test_frozen():
    model, x = tiny(), keypoints()
    exact = copy.deepcopy(model).double()(x.double())
    assert_as_good("poses", lifter.freeze(model)(x), model(x), exact, factor=2, rounding=64)


def test_empty_batch(backend):
    assert tiny()(keypoints()[:0]).shape == (0, 6, 17, 3)


def test_compile():
    assert_compiles(tiny(depth=1), keypoints())


def test_own_checkpoint(tmp_path):
    trained, model = tiny(), MASCPose(**TINY).eval()
    lifter.save_checkpoint(trained, tmp_path / "masc.safetensors")
    lifter.load_checkpoint(model, tmp_path / "masc.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), trained.state_dict().values(), strict=True))


def test_errors():
    with pytest.raises(ValueError, match=r"keypoints have 8 frames, expected a multiple of each scale in \(1, 2, 3\)"):
        tiny()(keypoints(frames=8))
    with pytest.raises(ValueError, match="MASCPose: keypoints have 5 frames, expected exactly num_frames=6: its batch norms"):
        tiny(amtm=False)(keypoints(frames=5))
    with pytest.raises(ValueError, match=r"MASCPose: keypoints have shape \(2, 6, 16, 3\), expected \(B, T, 17, 3\)"):
        tiny()(keypoints(joints=16))
    with pytest.raises(ValueError, match=r"scales are \(4,\), expected positive divisors of num_frames=6"):
        tiny(scales=(4,))
    with pytest.raises(ValueError, match=r"scales are \(0, 0, 2\), expected positive divisors of num_frames=6"):
        tiny(scales=None)
    with pytest.raises(ValueError, match="hops is 0, expected a positive integer"):
        tiny(hops=0)
    with pytest.raises(ValueError, match="MASCPose: bones is None with 16 joints, expected the pairs of joints to connect"):
        tiny(num_joints=16)
    with pytest.raises(ValueError, match=r"STGC: x has 4 frames, expected a multiple of each window in \(3,\)"):
        STGC(4, (3,))(torch.zeros(1, 4, 2, 4))
