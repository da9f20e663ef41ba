"""Models by name, and by the class of the official code that they stand for."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True)
class Official:
    """How to build our model from the arguments of an official class, and how close float32 outputs must be."""

    build: Callable
    tolerance: float


SIZES = ("num_frames", "num_joints", "in_channels", "dim", "dim_rep", "depth", "num_heads")

_models: dict[str, Callable] = {}
_official: dict[str, Official] = {}


def register_model(function):
    """Decorator: makes `function(**kwargs)` a model under its own name; its docstring is the description."""
    _models[function.__name__] = function
    return function


def register_official(class_path, tolerance):
    """Decorator: `function(**official_kwargs)` builds our model for `class_path` of the official repository."""

    def decorate(function):
        _official[class_path] = Official(function, tolerance)
        return function

    return decorate


def create_model(name, num_frames=None, **kwargs):
    """A new model with random weights.

    Args:
        name: one of `list_models()`.
        num_frames: T, the longest clip that the model will see. None: the model's own default, mostly 243.
        kwargs: arguments of the model class, for example `in_channels`, `num_joints`, `depth`, `variant`.

    Raises:
        ValueError for an unknown name and for a size that is no positive integer.
    """
    models = _load(_models)
    if name not in models:
        raise ValueError(f"create_model: name is {name!r}, expected one of {', '.join(sorted(models))}")
    if num_frames is not None:
        kwargs["num_frames"] = num_frames
    for size in SIZES:
        if size in kwargs and not (isinstance(kwargs[size], Integral) and kwargs[size] > 0):
            raise ValueError(f"create_model: {size} is {kwargs[size]!r}, expected a positive integer")
    return models[name](**kwargs)


def list_models() -> dict[str, str]:
    """The names that `create_model` takes, sorted, each with one line about the model."""
    models = _load(_models)
    return {name: models[name].__doc__.strip().splitlines()[0] for name in sorted(models)}


def official_model(class_path) -> Official:
    """The entry of an official class; KeyError with the known ones if there is none."""
    official = _load(_official)
    if class_path not in official:
        raise KeyError(f"no model of lifter stands for {class_path!r}; known: {', '.join(sorted(official))}")
    return official[class_path]


def _load(table):
    import lifter.models  # noqa: F401  (registers; imported late because it brings the kernels)

    return table
