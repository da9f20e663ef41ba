"""Models with their weights in one file: a safetensors file that also says which model they are of.

The file that ships with lifter is described in weights/MODEL_CARD.md.
"""

import json
from pathlib import Path
from typing import NamedTuple

from torch import nn

from lifter._io import whole

from .checkpoints import load_checkpoint, safetensors_metadata, save_checkpoint
from .registry import create_model

SHIPPED = Path(__file__).with_name("weights") / "lifter.safetensors"


class Pretrained(NamedTuple):
    model: nn.Module  # in evaluation mode, float32, on the CPU
    about: dict  # "model" and "kwargs" of create_model; "centred"; whatever the trainer added: data, protocol, figures


def save_pretrained(path, model, about):
    """Write weights and what `load_pretrained` needs to build their model. The file appears when it is whole.

    Args:
        path: NAME.safetensors.
        about: a dict of JSON values with "model", a name of `list_models()`, and "kwargs", what else `create_model` got. With
            "centred" the model is one of `lifter.evaluation.centre`d clips.
    """
    path = Path(path)
    for key, kind in (("model", str), ("kwargs", dict)):
        if not isinstance(about.get(key), kind):
            raise ValueError(f"save_pretrained: about has {key} {about.get(key)!r}, expected a {kind.__name__}")
    if path.suffix != ".safetensors":
        raise ValueError(f"save_pretrained: path is {path}, expected NAME.safetensors")
    with whole(path, path.suffix) as partly:
        save_checkpoint(model, partly, {"lifter": json.dumps(about)})


def load_pretrained(path=None, model=None, **kwargs) -> Pretrained:
    """A model with its weights, ready to lift.

    Args:
        path: a file of `save_pretrained`, or any that `load_checkpoint` takes if `model` says what it is of. None: the file
            that ships with lifter.
        model, kwargs: of `create_model`, for files that do not tell; default: what the file tells.

    Raises:
        FileNotFoundError, KeyError, ValueError; as `load_checkpoint` and `create_model`.
    """
    path = Path(SHIPPED if path is None else path)
    about = {"model": model, "kwargs": kwargs} if model else _about(path)
    network = create_model(about["model"], **about["kwargs"])
    load_checkpoint(network, path)
    if about.get("centred", False):  # what is centred are clips as long as those it was trained on
        network.centred, network.num_frames = True, about["kwargs"].get("num_frames", network.num_frames)
    return Pretrained(network.eval(), about)


def _about(path) -> dict:
    text = safetensors_metadata(path).get("lifter")
    try:
        about = json.loads(text or "null")
    except ValueError:
        about = None
    if not (isinstance(about, dict) and isinstance(about.get("model"), str) and isinstance(about.get("kwargs"), dict)):
        raise ValueError(f"{path}: does not say which model it is of; pass `model`")
    return about
