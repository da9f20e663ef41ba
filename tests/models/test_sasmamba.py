"""SasMamba against the official code's numbers, its counts, its variants and its errors."""

import copy

import pytest
import torch

import lifter
from lifter import kernels
from lifter.models.sasmamba import SasMamba, stride_gather, stride_groups, stride_groups_gather
from lifter.verify import verify
from tests.conftest import assert_as_good
from tests.models.eager import assert_compiles, assert_exports

TINY = {"num_frames": 4, "dim": 8, "depth": 2, "drop_path": 0.0}
FRAMES = 3


def tiny(**kwargs):
    torch.manual_seed(0)
    model = SasMamba(**TINY | kwargs).eval()
    for position in (model.Spatial_pos_embed, model.Temporal_pos_embed):
        torch.nn.init.normal_(position, std=0.2)
    return model


def keypoints(model, batch=2, frames=FRAMES):
    torch.manual_seed(1)
    joints, channels = model.Spatial_pos_embed.shape[1], model.Spatial_patch_to_embedding.in_features
    return torch.randn(batch, frames, joints, channels)


@pytest.mark.parametrize("name", ["sasmamba", "sasmamba_conv7"])
def test_golden(golden, backend, name):
    if backend == "triton" and name != "sasmamba_conv7":
        pytest.skip("the interpreter is slow: the smallest file stands for the others")
    (result,) = verify(golden(name), backend)
    assert result.passed, result


def test_golden_in_float64(shared):
    (result,) = verify(shared / "golden" / "sasmamba.npz", "reference", "float64")
    assert result.absolute < 4e-6, result  # the official code's own float32 rounding


@pytest.mark.parametrize("name, params", [("sasmamba", 951_351), ("sasmamba_large", 5_572_459)])
def test_parameter_count(name, params):
    assert sum(p.numel() for p in lifter.create_model(name).parameters()) == params


VARIANTS = [
    {},
    {"variant": "paper"},
    {"variant": "paper", "kernel_size": 5},
    {"variant": "paper", "strides": (1, 2)},
    {"kernel_size": 1},
    {"kernel_size": 5},
    {"kernel_size": 7},
    {"strides": (1,)},
    {"strides": (2, 3)},
    {"scan": "local_global"},
    {"directions": ("S-f",)},
    {"directions": ("T-b", "T-f")},
    {"in_channels": 3},
    {"num_joints": 14},
    {"mlp_ratio": 4.0},
]


@pytest.mark.parametrize("kwargs", VARIANTS, ids=str)
def test_variants_run_and_train(kwargs):
    model = tiny(**kwargs)
    x = keypoints(model, frames=TINY["num_frames"])
    with kernels.backend("reference"):
        y = model(x)
        y.square().sum().backward()
    assert y.shape == (*x.shape[:3], 3) and y.isfinite().all()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def output_and_gradients(model, x, backend, dtype=None):
    """Return the output and the gradient of every parameter by name, for a fixed gradient of the output."""
    dtype = dtype or x.dtype
    model = copy.deepcopy(model).to(dtype)
    with kernels.backend(backend):
        y = model(x.to(dtype))
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    names, parameters = zip(*model.named_parameters())
    return {"output": y.detach(), **dict(zip(names, torch.autograd.grad(y, parameters, dy)))}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"variant": "paper"},
        {"variant": "paper", "strides": (1, 2)},
        {"scan": "local_global"},
        {"directions": ("S-f",)},
        {"directions": ("T-b", "T-f")},
        {"directions": ("S-b", "T-f", "S-f"), "variant": "paper"},
    ],
    ids=str,
)
def test_variants_on_the_kernels(kwargs):
    model = tiny(**kwargs)
    x = keypoints(model)
    ours, torchs = (output_and_gradients(model, x, backend) for backend in ("cpu", "reference"))
    exact = output_and_gradients(model, x, "reference", torch.float64)
    for name in exact:
        assert_as_good(name, ours[name], torchs[name], exact[name])


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_bfloat16_errs_as_pytorch_does(variant):
    """In the output: the gradient of a place that is sampled jumps where rounding moves it to another cell."""
    model = tiny(variant=variant, dim=32).bfloat16()  # float64 starts from the same weights
    x = keypoints(model, batch=8).bfloat16()
    ours, torchs = (output_and_gradients(model, x, backend)["output"] for backend in ("cpu", "reference"))
    exact = output_and_gradients(model, x, "reference", torch.float64)["output"]
    assert_as_good("output", ours, torchs, exact, factor=2)


