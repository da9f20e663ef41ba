"""StridedTransformer, P-STMO, MHFormer, GLA-GCN and FTCM against the official codes' numbers, and as models of one frame."""

import numpy as np
import pytest
import torch

import lifter
from lifter.models import PSTMOPretrain
from lifter.verify import verify
from tests.models.windows import assert_clips_are_windows

GOLDEN = ["strided_transformer", "pstmo", "pstmo_pretrain", "mhformer", "mhformer_t36", "gla_gcn", "gla_gcn_humaneva", "ftcm"]
TINY = {
    "strided_transformer": {"num_frames": 9, "dim": 8, "hidden": 8, "depth": 1},
    "pstmo": {"num_frames": 9, "dim": 8, "hidden": 8, "depth": 1},
    "mhformer": {"num_frames": 9, "dim": 8, "hidden": 8, "depth": 2, "num_heads": 2},
    "gla_gcn": {"channels": 8, "widths": (3, 3)},
    "ftcm": {"num_frames": 9, "dim": 8, "depth": 1},
}


def tiny(name, **kwargs):
    torch.manual_seed(0)
    model = lifter.create_model(name, **TINY[name] | kwargs).eval()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
    return model


# The only op of ours in them is attention, whose Triton kernels have tests of their own: the fastest case stands for all.
CASES = [(name, backend) for name in GOLDEN for backend in ("reference", "cpu")] + [("pstmo", "triton")]


@pytest.mark.parametrize("name, backend", CASES)
def test_golden(shared, name, backend):
    (result,) = verify(shared / "golden" / f"{name}.npz", backend)
    assert result.passed, result


@pytest.mark.parametrize("name", TINY)
def test_clips(name):
    assert_clips_are_windows(tiny(name))


@pytest.mark.parametrize(
    "name, kwargs, parameters",
    [
        ("pstmo_s", {"num_frames": 81}, 5_527_142),
        ("pstmo_s", {}, 6_482_278),
        ("pstmo", {}, 7_009_382),
        ("strided_transformer", {"num_frames": 243}, 4_235_622),
        ("strided_transformer", {}, 4_346_214),
        ("mhformer", {"num_frames": 27}, 19_184_517),
        ("mhformer", {"num_frames": 243}, 25_165_077),
        ("mhformer", {}, 31_516_125),
        ("gla_gcn", {"num_frames": 27}, 844_076),
        ("gla_gcn", {}, 1_348_856),
        ("ftcm", {"num_frames": 243}, 4_494_486),
        ("ftcm", {}, 4_687_590),
    ],
)
def test_parameter_count(name, kwargs, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in lifter.create_model(name, **kwargs).parameters()) == parameters


@pytest.mark.parametrize("name", ["strided_transformer", "pstmo", "mhformer"])
def test_training_gives_all_frames(name):
    """The centre that is trained is the one that is evaluated."""
    model = tiny(name, drop=0.0, **({"drop_path": 0.0} if name == "mhformer" else {}))
    x = torch.randn(2, 9, 17, 2)
    with torch.no_grad():
        given = model.lift_all(x)
        centre, full = given if isinstance(given, tuple) else (given[:, 4:5], given)
        torch.testing.assert_close(model(x), centre)
        trained = model.train()(x)
    shapes = [(2, 9, 17, 3)] if name == "mhformer" else [(2, 1, 17, 3), (2, 9, 17, 3)]
    assert [y.shape for y in (trained if isinstance(trained, tuple) else (trained,))] == shapes
    assert full.shape == (2, 9, 17, 3)


def test_what_pstmo_hides():
    """Neither hidden joints nor hidden frames are seen; what the first stage learns goes to the second."""
    torch.manual_seed(0)
    model = PSTMOPretrain(num_frames=9, dim=16, hidden=16, depth=2).eval()
    frames, joints = torch.arange(9) % 3 == 1, torch.zeros(9, 17, dtype=torch.bool)
    joints[:, 4:6] = True
    x = torch.randn(2, 9, 17, 2)
    other = torch.where((joints | frames[:, None])[..., None], torch.randn(2, 9, 17, 2), x)
    with torch.no_grad():
        assert torch.equal(model(other, frames, joints), model(x, frames, joints))
        assert not torch.equal(model(x, frames, ~joints), model(x, frames, joints))
    assert model.order(frames).tolist() == [0, 2, 3, 5, 6, 8, 1, 4, 7]
    lift = lifter.create_model("pstmo_s", num_frames=9, dim=16, hidden=16, depth=2)
    missing, unexpected = lifter.load_checkpoint(lift, model.state_dict(), strict=False)
    assert {key.partition(".")[0] for key in missing} == {"Transformer_reduce", "fcn", "fcn_1"}
    assert torch.equal(lift.Transformer.pos_embedding, model.Transformer.pos_embedding) and unexpected
    with pytest.raises(ValueError, match=r"hidden_joints has shape \(17,\) and dtype torch.bool, expected \(9, 17\)"):
        model(x, frames, joints[0])


def test_official_names(shared):
    """Projections are compared; StridedTransformer has one layer for each."""
    with np.load(shared / "golden" / "strided_transformer.npz") as data:
        weights = {key[6:]: torch.from_numpy(data[key]) for key in data.files if key.startswith("param/")}
    model = lifter.create_model("strided_transformer", num_frames=27, dim=32, hidden=48, depth=2, strides=(3, 3, 3))
    assert lifter.load_checkpoint(model, weights) == ([], [])
    key = "Transformer.model.layers.1.self_attn.linears.1.weight"
    assert torch.equal(model.Transformer.model.layers[1].self_attn.qkv.weight[32:64], weights[key])


def test_errors():
    with pytest.raises(ValueError, match=r"strides is \(3, 2\), expected positive numbers whose product is num_frames=9"):
        tiny("strided_transformer", strides=(3, 2))
    with pytest.raises(ValueError, match="PSTMO: strides is"):
        tiny("pstmo", num_frames=10)
    with pytest.raises(ValueError, match="MHFormer: num_frames is 10, expected a multiple of 9"):
        tiny("mhformer", num_frames=10)
    with pytest.raises(ValueError, match="GLAGCN: num_frames is 10, expected 9, the product of widths"):
        tiny("gla_gcn", num_frames=10)
    with pytest.raises(ValueError, match="FTCM: dim is 12, expected a multiple of 8"):
        tiny("ftcm", dim=12)
    with pytest.raises(ValueError, match="MHFormer: keypoints have 8 frames, expected at least 9"):
        tiny("mhformer")(torch.zeros(1, 8, 17, 2))
