"""KTPFormer against the official code's numbers, and its graph convolution against the formula."""

import copy

import pytest
import torch
from torch import nn

import lifter
from benchmarks import tables
from lifter import kernels
from lifter.layers import LearnedGraphConv
from lifter.models import KTPFormer
from lifter.skeleton import H36M
from lifter.verify import verify
from tests.conftest import assert_as_good
from tests.models.eager import assert_compiles, eager_mixers

TINY = {"num_frames": 6, "dim": 16, "depth": 1, "num_heads": 2, "drop_path": 0.0}


def tiny(**kwargs):
    """All that starts at a constant is random: positions, norms and their statistics, the learned part of the graphs."""
    torch.manual_seed(0)
    model = KTPFormer(**TINY | kwargs).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("pos_embed", "adj2")) or "bias" in name:
            nn.init.normal_(tensor, std=0.2)
        elif name.endswith(("running_var", "M", "norm1.weight", "bn.weight")):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def keypoints(batch=2, frames=6, joints=17, channels=2):
    torch.manual_seed(1)
    return torch.randn(batch, frames, joints, channels)


def graph_conv(axis="frame", num_nodes=5, edges=((0, 1), (2, 1), (3, 2)), channels=(4, 6)):
    torch.manual_seed(0)
    layer = LearnedGraphConv(*channels, axis, num_nodes, edges)
    for p in (layer.M, layer.adj2, layer.bias):
        nn.init.normal_(p)
    return layer.double()


def test_golden(shared, backend):
    if backend == "triton":
        pytest.skip("not on Triton, whose interpreter takes 40 s: the goldens of MixSTE, the same ops, stand for it")
    (result,) = verify(shared / "golden" / "ktpformer.npz", backend)
    assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_golden_dtypes(shared, dtype):
    (result,) = verify(shared / "golden" / "ktpformer.npz", "reference", dtype)
    assert result.passed, result
    assert dtype != "float64" or result.absolute < 5e-6, result  # the official code's own float32 rounding


def test_counts():
    """The official code's parameters and thop's, T = 243. Of its products 1.064 G are with diagonal matrices, ours not."""
    counts = tables.count("ktpformer", 243)
    assert (counts["params"], counts["params_paper_convention"]) == (35_213_430, 33_652_227)
    assert round(counts["macs_paper_convention"] / 1e9, 3) == 139.060
    diagonal = (2 * 17 * 243**2 + 243 * 17**2) * 512
    assert round((counts["macs"] + diagonal) / 1e9, 3) == 153.886


@pytest.mark.parametrize("axis", ["frame", "joint"])
def test_graph_convolution_is_its_formula(axis):
    layer, x = graph_conv(axis), torch.randn(2, 5, 5, 4, dtype=torch.float64)
    graph = torch.tensor([[1, 1, 0, 0, 0], [0.5, 1, 0.5, 0, 0], [0, 0.5, 1, 0.5, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    graph = graph.double() + layer.adj2
    graph = (graph + graph.mT) / 2
    nodes = x.transpose(1, 2) if axis == "frame" else x  # (..., node, C)
    expected = layer.bias.expand(2, 5, 5, 6).clone()
    for i in range(5):
        for j in range(5):
            expected[..., i, :] += graph[i, j] * layer.M[j] * (nodes[..., j, :] @ layer.W[0 if i == j else 1])
    torch.testing.assert_close(layer(x), expected.transpose(1, 2) if axis == "frame" else expected)


@pytest.mark.parametrize("axis", ["frame", "joint"])
def test_gradients_of_the_graph_convolution(axis):
    layer, x = graph_conv(axis, 3, [(0, 1)], (2, 3)), torch.randn(1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    call = lambda x, *p: torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), p, strict=True)), x)
    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_shorter_clip_is_a_model_of_its_length():
    """With the first rows of all that belongs to frames; also the graph is that of a short clip, to its last frame."""
    model, short = tiny(), tiny(num_frames=4)
    weights = {
        name: tensor[tuple(slice(size) for size in short.state_dict()[name].shape)]
        for name, tensor in model.state_dict().items()
    }
    lifter.load_checkpoint(short, weights)
    with kernels.backend("reference"), torch.no_grad():
        assert torch.equal(model(keypoints(frames=4)), short(keypoints(frames=4)))
        assert model(keypoints(frames=1)).isfinite().all()


