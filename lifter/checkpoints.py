"""Weights in and out: safetensors files (ours) and the torch files of the official repositories."""

import importlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


def load_checkpoint(model, checkpoint, strict=True):
    """Load weights into `model`; nothing is loaded unless everything fits.

    Args:
        model: any module, also one wrapped by DistributedDataParallel or torch.compile.
        checkpoint: a safetensors file, a file of `torch.save` (read with weights_only=True), or a dict. The state dict
            may lie under any key ("model_pos", "state_dict", ...), its names may begin with "module.", "_orig_mod.",
            "model." or "net.", and may be ours or the official ones: of all the dicts of tensors inside, the one that
            has most names in common with the model is taken. thop's counters are ignored.
        strict: the names must be exactly the model's. If False, only those in common are loaded; of a layer with other
            official names either all or none must be there.

    Returns:
        (missing_keys, unexpected_keys), both empty if strict.

    Raises:
        FileNotFoundError; KeyError naming missing and unexpected keys; ValueError naming the keys of wrong shape, or
        if the file cannot be read or holds no weights.
    """
    source = "checkpoint" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)
    contents = checkpoint if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    candidates = list(_state_dicts(contents))
    if not candidates:
        raise ValueError(f"{source}: no state dict inside; it holds {', '.join(map(str, contents)) or 'nothing'}")
    ours = {_plain(key): tensor for key, tensor in model.state_dict().items()}
    official, layers = _official_names(model, ours)
    weights, own = max(
        ((weights, own) for weights in candidates for own in (ours, official)),
        key=lambda pair: (len(pair[0].keys() & pair[1].keys()), len(pair[0])),
    )
    weights = {k: v for k, v in weights.items() if k in own or k.rpartition(".")[2] not in ("total_ops", "total_params")}

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
    with torch.no_grad():
        for key in weights.keys() & own.keys():
            own[key].copy_(weights[key])
    return missing, unexpected


def save_checkpoint(model, path, metadata=None):
    """Write the model's weights: a safetensors file if `path` ends in .safetensors, else a torch file.

    `metadata`: texts by name, for a safetensors file.
    """
    tensors = {_plain(key): value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if Path(path).suffix == ".safetensors":
        _safetensors(path).save_file(tensors, path, metadata)
    else:
        torch.save(tensors, path)


def safetensors_metadata(path) -> dict:
    """The texts that were saved beside the weights; none if it is no safetensors file."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix != ".safetensors":
        return {}
    _safetensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _read(path):
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        library = _safetensors(path)
        try:
            return library.load_file(path)
        except Exception as error:  # its own SafetensorError, which has no public base
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable file of weights: {error}") from error
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path} holds a {type(contents).__name__}, expected a dict of weights")
    return contents


def _safetensors(path):
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError(f"{path}: safetensors is not installed (pip install safetensors)") from error


def _numpy_scalars():
    """What weights_only=True must also allow: the official trainers store their best error as a numpy scalar. Old files
    name the constructor numpy.core, new ones numpy._core."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    return [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [np.dtype, *dtypes]


def _state_dicts(contents):
    """Every dict of tensors in `contents`, at any depth: with its names, then without one wrapper's prefix, and so on."""
    if not isinstance(contents, Mapping):
        return
    weights = {
        k.replace("._orig_mod.", "."): v
        for k, v in contents.items()
        if isinstance(k, str) and isinstance(v, torch.Tensor)
    }
    while weights:
        yield weights
        shorter = {re.sub(r"^(module|_orig_mod|model|net)\.", "", k): v for k, v in weights.items()}
        weights = shorter if len(shorter) == len(weights) and shorter.keys() != weights.keys() else None
    for value in contents.values():
        yield from _state_dicts(value)


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
