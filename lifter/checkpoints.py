"""Weights in and out: safetensors files (ours) and the torch files of the official repositories."""

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lifter._io import StrPath

from . import _torch_files
from ._io import digest_of, regular, whole

HEADER = 100_000_000  # bytes, safetensors' own limit
DIGEST = b'"sha256":"'  # in the header of a safetensors file, where other quotes are escaped


def load_checkpoint(model: nn.Module, checkpoint: StrPath | dict, strict: bool = True) -> tuple[list[str], list[str]]:
    """Load weights into `model`. Nothing is loaded unless everything fits.

    Args:
        model: any module, including one wrapped by DistributedDataParallel or torch.compile.
        checkpoint: a safetensors file, a file of `torch.save` (no code in it is executed), or a dict. The state dict may be
            under any key ("model_pos", "state_dict", ...): of all dicts of tensors inside, the one with most names in common
            with the model is used. Names may be lifter's or official ones, with a prefix "module.", "_orig_mod.", "model." or
            "net.". thop's counters are ignored.
        strict: require exactly the model's names. If False, only common names are loaded; of a layer with different official
            names, all weights or none must be present.

    Returns:
        (missing_keys, unexpected_keys), both empty if strict.

    Raises:
        FileNotFoundError; KeyError naming missing and unexpected keys; ValueError naming the keys of wrong shape, or
        if the file cannot be read or holds no weights.
    """
    source = "checkpoint" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)
    contents = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)[0]
    pairs, missing, unexpected = fit(model, contents, source, strict)
    with torch.no_grad():
        for own, weight in pairs:
            own.copy_(weight if isinstance(weight, torch.Tensor) else weight.tensor())
    return missing, unexpected


