"""MixSynthFormer against the official code's numbers, and what is its own: windows, averages, prediction."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lifter
from benchmarks import published, tables
from lifter.models import MixSynthFormer
from lifter.registry import official_model
from lifter.verify import verify
from tests.conftest import assert_as_good

GOLDEN = ["h36m", "h36m_rs1", "jhmdb", "pw3d", "pw3d_r1"]
TINY = {"num_joints": 3, "in_channels": 2, "dim": 8, "depth": 2, "interval": 3, "steps": 2, "r_t": 2, "r_s": 2}

# Window, keyframes, (J, C), parameters: golden/README.md, and of what it does not list the official code's.
SIZES = {
    "h36m": (101, 11, (17, 3), 178_939),
    "jhmdb": (11, 2, (15, 2), 488_447),
    "3dpw": (51, 6, (14, 3), 46_231),
    "3dpw_smpl": (51, 6, (24, 6), 137_085),
    "aist": (101, 11, (14, 3), 598_165),
    "aist_smpl": (101, 11, (24, 6), 624_379),
}


def tiny(**kwargs):
    """Make a model of window 7 with keyframes 0, 3, 6, in float64."""
    torch.manual_seed(0)
    model = MixSynthFormer(**TINY | kwargs).double().eval()
    for p in model.parameters():
        if p.dim() == 1:
            torch.nn.init.normal_(p, std=0.2)
    return model


def poses(frames, joints=3, channels=2, batch=2, dtype=torch.float64):
    return torch.randn(batch, frames, joints, channels, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(shared, backend, name):
    for result in verify(shared / "golden" / f"mixsynthformer_{name}.npz", backend):
        assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_dtypes(shared, name, dtype):
    for result in verify(shared / "golden" / f"mixsynthformer_{name}.npz", "reference", dtype):
        assert result.passed, result


def test_official_arguments():
    """Their defaults, and that the keys are the official ones."""
    model = official_model("lib.models.mixsynthformer.PoseRefinementModel").build()
    assert (model.window, model.encoder.layers[0].synth_att.synth_channel.reduction) == (11, 8)
    assert not hasattr(model, "official_weights")


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_sizes(name):
    window, keyframes, joint_shape, params = SIZES[name]
    model = lifter.create_model(f"mixsynthformer_{name}").eval()
    assert sum(p.numel() for p in model.parameters()) == params
    assert model(torch.randn(1, keyframes, *joint_shape)).shape == (1, window, *joint_shape)
    assert lifter.create_model(f"mixsynthformer_{name}", num_frames=window).window == window


def test_tables():
    """The paper's figures, all of which are thop's of the official code; which has softmax and pooling as layers too."""
    rows = [row for row in published.ROWS if row.model.startswith("mixsynthformer")]
    assert [row.source[-1] for row in rows[:-1]] == list("1222256666")
    for row in rows[:-1]:
        (counted,) = tables._row(row)
        assert counted["macs_deviation"] == "as printed", row
        assert counted["params_deviation"] == ("as printed" if row.params else None), row
    (counted,) = tables._row(rows[-1])
    softmax = 4 * (101 * (3 * 25 - 1) + 64 * (3 * 16 - 1))
    pooling = 4 * (101 * (25 + 1) + 64 * (16 + 1) + 101 * (64 + 1))
    assert published.as_printed(counted["macs_paper_convention"] + softmax + pooling, rows[-1].macs)
    assert counted["macs"] / 1e6 == pytest.approx(12.23, abs=0.005) and counted["params_deviation"] == "as printed"


@torch.no_grad()
def test_keyframes_and_the_window_they_are_of():
    model, x = tiny(), poses(7)
    expected = model(x)
    assert expected.shape == x.shape
    assert torch.equal(model(x[:, ::3]), expected)
    assert torch.equal(model(x.flatten(2)), expected.flatten(2))
    x[:, [1, 2, 4, 5]] = torch.nan
    assert torch.equal(model(x), expected)


@torch.no_grad()
def test_every_frame_a_keyframe():
    model, x = tiny(interval=1, steps=4), poses(5)
    assert model.window == 5 and model(x).shape == x.shape
    assert model(poses(6)).shape == (2, 6, 3, 2)


def in_windows(model, x):
    """Compute `model(sequence)` one window at a time."""
    frames, window, interval = x.shape[1], model.window, model.interval
    total, times = torch.zeros_like(x), torch.zeros(frames, dtype=x.dtype)
    begin = 0
    while True:
        total[:, begin : begin + window] += model(x[:, begin : begin + window : interval])
        times[begin : begin + window] += 1
        if begin + window == frames:
            return total / times[:, None, None]
        begin = begin + interval if begin + interval + window <= frames else frames - window


@given(interval=st.integers(1, 4), steps=st.integers(1, 4), more=st.integers(0, 30), learned=st.booleans())
@torch.no_grad()
def test_sequences(interval, steps, more, learned):
    window = interval * steps + 1
    kwargs = {"interpolation": "learned" if learned else "linear", "r_t": min(2, window)}
    model, x = tiny(interval=interval, steps=steps, depth=1, **kwargs), poses(window + more)
    torch.testing.assert_close(model(x), in_windows(model, x))


@pytest.mark.parametrize("frames", [101, 102, 129, 243, 4131])
@torch.no_grad()
def test_sequences_at_full_size(frames):
    model, x = lifter.create_model("mixsynthformer_h36m").eval(), poses(frames, 17, 3, 1, torch.float32)
    torch.testing.assert_close(model(x), in_windows(model, x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_strided_input():
    model, x = tiny(), poses(23, 6, 4)[:, :, ::2, 1:3]
    torch.testing.assert_close(model(x), model(x.contiguous()))
    reversed_in_memory = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    torch.testing.assert_close(model(reversed_in_memory), model(x))


@pytest.mark.parametrize("interval, steps, predict", [(3, 2, 0), (1, 4, 3), (4, 1, 0), (3, 2, 5)])
@torch.no_grad()
def test_linear_interpolation(interval, steps, predict):
    """NumPy's between the keyframes, and the last line on from there."""
    model = tiny(interval=interval, steps=steps, predict=predict, interpolation="linear")
    assert not any(key.startswith("l_interp") for key in model.state_dict())
    keyframes = poses(steps + 1).flatten(2)
    got = model.l_interp(keyframes.mT).mT
    times = np.arange(steps + 1) * interval
    expected = np.empty(got.shape)
    for b, track in np.ndindex(2, 6):
        y = keyframes[b, :, track].numpy()
        later = y[-1] + (y[-1] - y[-2]) / interval * np.arange(1, predict + 1)
        expected[b, :, track] = np.concatenate([np.interp(np.arange(times[-1] + 1), times, y), later])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["learned", "linear"])
