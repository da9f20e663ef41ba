"""Ops of lifter. Each has a public function, a reference `<op>_ref` in plain PyTorch, and kernels.

Every module here whose name begins with a letter describes one or more ops; its `__all__` is exported from here.
"""

import importlib
import pkgutil

from ._op import backend

_files = [found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg and found.name[0] != "_"]
_modules = [importlib.import_module(f".{name}", __name__) for name in _files]
_names = {name: getattr(module, name) for module in _modules for name in module.__all__}
globals().update(_names)  # after all imports: a function may have the name of its module
__all__ = ["backend", *_names]