def test_official_checkpoint():
    trained, model = tiny(depth=3), KTPFormer(**TINY | {"depth": 3})
    official = {f"module.{key}": value.clone() for key, value in trained.official_weights().items()}
    assert {key.split(".")[2] for key in official if ".STEblocks." in key} == {"0", "1", "2"}
    lifter.load_checkpoint(model, {"epoch": 7, "model_pos": official})
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), trained.state_dict().values(), strict=True))
    lifter.load_checkpoint(model, trained.state_dict())
    with pytest.raises(KeyError, match="missing keys: kpattention.attn.kpa.gconv.adj2"):
        lifter.load_checkpoint(model, {k: v for k, v in official.items() if not k.endswith("kpa.gconv.adj2")})


def test_mask():
    """It reaches the attention of every temporal block, also the first; the graphs connect neighbours regardless."""
    model, x = tiny(), keypoints()
    for graph in model.TTEblocks[0].tpa:
        nn.init.zeros_(graph.gconv.adj2)
    with kernels.backend("reference"), torch.no_grad():
        everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)
        torch.testing.assert_close(model(x, mask=everything), model(x), rtol=1e-5, atol=1e-6)
        itself = torch.eye(6, dtype=torch.bool)[None, None]
        far = x.clone()
        far[:, 5] += 1  # two graph convolutions reach two frames
        torch.testing.assert_close(model(far, mask=itself)[:, :3], model(x, mask=itself)[:, :3], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(model(far, mask=itself)[:, 3], model(x, mask=itself)[:, 3])


def test_another_skeleton():
    model = tiny(num_joints=4, in_channels=3, bones=[(0, 1), (1, 2), (1, 3)])
    assert model(keypoints(joints=4, channels=3)).shape == (2, 6, 4, 3)
    official = tiny().Spatial_patch_to_embedding.gconv.known
    assert official.sum() == 2 * len(H36M.bones) and all(official[i, j] for i, j in H36M.bones)


@pytest.mark.parametrize("training", [False, True])
def test_everything_is_trained(training):
    model = tiny(drop=0.1 * training).train(training)
    model(keypoints()).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        if not (training and name.endswith("gconv.bias")):  # a batch norm subtracts it
            assert p.grad.abs().sum() > 0, name


def test_gradients():
    model = tiny(dim=4, num_heads=1).double()
    with kernels.backend("reference"):
        assert torch.autograd.gradcheck(model, keypoints(1, 3).double().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_bfloat16_is_as_good_as_pytorchs(name):
    model, x = tiny(dim=64, num_heads=4), keypoints()
    with kernels.backend("reference"), torch.no_grad():
        exact = model.double()(x.double())
        model.to(torch.bfloat16)
        with eager_mixers():
            eager = model(x.bfloat16())
    with kernels.backend(name), torch.no_grad():
        assert_as_good("poses", model(x.bfloat16()), eager, exact)


def test_autocast():
    model, x = tiny(), keypoints()
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 16 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_frozen(dtype):
    model, x = tiny(), keypoints()
    exact = copy.deepcopy(model).double()(x.double())
    model.to(dtype)
    assert_as_good("poses", lifter.freeze(model)(x.to(dtype)), model(x.to(dtype)), exact, factor=2, rounding=64)


def test_empty_batch(backend):
    assert tiny()(keypoints()[:0]).shape == (0, 6, 17, 3)


def test_compile():
    assert_compiles(tiny(), keypoints())


def test_errors():
    with pytest.raises(ValueError, match="KTPFormer: keypoints have 7 frames, expected 1 to num_frames=6"):
        tiny()(keypoints(frames=7))
    with pytest.raises(ValueError, match=r"KTPFormer: keypoints have shape \(2, 6, 16, 2\), expected \(B, T, 17, 2\)"):
        tiny()(keypoints(joints=16))
    with pytest.raises(ValueError, match="KTPFormer: bones is None with 16 joints, expected the pairs of joints"):
        tiny(num_joints=16)
    for edge in ((0, 5), (-1, 2), (3, 3)):
        with pytest.raises(ValueError, match=r"edges has \(.*\), expected two different nodes below 5"):
            graph_conv(edges=[edge])
    with pytest.raises(ValueError, match="axis is 'time', expected 'joint' or 'frame'"):
        graph_conv("time")
    with pytest.raises(ValueError, match="x has 6 frames, expected at most 5"):
        graph_conv()(torch.zeros(1, 6, 3, 4))
    with pytest.raises(ValueError, match="x has 4 joints, expected 5"):
        graph_conv("joint")(torch.zeros(1, 3, 4, 4))
