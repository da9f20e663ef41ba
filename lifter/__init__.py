"""lifter: fused kernels, layers and models for 3D human pose lifting."""

import importlib
import sys

from . import compat, metrics
from .checkpoints import load_checkpoint, save_checkpoint
from .inference import diffusion, streaming
from .inference import windows as evaluation
from .inference.streaming import Stream, StreamBatch
from .metrics import losses, protocols
from .pretrained import load_pretrained, save_pretrained
from .registry import create_model, list_models

__version__ = "0.1.0"

__all__ = [
    "Stream", "StreamBatch", "compat", "create_model", "diffusion", "evaluation", "freeze", "list_models", "load_checkpoint",
    "load_pretrained", "losses", "metrics", "optimize", "protocols", "save_checkpoint", "save_pretrained", "streaming",
]  # fmt: skip

# These modules have short names, too, which are the documented ones: `from lifter.losses import mpjpe`.
for _name in ("diffusion", "evaluation", "losses", "protocols", "streaming"):
    sys.modules[f"{__name__}.{_name}"] = globals()[_name]


def __getattr__(name):
    """Import what brings the kernels with it when it is first used."""
    if name in ("freeze", "optimize"):
        return getattr(importlib.import_module("lifter.rewrite"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
