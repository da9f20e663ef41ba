"""Whole sequences window by window."""

import numpy as np
import pytest
import torch

from lifter import create_model, kernels
from lifter.data.synthetic import open_gait
from lifter.geometry import mirror
from lifter.inference.files import lift_smoothly
from lifter.inference.windows import centre, lift_sequence, lift_sequences, overlap_average, window_starts
from lifter.metrics.protocols import evaluate_model


class Recorder(torch.nn.Module):
    """Gives the first frame number of its window, in all coordinates, besides what `of` makes of the keypoints."""

    def __init__(self, of=lambda x: 0 * x):
        super().__init__()
        self.of, self.calls = of, []
        self.eval()

    def forward(self, x):
        self.calls.append(x.shape)
        first = x[:, :1, :1, 2:].expand(*x.shape[:3], 3)
        return first + self.of(x)


def numbered(frames, dtype=torch.float32):
    """Keypoints whose third channel is the frame's number."""
    x = torch.randn(frames, 17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x[..., 2] = torch.arange(frames)[:, None]
    return x


@pytest.mark.parametrize("length", [1, 2, 3, 17, 27, 81, 129, 243])
@pytest.mark.parametrize("window, stride", [(27, 27), (27, 9), (27, 10), (27, 1), (1, 1), (243, 81)])
def test_windows(length, window, stride):
    starts = window_starts(length, window, stride)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert all(b - a <= stride for a, b in zip(starts, starts[1:]))
    assert starts[-1] + window == max(length, window)


def test_no_frame_counts_twice():
    """Without overlap, of the last window only what is new."""
    poses = lift_sequence(Recorder(), numbered(25), 10, flip=None)
    assert poses[:, 0, 0].tolist() == [0] * 10 + [10] * 10 + [15] * 5
    assert lift_sequence(Recorder(), numbered(20), 10, flip=None)[:, 0, 0].tolist() == [0] * 10 + [10] * 10


def test_overlap_is_averaged():
    poses = lift_sequence(Recorder(), numbered(11), 4, 2, flip=None)
    expected = [np.mean([start for start in (0, 2, 4, 6, 7) if start <= t < start + 4]) for t in range(11)]
    assert poses[:, 0, 0].tolist() == pytest.approx(expected)


def test_windows_fade():
    """The mean is weighed, nothing at the ends of each window; where only one window sees a frame it is that one's."""
    poses = lift_sequence(Recorder(), numbered(11), 4, 2, flip=None, fade=True)
    starts, weight = (0, 2, 4, 6, 7), lambda place: np.sin(np.pi * (place + 1) / 5) ** 2
    weights = [{start: weight(t - start) for start in starts if start <= t < start + 4} for t in range(11)]
    expected = [sum(start * w for start, w in each.items()) / sum(each.values()) for each in weights]
    assert poses[:, 0, 0].tolist() == pytest.approx(expected)
    assert lift_sequence(Recorder(), numbered(8), 4, flip=None, fade=True)[:, 0, 0].tolist() == [0] * 4 + [4] * 4


@pytest.mark.parametrize("stride", [4, 2])
def test_steps_are_the_frames(stride):
    """Every frame is told once, when the first window sees it; those that only fill a window are not."""
    steps = []
    some = [(number, numbered(length)) for number, length in enumerate((11, 3, 0, 8))]
    assert len(list(lift_sequences(Recorder(), some, 4, stride, None, batch=2, step=steps.append))) == 4
    assert sum(steps) == 11 + 3 + 8 and len(steps) >= 3 and max(steps) <= 8


def test_overlap_average_is_the_loop():
    windows = torch.randn(4, 11, 6, generator=torch.Generator().manual_seed(0))
    for stride in (1, 5, 11):
        frames = [[] for _ in range(3 * stride + 11)]
        for i, window in enumerate(windows):
            for t, frame in enumerate(window):
                frames[i * stride + t].append(frame)
        expected = torch.stack([torch.stack(each).mean(0) for each in frames])
        torch.testing.assert_close(overlap_average(windows, stride), expected)
    for shape, stride in (((0, 3, 2), 1), ((2, 3, 2), 4), ((2, 3, 2), 0)):
        with pytest.raises(ValueError, match="overlap_average: windows have shape"):
            overlap_average(torch.zeros(shape), stride)


def test_short_sequences_are_continued():
    model = Recorder(lambda x: x.mean(1, keepdim=True))
    keypoints = numbered(3)
    keypoints[..., 2] = 0
    poses = lift_sequence(model, keypoints, 5, flip=None)
    assert poses.shape == (3, 17, 3) and model.calls == [(1, 5, 17, 3)]
    expected = torch.cat((keypoints, keypoints[-1:], keypoints[-1:])).mean(0)
    torch.testing.assert_close(poses, expected.expand(3, 17, 3))
    assert lift_sequence(model, keypoints[:0], 5).shape == (0, 17, 3)


@pytest.mark.parametrize("flip", [True, False])
def test_batches_are_bounded_and_do_not_matter(flip):
    options = {} if flip else {"flip": None}
    model = Recorder(torch.tanh)
    whole = lift_sequence(model, numbered(50), 5, 3, batch=100, **options)
    model.calls.clear()
    torch.testing.assert_close(lift_sequence(model, numbered(50), 5, 3, batch=4, **options), whole)
    assert max(call[0] for call in model.calls) == (8 if flip else 4) and len(model.calls) == 4


def test_flip():
    """The mean with the mirrored poses of the mirrored keypoints: mirrored keypoints give mirrored poses."""
    model = Recorder(lambda x: torch.sin(x * torch.arange(17)[:, None]))
    keypoints = numbered(9)
    poses = lift_sequence(model, keypoints, 9)
    straight, other = (lift_sequence(model, x, 9, flip=None) for x in (keypoints, mirror(keypoints)))
    torch.testing.assert_close(poses, (straight + mirror(other)) / 2)
    torch.testing.assert_close(lift_sequence(model, mirror(keypoints), 9), mirror(poses))
    assert not torch.allclose(poses, straight, atol=1e-3)


def test_a_model():
    """One window is one call of the model; arrays and other dtypes are taken."""
    torch.manual_seed(0)
    model = create_model("mixste", num_frames=9, dim=16, depth=1, num_heads=2).eval()
    keypoints = numbered(9)[..., :2]
    with kernels.backend("reference"), torch.no_grad():
        expected = model(keypoints[None])[0]
        torch.testing.assert_close(lift_sequence(model, keypoints, 9, flip=None), expected)
        torch.testing.assert_close(lift_sequence(model, keypoints.double().numpy(), 9, flip=None), expected)
        assert lift_sequence(model.bfloat16(), keypoints, 9).dtype == torch.bfloat16
    assert not expected.requires_grad


class Middle(torch.nn.Module):
    """Poses of one frame of a window of 5, with 3 frames before it: sums that tell which frames it saw, and in which order."""

    num_frames, margins = 5, (3, 1)

    def __init__(self):
        super().__init__()
        self.calls = []
        self.eval()

    def forward(self, x):
        self.calls.append(tuple(x.shape[:2]))
        return (x.unfold(1, 5, 1) * torch.tensor([1, 10, 100, 1000, 10000], dtype=x.dtype)).sum(-1)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 11])
