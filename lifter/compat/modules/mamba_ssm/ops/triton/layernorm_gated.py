from lifter.layers import RMSNormGated as RMSNorm

__all__ = ["RMSNorm"]
