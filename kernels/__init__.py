"""The ops of lifter. Each has a `_fn` (or the field's name), a `_ref` in plain PyTorch, and kernels behind it.

Every file beside this one that begins with a letter describes an op, or a few; their `__all__` are the names here.
"""

import importlib
import pkgutil

from ._op import backend

_files = [found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg and found.name[0] != "_"]
_modules = [importlib.import_module(f".{name}", __name__) for name in _files]
_names = {name: getattr(module, name) for module in _modules for name in module.__all__}
globals().update(_names)  # when all are imported: a function may have the name of its module
__all__ = ["backend", *_names]
