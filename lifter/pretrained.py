"""Models with their weights in one file: a safetensors file that also says which model they are of.

The models that ship with lifter are described in weights/MODEL_CARD.md. Repositories of the Hugging Face Hub hold others.
"""

import copy
import json
import threading
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks

from lifter._io import StrPath

from ._weights import HUB, SUFFIX, upload, weights_path
from .checkpoints import check_finite, fit, load_checkpoint, read_checkpoint, save_checkpoint
from .registry import create_model

BUFFERS = 1 << 20  # numbers that a model may have besides those in its file
TENSOR = 1024  # numbers that each tensor counts for at least: many small ones take time


class Pretrained(NamedTuple):
    model: nn.Module  # in evaluation mode, float32, on the CPU
    about: dict  # "model" and "kwargs" of create_model; "centred"; whatever the trainer added: data, protocol, figures


def save_pretrained(path: StrPath, model: nn.Module, about: dict, dtype: torch.dtype | None = None):
    """Write weights and what `load_pretrained` needs to build their model. The file appears when it is whole.

    Args:
        path: NAME.safetensors, or "hf-hub:OWNER/NAME", a repository of the Hugging Face Hub, which is created if it is not
            there. You must be logged in to the Hub.
        about: a dict of JSON values with "model", a name of `list_models()`, and "kwargs", what else `create_model` got. With
            "centred" the model is one of `lifter.evaluation.centre`d clips.
        dtype: of the weights in the file, as torch.float16 for half the size; None: as they are. They are rounded, and loaded
            in float32 again.

    Raises:
        ValueError for weights that are not finite, or not in that dtype, too.
    """
    for key, kind in (("model", str), ("kwargs", dict)):
        if not isinstance(about.get(key), kind):
            raise ValueError(f"save_pretrained: about has {key} {about.get(key)!r}, expected a {kind.__name__}")
    if str(path).startswith(HUB):
        return upload(str(path).removeprefix(HUB), partial(save_pretrained, model=model, about=about, dtype=dtype))
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"save_pretrained: path is {path}, expected NAME.safetensors")
    model = model if dtype is None else copy.deepcopy(model).to(dtype)
    check_finite(model.state_dict(), "save_pretrained")
    save_checkpoint(model, path, {"lifter": json.dumps(about)})


def load_pretrained(path: StrPath | None = None, model: str | None = None, **kwargs) -> Pretrained:
    """A model with its weights, ready to lift.

    Args:
        path: a file of `save_pretrained`, or any that `load_checkpoint` takes if `model` says what it is of; the name of a
            model that ships with lifter: "small"; or "hf-hub:OWNER/NAME[@REVISION]", a repository of the Hugging Face Hub
            (extra: hub), the file of which is downloaded once. None: "small".
        model, kwargs: of `create_model`, for files that do not tell; default: what the file tells.

    Raises:
        FileNotFoundError, KeyError, ValueError; as `load_checkpoint` and `create_model`. OSError if the Hub does not answer.
    """
    path = weights_path(path)
    contents, texts = read_checkpoint(path) if model or path.suffix == SUFFIX else ({}, {})
    about = {"model": model, "kwargs": kwargs} if model else _about(path, texts)
    with torch.device("meta"), nullcontext() if model else no_larger(path):  # sizes that are only claimed take no memory
        fit(create_model(about["model"], **about["kwargs"]), contents, path)
    network = create_model(about["model"], **about["kwargs"])
    load_checkpoint(network, contents)
    if about.get("centred", False):  # what is centred are clips as long as those it was trained on
        network.centred, network.num_frames = True, about["kwargs"].get("num_frames", network.num_frames)
    return Pretrained(network.eval(), about)


@contextmanager
def no_larger(than):
    """Refuse to make a model of more numbers than a file of that path can have: parameters and buffers are counted."""
    most, made, here = 4 * than.stat().st_size + BUFFERS, 0, threading.get_ident()

    def count(_module, _name, tensor):
        nonlocal made
        if tensor is not None and threading.get_ident() == here:
            made += max(TENSOR, tensor.numel())
            if made > most:
                raise ValueError(f"{than}: the sizes that it names are of a model with more numbers than it has bytes")

    known = (hooks.register_module_parameter_registration_hook, hooks.register_module_buffer_registration_hook)
    handles = [register(count) for register in known]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _about(path, texts) -> dict:
    try:
        about = json.loads(texts.get("lifter", "null"))
    except (ValueError, RecursionError):
        about = None
    if not (isinstance(about, dict) and isinstance(about.get("model"), str) and isinstance(about.get("kwargs"), dict)):
        raise ValueError(f"{path}: does not say which model it is of; pass `model`")
    return about
