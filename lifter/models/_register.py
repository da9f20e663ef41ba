"""The tables of models. Each model's file fills them."""

from collections.abc import Callable
from dataclasses import dataclass

MODELS: dict[str, Callable] = {}
OFFICIAL: dict[str, "Official"] = {}


@dataclass(frozen=True)
class Official:
    """How to build our model from the arguments of an official class, and how close float32 outputs must be."""

    build: Callable
    tolerance: float


def register_model(function):
    """Make `function(**kwargs)` a model under its own name. The first line of its docstring is the description."""
    MODELS[function.__name__] = function
    return function


def register_official(class_path, tolerance):
    """Make `function(**official_kwargs)` build our model for `class_path` of the official repository."""

    def decorate(function):
        OFFICIAL[class_path] = Official(function, tolerance)
        return function

    return decorate