def fit(model, contents, source, strict=True):
    """([(tensor of the model, weight)], missing, unexpected) for what `read_checkpoint` gave; errors as of `load_checkpoint`.

    Only names and shapes are looked at, so that the model may be on the meta device.
    """
    candidates = list(_state_dicts(contents))
    if not candidates:
        raise ValueError(f"{source}: no state dict inside; it holds {', '.join(map(str, list(contents)[:20])) or 'nothing'}")
    ours = {_plain(key): tensor for key, tensor in model.state_dict().items()}
    official, layers = _official_names(model, ours)
    weights, own = max(
        ((weights, own) for weights in candidates for own in (ours, official)),
        key=lambda pair: (len(pair[0].keys() & pair[1].keys()), len(pair[0])),
    )
    left_out = getattr(model, "left_out", ())  # parts of official networks that the model does without
    foreign = lambda k: k.rpartition(".")[2] in ("total_ops", "total_params") or any(part in k for part in left_out)
    weights = {k: v for k, v in weights.items() if k in own or not foreign(k)}

    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    absent, extra = missing, unexpected
    if not strict:
        started = [] if own is ours else [names for names in layers if not names.isdisjoint(weights)]
        absent, extra = [key for names in started for key in names if key not in weights], []
    wrong = [
        f"{key} is {tuple(value.shape)}, expected {tuple(own[key].shape)}"
        for key, value in weights.items()
        if key in own and value.shape != own[key].shape
    ]
    problems = ["no key in common"] if len(missing) == len(own) else []
    problems += [f"missing keys: {', '.join(absent)}"] if absent else []
    problems += [f"unexpected keys: {', '.join(extra)}"] if extra else []
    problems += [f"wrong shapes: {'; '.join(wrong)}"] if wrong else []
    if problems:
        error = KeyError if absent or extra else ValueError
        raise error(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    return [(own[key], weights[key]) for key in weights.keys() & own.keys()], missing, unexpected


def save_checkpoint(model: nn.Module, path: StrPath, metadata: dict[str, str] | None = None):
    """Write the model's weights: a safetensors file if `path` ends in .safetensors, else a torch file.

    Either carries a digest, which is checked when it is read. The file appears when it is whole.

    Args:
        metadata: texts by name, for a safetensors file.
    """
    tensors = {_plain(key): value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    path = Path(path)
    with whole(path, path.suffix) as partly:
        if path.suffix != ".safetensors":
            _torch_files.save(tensors, partly)
            return
        _safetensors(path).save_file(tensors, partly, (metadata or {}) | {"sha256": "0" * 64})
        with partly.open("r+b") as file:
            place = _digest_place(file)
            digest = digest_of(file, place)
            file.seek(place)
            file.write(digest.encode())


def read_checkpoint(path: StrPath) -> tuple[Mapping, dict]:
    """Read a file of weights, and the texts beside them. Tensors are read when their `tensor()` is called.

    Raises:
        FileNotFoundError; ValueError if it is damaged, or no such file.
    """
    path = regular(path, "checkpoint")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    contents = _torch_files.read(path)
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path} holds a {type(contents).__name__}, expected a dict of weights")
    return contents, {}


def check_finite(state, source):
    """Raise a ValueError that names the first tensor in nested dicts and lists with NaN or infinity in it."""
    items = state.items() if isinstance(state, Mapping) else enumerate(state)
    for key, value in items:
        if isinstance(value, torch.Tensor):
            if not value.isfinite().all():
                raise ValueError(f"{source}: {key} is not finite")
        elif isinstance(value, (Mapping, list, tuple)):
            check_finite(value, f"{source}: {key}")


class _Slice:
    """A tensor of a safetensors file."""

    def __init__(self, file, key):
        self._file, self._key, self.shape = file, key, torch.Size(file.get_slice(key).get_shape())

    def tensor(self):
        return self._file.get_tensor(self._key)


TENSORS = (torch.Tensor, _torch_files.Stored, _Slice)


def _read_safetensors(path):
    _safetensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            place = _digest_place(file)
            if place is not None:
                file.seek(place)
                if file.read(64) != digest_of(file, place).encode():
                    raise ValueError("damaged: its digest is of other contents")
        opened = safe_open(path, "pt")
        return {key: _Slice(opened, key) for key in opened.keys()}, opened.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _digest_place(file):
    """Find the place of the digest in an open safetensors file; None: it has none."""
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if size > os.fstat(file.fileno()).st_size - 8:
        raise ValueError("cut short")
    if size > HEADER:
        raise ValueError(f"a header of {size} bytes")
    found = file.read(size).find(DIGEST)
    return None if found < 0 else 8 + found + len(DIGEST)


def _safetensors(path):
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError(f"{path}: safetensors is not installed (pip install safetensors)") from error


def _state_dicts(contents):
    """Every dict of tensors in `contents`, at any depth: with its names, then without one wrapper's prefix, and so on."""
    seen, waiting = set(), [contents]  # what is referred to many times is looked at once
    while waiting:
        each = waiting.pop()
        if not isinstance(each, Mapping) or id(each) in seen:
            continue
        seen.add(id(each))
        weights = {k.replace("._orig_mod.", "."): v for k, v in each.items() if isinstance(k, str) and isinstance(v, TENSORS)}
        while weights:
            yield weights
            shorter = {re.sub(r"^(module|_orig_mod|model|net)\.", "", k): v for k, v in weights.items()}
            weights = shorter if len(shorter) == len(weights) and shorter.keys() != weights.keys() else None
        waiting += reversed(each.values())


def _official_names(model, ours):
    """(`ours` with the official names of layers that have others, the set of those names per layer).

    The tensors are views of the model's.
    """
    official, layers, done = dict(ours), [], []
    for name, module in model.named_modules():
        prefix = _plain(f"{name}.") if name else ""
        if not hasattr(module, "official_weights") or prefix.startswith(tuple(done)):
            continue
        done.append(prefix)
        weights = {prefix + key: tensor.detach() for key, tensor in module.official_weights().items()}
        official = {key: tensor for key, tensor in official.items() if not key.startswith(prefix)} | weights
        layers.append(weights.keys())
    return official, layers


def _plain(key):
    """A name without the prefixes that DistributedDataParallel and torch.compile add."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", key).replace("._orig_mod.", ".")
