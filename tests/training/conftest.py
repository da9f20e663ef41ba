"""Fixtures of the tests of training."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("lightning.fabric")

from lifter.data import Dataset
from lifter.data.synthetic import open_gait
from lifter.training import Recipe

TINY = Recipe(num_frames=9, network={"dim": 16, "depth": 2, "num_heads": 2}, batch_size=4, epochs=2, lr=1e-2, flip_test=False)
CPU = {"accelerator": "cpu", "devices": 1}


@pytest.fixture
def gait():
    """Two people of one subject and one of another: 45, 45 and 30 frames."""
    data = open_gait(3, 45)
    sequences = [replace(each, name=name) for each, name in zip(data, ("S1/a", "S1/b", "S2/a"))]
    sequences[2] = sequences[2].take(slice(0, 30))
    return Dataset("synthetic", "gait", {each.name: lambda each=each: each for each in sequences})


@pytest.fixture
def one_thread():
    """Bit for bit the same is only what is summed in the same order; and a fork has none of its parent's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
