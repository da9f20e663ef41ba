"""Ops of lifter. Each has a public function, a reference `<op>_ref` in plain PyTorch, and kernels.

Every module here whose name begins with a letter describes one or more ops; its `__all__` is exported from here.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from ._op import backend

if TYPE_CHECKING:  # type checkers do not run the loop below
    from .alternating_transformer import *
    from .axial_attention import *
    from .causal_conv1d import *
    from .deform_conv2d import *
    from .density_peak_prune import *
    from .linear import *
    from .mamba_chunk_scan import *
    from .mixsynth_encoder import *
    from .retention import *
    from .selective_scan import *
    from .selective_state_update import *
    from .skeleton_graph_conv import *
    from .skeleton_scan import *
    from .temporal_graph_conv import *
    from .temporal_topk_graph_conv import *
    from .topk_temporal_mask import *
    from .transformer_block import *

_files = [found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg and found.name[0] != "_"]
_modules = [importlib.import_module(f".{name}", __name__) for name in _files]
_names = {name: getattr(module, name) for module in _modules for name in module.__all__}
globals().update(_names)  # after all imports: a function may have the name of its module
__all__ = ["backend", *_names]
