"""lifter: fused kernels, layers and models for 3D human pose lifting."""

from .checkpoints import load_checkpoint, save_checkpoint
from .registry import create_model, list_models

__version__ = "0.1.0"

__all__ = ["create_model", "list_models", "load_checkpoint", "save_checkpoint"]
