"""A file for each format of data, which registers what reads and writes it: see `lifter.data.registry`."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
