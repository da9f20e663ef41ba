"""MotionAGFormer against the official code's numbers, its graph convolutions against the formula."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lifter
from benchmarks import tables
from lifter import kernels
from lifter.layers import SkeletonGraphConv, TemporalGraphConv, both_ways
from lifter.models import MotionAGFormer
from lifter.verify import verify
from tests.conftest import assert_as_good
from tests.models.eager import assert_as_good_as_eager, assert_compiles

TINY = {"num_frames": 6, "dim": 16, "dim_rep": 24, "depth": 2, "num_heads": 2, "layer_scale": 0.5}


def tiny(**kwargs):
    """All that starts at a constant is random: positions, norms and their statistics."""
    torch.manual_seed(0)
    return randomised(MotionAGFormer(**TINY | kwargs).eval())


def randomised(model):
    for name, tensor in model.state_dict().items():
        if name.endswith(("pos_embed", "bias", "running_mean", "fusion.weight", "balance")):
            nn.init.normal_(tensor, std=0.2)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def keypoints(batch=2, frames=6, joints=17, channels=3):
    torch.manual_seed(1)
    return torch.randn(batch, frames, joints, channels)


@pytest.mark.parametrize("name, graph", [("motionagformer", "topk"), ("motionagformer_hier_tcn", "tcn")])
def test_golden(golden, backend, name, graph):
    (result,) = verify(golden(name), backend)
    assert result.passed, result


@pytest.mark.parametrize("name", ["motionagformer", "motionagformer_hier_tcn"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_golden_dtypes(shared, name, dtype):
    (result,) = verify(shared / "golden" / f"{name}.npz", "reference", dtype)
    assert result.passed, result
    assert dtype != "float64" or result.absolute < 1e-6, result  # the official code's own float32 rounding


@pytest.mark.parametrize(
    "name, frames, params, seen, macs",
    [
        ("motionagformer_xs", 27, 2_241_531, 2_234_299, 1.024),
        ("motionagformer_s", 81, 4_817_119, 4_802_719, 6.601),
        ("motionagformer_b", 243, 11_723_811, 11_705_251, 48.301),
        ("motionagformer_l", 243, 19_007_111, 18_978_311, 78.314),
    ],
)
def test_counts(name, frames, params, seen, macs):
    """The official code's parameters, those that thop sees, and thop's multiply-accumulates."""
    counts = tables.count(name, frames)
    assert (counts["params"], counts["params_paper_convention"]) == (params, seen)
    assert round(counts["macs_paper_convention"] / 1e9, 3) == macs


def test_the_official_graph(shared):
    """The stored adjacency, normalised as the official code does; three bones go one way only."""
    adjacency = torch.from_numpy(np.load(shared / "golden" / "motionagformer.npz")["const/spatial_adj"])
    degrees = adjacency.sum(1) ** -0.5
    layer = tiny().layers[0].graph_spatial.mixer
    graph = torch.zeros(17, 18).scatter_add(1, layer.neighbours.long() % 18, layer.weights)[:, :17]
    torch.testing.assert_close(graph, degrees[:, None] * adjacency * degrees)
    assert (adjacency != adjacency.T).sum() == 6


def dense(layer, x, graph):
    """relu(x + norm(A V(x) + U(x))) of nodes (..., N, C), with the batch norm written out, from its statistics or x's."""
    y = graph @ layer.V(x) + layer.U(x)
    norm = layer.batch_norm
    others = [d for d in range(y.dim()) if d != y.dim() - 2]
    mean, var = y.mean(others), y.var(others, correction=0)
    if not layer.training:
        mean, var = norm.running_mean, norm.running_var
    y = (y - mean[:, None]) / (var + norm.eps)[:, None].sqrt() * norm.weight[:, None] + norm.bias[:, None]
    return (x + y).relu()


