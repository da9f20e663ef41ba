"""Pretrained models: safetensors files that hold weights and the arguments of the model.

weights/MODEL_CARD.md describes the model that comes with lifter. Others may be in repositories of the Hugging Face Hub.
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

BUFFERS = 1 << 20  # elements that a model may have in addition to those in its file
TENSOR = 1024  # minimum count per tensor, as many small tensors take time


class Pretrained(NamedTuple):
    model: nn.Module  # in evaluation mode, float32, on the CPU
    about: (
        dict  # "model" and "kwargs" for create_model, "centred", and anything that the trainer added: data, protocol, figures
    )


def save_pretrained(path: StrPath, model: nn.Module, about: dict, dtype: torch.dtype | None = None):
    """Write weights, together with the arguments that `load_pretrained` needs to build the model. The file is written
    atomically.

    Args:
        path: NAME.safetensors, or "hf-hub:OWNER/NAME", a repository of the Hugging Face Hub, which is created if needed. You
            must be logged in to the Hub.
        about: a dict of JSON values with "model", a name from `list_models()`, and "kwargs", the other arguments of
            `create_model`. "centred" is true if the model was trained on clips centred by `lifter.evaluation.centre`.
        dtype: dtype of the weights in the file, for example torch.float16 for half the size. They are loaded as float32. None:
            keep the dtype.

    Raises:
        ValueError for an invalid path or `about`, and for weights that are not finite, also after conversion to `dtype`.
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
    """Load a model with its weights, ready for lifting.

    Args:
        path: "base" (default) or "small", the models that come with lifter; a file written by `save_pretrained`; any file that
            `load_checkpoint` accepts, together with `model`; or "hf-hub:OWNER/NAME[@REVISION]", a repository of the Hugging
            Face Hub (extra: hub), which is downloaded once.
        model, kwargs: arguments of `create_model`, for files that do not contain them.

    Raises:
        FileNotFoundError, KeyError, ValueError: see `load_checkpoint` and `create_model`. OSError if the Hub does not answer.
    """
    path = weights_path(path)
    contents, texts = read_checkpoint(path) if model or path.suffix == SUFFIX else ({}, {})
    about = {"model": model, "kwargs": kwargs} if model else _about(path, texts)
    with torch.device("meta"), nullcontext() if model else no_larger(path):  # claimed sizes do not allocate memory
        fit(create_model(about["model"], **about["kwargs"]), contents, path)
    network = create_model(about["model"], **about["kwargs"])
    load_checkpoint(network, contents)
    if about.get("centred", False):  # clips are centred at the length used in training
        network.centred, network.num_frames = True, about["kwargs"].get("num_frames", network.num_frames)
    return Pretrained(network.eval(), about)


@contextmanager
def no_larger(than):
    """Refuse to create a model with more parameters and buffers than the file at this path can hold."""
    most, made, here = 4 * than.stat().st_size + BUFFERS, 0, threading.get_ident()

    def count(_module, _name, tensor):
        nonlocal made
        if tensor is not None and threading.get_ident() == here:
            made += max(TENSOR, tensor.numel())
            if made > most:
                raise ValueError(f"{than}: a model of the sizes in it has more numbers than it has bytes")

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
