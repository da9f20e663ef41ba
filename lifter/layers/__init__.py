"""Drop-in modules on the kernels, and what every block of the models is made of."""

from .block import DropPath, Mlp
from .deform_conv2d import DeformConv, DeformConv2d, StructureConv
from .skeleton_scan import SkeletonBlock, SkeletonMixer, SkeletonScan

__all__ = [
    "DeformConv",
    "DeformConv2d",
    "DropPath",
    "Mlp",
    "SkeletonBlock",
    "SkeletonMixer",
    "SkeletonScan",
    "StructureConv",
]
