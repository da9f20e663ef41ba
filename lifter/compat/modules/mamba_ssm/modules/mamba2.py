from lifter.layers import Mamba2

__all__ = ["Mamba2"]
