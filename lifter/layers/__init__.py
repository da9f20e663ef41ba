"""Drop-in modules on the kernels, and what every block of the models is made of."""

from .axial_attention import AxialAttention
from .block import DropPath, Mlp, TransformerBlock
from .deform_conv2d import DeformConv, DeformConv2d, StructureConv
from .graph_conv import LearnedGraphConv
from .prune import DensityPeakPrune, FrameRecovery
from .retention import Retention, joint_decays, shared_decays
from .skeleton_scan import SkeletonBlock, SkeletonMixer, SkeletonScan
from .synth_attention import MixSynthAttention, MixSynthEncoder, MixSynthEncoderLayer, SynthAttention

__all__ = [
    "AxialAttention",
    "DeformConv",
    "DeformConv2d",
    "DensityPeakPrune",
    "DropPath",
    "FrameRecovery",
    "LearnedGraphConv",
    "MixSynthAttention",
    "MixSynthEncoder",
    "MixSynthEncoderLayer",
    "Mlp",
    "Retention",
    "SkeletonBlock",
    "SkeletonMixer",
    "SkeletonScan",
    "StructureConv",
    "SynthAttention",
    "TransformerBlock",
    "joint_decays",
    "shared_decays",
]
