"""Live streams of models without a state, which see their last frames again for every chunk."""

import pytest
import torch

import lifter
from lifter import Stream
from lifter.inference.windows import centre, lift_sequence
from lifter.skeleton import LSP
from tests.inference.test_streaming import CHUNK, WINDOWED, close, in_one_call, joined, keypoints, push_in, tiny


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("chunk, look_ahead", [(1, 0), (3, 0), (2, 3), (7, 0), (1, 6)])
def test_windows(name, chunk, look_ahead):
    """A pose comes from the window of the model's size that ends `look_ahead` frames after its chunk."""
    model = tiny(name, num_frames=7)
    stream, x = Stream(model, chunk, fps=10, look_ahead=look_ahead), keypoints(model, 17)
    parts = [stream.push(frame) for frame in x]
    number = 0
    for newest, part in enumerate(parts):
        ready = newest - look_ahead - number + 1 >= chunk
        assert part.frames.tolist() == (list(range(number, number + chunk)) if ready else [])
        if ready:
            begin = max(0, newest + 1 - 7)
            window = in_one_call(model, x[begin : newest + 1])
            close(part.poses, window[number - begin :][:chunk])
            close(part.latency, (newest - part.frames) / 10)
            number += chunk
    rest = stream.flush()
    assert rest.frames.tolist() == list(range(number, 17))
    if len(rest.frames):
        close(rest.poses, in_one_call(model, x[-7:])[number - 17 :])


def test_what_is_late_is_lifted_together():
    """In larger chunks, if more wait than are one; a model with a state keeps to its chunks."""
    model = tiny("mixste", num_frames=7)
    x, counts = keypoints(model, 16), []
    model.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[1]))
    stream = lifter.StreamBatch(model, 2, look_ahead=1)
    assert [len(stream.push({None: x[:5]}, together=9)[None].frames), *counts] == [4, 5]
    assert stream.push({None: x[5:7]}, together=3)[None].frames.tolist() == [4, 5]
    poses = stream.push({None: x[7:]}, together=9)[None].poses
    close(poses, torch.cat([in_one_call(model, x[6:13])[:6], in_one_call(model, x[9:])[3:6]]))
    model, counts = tiny(), []
    model.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[1]))
    lifter.StreamBatch(model, 2).push({None: keypoints(model, 6)}, together=4)
    assert counts == [2, 2, 2]


@pytest.mark.parametrize("name, multiple", [("motionagformer_xs", 6), ("masc_pose", 6), ("tcpformer", 3)])
def test_windows_of_models_that_do_not_take_every_length(name, multiple):
    """At the start of a stream its first frame is repeated in front."""
    torch.manual_seed(0)
    sizes = {"scales": (1, 2, 3)} if name == "masc_pose" else {}
    model = lifter.create_model(name, 6, dim=16, depth=3, num_heads=2, **sizes).eval()
    stream, x = Stream(model, 1), keypoints(model, 9)
    for newest, frame in enumerate(x):
        window = x[max(0, newest + 1 - 6) : newest + 1]
        window = torch.cat([window[:1].expand(-len(window) % multiple, -1, -1), window])
        close(stream.push(frame).poses, in_one_call(model, window)[-1:])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_models_of_one_frame_of_a_window(causal, chunk):
    """They give what they give of the whole sequence, as soon as their window is there."""
    torch.manual_seed(0)
    model = lifter.create_model("videopose3d", channels=8, widths=(3, 3), causal=causal).eval()
    stream, x = Stream(model, chunk, fps=10), keypoints(model, 17)
    parts = [stream.push(frame) for frame in x]
    chunk, wait = chunk or 1, model.margins[1]
    assert len(stream.state_dict()["streams"][None]["keypoints"]) <= 8 + wait + chunk
    for newest, part in enumerate(parts):
        ready = newest >= wait and (newest - wait + 1) % chunk == 0
        assert part.frames.tolist() == (list(range(newest - wait - chunk + 1, newest - wait + 1)) if ready else [])
        close(part.latency, (newest - part.frames) / 10)
    lifted = joined(*parts, stream.flush())
    assert lifted.frames.tolist() == list(range(17))
    close(lifted.poses, lift_sequence(model, x, flip=None))
    with pytest.raises(ValueError, match="look_ahead is 2, expected 0, for the model tells what it sees"):
        Stream(model, look_ahead=2)