@pytest.mark.parametrize("batch, poses", [(1, 1), (3, 1), (8, 1), (2, 2)])
def test_one_frame_of_a_window(length, batch, poses):
    """The frame in the fourth place of each window, with the edges repeated; windows in a row are one clip."""
    model, keypoints = Middle(), numbered(length, torch.float64)
    model.window_poses = poses
    found = lift_sequence(model, keypoints, batch=batch, flip=None)
    padded = keypoints[torch.arange(-3, length + 1).clamp(0, length - 1)]
    with torch.no_grad():
        expected = torch.cat([Middle()(padded[None, i : i + 5])[0] for i in range(length)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)
    assert set(model.calls) == {(1, min(batch * poses, length) + 4)}
    model.centred = True  # each window by itself
    assert lift_sequence(model, keypoints, batch=batch).shape == (length, 17, 3)
    assert {frames for _, frames in model.calls[-1:]} == {5}


def test_many_of_one_frame_of_a_window():
    """Whatever else lifts sequences: windows that overlap and fade make no difference."""
    sequences = [(number, numbered(length, torch.float64)) for number, length in enumerate((3, 0, 12, 1))]
    found = dict(lift_sequences(Middle(), sequences, 5, 1, batch=4, fade=True))
    smoothly = dict(lift_smoothly(Middle(), sequences))
    for number, keypoints in sequences:
        expected = lift_sequence(Middle(), keypoints, batch=3)
        torch.testing.assert_close(found[number], expected, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(smoothly[number], expected, rtol=1e-12, atol=1e-9)


def test_evaluation_of_one_frame_of_a_window():
    """The model lifts by windows of its own, one for every frame; no frame is dropped, whatever the protocol does."""
    model = create_model("videopose3d", channels=8, widths=(3, 3)).eval()
    data = open_gait(1, 20)
    for name in ("vp3d", "motionbert"):
        (evaluation,) = evaluate_model(model, data, (name,))
        protocol = evaluation.protocol
        assert (protocol.window, protocol.stride, protocol.drop_last, evaluation.frames) == (9, 1, False, 20), name


def test_errors():
    model, keypoints = Recorder(), numbered(9)
    run = lambda **changes: lift_sequence(**{"model": model, "keypoints": keypoints, "window": 3} | changes)
    for match, call in (
        (r"window is 0, expected a positive integer", lambda: run(window=0)),
        (r"stride is 4, expected 1 to window=3", lambda: run(stride=4)),
        (r"batch is 0, expected a positive integer", lambda: run(batch=0)),
        (r"keypoints have shape \(9, 16, 3\), expected \(T, 17 as flip=h36m, C\)", lambda: run(keypoints=keypoints[:, 1:])),
        (r"keypoints have shape \(1, 9, 17, 3\)", lambda: run(keypoints=keypoints[None])),
        (r"model gives shape \(3, 3, 17, 2\), expected \(3, 3, 17, 3\)", lambda: run(model=Flat(), flip=None)),
        (r"training mode", lambda: run(model=Recorder().train())),
        (r"window is 3 and stride 1, expected 5 and 1 for a model of one frame of a window", lambda: run(model=Middle())),
        (r"window is 5 and stride 2, expected 5 and 1", lambda: run(model=Middle(), window=5, stride=2)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    keypoints[4, 3, 1] = torch.nan
    with pytest.raises(ValueError, match="keypoints are not finite in frame 4"):
        lift_sequence(model, keypoints, 3)
    with pytest.raises(TypeError, match="dtype torch.int64"):
        lift_sequence(model, torch.zeros(3, 17, 2, dtype=torch.int64), 3)


class Flat(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, x):
        return x[..., :2]


def test_denoisers_and_channels():
    """A denoiser is sampled, from the same noise at every call; confidences are dropped or put in as the model reads them."""
    torch.manual_seed(0)
    keypoints = torch.randn(5, 17, 3)
    denoiser = create_model("d3dp", num_frames=3, dim=8, depth=1).eval()
    once, again = lift_sequence(denoiser, keypoints), lift_sequence(denoiser, keypoints[..., :2])
    assert once.shape == (5, 17, 3) and torch.equal(once, again)
    model = create_model("motionbert", num_frames=3, dim=8, depth=1, num_heads=2).eval()
    sure = torch.cat((keypoints[..., :2], torch.ones(5, 17, 1)), -1)
    assert torch.equal(lift_sequence(model, keypoints[..., :2]), lift_sequence(model, sure))
    assert not torch.equal(lift_sequence(model, keypoints), lift_sequence(model, sure))


def test_many_share_calls():
    """Poses are those of one sequence at a time, in order, with no more windows and sequences at once than asked for."""
    model, read = Recorder(torch.tanh), []

    def sequences():
        for number, length in enumerate((3, 5, 0, 23, 1, 1, 1, 4, 12)):
            read.append(number)
            yield number, numbered(length)

    done = []
    for key, poses in lift_sequences(model, sequences(), 5, 3, None, batch=4):
        done.append(key)
        assert len(read) - len(done) <= 5
        alone = lift_sequence(Recorder(torch.tanh), numbered(len(poses)), 5, 3, None)
        torch.testing.assert_close(poses, alone, rtol=0, atol=1e-6)
    assert done == list(range(9)) and [call[0] for call in model.calls] == [4] * 4 + [1]
    mixed = [(0, numbered(5)), (1, numbered(5)[..., :2])]  # those of other shapes do not share
    assert len(list(lift_sequences(Pads(), mixed, 5, flip=None))) == 2


class Pads(Flat):
    def forward(self, x):
        return torch.nn.functional.pad(x, (0, 3 - x.shape[-1]))


def test_centred():
    """Neither place nor size of the person in the image is seen, confidences are; a still root is at 0."""
    torch.manual_seed(0)
    keypoints = torch.randn(2, 5, 17, 3, dtype=torch.float64)
    moved = torch.cat((keypoints[..., :2] * 3 + torch.tensor([0.3, -2.0]), keypoints[..., 2:]), -1)
    seen = centre(keypoints)
    torch.testing.assert_close(centre(moved), seen)
    assert torch.equal(seen[..., 2], keypoints[..., 2]) and seen[..., 0, :2].mean(1).abs().max() < 1e-12
    sizes = (seen[..., :2] - seen[..., :1, :2]).norm(dim=-1).amax(-1)
    torch.testing.assert_close(sizes.mean(-1), torch.ones(2, dtype=torch.float64))
    assert centre(torch.zeros(1, 3, 17, 2)).isfinite().all()

    model = Recorder(of=lambda x: x)
    model.centred = True
    windows = keypoints[:, :3]
    torch.testing.assert_close(lift_sequence(model, windows[0], window=3, flip=None), model(centre(windows[:1]))[0])
