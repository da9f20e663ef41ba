"""PoseRetNet against the official code's numbers, chunk by chunk against whole clips, its weights and its errors."""

import re

import numpy as np
import pytest
import torch

import lifter
from lifter import kernels
from lifter.models import PoseRetNet
from lifter.verify import verify
from tests.models.eager import assert_as_good_as_eager, assert_compiles, assert_exports

GOLDEN = ["parallel", "staircase", "partial", "shared", "causal", "causal_joint", "mpii3d", "long", "units"]
TINY = {"num_frames": 9, "dim": 16, "depth": 2, "num_heads": 2, "chunk_size": 4, "drop_path": 0.0}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = PoseRetNet(**TINY | kwargs).eval()
    torch.nn.init.normal_(model.Spatial_pos_embed, std=0.2)
    for block in model.TTEblocks:  # the official start, 1 / dim, would leave nothing for GroupNorm but its eps
        torch.nn.init.normal_(block.attn.qkvg.weight, std=0.2)
        torch.nn.init.normal_(block.attn.out.weight, std=0.2)
    return model


def keypoints(model, batch=2, frames=9):
    torch.manual_seed(1)
    joints, channels = model.Spatial_pos_embed.shape[1], model.Spatial_patch_to_embedding.in_features
    return torch.randn(batch, frames, joints, channels)


def in_chunks(model, x, *lengths):
    poses, state = [], None
    for chunk in x.split(lengths if len(lengths) > 1 else lengths[0], 1):
        out, state = model(chunk, state, return_state=True)
        poses.append(out)
    return torch.cat(poses, 1), state


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(shared, backend, name):
    if backend == "triton" and name != "mpii3d":
        pytest.skip("the interpreter is slow: the smallest file stands for the others")
    for result in verify(shared / "golden" / f"poseretnet_{name}.npz", backend):
        assert result.passed, result


@pytest.mark.parametrize("name", ["staircase", "causal_joint", "partial"])
def test_golden_in_float64(shared, name):
    (result,) = verify(shared / "golden" / f"poseretnet_{name}.npz", "reference", "float64")
    assert result.absolute < 2e-5, result  # the official code's own float32 rounding


def test_parameter_count():
    model = lifter.create_model("poseretnet")
    assert sum(p.numel() for p in model.parameters()) == 35_749_443
    assert [block.attn.chunk_size for block in model.TTEblocks] == [243] * 8


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 20])
@pytest.mark.parametrize("kwargs", [{}, {"causal": True}, {"joint_decay": False}], ids=str)
def test_chunks_with_state_are_one_call(backend, chunk_size, kwargs):
    """Longer than num_frames, and with a short last chunk."""
    if backend == "triton":
        pytest.skip("the interpreter is slow: the golden files and the tests of the op stand for it")
    model = tiny(chunk_size=chunk_size, **kwargs)
    x = keypoints(model, frames=14)
    with torch.no_grad():
        whole, final = model(x, return_state=True)
        poses, state = in_chunks(model, x, chunk_size)
        torch.testing.assert_close(model(x), whole, rtol=0, atol=0)
    torch.testing.assert_close(poses, whole, rtol=1e-4, atol=1e-4)
    assert len(state) == len(final) == 2
    for ours, theirs in zip(state, final):
        assert ours.shape == (2, 17, 2, 8, 8) and ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_causal_in_any_chunks():
    model = tiny(causal=True)
    x = keypoints(model, frames=14)
    with kernels.backend("reference"), torch.no_grad():
        poses, _ = in_chunks(model, x, 1, 5, 6, 2)
        torch.testing.assert_close(poses, model(x), rtol=1e-4, atol=1e-4)


