"""The tables of models. Each model's file fills them."""

from collections.abc import Callable
from dataclasses import dataclass

MODELS: dict[str, Callable] = {}
OFFICIAL: dict[str, "Official"] = {}


@dataclass(frozen=True)
class Official:
    """Recipe to build our model from the arguments of an official class, and the tolerance of float32 outputs.

    `run(model, *inputs)` calls it with what the official class takes, and gives what that gives: a tensor, or a tuple.
    `told(config)` are more arguments of `build`, of what a golden file's config has besides the official ones.
    """

    build: Callable
    tolerance: float
    run: Callable
    told: Callable


def register_model(function):
    """Make `function(**kwargs)` a model under its own name. The first line of its docstring is the description."""
    MODELS[function.__name__] = function
    return function


def register_official(class_path, tolerance, run=lambda model, *inputs: model(*inputs), told=lambda config: {}):
    """Make `function(**official_kwargs)` build our model for `class_path` of the official repository.

    `run` is needed where inputs or outputs are laid out in another way, `told` where the official code leaves to others what
    it does, see `Official`.
    """

    def decorate(function):
        OFFICIAL[class_path] = Official(function, tolerance, run, told)
        return function

    return decorate