@torch.no_grad()
def test_prediction(interpolation):
    """The paper's: 10 frames of history, 10 to come; they are the last ones of the refined window."""
    model = tiny(interval=1, steps=9, predict=10, interpolation=interpolation)
    history = poses(10)
    future = model(history)
    assert model.window == 20 and future.shape == (2, 10, 3, 2)
    window = model.refine(model.l_interp(history.flatten(2).mT).mT)
    assert torch.equal(future.flatten(2), window[:, 10:])

    model, history = tiny(predict=5, interpolation=interpolation), poses(7)
    assert model.window == 12 and model(history).shape == (2, 5, 3, 2)
    assert torch.equal(model(history[:, ::3]), model(history))
    with pytest.raises(ValueError, match=r"8 frames, expected 3 \(keyframes\) or 7 \(its history\)"):
        model(poses(8))


def test_variants_have_weights_of_different_shapes():
    shapes = {name: tiny(variant=name).encoder.layers[0].synth_att.reweight.fc2.weight.shape for name in ("official", "paper")}
    assert shapes == {"official": (2 * 7, 1), "paper": (2 * 8, 2)}


@pytest.mark.parametrize("kwargs", [{}, {"variant": "paper"}, {"branches": ("spatial",)}, {"r_t": 1}])
def test_gradients_reach_every_weight(kwargs):
    """But the temporal reduction of values where nothing is reduced."""
    model = tiny(dim=32, interval=8, **kwargs)
    model(poses(20)).square().sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    expected = {name for name in model.state_dict() if "synth_token.value_reduce" in name} if "r_t" in kwargs else set()
    assert unused == expected


