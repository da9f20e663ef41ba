"""Blocks and head of MixSTE, D3DP and PoseRetNet in one call, for models that `lifter.freeze` has frozen."""

import torch
from torch import nn

from lifter.freeze import Frozen, is_exact_gelu
from lifter.kernels import alternating_transformer, pack_transformer
from lifter.kernels.alternating_transformer import ALTERNATING_TRANSFORMER, BLOCK_EPS, EPS, has_kernel
from lifter.kernels.retention import MAX_XPOS_CHUNK
from lifter.layers import AxialAttention, Retention, TransformerBlock
from lifter.layers.block import DropPath, Mlp

PARTS = ("STEblocks", "TTEblocks", "Spatial_norm", "Temporal_norm", "head")
KINDS = {nn.ModuleList, TransformerBlock, AxialAttention, Retention, Mlp, nn.Linear, nn.LayerNorm, nn.GroupNorm,
         nn.GELU, nn.Dropout, DropPath}  # fmt: skip


class FrozenTransformer(Frozen):
    """(B, T, J, C) -> (B, T, J, 3) by `lifter.kernels.alternating_transformer`."""

    def __init__(self, packed):
        super().__init__()
        self.packed = packed

    def forward(self, x, **temporal_args):
        self.check(x, self.packed.weights.dtype, self.packed.dim)
        return alternating_transformer(x, self.packed, **temporal_args)


def freeze_transformer(model):
    """What stands for PARTS of `model`, an `Alternating`; None if they do something else, or there is no kernel for them."""
    linears = (layer for name in PARTS for layer in getattr(model, name).modules() if type(layer) is nn.Linear)
    dtypes = {layer.weight.dtype for layer in linears}
    if ALTERNATING_TRANSFORMER.chosen("cpu") != "cpu" or len(dtypes) != 1 or not model.STEblocks or not _is_plain(model):
        return None
    attention = model.STEblocks[0].attn
    known = has_kernel(*dtypes, attention.proj.out_features, attention.num_heads)
    return FrozenTransformer(pack_blocks(model)) if known else None


def pack_blocks(model):
    """`PackedTransformer` of an `Alternating` whose blocks are such as MixSTE's or PoseRetNet's."""
    attention, mixer = model.STEblocks[0].attn, model.TTEblocks[0].attn
    temporal = {"positions": 0 if model.Temporal_pos_embed is None else model.Temporal_pos_embed.shape[1]}
    if type(mixer) is Retention:
        chunk_size = mixer.chunk_size or MAX_XPOS_CHUNK
        temporal |= {"xpos_scale": mixer.xpos_scale, "chunk_size": chunk_size, "causal": mixer.causal}
    dim = attention.proj.out_features
    scale = (dim / attention.num_heads) ** -0.5 if attention.scale is None else attention.scale
    with torch.no_grad():
        return pack_transformer(
            dict(model.named_parameters()), num_joints=model.num_joints, dim=dim,
            hidden=model.STEblocks[0].mlp.fc1.out_features, num_heads=attention.num_heads, depth=len(model.STEblocks),
            scale=scale, **temporal,
        )  # fmt: skip


def _is_plain(model):
    """Whether the parts are as they were built, all pairs of blocks alike, and nothing watches them."""
    parts = [module for name in PARTS for module in getattr(model, name).modules()]
    if any(module._forward_hooks or module._forward_pre_hooks for module in parts):
        return False
    if any(type(module) not in KINDS for module in parts if module is not model.head):
        return False
    if type(model.head) is not nn.Sequential or [type(module) for module in model.head] != [nn.LayerNorm, nn.Linear]:
        return False
    blocks = [*model.STEblocks, *model.TTEblocks]
    if any(type(block) is not TransformerBlock for block in blocks):
        return False
    if not all(type(block.mlp) is Mlp and is_exact_gelu(block.mlp.act) for block in blocks):
        return False
    in_blocks = [norm for block in blocks for norm in (block.norm1, block.norm2)] + [model.Spatial_norm, model.Temporal_norm]
    retained = [block.attn.group_norm for block in model.TTEblocks if type(block.attn) is Retention]
    if {norm.eps for norm in in_blocks} != {BLOCK_EPS} or {norm.eps for norm in [model.head[0], *retained]} != {EPS}:
        return False
    (spatial, *others), (temporal, *more) = ({*map(_settings, blocks)} for blocks in (model.STEblocks, model.TTEblocks))
    if others or more or spatial[:2] != (AxialAttention, "joint"):
        return False
    alike = ("frame", spatial[2]) if temporal[0] is AxialAttention else temporal[1:3]
    return temporal[0] in (AxialAttention, Retention) and temporal[1:5] == (*alike, *spatial[3:])


def _settings(block):
    """Kind of the mixer, two settings of its own, heads, hidden width, and xPos."""
    mixer, hidden = block.attn, block.mlp.fc1.out_features
    if type(mixer) is AxialAttention:
        return AxialAttention, mixer.axis, mixer.scale, mixer.num_heads, hidden
    if type(mixer) is Retention:
        return Retention, mixer.chunk_size, mixer.causal, mixer.num_heads, hidden, *mixer.xpos_scale.tolist()
    return (None,)
