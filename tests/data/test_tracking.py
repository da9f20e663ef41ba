"""People in detections: ids that are checked, people who are followed by place, frames that are sampled."""

import numpy as np
import pytest

from lifter._notices import told
from lifter.data.tracking import tracks

from .test_keypoints import PERSON


def at(x, size=100.0, score=1.0):
    pose = np.concatenate((PERSON, np.full((17, 1), score)), -1)
    pose[:, :2] = (pose[:, :2] - PERSON.mean(0)) / 500 * size + [x, 300]
    return pose


def where_people_are(detections, **known):
    """({name: (first frame, x in each frame)}, what was said)."""
    said = []
    with told(said.append):
        found = tracks(detections, "file", **known)
    return {name: (first, (poses[:, 0, 0] - at(0)[0, 0]).tolist()) for name, (first, poses) in found.items()}, said


def test_by_id():
    detections = [(4, 7, 0.9, at(10)), (2, 7, 0.9, at(0)), (2, 7, 0.5, at(5)), (3, 1, 0.9, at(90))]
    found = tracks(detections)
    assert set(found) == {1, 7}
    start, keypoints = found[7]
    assert start == 2 and keypoints.shape == (3, 17, 3)
    np.testing.assert_array_equal(keypoints[0], at(0))  # the better of two
    assert "1 detections are of an id that is at that place in that frame already" in where_people_are(detections)[1][0]
    assert np.isnan(keypoints[1]).all()


def test_without_ids():
    """Two people who pass each other, one of them unseen for a while, and a third far away later."""
    detections = []
    for frame in range(20):
        if frame not in (8, 9):
            detections.append((frame, None, 1.0, at(100 + 5 * frame, 200)))
        detections.append((frame, None, 1.0, at(800 - 5 * frame, 200)))
    detections.append((19, None, 1.0, at(2000, 200)))
    rng = np.random.default_rng(0)
    rng.shuffle(detections)
    found = sorted(tracks(detections).values(), key=lambda track: (-len(track[1]), track[1][0, :, 0].mean()))
    assert [(start, len(keypoints)) for start, keypoints in found] == [(0, 20), (0, 20), (19, 1)]
    for (_, keypoints), speed in zip(found, (5, -5)):
        moved = np.diff(keypoints[:, 0, 0])
        np.testing.assert_allclose(moved[np.isfinite(moved)], speed)


def test_an_id_of_two_people():
    """They are told apart by place, whether others have ids that are right or not."""
    two = [(frame, 0, 1.0, at(x + frame)) for frame in range(4) for x in (0, 300)]
    for others in ([], [(frame, 9, 1.0, at(700)) for frame in range(4)]):
        found, said = where_people_are(two + others)
        assert found[0] == (0, pytest.approx([0, 1, 2, 3])) and found["0.2"] == (0, pytest.approx([300, 301, 302, 303]))
        assert len(found) == 2 + bool(others) and "id 0: several people" in said[0]


def test_an_id_of_all_is_followed_by_place():
    """One person after the other."""
    detections = [(frame, 5, 1.0, at(0 if frame < 3 else 900)) for frame in range(6)]
    found, _ = where_people_are(detections)
    assert found == {5: (0, pytest.approx([0] * 3)), "5.2": (3, pytest.approx([900] * 3))}
    assert list(tracks(detections, sure=True)) == [5]


def test_who_is_alone_may_be_faster():
    """A step of almost a body's size is one of the same person where there never are two in a frame."""
    for person in (None, 5):
        fast = [(frame, person, 1.0, at(80 * frame)) for frame in range(4)]
        assert len(tracks(fast)) == 1
        assert len(tracks([*fast, (3, person, 1.0, at(900))])) == 5


def test_an_id_that_comes_back():
    """Later than anybody is waited for, or far away, it is somebody else; a jump in between is taken out."""
    other = [(0, 1, 1.0, at(0))]
    away = [(frame, 2, 1.0, at(500)) for frame in (3, 4000)]
    found, said = where_people_are(other + away)
    assert {name: first for name, (first, _) in found.items()} == {1: 0, 2: 3, "2.2": 4000} and "id 2" in said[0]
    jump = [(frame, 2, 1.0, at(2000 if frame == 3 else 500)) for frame in range(6)]
    found, _ = where_people_are(other + jump)
    assert found["2.2"] == (3, pytest.approx([2000])) and found[2] == (
        0,
        pytest.approx([500] * 3 + [np.nan] + [500] * 2, nan_ok=True),
    )


def test_some_without_an_id():
    known = [(frame, 3, 1.0, at(0)) for frame in range(4)]
    found, said = where_people_are([*known, (4, None, 1.0, at(0))])
    assert list(found) == [3] and "1 of 5 detections have no id, and are left out" in said[0]
    found, said = where_people_are([*known[:1], *((frame, None, 1.0, at(0)) for frame in range(1, 4))])
    assert list(found) == [0] and "3 of 4 detections have no id: people are followed by place" in said[0]


def test_every_tenth_frame():
    """The numbers stay, and who is walking is followed from one to the next."""
    found, said = where_people_are([(frame, None, 1.0, at(5 * frame)) for frame in (10, 20, 30, 40)])
    ((start, places),) = found.values()
    assert start == 10 and len(places) == 31 and places[10] == pytest.approx(100) and np.isnan(places[5])
    assert said == ["file: every 10th frame only, of 10 to 40: those between are filled in"]


def test_a_body_without_joints_is_nobody():
    found, _ = where_people_are([(0, 1, 1.0, at(0)), (1, 1, 1.0, at(0) * 0), (2, 1, 1.0, at(2))])
    assert found == {1: (0, pytest.approx([0, np.nan, 2], nan_ok=True))}


@pytest.mark.parametrize(
    "detections, expected",
    [
        ([], "file: no person in any frame"),
        ([(0, 1, 1.0, at(0) * np.nan)], "file: no joint in any of 1 frames"),
        ([(0, 1, 1.0, at(0)), (1, 1, 1.0, at(0)[:5])], r"file: keypoints of shape \(5, 3\) in frame 1"),
    ],
)
def test_detections_that_are_no_tracks(detections, expected):
    with pytest.raises(ValueError, match=expected):
        tracks(detections, "file")
