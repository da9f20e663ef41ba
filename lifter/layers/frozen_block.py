"""Blocks of transformers as `lifter.freeze` packs them."""

from torch import nn

from lifter.freeze import Frozen, is_exact_gelu
from lifter.kernels import PackedBlock, pack_block, transformer_block
from lifter.kernels.transformer_block import TRANSFORMER_BLOCK, block_parameters, has_kernel, shapes

from .axial_attention import AxialAttention
from .block import DropPath, Mlp, ScaledBlock, TransformerBlock

BLOCKS = {TransformerBlock.forward: "attn", ScaledBlock.forward: "mixer"}  # and what they call their mixer
PARTS = {AxialAttention, Mlp, nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout, DropPath}


class FrozenBlock(Frozen):
    """(B, T, J, C) -> (B, T, J, C) by `lifter.kernels.transformer_block`, after a mixer that is not attention."""

    def __init__(self, packed, norm=None, mixer=None, scale=None):
        super().__init__()
        self.packed, self.norm, self.mixer, self.scale = packed, norm, mixer, scale

    def forward(self, x, **mixer):
        self.check(x, self.packed.weights.dtype, self.packed.dim)
        if self.mixer is None:
            return transformer_block(x, self.packed, **mixer)
        mixed = self.mixer(self.norm(x), **mixer)
        mixed, *more = mixed if isinstance(mixed, tuple) else (mixed,)
        x = transformer_block(x + (mixed if self.scale is None else self.scale * mixed), self.packed)
        return (x, *more) if more else x

    def extra_repr(self):
        p = self.packed
        attention = f"heads={p.num_heads}, axis={p.axis!r}, scale={p.scale}, " if p.axis else ""
        return f"dim={p.dim}, hidden={p.hidden}, {attention}{p.weights.dtype}"


def freeze_block(block):
    """What stands for a `TransformerBlock` or `ScaledBlock`; None if `block` is neither, does more, or has no kernel."""
    name = BLOCKS.get(type(block).forward)
    if name is None or TRANSFORMER_BLOCK.chosen("cpu") != "cpu" or not untouched([block]):
        return None
    mixer, mlp = getattr(block, name), block.mlp
    attends = type(mixer) is AxialAttention and block.norm1.eps == block.norm2.eps
    if not untouched([*mlp.modules(), block.norm2, block.drop_path], PARTS) or not is_exact_gelu(mlp.act):
        return None
    attends = attends and untouched([*mixer.modules(), block.norm1], PARTS)
    sizes = {"dim": mlp.fc1.in_features, "hidden": mlp.fc1.out_features, "eps": block.norm2.eps}
    if attends:
        scale = (sizes["dim"] / mixer.num_heads) ** -0.5 if mixer.scale is None else mixer.scale
        sizes |= {"num_heads": mixer.num_heads, "axis": mixer.axis, "scale": scale}
    entries = block_parameters(PackedBlock(None, None, **sizes))

    parameters = dict(block.named_parameters(remove_duplicate=False))
    scales = [parameters.pop(f"layer_scale_{i}", None) for i in (1, 2)]
    parameters = {f"attn{key.removeprefix(name)}" if key.startswith(f"{name}.") else key: p for key, p in parameters.items()}
    if not attends:
        parameters = {key: p for key, p in parameters.items() if not key.startswith(("norm1.", "attn."))}
    if not readable(parameters, entries, sizes["dim"], sizes["dim"] // mixer.num_heads if attends else 0):
        return None
    for layer, scale in zip(("attn.proj", "mlp.fc2"), scales, strict=True):
        if scale is not None and f"{layer}.weight" in parameters:
            parameters[f"{layer}.weight"] = parameters[f"{layer}.weight"] * scale[:, None]
            parameters[f"{layer}.bias"] = parameters[f"{layer}.bias"] * scale
    packed = pack_block({key: p.detach() for key, p in parameters.items()}, **sizes)
    return FrozenBlock(packed) if attends else FrozenBlock(packed, block.norm1, mixer, scales[0])


def untouched(modules, kinds=None):
    """Whether the modules are of these kinds, and nothing watches or replaces what they do."""
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return False
        if kinds is not None and type(module) not in kinds:
            return False
    return True


def readable(parameters, entries, dim, head):
    """Whether `parameters` are all that a kernel reads, and there is one for their dtype and these channels."""
    read = shapes(entries)
    absent = [name for name in read if name not in parameters and not name.endswith("attn.qkv.bias")]
    other = [name for name, p in parameters.items() if tuple(p.shape) != read.get(name)]
    dtypes = {p.dtype for p in parameters.values()}
    return not absent and not other and len(dtypes) == 1 and has_kernel(*dtypes, dim, head)