def test_who_sees_whom():
    """Frames of the own chunk and all before; never a later chunk."""
    model = tiny()
    x = keypoints(model, frames=12)
    with kernels.backend("reference"), torch.no_grad():
        before = model(x)
        for frame in range(12):
            changed = x.clone()
            changed[:, frame] += 1
            touched = (model(changed) != before).flatten(2).any(-1)
            assert torch.equal(touched, (torch.arange(12) >= frame // 4 * 4).expand(2, -1)), frame


def test_num_frames_is_the_default_chunk():
    assert tiny(num_frames=5, chunk_size=None).TTEblocks[0].attn.chunk_size == 5


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"causal": True},
        {"joint_decay": False},
        {"num_joints": 16},
        {"dataset": "mpii3d", "num_joints": 14},
        {"dataset": "mpii3d_univ"},
        {"num_joints": 5, "joint_decay": False},
        {"trainable_decay": True},
        {"in_channels": 3},
        {"qkv_bias": False},
    ],
    ids=str,
)
def test_variants_run_and_train(kwargs):
    model = tiny(**kwargs)
    x = keypoints(model)
    with kernels.backend("reference"):
        y = model(x)
        y.square().sum().backward()
    assert y.shape == (*x.shape[:3], 3) and y.isfinite().all()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    frozen = set() if kwargs.get("trainable_decay") else {f"TTEblocks.{i}.attn.decay" for i in range(2)}
    assert trained == {name for name, _ in model.named_parameters()} - frozen


def test_gradients_flow_through_the_state():
    model = tiny()
    x = keypoints(model, frames=8).requires_grad_()
    with kernels.backend("reference"):
        _, state = model(x[:, :4], return_state=True)
        model(x[:, 4:], state).sum().backward()
    assert (x.grad[:, :4].abs() > 0).any()


# ---- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_pytorchs(name, dtype):
    model = tiny(dim=64, num_heads=4)
    assert_as_good_as_eager(model, dtype, name, keypoints(model, frames=12))


def test_half_precision_keeps_the_decay():
    model = tiny().bfloat16()
    layer = model.TTEblocks[0].attn
    assert layer.decay.dtype == layer.xpos_scale.dtype == torch.float32
    assert torch.equal(layer.decay, tiny().TTEblocks[0].attn.decay) and layer.qkvg.weight.dtype == torch.bfloat16
    with kernels.backend("reference"), torch.no_grad():
        poses, state = model(keypoints(model).bfloat16(), return_state=True)
    assert poses.dtype == torch.bfloat16 and state[0].dtype == torch.float32


def test_float64_and_mixed_dtypes():
    model = tiny()
    x = keypoints(model)
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        assert model(x.bfloat16()).dtype == torch.bfloat16
        got = model.double()(x.double())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), expected, rtol=1e-4, atol=1e-4)


def test_autocast():
    model = tiny(dim=64, num_heads=4)
    x = keypoints(model)
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got, state = model(x, return_state=True)
    assert got.dtype == torch.float32 and state[0].dtype == torch.float32
    assert (got - expected).abs().max() < 16 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_empty_batch(backend):
    model = tiny()
    poses, state = model(keypoints(model, batch=0), return_state=True)
    assert poses.shape == (0, 9, 17, 3) and state[0].shape == (0, 17, 2, 8, 8)
    assert model(keypoints(model, batch=0), state).shape == (0, 9, 17, 3)


# ---- compilers -------------------------------------------------------------------------------------------------------


def test_compile_with_state():
    model = tiny()
    x = keypoints(model, frames=4)
    with torch.no_grad():
        _, state = model(x, return_state=True)
    assert_compiles(model, x, state, True)


def test_export():
    model = tiny()
    assert_exports(model, keypoints(model))


# ---- official weights ------------------------------------------------------------------------------------------------


@pytest.fixture
def official(shared):
    """The official state dict of `staircase`, as a fresh dict."""
    with np.load(shared / "golden" / "poseretnet_staircase.npz") as data:
        return {key[6:]: torch.from_numpy(data[key]) for key in data.files if key.startswith("param/")}


def for_official():
    return PoseRetNet(27, dim=32, depth=2, num_heads=4, chunk_size=9)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "model.module.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model_pos"])
def test_official_weights_in_any_wrapping(tmp_path, official, prefix, wrapper):
    weights = {prefix + key: value for key, value in official.items()}
    torch.save(weights if wrapper is None else {"epoch": 3, wrapper: weights}, tmp_path / "best.bin")
    model = for_official()
    assert lifter.load_checkpoint(model, tmp_path / "best.bin") == ([], [])
    layer = model.TTEblocks[1].attn
    for h in range(4):
        for i, name in enumerate("QKV"):
            expected = official[f"TTEblocks.1.attn.retentions.{h}.W_{name}"].T
            assert torch.equal(layer.qkvg.weight.view(4, 4, 8, 32)[i, h], expected)
        assert torch.equal(layer.decay[:, h], official[f"TTEblocks.1.attn.retentions.{h}.gamma"])
    assert torch.equal(layer.qkvg.weight[96:], official["TTEblocks.1.attn.W_G"].T)
    assert torch.equal(layer.out.weight, official["TTEblocks.1.attn.W_O"].T)
    assert torch.equal(model.head[1].weight, official["head.1.weight"])


