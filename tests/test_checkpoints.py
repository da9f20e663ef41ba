"""Weights from files and dicts in every wrapping, and clear errors that leave the model as it was."""

import builtins
import copy
import os
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from lifter import load_checkpoint, save_checkpoint
from tests import hostile


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def source():
    return net()


@pytest.fixture
def model():
    return net()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("wrapper", [None, "model_pos", "model", "state_dict", "net", "params", "anything"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "model.net."])
def test_wrappers_and_prefixes(tmp_path, source, model, wrapper, prefix):
    weights = {prefix + key: value for key, value in source.state_dict().items()}
    contents = weights if wrapper is None else {"epoch": 3, "lr": 1e-3, wrapper: weights}
    torch.save(contents, tmp_path / "weights.pth")
    missing, unexpected = load_checkpoint(model, tmp_path / "weights.pth")
    assert same(model, source) and not missing and not unexpected


def test_training_checkpoint_with_optimizer_and_numpy_scalar(tmp_path, source, model):
    """Files of the official trainers; weights_only=True alone refuses the numpy scalar."""
    optimizer = torch.optim.AdamW(source.parameters())
    source(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    contents = {"optimizer": optimizer.state_dict(), "model_pos": source.state_dict(), "min_loss": np.float64(38.1)}
    torch.save(contents, tmp_path / "best.pth")
    load_checkpoint(model, str(tmp_path / "best.pth"))
    assert same(model, source)


def test_safetensors_round_trip(tmp_path, source, model):
    pytest.importorskip("safetensors")
    save_checkpoint(source, tmp_path / "weights.safetensors")
    load_checkpoint(model, tmp_path / "weights.safetensors")
    assert same(model, source)


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights"])
def test_torch_round_trip(tmp_path, source, model, name):
    save_checkpoint(source, tmp_path / name)
    load_checkpoint(model, tmp_path / name)
    assert same(model, source)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_model_whose_own_names_look_like_prefixes(prefix):
    """`net.0.weight` and `model.net.0.weight` are different parameters: no prefix is cut that the model has itself."""
    make = lambda: nn.ModuleDict({"net": net(), "model": nn.ModuleDict({"net": net()})})
    source, model = make(), make()
    load_checkpoint(model, {prefix + key: value for key, value in source.state_dict().items()})
    assert same(model, source)


def test_without_safetensors(tmp_path, model, monkeypatch):
    (tmp_path / "weights.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        load_checkpoint(model, tmp_path / "weights.safetensors")


def test_compiled_model_takes_plain_weights(source, model):
    load_checkpoint(torch.compile(model), source.state_dict())
    assert same(model, source)


def test_thop_counters_are_ignored(source, model):
    counters = {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}
    load_checkpoint(model, source.state_dict() | counters)
    assert same(model, source)


def test_wrong_keys_and_shapes_are_named_and_nothing_is_loaded(source, model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = source.state_dict()
    del weights["2.bias"]
    with pytest.raises(KeyError, match="missing keys: 2.bias"):
        load_checkpoint(model, weights)
    with pytest.raises(KeyError, match="unexpected keys: 3.weight"):
        load_checkpoint(model, source.state_dict() | {"3.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"2.bias is \(5,\), expected \(2,\)"):
        load_checkpoint(model, source.state_dict() | {"2.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"2.bias is \(5,\)"):
        load_checkpoint(model, {"2.bias": torch.zeros(5)}, strict=False)
    with pytest.raises(ValueError, match="no key in common"):
        load_checkpoint(model, {"other.weight": torch.zeros(5)}, strict=False)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_not_strict_loads_what_is_there(source, model):
    weights = source.state_dict() | {"3.weight": torch.zeros(1)}
    del weights["0.weight"]
    missing, unexpected = load_checkpoint(model, weights, strict=False)
    assert missing == ["0.weight"] and unexpected == ["3.weight"]
    assert torch.equal(model[2].weight, source[2].weight)


def test_unreadable_files(tmp_path, model):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_checkpoint(model, tmp_path / "nowhere.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(ValueError, match="not a readable"):
            load_checkpoint(model, tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="no state dict inside; it holds epoch"):
        load_checkpoint(model, tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        load_checkpoint(model, tmp_path / "list.pth")


class Evil:
    def __reduce__(self):
        return builtins.print, ("executed",)


def test_code_in_a_file_is_not_run(tmp_path, model, capsys):
    torch.save({"model": net().state_dict(), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a readable"):
        load_checkpoint(model, tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


# ---- damaged and hostile files ---------------------------------------------------------------------------------------


def damages(contents, rng, count):
    """Bits, bytes and runs changed, left out, put in, cut off: half of them in the last kilobytes, where directories are."""
    for number in range(count):
        data = bytearray(contents)
        at = int(rng.integers(max(0, len(data) - 2000) if number % 2 else 0, len(data)))
        kind, run = number % 5, int(rng.integers(1, 9))
        if kind < 2:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at : at + run] = rng.bytes(min(run, len(data) - at))
        elif kind == 3:
            data[at : at + run] = b"" if rng.random() < 0.5 else rng.bytes(2 * run)
        else:
            del data[at:]
        if data != contents:
            yield bytes(data)


@pytest.mark.parametrize("kind", ["weights.safetensors", "weights.pth", "foreign.pth"])
def test_damage_is_never_silent(tmp_path, source, kind):
    """A damaged file is refused, or gives what was saved: the damage was where nothing is."""
    path, rng = tmp_path / kind, np.random.default_rng(0)
    save_checkpoint(source, path) if kind[0] == "w" else torch.save(source.state_dict(), path)
    refused, wrong = 0, 0
    for data in damages(path.read_bytes(), rng, 200):
        path.write_bytes(data)
        model = net()
        try:
            load_checkpoint(model, path)
        except (ValueError, KeyError):
            refused += 1
        else:
            wrong += not same(model, source)
    assert not wrong and refused > (190 if kind[0] == "w" else 80)


def test_one_bit_in_the_directory(tmp_path, source, model):
    """An entry whose attributes say that it is a folder: torch.load takes memory that nobody filled for its weights."""
    torch.save(source.state_dict(), tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    record = data.rindex(b"PK\1\2", 0, data.rindex(b"a/data/0"))
    data[record + 38] ^= 0x10
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(ValueError, match="damaged: a/data/0 is no plain entry"):
        load_checkpoint(model, tmp_path / "a.pth")


def test_files_of_before_archives(tmp_path, source, model):
    """Files with the state of optimizers, shared storages and views."""
    weights = source.state_dict()
    weights["0.weight"] = weights["0.weight"].t().contiguous().t()
    contents = {"model": weights, "again": weights, "epoch": np.int64(3), "betas": (0.9, 0.999)}
    for old in (True, False):
        torch.save(contents, tmp_path / "a.bin", _use_new_zipfile_serialization=not old)
        load_checkpoint(model, tmp_path / "a.bin")
        assert same(model, source)
    torch.save(contents, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(data[:-9])
    with pytest.raises(ValueError, match="not a readable file of weights"):
        load_checkpoint(model, tmp_path / "a.bin")


def archive(path, pickled, *storages):
    """A file as torch.save writes it, with any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        for number, storage in enumerate(storages):
            file.writestr(f"a/data/{number}", storage)


HOSTILE = {name: hostile.pickles()[name] for name in ("memo", "bytes", "bytearray", "calls", "tuples", "copies")} | {
    "lists": b"\x80\x02" + b"]" * 3_000_000 + b".",
    "storage": hostile.tensor(1 << 40, (1 << 20, 1 << 20), (1 << 20, 1), name="0.weight"),
    "view": hostile.tensor(4, (1 << 20, 1 << 20), (0, 0), name="0.weight"),
    "beyond": hostile.tensor(4, (4, 3), (3, 1), name="0.weight"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(tmp_path, model, kind):
    archive(tmp_path / "a.pth", HOSTILE[kind], bytes(16))
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, KeyError)):
            load_checkpoint(model, tmp_path / "a.pth")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6


def test_compressed_and_overlapping_archives(tmp_path, model):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(30_000_000))  # 30 kB
    with pytest.raises(ValueError, match="no plain entry"):
        load_checkpoint(model, tmp_path / "a.pth")
    archive(tmp_path / "a.pth", HOSTILE["view"], bytes(16))
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as file:
        info = copy.copy(file.getinfo("a/data/0"))
        info.filename = info.orig_filename = "a/data/1"
        file.filelist.append(info)
        file._didModify = True
    with pytest.raises(ValueError, match="directory and data differ in a/data/1"):
        load_checkpoint(model, tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_no_regular_file(tmp_path, model, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is no regular file"):  # and nobody waits for who writes to it
        load_checkpoint(model, tmp_path / name)
