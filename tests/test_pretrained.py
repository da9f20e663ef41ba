"""Weights in a file that says which model they are of."""

import pytest
import torch

import lifter


def test_round_trip(tmp_path):
    kwargs = {"num_frames": 9, "dim": 16, "depth": 1}
    model = lifter.create_model("mixste", **kwargs).eval()
    about = {"model": "mixste", "kwargs": kwargs, "data": "none"}
    lifter.save_pretrained(tmp_path / "a.safetensors", model, about)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    loaded = lifter.load_pretrained(tmp_path / "a.safetensors")
    keypoints = torch.randn(1, 9, 17, 2)
    assert loaded.about == about and not loaded.model.training
    assert torch.equal(loaded.model(keypoints), model(keypoints))

    lifter.save_checkpoint(model, tmp_path / "a.pth")
    told = lifter.load_pretrained(tmp_path / "a.pth", "mixste", **kwargs)
    assert torch.equal(told.model(keypoints), model(keypoints))
    with pytest.raises(ValueError, match="does not say which model"):
        lifter.load_pretrained(tmp_path / "a.pth")


def test_errors(tmp_path):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="about has model None"):
        lifter.save_pretrained(tmp_path / "a.safetensors", model, {})
    with pytest.raises(ValueError, match="expected NAME.safetensors"):
        lifter.save_pretrained(tmp_path / "a.pth", model, {"model": "mixste", "kwargs": {}})
    with pytest.raises(FileNotFoundError):
        lifter.load_pretrained(tmp_path / "none.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        lifter.load_pretrained(tmp_path / "b.safetensors")
    lifter.save_checkpoint(model, tmp_path / "c.safetensors", {"lifter": "[1]"})
    with pytest.raises(ValueError, match="does not say which model"):
        lifter.load_pretrained(tmp_path / "c.safetensors")
