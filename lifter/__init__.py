"""lifter: fused kernels, layers and models for 3D human pose lifting."""

import sys

from . import compat, metrics
from .checkpoints import load_checkpoint, save_checkpoint
from .freeze import freeze
from .inference import diffusion, streaming
from .inference import windows as evaluation
from .inference.streaming import Stream, StreamBatch
from .metrics import losses, protocols
from .optimize import optimize
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
