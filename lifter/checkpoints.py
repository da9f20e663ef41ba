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
            may lie under any key ("model_pos", "state_dict", ...): of all the dicts of tensors inside, the one that
            has most names in common with the model is taken. Prefixes "module." and "_orig_mod." are stripped, thop's
            counters ignored.
        strict: the names must be exactly the model's. If False, only those in common are loaded.

    Returns:
        (missing_keys, unexpected_keys), both empty if strict.

    Raises:
        FileNotFoundError; KeyError naming missing and unexpected keys; ValueError naming the keys of wrong shape, or
        if the file cannot be read or holds no weights.
    """
    source = "checkpoint" if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)
    contents = checkpoint if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    tensors = model.state_dict()
    own = {_plain(key): key for key in tensors}
    weights = _find_state_dict(contents, own)
    if weights is None:
        raise ValueError(f"{source}: no state dict inside; it holds {', '.join(map(str, contents)) or 'nothing'}")

    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    wrong = [
        f"{key} is {tuple(value.shape)}, expected {tuple(tensors[own[key]].shape)}"
        for key, value in weights.items()
        if key in own and value.shape != tensors[own[key]].shape
    ]
    problems = [f"wrong shapes: {'; '.join(wrong)}"] if wrong else []
    if strict and unexpected:
        problems.insert(0, f"unexpected keys: {', '.join(unexpected)}")
    if strict and missing:
        problems.insert(0, f"missing keys: {', '.join(missing)}")
    if len(missing) == len(own):
        problems.insert(0, "no key in common")
    if problems:
        error = KeyError if strict and (missing or unexpected) else ValueError
        raise error(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict({own[k]: v for k, v in weights.items() if k in own}, strict=strict)
    return missing, unexpected


def save_checkpoint(model, path):
    """Write the model's weights to a safetensors file."""
    tensors = {_plain(key): value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    _safetensors(path).save_file(tensors, path)


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


def _find_state_dict(contents, own):
    """The dict of tensors in `contents`, at any depth, that has most names in common with `own`; names made plain."""
    candidates = []

    def visit(node):
        if not isinstance(node, Mapping):
            return
        weights = {_plain(k): v for k, v in node.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if weights:
            candidates.append(weights)
        for value in node.values():
            visit(value)

    visit(contents)
    best = max(candidates, key=lambda weights: (len(weights.keys() & own.keys()), len(weights)), default=None)
    if best is None:
        return None
    return {k: v for k, v in best.items() if k in own or k.rpartition(".")[2] not in ("total_ops", "total_params")}


def _plain(key):
    """A name without the prefixes that DistributedDataParallel and torch.compile add."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", key).replace("._orig_mod.", ".")
