"""The ops of lifter. Each has a `_fn` (or the field's name), a `_ref` in plain PyTorch, and kernels behind it."""

from ._op import backend
from .alternating_transformer import (
    PackedTransformer,
    alternating_transformer,
    alternating_transformer_ref,
    pack_transformer,
)
from .axial_attention import axial_attention, axial_attention_ref
from .causal_conv1d import (
    causal_conv1d_fn,
    causal_conv1d_ref,
    causal_conv1d_update,
    causal_conv1d_update_ref,
)
from .deform_conv2d import deform_conv2d, deform_conv2d_ref
from .density_peak_prune import density_peak_prune, density_peak_prune_ref
from .mixsynth_encoder import MixSynthSizes, mixsynth_encoder, mixsynth_encoder_ref, pack_mixsynth
from .retention import retention, retention_ref, xpos_scale
from .selective_scan import selective_scan_fn, selective_scan_ref
from .selective_state_update import selective_state_update, selective_state_update_ref
from .skeleton_graph_conv import skeleton_graph_conv, skeleton_graph_conv_ref
from .skeleton_scan import skeleton_scan, skeleton_scan_ref
from .temporal_graph_conv import temporal_graph_conv, temporal_graph_conv_ref
from .temporal_topk_graph_conv import temporal_topk_graph_conv, temporal_topk_graph_conv_ref
from .topk_temporal_mask import pack_mask, topk_temporal_mask, topk_temporal_mask_ref, unpack_mask
from .transformer_block import PackedBlock, pack_block, transformer_block, transformer_block_ref

__all__ = [
    "MixSynthSizes",
    "PackedBlock",
    "PackedTransformer",
    "alternating_transformer",
    "alternating_transformer_ref",
    "axial_attention",
    "axial_attention_ref",
    "backend",
    "causal_conv1d_fn",
    "causal_conv1d_ref",
    "causal_conv1d_update",
    "causal_conv1d_update_ref",
    "deform_conv2d",
    "deform_conv2d_ref",
    "density_peak_prune",
    "density_peak_prune_ref",
    "mixsynth_encoder",
    "mixsynth_encoder_ref",
    "pack_block",
    "pack_mask",
    "pack_mixsynth",
    "pack_transformer",
    "retention",
    "retention_ref",
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_state_update",
    "selective_state_update_ref",
    "skeleton_graph_conv",
    "skeleton_graph_conv_ref",
    "skeleton_scan",
    "skeleton_scan_ref",
    "temporal_graph_conv",
    "temporal_graph_conv_ref",
    "temporal_topk_graph_conv",
    "temporal_topk_graph_conv_ref",
    "topk_temporal_mask",
    "topk_temporal_mask_ref",
    "transformer_block",
    "transformer_block_ref",
    "unpack_mask",
    "xpos_scale",
]
