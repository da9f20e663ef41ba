"""Clips: which frames, in which order, seen in a mirror or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifter.data import Dataset, Sequence
from lifter.skeleton import H36M
from lifter.training import Clips, split
from lifter.training import data as training_data
from lifter.training.data import batches


def numbered(lengths, **changes):
    """Sequences whose keypoints and poses hold the number of the frame; the root is at (7, 7, 7) more."""
    items = {}
    for name, length in lengths.items():
        frames = np.arange(length, dtype=np.float32)[:, None, None] / 10
        poses = np.tile(frames, (1, 17, 3))
        poses[:, 1:] += 7
        sequence = Sequence(name, keypoints=np.tile(frames, (1, 17, 2)), poses=poses, **changes)
        items[name] = lambda sequence=sequence: sequence
    return Dataset("numbers", "numbers", items)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 12))
def test_every_frame_once(lengths, frames):
    """With the clip's length as stride every frame is in one clip, but for those that the last one has again."""
    clips = Clips(numbered({f"{i}": length for i, length in enumerate(lengths)}), frames)
    seen = {}
    for i, (name, start) in enumerate(clips.clips):
        inputs, poses = clips[i, False]
        assert inputs.shape == (frames, 17, 2) and poses.shape == (frames, 17, 3) and inputs.dtype == torch.float32
        length = lengths[int(name)]
        expected = np.minimum(start + np.arange(frames), length - 1)
        assert np.allclose(inputs[:, 5, 0] * 10, expected, atol=1e-4)
        assert torch.equal(poses[:, 0], torch.zeros(frames, 3)) and torch.allclose(poses[:, 1:], torch.tensor(7.0), atol=1e-5)
        seen.setdefault(name, []).append(start)
    for name, starts in seen.items():
        length = lengths[int(name)]
        assert starts[:-1] == [i * frames for i in range(len(starts) - 1)]
        assert starts[-1] == max(0, length - frames) and (len(starts) - 1) * frames < max(length, 1)


def test_mirror(gait):
    """The whole clip, keypoints and poses alike: x is negated, left and right are swapped; confidences stay."""
    sequence = gait["S1/a"]
    sure = np.concatenate((sequence.keypoints, np.random.default_rng(0).random((45, 17, 1))), -1)
    clips = Clips(Dataset("", "", {"a": lambda: replace(sequence, keypoints=sure)}), 9)
    straight, mirrored = clips[2, False], clips[2, True]
    for one, other, sign in zip(straight, mirrored, ([-1, 1, 1], [-1, 1, 1])):
        expected = one.clone()
        for left, right in H36M.flip_pairs:
            expected[:, [left, right]] = one[:, [right, left]]
        assert torch.equal(other, expected * torch.tensor(sign, dtype=torch.float32))
    assert not torch.equal(straight[0], mirrored[0])


def test_batches():
    """Every clip once in an epoch but for the rest; other epochs and seeds have other orders, the same ones the same."""
    first = batches(23, 4, 0, 0, True)
    assert [len(batch) for batch in first] == [4] * 5
    numbers = [index for batch in first for index, _ in batch]
    assert len(set(numbers)) == 20 and set(numbers) <= set(range(23))
    assert first == batches(23, 4, 0, 0, True)
    assert first != batches(23, 4, 0, 1, True) != batches(23, 4, 1, 1, True)
    assert not any(mirrored for batch in batches(50, 5, 0, 0, False) for _, mirrored in batch)
    share = np.mean([mirrored for batch in batches(4000, 4, 0, 0, True) for _, mirrored in batch])
    assert 0.45 < share < 0.55


def test_invalid_frames_are_left_out():
    valid = np.ones(20, bool)
    valid[7] = False
    clips = Clips(numbered({"a": 20}, valid=valid), 5, 5)
    assert [start for _, start in clips.clips] == [0, 10, 15]


def test_only_some_sequences_are_kept(monkeypatch):
    monkeypatch.setattr(training_data, "KEPT", 2)
    data, reads = numbered({"a": 5, "b": 6, "c": 7}), []
    counted = {name: lambda name=name, read=read: reads.append(name) or read() for name, read in data.items.items()}
    clips = Clips(Dataset("", "", counted), 5)
    for i in range(len(clips)):
        clips[i, False]
    assert len(clips._kept) == 2 and reads[:3] == ["a", "b", "c"] and len(reads) > 3


def test_estimates():
    """Poses to be refined are relative to their root too."""
    sequence = numbered({"a": 6})["a"]
    clips = Clips(Dataset("", "", {"a": lambda: replace(sequence, estimates=sequence.poses * 2)}), 6, inputs="estimates")
    inputs, poses = clips[0, False]
    assert torch.allclose(inputs[:, 1:, 0] - inputs[:, :1, 0], inputs[:, 1:, 0]) and inputs.shape == poses.shape


def test_split():
    data = numbered({"S1/a": 5, "S1/b": 5, "S2/a": 5, "S3/a": 5})
    names = lambda *patterns: [each and each.names for each in split(data, *patterns)]
    assert names(["S1/*", "S2/*"], ["S3/*"]) == [["S1/a", "S1/b", "S2/a"], ["S3/a"]]
    assert names(["*"], ["*/a"]) == [["S1/b"], ["S1/a", "S2/a", "S3/a"]]
    assert names() == [data.names, None]
    with pytest.raises(ValueError, match="nothing to train on"):
        split(data, ["S1/*"], ["S*"])
    with pytest.raises(KeyError, match="no sequence matches S9"):
        split(data, ["S9/*"])


def test_errors(gait):
    sequence = gait["S1/a"]
    with pytest.raises(ValueError, match="S1/a: no poses, which training needs"):
        Clips(Dataset("", "", {"a": lambda: replace(sequence, poses=None)}), 9)
    with pytest.raises(ValueError, match="S1/a: no estimates"):
        Clips(gait, 9, inputs="estimates")
    other = replace(sequence, keypoints=np.zeros((45, 17, 3), np.float32))
    with pytest.raises(ValueError, match="3 channels, expected h36m and 2 as in a"):
        Clips(Dataset("", "", {"a": lambda: sequence, "b": lambda: other}), 9)