@pytest.mark.parametrize("kwargs", [{}, {"interpolation": "linear"}, {"variant": "paper"}, {"predict": 2}])
def test_gradcheck(kwargs):
    model = tiny(dim=4, depth=1, num_joints=1, **kwargs)
    x = poses(7 if "predict" in kwargs else 11, 1).requires_grad_()
    assert torch.autograd.gradcheck(model, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("interpolation", ["learned", "linear"])
@torch.no_grad()
def test_half_precision(dtype, interpolation):
    """The error is that of a loop over windows in the same dtype, whose averages are rounded too."""
    model, x = tiny(dim=32, interpolation=interpolation), poses(23)
    exact = model(x)
    x = x.to(dtype)
    model.to(dtype)
    assert_as_good("poses", model(x), in_windows(model, x), exact)


@torch.no_grad()
def test_dtype_follows_the_input():
    model, x = tiny().float(), poses(10)
    assert model(x).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, model(x.float()), rtol=0, atol=0.1)


@torch.no_grad()
def test_empty_batch_and_dropout():
    model = tiny(drop=0.5)
    for frames in (3, 7, 11):
        assert model(poses(frames, batch=0)).shape == (0, max(frames, 7), 3, 2)
    x = poses(11)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("kwargs, frames", [({}, 3), ({}, 11), ({"interpolation": "linear"}, 10), ({"predict": 2}, 7)])
def test_compile_and_export(kwargs, frames):
    model, x = tiny(**kwargs), poses(frames)
    with torch.no_grad():
        expected = model(x)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


@torch.no_grad()
def test_frozen():
    model, x = tiny().float(), poses(11, dtype=torch.float32)
    torch.testing.assert_close(lifter.freeze(model)(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_checkpoints(tmp_path):
    model, other = tiny(), tiny()
    for p in other.parameters():
        p.zero_()
    lifter.save_checkpoint(model, tmp_path / "model.pth")
    lifter.load_checkpoint(other, tmp_path / "model.pth")
    assert torch.equal(other(poses(11)), model(poses(11)))


@pytest.mark.parametrize("frames", [1, 2, 4, 6])
def test_lengths_that_are_neither(frames):
    message = rf"MixSynthFormer: poses have {frames} frames, expected 3 \(keyframes\) or at least 7 \(a sequence\)"
    with pytest.raises(ValueError, match=message):
        tiny()(poses(frames))


def test_errors():
    model = tiny()
    with pytest.raises(ValueError, match=r"poses have shape \(2, 7, 2, 3\), expected \(B, T, 3, 2\) or \(B, T, 6\)"):
        model(poses(7, 2, 3))
    with pytest.raises(ValueError, match=r"poses have shape \(7, 3, 2\)"):
        model(poses(7)[0])
    with pytest.raises(TypeError, match="poses have dtype torch.int64"):
        model(poses(7).long())
    for name, value in (("interval", 0), ("steps", 0), ("steps", 2.0), ("predict", -1)):
        with pytest.raises(ValueError, match=f"MixSynthFormer: {name} is {value}, expected an integer of at least"):
            tiny(**{name: value})
    with pytest.raises(ValueError, match="interpolation is 'cubic', expected 'learned' or 'linear'"):
        tiny(interpolation="cubic")
    with pytest.raises(ValueError, match="reduction is 9, expected 1 to num_tokens=8"):
        tiny(r_s=9)
    message = r"num_frames is 243, expected interval=10 \* steps=5 \+ 1 = 51, or none"
    with pytest.raises(ValueError, match=message):
        lifter.create_model("mixsynthformer_3dpw", num_frames=243)
    with pytest.raises(ValueError, match=r"= 12, or none"):
        tiny(num_frames=7, predict=5)
    with pytest.raises(TypeError, match="model is MixSynthFormer, expected a model of lifter that lifts clips"):
        lifter.Stream(model)
