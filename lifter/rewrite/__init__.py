"""Rewriting of models: `freeze` and `optimize`, two uses of one engine, and the rules for what they know."""

from .freeze import freeze
from .optimize import optimize

__all__ = ["freeze", "optimize"]
