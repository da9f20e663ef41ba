"""Live streams: the numbers of whole clips, latency, many at a time, moving house, missing keypoints, a million frames."""

import gc
import io
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lifter
from lifter import Stream, StreamBatch
from lifter.inference.streaming import Lifted

CHUNK = 4
SIZES = {
    "poseretnet": {"num_heads": 2, "num_joints": 14, "dataset": "mpii3d"},
    "mixste": {"num_heads": 2, "num_joints": 14},
    "motionbert": {"num_heads": 2, "dim_rep": 16, "num_joints": 14},
    "posemamba_s": {},
    "sasmamba": {},
}
WINDOWED = [name for name in SIZES if name != "poseretnet"]


def tiny(name="poseretnet", num_frames=CHUNK, **kwargs):
    torch.manual_seed(0)
    model = lifter.create_model(name, num_frames, **{"dim": 16, "depth": 1} | SIZES[name] | kwargs).eval()
    for key, p in model.named_parameters():
        if "pos_embed" in key or key.endswith(("qkvg.weight", "attn.out.weight")):  # at their start they are nothing
            torch.nn.init.normal_(p, std=0.2)
    return model


def keypoints(model, frames, seed=1):
    joints, channels = StreamBatch(model)._joint_shape
    return torch.randn(frames, joints, channels, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def in_one_call(model, x):
    return model(x[None])[0]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def joined(*parts):
    return Lifted(*map(torch.cat, zip(*parts)))


def push_in(stream, x, sizes):
    return joined(*[stream.push(part) for part in x.split(sizes)], stream.flush())


# ---- the numbers -----------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 9), max_size=12), chunk=st.integers(1, CHUNK), flush=st.booleans())
def test_pushes_of_any_size_are_one_call(sizes, chunk, flush):
    model = tiny(chunk_size=chunk)
    stream = Stream(tiny(), chunk)  # a model of larger chunks
    x = keypoints(model, sum(sizes))
    lifted = push_in(stream, x, sizes) if sizes else stream.flush()
    assert torch.equal(lifted.frames, torch.arange(len(x)))
    assert lifted.poses.shape == (len(x), 14, 3) and lifted.poses.dtype == torch.float32
    if len(x):
        close(lifted.poses, in_one_call(model, x))
        last = len(x) - 1
        ends = (lifted.frames // chunk * chunk + chunk - 1).clamp(max=last)
        close(lifted.latency, (ends - lifted.frames) / 50)


@pytest.mark.parametrize("name", SIZES)
def test_default_chunk(name):
    model = tiny(name, num_frames=5)
    x = keypoints(model, 5)
    stream = Stream(model)
    assert len(stream.push(x[:4]).frames) == 0
    close(stream.push(x[4]).poses, in_one_call(model, x))


def test_it_goes_on_after_a_short_chunk():
    model = tiny()
    stream, x = Stream(model), keypoints(model, 9)
    with torch.no_grad():
        first, state = model(x[None, :3], return_state=True)
        second = model(x[None, 3:7], state)
    stream.push(x[:3])
    close(stream.flush().poses, first[0])
    lifted = stream.push(x[3:])
    close(lifted.poses, second[0])
    assert lifted.frames.tolist() == [3, 4, 5, 6]
    stream.reset()
    again = stream.push(x[:4])
    assert again.frames.tolist() == [0, 1, 2, 3]
    close(again.poses, in_one_call(model, x[:4]))


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.numpy, lambda x: x.mT.clone().mT])
def test_any_kind_of_keypoints(convert):
    model = tiny()
    x = keypoints(model, 4).half().float()
    lifted = Stream(model).push(convert(x))
    assert lifted.poses.dtype == torch.float32
    close(lifted.poses, in_one_call(model, x))


def test_pushed_memory_may_be_used_again():
    model = tiny()
    stream, x = Stream(model), keypoints(model, 4)
    buffer = torch.empty_like(x[0])
    for frame in x:
        lifted = stream.push(buffer.copy_(frame))
    close(lifted.poses, in_one_call(model, x))
    lifted.poses.mul_(2)  # what came out is an ordinary tensor
    assert not lifted.poses.is_inference()