def test_kernel_1_has_no_convolution():
    assert not any("conv2d" in key for key in tiny(kernel_size=1).state_dict())


def test_scan_groups_follow_directions():
    assert tiny(directions=("S-b", "T-f", "S-f")).STEblocks[0].op.x_proj_weight.shape[0] == 3


def test_gather_tables():
    def reads(table):
        """The joints that are read at every joint."""
        return [[int(j) for j in column if j >= 0] for column in table.T]

    table = stride_gather((1, 2, 3), ("T-f", "S-b"), 5)
    assert table.shape == (2, 1, 3, 5)
    assert reads(table[0, 0]) == [[0, 0, 0], [1, 0, 0], [2, 2, 0], [3, 2, 3], [4, 4, 3]]
    assert reads(table[1, 0]) == [[0], [1], [2], [3], [4]]
    table = stride_groups_gather((1, 2, 3), ("T-f", "S-b"), 5)
    assert table.shape == (2, 3, 1, 5)
    assert table[1, :, 0].tolist() == [[0, 1, 2, 3, 4], [0, 0, 2, 2, 4], [0, 0, 0, 3, 3]]
    assert stride_groups((1, 2, 3), 128) == [64, 32, 32] and stride_groups((1,), 128) == [128]


def test_shorter_clip_is_a_prefix_of_the_position():
    """T < num_frames is the model whose temporal position is cut."""
    model = tiny()
    short = tiny(num_frames=FRAMES)
    weights = model.state_dict()
    weights["Temporal_pos_embed"] = weights["Temporal_pos_embed"][:, :FRAMES]
    lifter.load_checkpoint(short, weights)
    x = keypoints(model)
    with kernels.backend("reference"), torch.no_grad():
        torch.testing.assert_close(model(x), short(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("variant", ["official", "paper"])
def test_other_dtypes(dtype, variant):
    model = tiny(variant=variant)
    x = keypoints(model)
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        assert model(x.to(dtype)).dtype == dtype  # a float32 model answers in the dtype of its input
        got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    # 16 eps: see lifter/verify.py
    bound = 16 * torch.finfo(dtype).eps + 1e-5
    assert (got.float() - expected).abs().max() < bound * expected.abs().max()


def test_autocast():
    model = tiny()
    x = keypoints(model)
    with kernels.backend("reference"), torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 16 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_drop_path_only_in_training():
    model = tiny(drop_path=0.9)
    x = keypoints(model)
    with kernels.backend("reference"), torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))
    assert [block.drop_path.p for block in model.STEblocks] == [0.0, 0.9]


@pytest.mark.parametrize(
    "shape, message",
    [
        ((3, 17, 2), r"shape \(3, 17, 2\), expected \(B, T, 17, 2\)"),
        ((1, 3, 16, 2), r"shape \(1, 3, 16, 2\), expected \(B, T, 17, 2\)"),
        ((1, 3, 17, 3), r"shape \(1, 3, 17, 3\), expected \(B, T, 17, 2\)"),
        ((1, 5, 17, 2), "5 frames, expected 1 to num_frames=4"),
        ((1, 0, 17, 2), "0 frames, expected 1 to num_frames=4"),
    ],
)
def test_bad_shapes(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


def test_bad_dtype():
    with pytest.raises(TypeError, match="torch.int64"):
        tiny()(torch.zeros(1, 3, 17, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"variant": "mine"}, "variant is 'mine'"),
        ({"kernel_size": 2}, "kernel_size is 2"),
        ({"scan": "spiral"}, "scan is 'spiral'"),
        ({"strides": ()}, "strides is"),
        ({"strides": (0, 1)}, "strides is"),
        ({"directions": ("T-f", "up")}, "directions is"),
        ({"directions": ()}, "directions is"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_compile(variant):
    model = tiny(depth=1, variant=variant)
    assert_compiles(model, keypoints(model, frames=2))


def test_export():
    model = tiny(depth=1)
    assert_exports(model, keypoints(model, frames=2))
