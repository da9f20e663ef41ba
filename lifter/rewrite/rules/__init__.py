"""Rules of `freeze` and `optimize`, a function per kind of module; see `lifter.rewrite.engine.rewrite`."""

from .attention import self_attention
from .blocks import block
from .linear import linear_layer, mlp, reordered_linear
from .mixers import mixer
from .mixsynthformer import mixsynth
from .scans import cross_scan
from .trunks import trunk


def of_others(rule):
    """A rule that leaves modules of lifter alone."""
    return lambda module: None if type(module).__module__.startswith("lifter.") else rule(module)


FREEZING = (mixsynth, trunk, block, mlp, linear_layer, reordered_linear)  # the largest first
SWAPS = tuple(map(of_others, (self_attention, cross_scan, mixer)))
