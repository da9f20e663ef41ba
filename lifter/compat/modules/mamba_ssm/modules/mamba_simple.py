from lifter.layers import Mamba

__all__ = ["Mamba"]
