"""Freezing of MixSTE, D3DP and PoseRetNet: blocks and head in one call.

A loop over `lifter.kernels.transformer_block` would do, but takes longer where a call has few frames, as in a stream. Its time
by that of the one call, at 1, 9, 27 and 243 frames: MixSTE 1.17, 1.05, 1.02, 0.91; D3DP 1.17, 1.03, 1.01 (243 not measured);
PoseRetNet, whose retention is several calls, 1.30, 1.10, 0.97, 0.94. This is a Zen 3 (AVX2, no AVX-512 nor bfloat16
instructions), one thread of a busy machine, medians of interleaved pairs in processor time, of three or four pairs alone at 27
and 243 frames. The loop costs a constant for each block, so that machines that multiply faster lose more.
"""

import torch
from torch import nn

from lifter.kernels import PackedTransformer, alternating_transformer, pack_transformer
from lifter.kernels.alternating_transformer import ALTERNATING_TRANSFORMER, BLOCK_EPS, EPS, linears_and_vectors
from lifter.kernels.retention import MAX_XPOS_CHUNK
from lifter.layers import AxialAttention, Retention, TransformerBlock
from lifter.layers.block import DropPath, Mlp
from lifter.models import D3DP, MixSTE, PoseRetNet
from lifter.models.poseretnet import check_state

from ..engine import Rewrite, extend, shallow_copy, untouched
from ..frozen import Frozen
from .blocks import readable
from .linear import LINEAR, is_exact_gelu

TRUNK = ("STEblocks", "TTEblocks", "Spatial_norm", "Temporal_norm", "head")
KINDS = {nn.ModuleList, TransformerBlock, AxialAttention, Retention, Mlp, *LINEAR, nn.LayerNorm, nn.GroupNorm,
         nn.GELU, nn.Dropout, DropPath}  # fmt: skip


# The parameters by the names of the models' state_dicts, and of the op.
NAMES = {
    "STEblocks.": "spatial.", "TTEblocks.": "temporal.", "Spatial_norm.": "spatial_norm.", "Temporal_norm.": "temporal_norm.",
    "Temporal_pos_embed": "positions", "head.0.": "head_norm.", "head.1.": "head.",
}  # fmt: skip


def trunk(module):
    """Blocks and head of a model exactly of one of these classes; a subclass may use them in other ways."""
    if type(module) not in MIXINS or ALTERNATING_TRANSFORMER.chosen("cpu") != "cpu" or not untouched([module]):
        return None
    if not module.STEblocks or not _is_plain(module) or not _fits(module):
        return None
    keypoints = 1, min(3, module.num_frames or 3), module.num_joints, module.in_channels
    told = ((*keypoints[:3], 3), torch.ones(1)) if type(module) is D3DP else ()
    return Rewrite("trunk", _freeze, [(keypoints, *told)])


def _freeze(model):
    frozen = shallow_copy(model)
    frozen.trunk = FrozenTransformer(pack_trunk(model))
    for name in TRUNK:
        setattr(frozen, name, None)
    return extend(frozen, MIXINS[type(model)])


class FrozenTrunk:
    def _lift(self, x, **temporal_args):
        return self.trunk(x, **temporal_args)


class FrozenRetentiveTrunk:
    def _lift(self, x, state, return_state):
        return self.trunk(x, state=check_state(state, self.trunk.packed.depth), return_state=return_state)


MIXINS = {MixSTE: FrozenTrunk, D3DP: FrozenTrunk, PoseRetNet: FrozenRetentiveTrunk}


class FrozenTransformer(Frozen):
    """(B, T, J, C) -> (B, T, J, 3) by `lifter.kernels.alternating_transformer`."""

    def __init__(self, packed):
        super().__init__()
        self.packed = packed

    def forward(self, x, **temporal_args):
        self.check(x, self.packed.weights.dtype, self.packed.dim)
        return alternating_transformer(x, self.packed, **temporal_args)

    def extra_repr(self):
        p = self.packed
        return f"dim={p.dim}, depth={p.depth}, heads={p.num_heads}, retention={p.xpos_scale is not None}, {p.weights.dtype}"


def pack_trunk(model):
    """`PackedTransformer` of a model whose blocks are such as MixSTE's or PoseRetNet's."""
    with torch.no_grad():
        return pack_transformer(_parameters(model), **_sizes(model))


def _parameters(model):
    """The parameters of blocks and head by the names of the op."""
    return {
        name.replace(theirs, ours, 1): p
        for name, p in model.named_parameters(remove_duplicate=False)
        for theirs, ours in NAMES.items()
        if name.startswith(theirs)
    }


def _sizes(model):
    """All of `PackedTransformer` but the parameters."""
    attention, mixer = model.STEblocks[0].attn, model.TTEblocks[0].attn
    temporal = {"positions": 0 if model.Temporal_pos_embed is None else model.Temporal_pos_embed.shape[1]}
    if type(mixer) is Retention:
        chunk_size = mixer.chunk_size or MAX_XPOS_CHUNK
        temporal |= {"xpos_scale": mixer.xpos_scale, "chunk_size": chunk_size, "causal": mixer.causal}
    dim = attention.proj.out_features
    scale = (dim / attention.num_heads) ** -0.5 if attention.scale is None else attention.scale
    sizes = {"num_joints": model.num_joints, "dim": dim, "hidden": model.STEblocks[0].mlp.fc1.out_features}
    return sizes | {"num_heads": attention.num_heads, "depth": len(model.STEblocks), "scale": scale} | temporal


def _is_plain(model):
    """Return whether the parts have the kinds that they were built of, all pairs of blocks are alike, and no hook watches."""
    parts = [module for name in TRUNK for module in getattr(model, name).modules()]
    if not untouched([model.pos_drop, model.head]) or not untouched((p for p in parts if p is not model.head), KINDS):
        return False
    if type(model.pos_drop) is not nn.Dropout or type(model.head) is not nn.Sequential:
        return False
    if len(model.head) != 2 or type(model.head[0]) is not nn.LayerNorm or type(model.head[1]) not in LINEAR:
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
    spatial, temporal = ({*map(_settings, blocks)} for blocks in (model.STEblocks, model.TTEblocks))
    if len(spatial) != 1 or len(temporal) != 1:
        return False
    ((kind, heads, settings),), (mixer,) = spatial, temporal
    if kind is not AxialAttention or settings[0] != "joint":
        return False
    return mixer[:2] == (Retention, heads) or mixer == (AxialAttention, heads, ("frame", settings[1]))


def _settings(block):
    """Properties that the blocks of one kind have in common: kind of the mixer, heads, and what is the mixer's own."""
    mixer = block.attn
    if type(mixer) is AxialAttention:
        return AxialAttention, mixer.num_heads, (mixer.axis, mixer.scale)
    if type(mixer) is Retention:
        return Retention, mixer.num_heads, (mixer.chunk_size, mixer.causal, *mixer.xpos_scale.tolist())
    return None, None, None


def _fits(model):
    """Return whether there is a kernel of this width and dtype, and the parameters are those that it reads."""
    sizes = PackedTransformer(None, None, **_sizes(model))
    # Decays are expanded, and always of float32.
    found = {name: p for name, p in _parameters(model).items() if not name.endswith(".decay")}
    entries = [entry for entry in linears_and_vectors(sizes) if not entry[0].endswith(".decay")]
    return readable(found, entries, sizes.dim, sizes.dim // sizes.num_heads)
