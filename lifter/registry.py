"""Models by name and by the official class that they implement."""

from numbers import Integral

from torch import nn

import lifter.models  # noqa: F401  (each registers itself)

from .models._register import MODELS, OFFICIAL, Official, register_model, register_official

__all__ = ["Official", "create_model", "list_models", "official_model", "register_model", "register_official"]

SIZES = ("num_frames", "num_joints", "in_channels", "dim", "dim_rep", "depth", "num_heads")
MOST = 1 << 16


def create_model(name: str, num_frames: int | None = None, **kwargs) -> nn.Module:
    """Create a model with random weights.

    Args:
        name: one of `list_models()`.
        num_frames: T, the length of the longest clip. Default: the model's own, usually 243.
        kwargs: arguments of the model class, for example `in_channels`, `num_joints`, `depth`, `variant`.

    Raises:
        ValueError for an unknown name, a size that is not a positive integer, and a number above 65536.
    """
    if name not in MODELS:
        raise ValueError(f"create_model: name is {name!r}, expected one of {', '.join(sorted(MODELS))}")
    if num_frames is not None:
        kwargs["num_frames"] = num_frames
    for key, value in kwargs.items():
        if key in SIZES and not (isinstance(value, Integral) and int(value) > 0):
            raise ValueError(f"create_model: {key} is {value!r}, expected a positive integer")
        if isinstance(value, Integral) and int(value) > MOST:  # far beyond any model, but would fill the memory first
            raise ValueError(f"create_model: {key} is {value}, expected at most {MOST}")
    return MODELS[name](**kwargs)


def list_models() -> dict[str, str]:
    """Return the names that `create_model` accepts, sorted, with one line about each model."""
    return {name: MODELS[name].__doc__.strip().splitlines()[0] for name in sorted(MODELS)}


def official_model(class_path: str) -> Official:
    """Return the entry of an official class; raise KeyError if it is unknown."""
    if class_path not in OFFICIAL:
        raise KeyError(f"no model of lifter stands for {class_path!r}; known: {', '.join(sorted(OFFICIAL))}")
    return OFFICIAL[class_path]
