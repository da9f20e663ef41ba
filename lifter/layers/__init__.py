"""Drop-in modules built on the kernels, and the building blocks of the models."""

from .axial_attention import AxialAttention
from .block import DropPath, Mlp, Pointwise, ScaledBlock, TransformerBlock, fuse_streams
from .deform_conv2d import DeformConv, DeformConv2d, StructureConv
from .graph_conv import (
    AdaptiveGraphConv,
    ChainGraphConv,
    HyperGraphConv,
    LearnedGraphConv,
    SkeletonGraphConv,
    TemporalGraphConv,
    bone_graphs,
    both_ways,
)
from .linear import Linear, ReorderedLinear
from .mamba import BidirectionalMamba, Mamba
from .mamba2 import Mamba2, RMSNormGated, mamba_split_conv1d_scan_combined, rms_norm_gated
from .multi_scale import AMTM, SAGCN, STGC
from .prune import DensityPeakPrune, FrameRecovery, take_frames
from .retention import Retention, joint_decays, shared_decays
from .skeleton_scan import SkeletonBlock, SkeletonMixer, SkeletonScan
from .synth_attention import MixSynthAttention, MixSynthEncoder, MixSynthEncoderLayer, SynthAttention
from .temporal_pruning import MGPTP, SFT, TCEP

__all__ = [
    "AMTM",
    "AdaptiveGraphConv",
    "AxialAttention",
    "BidirectionalMamba",
    "ChainGraphConv",
    "DeformConv",
    "DeformConv2d",
    "DensityPeakPrune",
    "DropPath",
    "FrameRecovery",
    "HyperGraphConv",
    "LearnedGraphConv",
    "Linear",
    "MGPTP",
    "Mamba",
    "Mamba2",
    "MixSynthAttention",
    "MixSynthEncoder",
    "MixSynthEncoderLayer",
    "Mlp",
    "Pointwise",
    "RMSNormGated",
    "ReorderedLinear",
    "Retention",
    "SAGCN",
    "SFT",
    "STGC",
    "ScaledBlock",
    "SkeletonBlock",
    "SkeletonGraphConv",
    "SkeletonMixer",
    "SkeletonScan",
    "StructureConv",
    "SynthAttention",
    "TCEP",
    "TemporalGraphConv",
    "TransformerBlock",
    "bone_graphs",
    "both_ways",
    "fuse_streams",
    "joint_decays",
    "mamba_split_conv1d_scan_combined",
    "rms_norm_gated",
    "shared_decays",
    "take_frames",
]