def test_our_own_weights_round_trip(tmp_path):
    model, other = tiny(), PoseRetNet(**TINY)
    for name in ("weights.safetensors", "weights.pth"):
        lifter.save_checkpoint(model, tmp_path / name)
        other = PoseRetNet(**TINY)
        lifter.load_checkpoint(torch.compile(other), tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_a_compiled_model_takes_official_weights(official):
    model = for_official()
    lifter.load_checkpoint(torch.compile(model), official)
    assert torch.equal(model.TTEblocks[0].attn.out.weight, official["TTEblocks.0.attn.W_O"].T)


@pytest.mark.parametrize("strict", [True, False])
def test_missing_head(official, strict):
    """A projection with one head missing is not half loaded, whatever `strict`."""
    model = for_official()
    before = snapshot(model)
    del official["TTEblocks.1.attn.retentions.3.W_K"]
    with pytest.raises(KeyError, match=re.escape("missing keys: TTEblocks.1.attn.retentions.3.W_K'")):
        lifter.load_checkpoint(model, official, strict)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_wrong_official_shapes(official):
    model = for_official()
    before = snapshot(model)
    official["TTEblocks.0.attn.retentions.1.W_V"] = torch.zeros(32, 9)
    with pytest.raises(ValueError, match=r"TTEblocks.0.attn.retentions.1.W_V is \(32, 9\), expected \(32, 8\)"):
        lifter.load_checkpoint(model, official)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"TTEblocks.0.attn.retentions.0.gamma is \(17,\), expected \(\)"):
        lifter.load_checkpoint(
            PoseRetNet(27, dim=32, depth=2, num_heads=4, joint_decay=False),
            official | {"TTEblocks.0.attn.retentions.1.W_V": torch.zeros(32, 8)},
        )


def test_too_many_heads(official):
    with pytest.raises(KeyError, match="unexpected keys: .*retentions.2.gamma.*; wrong shapes: .*retentions.0.W_Q"):
        lifter.load_checkpoint(PoseRetNet(27, dim=32, depth=2, num_heads=2), official)


def test_not_strict_loads_whole_layers(official):
    model = for_official()
    before = snapshot(model)
    rest = {key: value for key, value in official.items() if not key.startswith("TTEblocks.1.attn.")}
    missing, unexpected = lifter.load_checkpoint(model, rest | {"extra": torch.zeros(1)}, strict=False)
    assert unexpected == ["extra"] and len(missing) == 4 + 5 * 4
    assert all(key.startswith("TTEblocks.1.attn.") for key in missing)
    assert torch.equal(model.TTEblocks[1].attn.qkvg.weight, before["TTEblocks.1.attn.qkvg.weight"])
    assert torch.equal(model.TTEblocks[0].attn.out.weight, official["TTEblocks.0.attn.W_O"].T)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, message",
    [
        ((3, 17, 2), r"PoseRetNet: keypoints have shape \(3, 17, 2\), expected \(B, T, 17, 2\)"),
        ((1, 3, 16, 2), r"shape \(1, 3, 16, 2\), expected \(B, T, 17, 2\)"),
        ((1, 0, 17, 2), "0 frames, expected at least 1"),
    ],
)
def test_bad_shapes(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


def test_bad_state():
    model = tiny()
    x = keypoints(model)
    with pytest.raises(TypeError, match="torch.int64"):
        model(x.long())
    with kernels.backend("reference"):
        _, state = model(x, return_state=True)
        with pytest.raises(ValueError, match="state has 1 tensors, expected one per temporal block, 2"):
            model(x, state[:1])
        with pytest.raises(ValueError, match=r"state has shape \(2, 17, 2, 8, 8\), expected \(1, 17, 2, 8, 8\)"):
            model(x[:1], state)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"dim": 18, "num_heads": 4}, "dim is 18, expected a multiple"),
        ({"dataset": "coco"}, "dataset is 'coco' with 17 joints, expected one of h36m with 17, h36m with 16"),
        ({"num_joints": 15}, "'h36m' with 15 joints"),
        ({"decay_divider": 2}, "divider is 1.0, expected more than 1"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)
