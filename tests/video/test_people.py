"""People of a video: who is one, who is a ghost, who comes back."""

import numpy as np
import pytest

from lifter.data import normalise
from lifter.data.keypoints import to_h36m
from lifter.video import Video, find_people

from .conftest import SIZE, Knows, body


@pytest.fixture
def found(film):
    """found(of): what there is in 2 s at 25 frames a second, where `of(number)` tells who is in a frame."""
    return lambda of: find_people(Video(film(times=range(0, 200, 4))), Knows(of))


def test_one_person(found):
    (person,), ghosts, *ends = found(lambda number: [body(number)])
    assert (person.name, person.start, len(person), person.fps, person.size) == ("walk", 0, 50, 25, SIZE)
    assert (ghosts, ends) == ([], [50, False, None])
    expected = normalise(to_h36m(np.stack([body(number) for number in range(50)]), "coco"), SIZE)
    np.testing.assert_allclose(person.keypoints, expected, atol=1e-5)


def test_the_main_person_comes_first(found):
    people = found(lambda number: [body(number, at=2, size=8), body(number, at=30, size=20)]).people
    assert [person.name for person in people] == ["walk/person1", "walk/person2"]
    assert np.ptp(people[0].keypoints[0, :, 0]) > np.ptp(people[1].keypoints[0, :, 0])


@pytest.mark.parametrize(
    "ghost",
    [
        lambda number: [body(number, at=40)] if 20 <= number < 30 else [],  # for less than half a second
        lambda number: [body(number, at=40, score=0.4)],  # never seen well
    ],
    ids=["short", "weak"],
)
def test_ghosts(found, ghost):
    people, ghosts, *_ = found(lambda number: [body(number), *ghost(number)])
    assert [person.name for person in people] == ["walk/person1"] and [each.name for each in ghosts] == ["walk/ghost1"]


def test_somebody_found_twice_is_one_person(found):
    (person,), ghosts, *_ = found(lambda number: [body(number, at=22, score=0.8), body(number)])
    assert ghosts == [] and (person.keypoints[..., 2] > 0.85).all()


def test_nobody_and_joints_of_nobody(found):
    for people in ([], [body(0, score=0.2)]):
        with pytest.raises(ValueError, match="walk.mp4: no person in any frame"):
            found(lambda number, people=people: people)


def test_who_comes_back(found):
    """After 35 frames, near where they were: the same person, the frames between filled in without confidence."""
    (person,), *_ = found(lambda number: [] if 8 <= number < 43 else [body(number / 2)])
    assert len(person) == 50 and (person.keypoints[8:43, :, 2] == 0).all() and (person.keypoints[:8, :, 2] > 0.8).all()


def test_stopped(found):
    """Ctrl-C in the middle: what was found until then."""

    def of(number):
        if number == 30:
            raise KeyboardInterrupt
        return [body(number)]

    (person,), _, frames, stopped, _ = found(of)
    assert (len(person), frames, stopped) == (30, 30, True)
