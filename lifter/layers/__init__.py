"""Drop-in modules on the kernels, and what every block of the models is made of."""

from .axial_attention import AxialAttention
from .block import DropPath, Mlp, TransformerBlock
from .deform_conv2d import DeformConv, DeformConv2d, StructureConv
from .graph_conv import LearnedGraphConv, SkeletonGCN
from .prune import DensityPeakPrune, FrameRecovery
from .retention import Retention, joint_decays, shared_decays
from .skeleton_scan import SkeletonBlock, SkeletonMixer, SkeletonScan
from .temporal_pruning import MGPTP, SFT, TCEP

__all__ = [
    "AxialAttention",
    "DeformConv",
    "DeformConv2d",
    "DensityPeakPrune",
    "DropPath",
    "FrameRecovery",
    "LearnedGraphConv",
    "MGPTP",
    "Mlp",
    "Retention",
    "SFT",
    "SkeletonBlock",
    "SkeletonGCN",
    "SkeletonMixer",
    "SkeletonScan",
    "StructureConv",
    "TCEP",
    "TransformerBlock",
    "joint_decays",
    "shared_decays",
]
