"""Weights in a file that says which model they are of."""

import json
import shutil

import pytest
import torch

import lifter
from lifter._weights import weights_path
from lifter.data.synthetic import open_gait
from lifter.inference.windows import lift_sequence
from lifter.metrics.losses import mpjpe


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


def test_half_the_size(tmp_path):
    """Rounded once, on the way into the file; what is too large for the dtype is told."""
    kwargs = {"num_frames": 9, "dim": 32, "depth": 1}
    model, about = lifter.create_model("mixste", **kwargs).eval(), {"model": "mixste", "kwargs": kwargs}
    lifter.save_pretrained(tmp_path / "a.safetensors", model, about)
    lifter.save_pretrained(tmp_path / "b.safetensors", model, about, torch.float16)
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    loaded = lifter.load_pretrained(tmp_path / "b.safetensors").model.state_dict()
    for key, weight in model.state_dict().items():
        assert loaded[key].dtype == weight.dtype == torch.float32 and torch.equal(loaded[key], weight.half().float())
    next(model.parameters()).data.view(-1)[0] = 1e6
    with pytest.raises(ValueError, match="save_pretrained: .* is not finite"):
        lifter.save_pretrained(tmp_path / "c.safetensors", model, about, torch.float16)


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


def test_centred_models_have_a_length(tmp_path):
    """PoseRetNet too, which takes any length."""
    kwargs = {"num_frames": 9, "dim": 16, "depth": 1, "num_heads": 2}
    for centred in (False, True):
        about = {"model": "poseretnet", "kwargs": kwargs, "centred": centred}
        lifter.save_pretrained(tmp_path / "a.safetensors", lifter.create_model("poseretnet", **kwargs), about)
        model = lifter.load_pretrained(tmp_path / "a.safetensors").model
        assert model.num_frames == (9 if centred else None) and getattr(model, "centred", False) == centred


@pytest.mark.parametrize("name", ["small", "base"])
def test_shipped(name):
    """The models that ship with lifter lift a walk: legs down, left from right, within a decimetre and a half."""
    shipped, walk = lifter.load_pretrained(name), next(iter(open_gait(1, 162)))
    assert shipped.about["figures"]["MPJPE"] < 80 and shipped.model.centred
    poses = lift_sequence(shipped.model, walk.keypoints)
    error = mpjpe(poses - poses[:, :1], torch.from_numpy(walk.rooted()))
    assert error < 0.15, error


def test_names(tmp_path, monkeypatch):
    """A name is that of a model which ships; a file of that name has to be called a path."""
    monkeypatch.chdir(tmp_path)
    assert lifter.load_pretrained("base").about == lifter.load_pretrained().about != lifter.load_pretrained("small").about
    about = save_tiny("small.safetensors")
    assert lifter.load_pretrained("small").about != about == lifter.load_pretrained("./small.safetensors").about
    with pytest.raises(FileNotFoundError, match="no checkpoint at large"):
        lifter.load_pretrained("large")


def save_tiny(path):
    kwargs = {"num_frames": 9, "dim": 16, "depth": 1}
    about = {"model": "mixste", "kwargs": kwargs}
    lifter.save_pretrained(path, lifter.create_model("mixste", **kwargs), about)
    return about


class Api:
    """Stands for the Hub's own: what is uploaded lies in the cache, as if it had been downloaded."""

    def __init__(self, cache=None):
        Api.cache = cache or Api.cache

    def create_repo(self, repository, exist_ok):
        self.folder(repository).mkdir(parents=True, exist_ok=exist_ok)

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        (self.folder(repo_id) / "refs").mkdir()
        (self.folder(repo_id) / "refs" / "main").write_text("0" * 40)
        (self.folder(repo_id) / "snapshots" / ("0" * 40)).mkdir(parents=True)
        shutil.copy(path_or_fileobj, self.folder(repo_id) / "snapshots" / ("0" * 40) / path_in_repo)

    def folder(self, repository):
        return Api.cache / f"models--{repository.replace('/', '--')}"


def test_hub(tmp_path, monkeypatch):
    """Offline, out of the Hub's own cache."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    Api(tmp_path)
    about = save_tiny("hf-hub:somebody/tiny")
    for name in ("hf-hub:somebody/tiny", "hf-hub:somebody/tiny@main", f"hf-hub:somebody/tiny@{'0' * 40}"):
        assert lifter.load_pretrained(name).about == about
    with pytest.raises(FileNotFoundError, match="hf-hub:somebody/tiny@v2: not downloaded yet, and the Hub cannot be reached"):
        lifter.load_pretrained("hf-hub:somebody/tiny@v2")
    with pytest.raises(ValueError, match="hf-hub:a/b/c: expected hf-hub:OWNER/NAME or"):
        lifter.load_pretrained("hf-hub:a/b/c")


@pytest.mark.parametrize("size", ["dim", "depth", "num_frames"])
def test_sizes_that_are_only_claimed(tmp_path, size):
    """They take no memory before the weights are looked at."""
    kwargs = {"num_frames": 9, "dim": 16, "depth": 1}
    model, path = lifter.create_model("mixste", **kwargs), tmp_path / "a.safetensors"
    told = {1 << 16: "more numbers than it has bytes|does not fit", 1 << 40: f"{size} is {1 << 40}, expected at most"}
    for value, message in told.items():
        lifter.save_checkpoint(model, path, {"lifter": json.dumps({"model": "mixste", "kwargs": kwargs | {size: value}})})
        with pytest.raises((ValueError, KeyError), match=message):
            lifter.load_pretrained(path)
    lifter.save_checkpoint(model, path, {"lifter": json.dumps({"model": "mixste", "kwargs": kwargs | {size: 8}})})
    with pytest.raises((ValueError, KeyError), match="does not fit MixSTE"):
        lifter.load_pretrained(path)


def test_not_finite(tmp_path):
    model = lifter.create_model("mixste", num_frames=9, dim=16, depth=1)
    next(model.parameters()).data.view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match="save_pretrained: .* is not finite"):
        lifter.save_pretrained(tmp_path / "a.safetensors", model, {"model": "mixste", "kwargs": {}})
    assert not list(tmp_path.iterdir())


def test_the_shipped_weights_carry_a_digest(tmp_path):
    data = bytearray(weights_path().read_bytes())
    data[-1000] ^= 1  # of some weight
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged: its digest is of other contents"):
        lifter.load_pretrained(tmp_path / "a.safetensors")
