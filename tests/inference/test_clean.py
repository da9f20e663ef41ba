"""`clean` mends keypoints that are wrong and changes none that are right."""

from dataclasses import replace

import numpy as np
import pytest

from lifter.data import Sequence
from lifter.data.synthetic import open_gait
from lifter.inference.clean import (
    FILTERS,
    STEPS,
    butterworth,
    clean,
    extent,
    one_euro,
    repair_outliers,
    repair_swaps,
    steady,
)
from lifter.skeleton import H36M

LEGS = [(1, 4), (2, 5), (3, 6)]


@pytest.fixture(scope="module")
def gait():
    """(T, 17, 3) keypoints of somebody who walks, with confidence."""
    keypoints = next(iter(open_gait(1, 243))).keypoints.astype(np.float64)
    return np.concatenate((keypoints[..., :2], np.full_like(keypoints[..., :1], 0.9)), -1)


def swapped(keypoints, frames, pairs=None):
    pairs = H36M.flip_pairs if pairs is None else pairs
    order = np.arange(17)
    for left, right in pairs:
        order[[left, right]] = right, left
    out = keypoints.copy()
    out[frames] = out[frames][:, order]
    return out


@pytest.mark.parametrize("every", [1, 2, 4], ids=["50", "25", "12.5"])
def test_nothing_is_exchanged_that_is_right(gait, every):
    """At three frame rates."""
    repaired, exchanged = repair_swaps(gait[::every])
    assert not exchanged.any() and (repaired == gait[::every]).all()


@pytest.mark.parametrize("pairs", [None, LEGS], ids=["body", "legs"])
def test_swaps(gait, pairs):
    """In 32 of 100 frames, one by one and in a row."""
    frames = np.r_[5, 8, 20:40, 60, 62, 70:78]
    assert len(frames) == 32
    repaired, exchanged = repair_swaps(swapped(gait[:100], frames, pairs))
    wrong = np.linalg.norm((repaired - gait[:100])[..., :2], axis=-1) / extent(gait)
    assert np.flatnonzero(exchanged).tolist() == frames.tolist() and wrong.max() == 0


def test_the_short_and_the_empty(gait):
    for frames in range(1, 4):
        keypoints = gait[:frames]
        assert (repair_swaps(keypoints)[0] == keypoints).all() and (repair_outliers(keypoints)[0] == keypoints).all()
        assert butterworth(keypoints, 50).shape == one_euro(keypoints[..., :2], 50).shape[:2] + (3,) == keypoints.shape


def test_outliers(gait):
    """A joint that jumps for a frame goes back, without confidence; others stay as they are."""
    keypoints = gait.copy()
    at = [(10, 3), (50, 16), (51, 13), (100, 0)]
    for frame, joint in at:
        keypoints[frame, joint, :2] += 0.2 * extent(gait)
    repaired, moved = repair_outliers(keypoints)
    assert sorted(map(tuple, np.argwhere(moved).tolist())) == sorted(at)
    assert np.abs(repaired - gait)[..., :2].max() < 0.01 * extent(gait)
    assert (repaired[moved][:, 2] == 0).all() and (repaired[~moved] == gait[~moved]).all()
    assert not repair_outliers(gait)[1].any()


def test_unsure_joints_are_drawn_to_their_mean_in_time(gait):
    """Noise of joints without confidence is less; of those with confidence nothing changes."""
    rng = np.random.default_rng(0)
    noisy = gait.copy()
    noisy[:, 16, :2] += rng.normal(0, 0.03, (len(gait), 2))
    noisy[:, 16, 2] = 0.1
    out = steady(noisy, 50)
    error = lambda keypoints: np.linalg.norm((keypoints - gait)[:, 16, :2], axis=-1).mean()
    assert error(out) < 0.6 * error(noisy) and (np.delete(out, 16, 1) == np.delete(noisy, 16, 1)).all()


@pytest.mark.parametrize("filter", [butterworth, one_euro])
def test_filters(filter):
    """A slow motion passes, noise does not, and a constant is one."""
    time = np.arange(500) / 50
    slow = np.stack((np.sin(np.pi * time), np.cos(np.pi * time)), -1)[:, None] + [[[0, 0], [1, 3]]]
    noise = np.random.default_rng(0).normal(0, 0.05, slow.shape)
    out = filter(slow + noise, 50)[50:-50]
    assert np.abs(np.diff(out, 2, axis=0)).mean() < 0.3 * np.abs(np.diff(noise, 2, axis=0)).mean()
    assert np.abs(out - slow[50:-50]).mean() < 3 * np.abs(noise).mean()
    np.testing.assert_allclose(filter(np.ones_like(slow), 50), 1)


def test_butterworth_is_at_half_power_at_its_cutoff():
    """Two passes, of 6 Hz together: 0.707 of the amplitude there, nearly all at 1 Hz, little at 20."""
    time = np.arange(2000) / 100
    gain = lambda hertz: np.ptp(butterworth(np.sin(2 * np.pi * hertz * time)[:, None], 100)[500:1500]) / 2
    assert [round(gain(hertz), 2) for hertz in (1, 6, 20)] == pytest.approx([1, 0.71, 0], abs=0.02)


def test_steps(gait):
    """Each step prints a line and can be skipped; without any step nothing changes."""
    sequence = Sequence("walk", keypoints=swapped(gait, [7]), fps=50)
    cleaned, lines = clean(sequence)
    np.testing.assert_allclose(cleaned.keypoints, gait, atol=1e-6)
    assert lines[0] == "left and right exchanged in 1 of 243 frames" and len(lines) == 3
    for number, step in enumerate(STEPS):
        left = [line.split()[1:] for line in clean(sequence, skip=[step])[1]]  # not the numbers
        assert left == [line.split()[1:] for line in lines[:number] + lines[number + 1 :]]
    assert (clean(sequence, STEPS)[0].keypoints == sequence.keypoints).all()
    for filter in FILTERS:
        assert clean(sequence, smooth=filter)[1][-1] == f"smoothed by {filter}"
    with pytest.raises(ValueError, match="skip is cat, expected swaps or outliers or unsure"):
        clean(sequence, ["cat"])
    with pytest.raises(ValueError, match="walk: expected keypoints"):
        clean(replace(sequence, keypoints=None, poses=gait))
