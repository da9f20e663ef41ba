"""HGMamba against the official code's numbers, whole and layer by layer, and what is its own: shuffled joints."""

import pytest
import torch

from benchmarks import tables
from lifter import kernels
from lifter.layers import BidirectionalMamba, HyperGraphConv, both_ways
from lifter.models import HGMamba
from lifter.verify import verify

BONES = [(0, 1), (1, 2), (1, 3)]


def tiny(**kwargs):
    torch.manual_seed(0)
    return HGMamba(**{"num_frames": 6, "dim": 8, "dim_rep": 8, "depth": 2, "layer_scale": 0.5} | kwargs).eval()


def keypoints(batch=2, frames=6):
    return torch.randn(batch, frames, 17, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["reference", "cpu"])  # the interpreter takes minutes: skeleton_scan stands for it
def test_golden(shared, name):
    (result,) = verify(shared / "golden" / "hgmamba.npz", name)
    assert result.passed, result


@pytest.mark.parametrize("name, dtype", [("reference", "float32"), ("reference", "float64"), ("cpu", "float32")])
def test_golden_layers(shared, name, dtype):
    results = verify(shared / "golden" / "hgmamba_units.npz", name, dtype)
    assert len(results) == 11
    for result in results:
        assert result.passed, result


@pytest.mark.parametrize(
    "name, frames, params, seen, macs, printed",
    [
        ("hgmamba_xs", 27, 2_877_087, 1_839_547, 0.844, 1.140540),
        ("hgmamba_s", 81, 6_194_157, 3_947_423, 5.428, 8.024606),
        ("hgmamba_b", 243, 14_200_403, 9_604_003, 39.640, 64.540250),
    ],
)
def test_counts(name, frames, params, seen, macs, printed):
    """The official code's parameters, those that thop sees, thop's multiply-accumulates; and torchprofile's, which has the
    dense graphs, and some 2 per norm and element."""
    counts = tables.count(name, frames)
    assert (counts["params"], counts["params_paper_convention"]) == (params, seen)
    assert round(counts["macs_paper_convention"] / 1e9, 3) == macs
    dim, depth = (128, 16) if name == "hgmamba_b" else (64, 12 if frames == 27 else 26)
    graphs = depth * 17 * (2 * frames**3 + frames**2 * dim)
    norms = frames * 17 * dim * (depth * (8 * 2 + 2) + 4)
    assert (tables.CONVENTIONS["torchprofile"](counts) + graphs + norms) / 1e9 == pytest.approx(printed, rel=2e-3)


def test_bidirectional_is_two_directions():
    """With the same weights for both, a mirrored sequence gives the mirrored output."""
    torch.manual_seed(0)
    layer, x = BidirectionalMamba(8).double(), torch.randn(2, 7, 8).double()
    for name in ("conv1d", "x_proj", "dt_proj"):
        getattr(layer, f"{name}_b").load_state_dict(getattr(layer, name).state_dict())
    with torch.no_grad():
        layer.D_b.copy_(layer.D.normal_())
        torch.testing.assert_close(layer(x.flip(1)), layer(x).flip(1), rtol=1e-6, atol=1e-6)
    with pytest.raises(NotImplementedError, match="a step needs the later ones"):
        layer.step(x[:, :1], None, None)


def test_both_scales_and_the_bones():
    """The sum of the three graphs with their learned weights, written out."""
    torch.manual_seed(0)
    layer = HyperGraphConv(4, 4, both_ways(BONES), parts=((0, 1), (1, 2), (1, 3)), body=((0, 1, 2, 3),)).double().eval()
    x = torch.randn(2, 3, 4, 4).double()
    with torch.no_grad():
        for alpha in (layer.alpha1, layer.alpha2, layer.alpha3):
            alpha.normal_()
        part, body = (
            conv(torch.einsum("btvc,vw->btwc", x, graph / (graph.sum(0) + 0.001)))
            for conv, graph in ((layer.conv_part, layer.p_adj), (layer.conv_body, layer.b_adj))
        )
        bones = torch.zeros(4, 4).double()
        for i, j in both_ways(BONES):
            bones[i, j] = 1 / (3**0.5)
        y = layer.alpha1 * part + layer.alpha2 * body + layer.alpha3 * (bones @ layer.V(x)) + layer.U(x)
        expected = (x + y / (1 + layer.batch_norm.eps) ** 0.5).relu()
        torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, {"temporal_graph": "chain", "reach": 2}, {"body": ((*range(17),),)}], ids=str)
def test_everything_that_is_read_is_trained(kwargs):
    model = tiny(**kwargs)
    with kernels.backend("reference"):
        model(keypoints()).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.requires_grad == (p.grad is not None and p.grad.abs().sum() > 0), name
    unread = {name.split("mixer.")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert unread == (set() if "body" in kwargs else {"alpha1", "alpha2", "V.weight", "V.bias"})


def test_joints_are_shuffled_in_training_only():
    model, x = tiny(shuffle=1.0), keypoints()
    layer = model.layers[1]
    seen = []
    layer.mamba_spatial.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with kernels.backend("reference"), torch.no_grad():
        model(x)
        model.train()(x)
    plain, shuffled = seen
    assert plain.shape == shuffled.shape and model.layers[0].shuffle == 0.0
    norms = lambda x: x.norm(dim=(1, 3))  # of every joint
    assert not torch.allclose(norms(plain), norms(shuffled))


def test_errors():
    with pytest.raises(ValueError, match="keypoints have 5 frames, expected exactly num_frames=6"):
        tiny()(keypoints(frames=5))
    with pytest.raises(ValueError, match="temporal_graph is 'tcn', expected 'topk' or 'chain'"):
        tiny(temporal_graph="tcn")
    with pytest.raises(ValueError, match="k is 7, expected 1 <= k <= num_frames=6"):
        tiny(k=7)
    with pytest.raises(ValueError, match="expected every node below 17 in one"):
        tiny(parts=((0, 1),))
