"""lifter: fused kernels, layers and models for 3D human pose lifting."""

import importlib

from . import compat
from .checkpoints import load_checkpoint, save_checkpoint
from .pretrained import load_pretrained, save_pretrained
from .registry import create_model, list_models
from .streaming import Stream, StreamBatch

__version__ = "0.1.0"

__all__ = [
    "Stream", "StreamBatch", "compat", "create_model", "freeze", "list_models", "load_checkpoint", "load_pretrained",
    "optimize", "save_checkpoint", "save_pretrained",
]  # fmt: skip


def __getattr__(name):
    """Import what brings the kernels with it when it is first used."""
    if name in ("freeze", "optimize"):
        return getattr(importlib.import_module("lifter.rewrite"), name)
    raise AttributeError(f"module 'lifter' has no attribute {name!r}")
