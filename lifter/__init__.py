"""lifter: fused kernels, layers and models for 3D human pose lifting."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import compat, metrics
    from .checkpoints import load_checkpoint, save_checkpoint
    from .inference import diffusion, streaming
    from .inference import windows as evaluation
    from .inference.streaming import Stream, StreamBatch
    from .metrics import losses, protocols
    from .pretrained import load_pretrained, save_pretrained
    from .registry import create_model, list_models
    from .rewrite import freeze, optimize

__version__ = "0.2.0"

__all__ = [
    "Stream", "StreamBatch", "compat", "create_model", "diffusion", "evaluation", "freeze", "list_models", "load_checkpoint",
    "load_pretrained", "losses", "metrics", "optimize", "protocols", "save_checkpoint", "save_pretrained", "streaming",
]  # fmt: skip

# `import lifter` is cheap and does not import torch: everything is imported on first use. Apart from this, and from
# subcommands (`__main__.py`), modules import each other at the top of the file.
_LATE = {
    "create_model": "registry", "list_models": "registry", "load_pretrained": "pretrained", "save_pretrained": "pretrained",
    "freeze": "rewrite", "optimize": "rewrite", "load_checkpoint": "checkpoints", "save_checkpoint": "checkpoints",
    "Stream": "inference.streaming", "StreamBatch": "inference.streaming",
}  # fmt: skip

# Modules that are available as attributes after `import lifter`, e.g. `lifter.data`.
_MODULES = (
    "checkpoints", "compat", "data", "geometry", "inference", "kernels", "layers", "metrics", "models", "pretrained",
    "registry", "render", "rewrite", "skeleton", "training", "verify", "video",
)  # fmt: skip

# These modules also have short names, which are the documented ones: `from lifter.losses import mpjpe`.
_SHORT = {
    "diffusion": "inference.diffusion", "evaluation": "inference.windows", "losses": "metrics.losses",
    "protocols": "metrics.protocols", "streaming": "inference.streaming",
}  # fmt: skip


class _ShortNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that finds the module of a short name."""

    def find_spec(self, name, path=None, target=None):
        package, _, short = name.rpartition(".")
        return importlib.machinery.ModuleSpec(name, self) if package == __name__ and short in _SHORT else None

    def create_module(self, spec):
        module = importlib.import_module(f"{__name__}.{_SHORT[spec.name.rpartition('.')[2]]}")
        spec.loader_state = module.__spec__  # the module's own spec, which the import replaces by `spec`
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_ShortNames())


def __getattr__(name):
    if name in _MODULES or name in _SHORT:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    return value


def __dir__():
    return sorted(globals().keys() | _LATE.keys() | set(_MODULES) | set(_SHORT))