def test_windows_of_one_length():
    torch.manual_seed(0)
    model = lifter.create_model("mixsynthformer_lifter", dim=16, depth=1, interval=2, steps=2).eval()
    x = keypoints(model, 7)
    poses = push_in(Stream(model, 1), x, 1).poses
    close(poses[1:2], in_one_call(model, x[[0, 0, 0, 0, 1]])[-1:])
    close(poses[6:7], in_one_call(model, x[2:7])[-1:])


def test_models_of_centred_clips():
    model = tiny("mixste")
    x = keypoints(model, 8)
    model.centred = True
    poses = Stream(model).push(x).poses
    close(poses, torch.cat([in_one_call(model, centre(clip)) for clip in x.split(CHUNK)]))
    torch.testing.assert_close(Stream(model).push(2 * x + 1).poses, poses)
    stateful = tiny()
    stateful.centred = True
    close(push_in(Stream(stateful, 1), x, 1).poses[-1:], in_one_call(stateful, centre(x[-CHUNK:]))[-1:])


@pytest.mark.parametrize("name", ["mixste", "poseretnet"])
@pytest.mark.parametrize("missing", ["hold", "mask"])
def test_nobody_yet(name, missing):
    """Frames before anybody was seen have no pose, at once, and change none of the others."""
    model = tiny(name)
    model.centred = name == "mixste"
    x = keypoints(model, 10) + 0.5
    empty = torch.full_like(x[:1], torch.nan)
    wanted = Stream(model, 2, missing=missing)
    late = Stream(model, 2, missing=missing)
    given = late.push(torch.cat([empty, empty, empty, x[:1]]))
    assert given.frames.tolist() == [0, 1, 2] and given.poses.isnan().all()
    again = Stream(model, 2, missing=missing)
    again.load_state_dict(late.state_dict())
    wanted.push(x[:1])
    for stream in (late, again):
        copy = Stream(model, 2, missing=missing)
        copy.load_state_dict(wanted.state_dict())
        poses, frames, *_ = stream.push(x[1:])
        close(poses, copy.push(x[1:]).poses)
        assert frames.tolist() == [*range(3, 13)]


def test_who_is_away_moves_no_centre():
    """The last frames of somebody who left and came back elsewhere: centred as if those between had not been."""
    model = tiny("mixste")
    model.centred = True
    x = keypoints(model, 4)
    away = torch.full_like(x[:1], torch.nan)
    poses = Stream(model, 4).push(torch.cat([x[:1], away, away, x[3:] + 2])).poses
    clip = torch.cat([x[:1], x[:1], x[:1], x[3:] + 2])
    close(poses, in_one_call(model, centre(clip, seen=torch.tensor([True, False, False, True]))))
    both = torch.cat([x[:1], x[3:] + 2])
    close(centre(clip, seen=torch.tensor([True, False, False, True]))[[0, 3]], centre(both))
    close(centre(clip, seen=torch.zeros(4, dtype=torch.bool)), centre(clip))


@pytest.mark.parametrize("lost", [[13], [0], [0, 1, 4], [*range(7)]])
def test_a_joint_that_was_never_seen_makes_nobody_larger(lost):
    """It is at the nearest joint along the skeleton that was, wherever the person is: nothing of it is in centre and size."""
    model = tiny("mixste")
    model.centred = True
    x = keypoints(model, 8) + 30
    filled = x.clone()
    for joint in lost:
        filled[:, joint] = x[:, next(other for other in LSP.nearest[joint] if other not in lost)]
    given = x.clone()
    given[:, lost] = torch.nan
    poses = Stream(model, 4).push(given).poses
    close(poses, torch.cat([in_one_call(model, centre(clip)) for clip in filled.split(4)]))
    given[5:] = x[5:]  # once it is seen it is where it is
    filled[5:] = x[5:]
    seen = torch.arange(4) > (0 if 0 in lost else -1)
    last = centre(filled[4:], seen=seen)
    close(Stream(model, 4).push(given).poses[4:], in_one_call(model, last))


def test_a_root_that_is_out_of_sight_moves_no_centre():
    model = tiny("mixste")
    model.centred = True
    x = keypoints(model, 4)
    x[2:] += 5
    given = x.clone()
    given[2, 0] = torch.nan  # held, where the person no longer is
    x[2, 0] = x[1, 0]
    wanted = in_one_call(model, centre(x, seen=torch.tensor([True, True, False, True])))
    close(Stream(model, 4).push(given).poses, wanted)