def test_half_precision_models():
    model = tiny().bfloat16()
    x = keypoints(model, 12)
    lifted = Stream(model).push(x)
    assert lifted.poses.dtype == torch.float32
    close(lifted.poses, in_one_call(model, x))


def test_compute_is_measured():
    lifted = Stream(tiny(), 2).push(keypoints(tiny(), 5))
    assert lifted.compute.shape == (4,) and (lifted.compute > 0).all()
    assert lifted.compute[0] == lifted.compute[1] and lifted.compute[2] == lifted.compute[3]


@pytest.mark.parametrize("change", [lifter.freeze, lambda model: torch.compile(model, backend="aot_eager")])
def test_other_forms_of_a_model(change):
    model = tiny()
    x = keypoints(model, 10)
    close(push_in(Stream(change(model), 2), x, 3).poses, in_one_call(tiny(chunk_size=2), x))


def test_causal():
    model = tiny(causal=True)
    x = keypoints(model, 10)
    close(push_in(Stream(model, 1), x, 3).poses, in_one_call(model, x))


# ---- many streams ----------------------------------------------------------------------------------------------------


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(-1, 6)), max_size=10))
def test_streams_do_not_see_each_other(pushes):
    """Random pushes, joins and ends (-1); every stream gets what it would alone."""
    for model in (tiny(), tiny("mixste", num_frames=6)):
        batch, alone, x = StreamBatch(model, 3), {}, {name: keypoints(model, 64, ord(name)) for name in "abc"}
        sent = dict.fromkeys("abc", 0)
        for sizes in pushes:
            for name in [name for name, size in sizes.items() if size < 0 and name in alone]:
                same(batch.leave(name), alone.pop(name).flush())
            sizes = {name: size for name, size in sizes.items() if size >= 0}
            frames = {name: x[name][sent[name] : sent[name] + size] for name, size in sizes.items()}
            lifted = batch.push(frames)
            assert lifted.keys() == sizes.keys()
            for name in sizes:
                same(lifted[name], alone.setdefault(name, Stream(model, 3)).push(frames[name]))
                sent[name] += sizes[name]
        rest = batch.flush()
        assert rest.keys() == alone.keys()
        for name in rest:
            same(rest[name], alone[name].flush())


def same(lifted, other):
    assert torch.equal(lifted.frames, other.frames) and torch.equal(lifted.latency, other.latency)
    close(lifted.poses, other.poses)


def test_one_call_for_all_that_are_ready():
    model = tiny()
    calls = []
    model.register_forward_pre_hook(lambda model, args: calls.append(tuple(args[0].shape[:2])))
    batch, x = StreamBatch(model, 2), keypoints(model, 2)
    batch.push({"a": x[0], "b": x[0]})
    assert calls == []
    batch.push({"a": x[1], "b": x[1], "c": x})  # c joins, full at once
    assert calls == [(3, 2)]
    batch.push({"c": x, "a": None})
    batch.push({"b": x[0]})
    assert calls == [(3, 2), (1, 2)]
    batch.flush()
    assert calls == [(3, 2), (1, 2), (2, 1)]


def test_states_stay_where_they_are_while_streams_stay_together():
    model = tiny()
    batch, x, given = StreamBatch(model, 1), keypoints(model, 1), []
    size = elements(model(x[None], return_state=True)[1])
    model.register_forward_pre_hook(lambda model, args: given.append(args[1]))
    for names in ("ab", "ba", "ab", "abc", "ac"):
        before = batch._states.get(("a", "b"))
        batch.push({name: x for name in names})
        assert given[-1] is before or names in ("abc", "ac")
    assert set(batch._states) == {("a", "c"), ("b",)}
    assert sum(map(elements, batch._states.values())) == 3 * size
    batch.leave("a")
    assert set(batch._states) == {("b",), ("c",)}


