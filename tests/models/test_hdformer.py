"""HDFormer against the official code's numbers, and what is its own: paths along bones, lengths, statistics."""

import json

import numpy as np
import pytest
import torch

from benchmarks import tables
from lifter.models import HDFormer
from lifter.models.hdformer import FORGOTTEN, paths_along
from lifter.skeleton import H36M
from lifter.verify import verify

TINY = {"num_frames": 16, "planes": (8, 8, 8, 8, 16), "max_hop": 2}


def keypoints(batch=2, frames=16, joints=17):
    return torch.randn(batch, frames, joints, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])  # plain PyTorch: one backend is all
@pytest.mark.parametrize("file", ["hdformer", "hdformer_hop2"])
def test_golden(shared, file, dtype):
    (result,) = verify(shared / "golden" / f"{file}.npz", "reference", dtype)
    assert result.passed, result


def test_counts():
    """The official code's; thop's multiply-accumulates but for the softmax, of which it has 0.19 M."""
    counts = tables.count("hdformer", 96)
    assert (counts["params"], counts["params_paper_convention"]) == (3_718_089, 3_703_350)
    assert counts["macs_paper_convention"] / 1e6 == pytest.approx(591.2, abs=0.25)
    assert counts["macs"] / 1e6 == pytest.approx(613.2, abs=0.25)


def test_paths(shared):
    """The official lists are all paths along bones but two."""
    with np.load(shared / "golden" / "hdformer.npz") as data:
        official = json.loads(str(data["config"]))["directed_edges"]
    for hop, paths in enumerate(paths_along(H36M.bones, 4), 1):
        listed = {tuple(path) for path in official[f"hop{hop}"]}
        assert set(paths) - FORGOTTEN == listed and (hop == 3) == bool(set(paths) & FORGOTTEN)


@torch.no_grad()
def test_lengths_and_statistics():
    torch.manual_seed(0)
    model = HDFormer(**TINY).eval()
    x = keypoints(frames=48)
    poses = model(x)
    assert poses.shape == (2, 48, 17, 3) and (poses[:, :, 0] == 0).all() and model(x[:0]).shape == (0, 48, 17, 3)
    mean, std = torch.randn(17, 3), torch.rand(17, 3)
    torch.testing.assert_close(model(x, mean, std), poses * std + mean)


@pytest.mark.parametrize("kwargs", [{"max_hop": 1}, {"norm_joints": False, "smooth": False}], ids=str)
def test_everything_is_trained(kwargs):
    torch.manual_seed(0)
    model = HDFormer(**TINY | kwargs).eval()
    for name, p in model.named_parameters():
        if name.endswith("bn.weight"):  # of the graph convolutions, which start at nothing
            torch.nn.init.ones_(p)
    model(keypoints()).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_another_skeleton_and_errors():
    bones = [(1, 0), (2, 1), (3, 1)]
    model = HDFormer(**TINY, num_joints=4, bones=bones).eval()
    assert model(keypoints(joints=4)).shape == (2, 16, 4, 3)
    with pytest.raises(ValueError, match="max_hop is 3, expected at most 2, the longest path of bones"):
        HDFormer(**TINY | {"max_hop": 3}, num_joints=4, bones=bones)
    with pytest.raises(ValueError, match="max_hop is 0, expected a positive integer"):
        HDFormer(**TINY | {"max_hop": 0})
    with pytest.raises(ValueError, match="num_frames is 27, expected a multiple of 16"):
        HDFormer(27)
    with pytest.raises(ValueError, match="keypoints have 15 frames, expected a multiple of 16"):
        HDFormer(**TINY)(keypoints(frames=15))
    with pytest.raises(ValueError, match="planes are .*, expected five widths"):
        HDFormer(planes=(8, 8))
    with pytest.raises(ValueError, match="planes begin with 12, expected a multiple of 8"):
        HDFormer(planes=(12, 8, 8, 8, 8))