@pytest.mark.parametrize("training", [False, True])
def test_spatial_layer_is_its_formula(training):
    torch.manual_seed(0)
    layer = randomised(SkeletonGraphConv(4, 5, [*both_ways([(0, 1), (1, 2), (1, 3)]), (4, 0)])).double().train(training)
    degrees = torch.tensor([1, 3, 1, 1, 1])
    graph = torch.zeros(5, 5).double()
    for i, j in [(0, 1), (1, 0), (1, 2), (2, 1), (1, 3), (3, 1), (4, 0)]:
        graph[i, j] = (degrees[i] * degrees[j]) ** -0.5
    x = torch.randn(2, 3, 5, 4).double()
    torch.testing.assert_close(layer(x), dense(layer, x, graph), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ties", ["first", "all"])
def test_temporal_layer_is_its_formula(training, ties):
    torch.manual_seed(0)
    layer = randomised(TemporalGraphConv(4, 6, 2, ties)).double().train(training)
    x = torch.randn(2, 6, 3, 4).double()
    x[:, 3:] = x[:, :3]  # every frame twice: with all ties of a frame four edges, or two
    frames = x.transpose(1, 2)
    similar = frames @ frames.mT
    graph = (similar >= similar.topk(2).values[..., -1:]).double()
    if ties == "first":
        graph = torch.zeros_like(similar).scatter_(-1, similar.argsort(dim=-1, descending=True, stable=True)[..., :2], 1.0)
    degrees = graph.sum(-1)
    graph = graph / (degrees[..., None] * degrees[..., None, :]).sqrt()
    torch.testing.assert_close(layer(x), dense(layer, frames, graph).transpose(1, 2))


def test_a_folded_norm_is_the_norm():
    """Hooks see the norm being called; the output is the same."""
    model, x, seen = tiny(), keypoints(), []
    with kernels.backend("reference"), torch.no_grad():
        folded = model(x)
        for layer in model.layers:
            layer.graph_spatial.mixer.batch_norm.register_forward_hook(lambda *_: seen.append("spatial"))
            layer.graph_temporal.mixer.batch_norm.register_forward_hook(lambda *_: seen.append("temporal"))
        torch.testing.assert_close(model(x), folded, rtol=1e-5, atol=1e-5)
    assert seen == ["spatial", "temporal"] * 2


def test_official_checkpoint(shared):
    """Whatever the wrapper; the golden file tries the names, of which none differ from ours."""
    with np.load(shared / "golden" / "motionagformer.npz") as data:
        official = {f"module.{key[6:]}": torch.from_numpy(data[key]) for key in data.files if key.startswith("param/")}
    model = MotionAGFormer(27, dim=32, dim_rep=48, depth=2, num_heads=4)
    assert lifter.load_checkpoint(model, {"epoch": 1, "model": official}) == ([], [])
    assert torch.equal(
        model.layers[1].graph_temporal.mixer.U.weight, official["module.layers.1.graph_temporal.mixer.U.weight"]
    )


@pytest.mark.parametrize("kwargs", [{}, {"temporal_graph": "tcn"}, {"hierarchical": True}], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_everything_is_trained(kwargs, training):
    model = tiny(drop=0.1 * training, drop_path=0.1 * training, **kwargs).train(training)
    model(keypoints(4)).square().sum().backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.isfinite().all(), name
            # A batch norm over channels subtracts the bias before it.
            assert p.grad.abs().sum() > 0 or (training and "branches" in name and name.endswith("bias")), name
    unread = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert unread == ({name for name in model.state_dict() if ".fusion." in name} if "hierarchical" in kwargs else set())


def test_gradients():
    model = tiny(dim=4, num_heads=1, depth=1).double()
    with kernels.backend("reference"):
        assert torch.autograd.gradcheck(model, keypoints(1).double().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("graph", ["topk", "tcn"])
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_bfloat16_is_as_good_as_pytorchs(name, graph):
    assert_as_good_as_eager(tiny(dim=64, num_heads=4, temporal_graph=graph), torch.bfloat16, name, keypoints())


def test_autocast():
    model, x = tiny(temporal_graph="tcn"), keypoints()  # whom a frame receives from is a matter of rounding
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got, graph = model(x), tiny()(x)
    assert got.dtype == graph.dtype == torch.float32 and graph.isfinite().all()
    assert (got - expected).abs().max() < 16 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


@torch.no_grad()
def test_frozen():
    model, x = tiny(), keypoints()
    exact = copy.deepcopy(model).double()(x.double())
    assert_as_good("poses", lifter.freeze(model)(x), model(x), exact, factor=2, rounding=64)


VARIANTS = pytest.mark.parametrize("kwargs", [{}, {"temporal_graph": "tcn", "hierarchical": True}], ids=str)


@VARIANTS
def test_empty_batch(backend, kwargs):
    assert tiny(**kwargs)(keypoints()[:0]).shape == (0, 6, 17, 3)


@VARIANTS
def test_compile(kwargs):
    assert_compiles(tiny(**kwargs), keypoints())


def test_another_skeleton_and_other_lengths():
    model = tiny(num_joints=4, in_channels=2, bones=[(0, 1), (1, 2), (1, 3)])
    assert model(keypoints(joints=4, channels=2)).shape == (2, 6, 4, 3)
    convolved = tiny(temporal_graph="tcn")
    assert convolved(keypoints(frames=1)).shape == (2, 1, 17, 3) and convolved(keypoints(frames=9)).shape == (2, 9, 17, 3)


def test_errors():
    model = tiny()
    with pytest.raises(ValueError, match="keypoints have 5 frames, expected exactly num_frames=6: its batch norms are"):
        model(keypoints(frames=5))
    with pytest.raises(ValueError, match=r"MotionAGFormer: keypoints have shape \(2, 6, 16, 3\), expected \(B, T, 17, 3\)"):
        model(keypoints(joints=16))
    with pytest.raises(TypeError, match="MotionAGFormer: keypoints have dtype torch.int64"):
        model(keypoints().long())
    with pytest.raises(ValueError, match="MotionAGFormer: bones is None with 16 joints, expected the pairs of joints"):
        tiny(num_joints=16)
    with pytest.raises(ValueError, match="temporal_graph is 'gcn', expected 'topk' or 'tcn'"):
        tiny(temporal_graph="gcn")
    with pytest.raises(ValueError, match="k is 7, expected 1 <= k <= num_frames=6"):
        tiny(k=7)
    with pytest.raises(ValueError, match="dim is 18, expected a multiple of 4"):
        tiny(temporal_graph="tcn", dim=18)
    for edges in ([(0, 1)], [(0, 1), (1, 2)], [(0, 1), (1, -1)]):
        with pytest.raises(ValueError, match="expected pairs of joints below 2 in which each is once the first"):
            SkeletonGraphConv(4, 2, edges)