def elements(state):
    return sum(x.untyped_storage().nbytes() // x.itemsize for x in state)


def test_some_are_flushed_and_forgotten():
    model = tiny()
    x = keypoints(model, 9)
    streams = StreamBatch(model)
    streams.push({name: x[:6] for name in "abc"})
    assert {name: lifted.frames.tolist() for name, lifted in streams.flush("ad").items()} == {"a": [4, 5], "d": []}
    streams.reset("bd")
    lifted = streams.push({name: x[6:] for name in "abc"})
    assert [lifted[name].frames.tolist() for name in "abc"] == [[], [], [4, 5, 6, 7]]
    close(lifted["c"].poses, in_one_call(model, x)[4:8])  # its state is its own, though it was one with the others'
    close(streams.flush("b")["b"].poses, in_one_call(model, x[6:]))


def test_nobody_leaves_who_is_not_there():
    batch = StreamBatch(tiny())
    with pytest.raises(KeyError, match="no stream is named 'x'; there are: none"):
        batch.leave("x")
    batch.push({"a": torch.zeros(14, 2)})
    assert len(batch.leave("a").frames) == 1
    with pytest.raises(KeyError, match="no stream is named 'a'"):
        batch.leave("a")


# ---- moving between processes ----------------------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    assert len(file.getvalue()) < 100_000
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("moment", [0, 2, 3, 11])
def test_moving_a_stream(name, moment):
    model = tiny(name, num_frames=6)
    x = keypoints(model, 20)
    x[moment // 2, 5] = math.nan
    stays, other = Stream(model, 3, missing="mask"), Stream(model, 3, missing="mask")
    stays.push(x[:moment])
    other.push(x[:5])
    other.load_state_dict(through_a_file(stays.state_dict()))
    x[moment, 5] = math.nan  # held across the move
    for part in x[moment:].split(4):
        a, b = stays.push(part), other.push(part)
        assert torch.equal(a.frames, b.frames)
        torch.testing.assert_close(a.poses, b.poses, equal_nan=True)
    assert torch.equal(stays.flush().frames, other.flush().frames)


def test_moving_many():
    model = tiny()
    x = keypoints(model, 8)
    batch, other = StreamBatch(model, 3), StreamBatch(model, 3)
    batch.push({"a": x[:3], 7: x[:4]})
    state = through_a_file(batch.state_dict())
    other.load_state_dict(state)
    for a, b in zip(*(b.push({"a": x[3:], 7: x[4:]}).values() for b in (batch, other))):
        same(a, b)
    alone = Stream(model, 3)
    alone.load_state_dict(state | {"streams": {None: state["streams"]["a"]}})
    assert alone.push(x[3:]).frames.tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match=re.escape("the streams ['7', 'a'] of a StreamBatch")):
        alone.load_state_dict(state)


@pytest.mark.parametrize(
    "stream, message",
    [
        (lambda: Stream(tiny(), 2), "chunk_size is 3, expected 2"),
        (lambda: Stream(tiny(), 3, missing="mask"), "missing is 'hold', expected 'mask'"),
        (lambda: Stream(tiny(num_joints=17, dataset="h36m"), 3), "num_joints is 14, expected 17"),
        (lambda: Stream(tiny(in_channels=3), 3), "in_channels is 2, expected 3"),
        (lambda: Stream(tiny("mixste"), 3), "window is None, expected 4"),
        (lambda: Stream(tiny(depth=2), 3), "the state has shapes [(1, 14, 2, 8, 8)], expected [(1, 14, 2, 8, 8), (1, 14"),
        (lambda: Stream(tiny(dim=32), 3), "the state has shapes [(1, 14, 2, 8, 8)], expected [(1, 14, 2, 16, 16)]"),
    ],
)
def test_a_state_that_does_not_fit(stream, message):
    source, stream = Stream(tiny(), 3), stream()
    source.push(keypoints(tiny(), 5))
    before = stream.state_dict()
    with pytest.raises(ValueError, match=re.escape(message)):
        stream.load_state_dict(source.state_dict())
    assert stream.state_dict() == before  # without streams, plain values


# ---- missing keypoints -----------------------------------------------------------------------------------------------


def with_gaps(model):
    """Frames with a dropped one and single joints that are not finite, and what the model should get instead."""
    x = keypoints(model, 8)
    held = x.clone()
    gaps = torch.zeros(x.shape[:2], dtype=torch.bool)
    gaps[0, 2] = gaps[3, 5] = gaps[4, 5] = gaps[6] = True
    held[0, 2] = x[0, 12]  # never seen yet: of 14 joints, as LSP has them, the hip is at the thorax
    held[3, 5] = held[4, 5] = x[2, 5]
    held[6] = x[5]
    if x.shape[-1] == 3:
        held[gaps, 2] = 0.0
    x[0, 2] = math.nan
    x[3, 5, 1] = math.inf
    x[4, 5, 0] = -math.inf
    return [frame if i != 6 else None for i, frame in enumerate(x)], held, gaps


@pytest.mark.parametrize("missing", ["hold", "mask"])
@pytest.mark.parametrize("name, channels", [("poseretnet", 2), ("poseretnet", 3), ("mixste", 3)])
def test_gaps(name, channels, missing):
    model = tiny(name, in_channels=channels)
    frames, held, gaps = with_gaps(model)
    stream = Stream(model, 4, missing=missing)
    poses = joined(*map(stream.push, frames)).poses
    expected = in_one_call(model, held) if name == "poseretnet" else torch.cat([in_one_call(model, x) for x in held.split(4)])
    if missing == "mask":
        expected[gaps] = math.nan
    torch.testing.assert_close(poses, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert poses.isfinite().all(-1).logical_not().equal(gaps & (missing == "mask"))


def test_gaps_in_a_large_push():
    model = tiny()
    frames, held, _ = with_gaps(model)
    frames[6] = torch.full_like(held[0], math.nan)
    close(Stream(model).push(torch.stack(frames)).poses, in_one_call(model, held))


def test_gaps_as_errors():
    model = tiny()
    frames, *_ = with_gaps(model)
    stream, x = Stream(model, 2, missing="error"), keypoints(model, 7)
    stream.push(x[:3])
    for bad, message in (
        (torch.stack(frames[2:5]), "Stream: frame 4 has no keypoint of joint 5"),
        (None, "Stream: frame 3 has no keypoint of joint 0"),
    ):
        unchanged(stream, lambda bad=bad: stream.push(bad), message)
    close(stream.push(x[3:6]).poses, in_one_call(tiny(chunk_size=2), x[:6])[2:])
    batch = StreamBatch(model, 2, missing="error")
    batch.push({"a": x[0]})
    unchanged(batch, lambda: batch.push({"a": x[1], "b": None}), "Stream 'b': frame 0 has no keypoint of joint 0")


def unchanged(stream, call, message, error=ValueError):
    before = stream.state_dict()
    with pytest.raises(error, match=re.escape(message)):
        call()
    torch.testing.assert_close(stream.state_dict()["streams"], before["streams"], rtol=0, atol=0, equal_nan=True)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keypoints, error, message",
    [
        (torch.zeros(16, 2), ValueError, "Stream: keypoints have shape (16, 2), expected (14, 2) or (N, 14, 2)"),
        (torch.zeros(5, 14, 3), ValueError, "shape (5, 14, 3), expected (14, 2)"),
        (np.zeros((1, 5, 14, 2)), ValueError, "shape (1, 5, 14, 2), expected (14, 2)"),
        (np.zeros((14, 2), int), TypeError, "dtype torch.int64, expected a floating-point dtype"),
    ],
)
@pytest.mark.parametrize("pushed", [0, 3])
def test_wrong_keypoints(pushed, keypoints, error, message):
    stream = Stream(tiny())
    stream.push(torch.zeros(pushed, 14, 2))
    unchanged(stream, lambda: stream.push(keypoints), message, error)


def test_a_model_that_fails():
    model = tiny()
    stream, x = Stream(model, 2), keypoints(model, 8)
    stream.push(x[:3])
    calls = []

    def fail_at_the_second(model, args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    hook = model.register_forward_pre_hook(fail_at_the_second)
    unchanged(stream, lambda: stream.push(x[3:]), "out of memory", RuntimeError)
    hook.remove()
    close(stream.push(x[3:]).poses, in_one_call(tiny(chunk_size=2), x)[2:])


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"chunk_size": 5}, "chunk_size is 5, expected 1 to 4, what the model sees at once"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": 2.0}, "chunk_size is 2.0"),
        ({"look_ahead": 1}, "look_ahead is 1, expected 0, for the model has a state"),
        ({"fps": 0}, "fps is 0"),
        ({"missing": "skip"}, "missing is 'skip', expected one of ('hold', 'mask', 'error')"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Stream(tiny(), **kwargs)


def test_bad_models():
    with pytest.raises(ValueError, match="training mode"):
        Stream(tiny().train())
    with pytest.raises(TypeError, match="model is Linear, expected a model of lifter"):
        Stream(torch.nn.Linear(2, 3).eval())
    mixste = tiny("mixste")
    with pytest.raises(ValueError, match="look_ahead is 4, expected 0 to 3"):
        Stream(mixste, look_ahead=4)
    with pytest.raises(ValueError, match="chunk_size is 3, expected 1 to 2"):
        Stream(mixste, 3, look_ahead=2)


def test_a_denoiser_does_not_stream():
    from lifter.models import D3DP

    model = D3DP(9, dim=8, depth=1, num_heads=2).eval()
    with pytest.raises(TypeError, match="D3DP takes keypoints, poses, time, expected a model of keypoints alone"):
        lifter.Stream(model)


# ---- without end -----------------------------------------------------------------------------------------------------

FORGOTTEN = 20_000  # after so many frames 0.998^n is below any rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_endless_stream(dtype):
    """Two joints with the longest memory of Human3.6M's: the same memory lengths, and a tenth of the time of 17.
    LIFTER_FRAMES=1000000 is what lifter promises."""
    frames = int(os.environ.get("LIFTER_FRAMES", 50_000))
    chunk = 250
    model = tiny(num_frames=chunk, num_joints=2, joint_decay=False, decay_divider=32).to(dtype)
    assert model.TTEblocks[0].attn.decay.max() == lifter.layers.joint_decays(2).max() > 0.998
    noise = torch.randn(frames // 1000, 2, 2, generator=torch.Generator().manual_seed(0))
    walk = torch.randn(1000, 2, 2, generator=torch.Generator().manual_seed(1))
    stream, late = Stream(model), Stream(model)
    at_start = None
    for number in range(0, frames, 1000):
        x = walk + noise[number // 1000]
        lifted = stream.push(x)
        assert len(lifted.frames) == 1000 and lifted.poses.isfinite().all()
        if number == 10_000:
            at_start = memory(stream)
        if number >= frames - FORGOTTEN - 1000:
            expected = late.push(x)
    assert lifted.frames[-1] == frames - 1
    size, resident = memory(stream)
    assert size == at_start[0] and resident < at_start[1] + 16e6
    scale = expected.poses.abs().max()
    assert (lifted.poses - expected.poses).abs().max() <= 4 * torch.finfo(torch.float32).eps * scale


def memory(stream):
    """Elements of the stream's tensors; bytes of the process, where that is known."""
    gc.collect()
    batch = stream._batch
    tensors = [x for state in batch._states.values() for x in state]
    tensors += [x for member in batch._members.values() for x in (member.held, *sum(member.parts, ()))]
    status = Path("/proc/self/status")
    resident = int(re.search(r"VmRSS:\s*(\d+) kB", status.read_text())[1]) * 1024 if status.exists() else 0
    return elements(tensors), resident
