"""lifter: fused kernels, layers and models for 3D human pose lifting."""

import importlib
import sys
from typing import TYPE_CHECKING

from . import compat, metrics
from .checkpoints import load_checkpoint, save_checkpoint
from .inference import diffusion, streaming
from .inference import windows as evaluation
from .inference.streaming import Stream, StreamBatch
from .metrics import losses, protocols

if TYPE_CHECKING:
    from .pretrained import load_pretrained, save_pretrained
    from .registry import create_model, list_models
    from .rewrite import freeze, optimize

__version__ = "0.1.0"

__all__ = [
    "Stream", "StreamBatch", "compat", "create_model", "diffusion", "evaluation", "freeze", "list_models", "load_checkpoint",
    "load_pretrained", "losses", "metrics", "optimize", "protocols", "save_checkpoint", "save_pretrained", "streaming",
]  # fmt: skip

# These modules have short names, too, which are the documented ones: `from lifter.losses import mpjpe`.
for _name in ("diffusion", "evaluation", "losses", "protocols", "streaming"):
    sys.modules[f"{__name__}.{_name}"] = globals()[_name]

# `import lifter` stays cheap: what needs the models, and with them the kernels, is imported when it is first used. But for
# this, and for the subcommand that runs (`__main__.py`), lifter's modules import each other at their top.
_LATE = {
    "create_model": "registry", "list_models": "registry", "load_pretrained": "pretrained", "save_pretrained": "pretrained",
    "freeze": "rewrite", "optimize": "rewrite",
}  # fmt: skip


# Modules that `import lifter` alone makes reachable, as `lifter.data`.
_MODULES = ("data", "kernels", "layers", "models", "pretrained", "registry", "render", "rewrite", "training", "verify")


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    return value


def __dir__():
    return sorted(globals().keys() | _LATE.keys() | set(_MODULES))
