"""Freezing of the blocks of transformers, each of which becomes one call."""

from torch import nn

from lifter.kernels import PackedBlock, pack_block, transformer_block
from lifter.kernels.transformer_block import TRANSFORMER_BLOCK, block_parameters, has_kernel, shapes
from lifter.layers import SFT, AxialAttention, ScaledBlock, TransformerBlock
from lifter.layers.block import DropPath, Mlp

from ..engine import Rewrite, shallow_copy, untouched
from ..frozen import Frozen
from .linear import LINEAR, is_exact_gelu

BLOCKS = {TransformerBlock: "attn", SFT: "attn", ScaledBlock: "mixer"}  # and what they call their mixer
KNOWN = {AxialAttention, Mlp, *LINEAR, nn.LayerNorm, nn.GELU, nn.Dropout, DropPath}


def block(module):
    """A `TransformerBlock`, `SFT` or `ScaledBlock`; its MLP alone where the mixer is not attention."""
    name = BLOCKS.get(type(module))
    if name is None or TRANSFORMER_BLOCK.chosen("cpu") != "cpu" or not untouched([module]):
        return None
    mixer, mlp = getattr(module, name), module.mlp
    if not untouched([*mlp.modules(), module.norm2, module.drop_path], KNOWN) or not is_exact_gelu(mlp.act):
        return None
    attends = type(mixer) is AxialAttention and module.norm1.eps == module.norm2.eps
    attends = attends and untouched([*mixer.modules(), module.norm1], KNOWN)
    sizes = {"dim": mlp.fc1.in_features, "hidden": mlp.fc1.out_features, "eps": module.norm2.eps}
    if attends:
        scale = (sizes["dim"] / mixer.num_heads) ** -0.5 if mixer.scale is None else mixer.scale
        sizes |= {"num_heads": mixer.num_heads, "axis": mixer.axis, "scale": scale}

    parameters = dict(module.named_parameters(remove_duplicate=False))
    scales = [parameters.pop(f"layer_scale_{i}", None) for i in (1, 2)]
    parameters = {f"attn{key.removeprefix(name)}" if key.startswith(f"{name}.") else key: p for key, p in parameters.items()}
    if not attends:
        parameters = {key: p for key, p in parameters.items() if not key.startswith(("norm1.", "attn."))}
    entries = block_parameters(PackedBlock(None, None, **sizes))
    if not readable(parameters, entries, sizes["dim"], sizes["dim"] // mixer.num_heads if attends else 0):
        return None

    for layer, scale in zip(("attn.proj", "mlp.fc2"), scales, strict=True):
        if scale is not None and f"{layer}.weight" in parameters:
            parameters[f"{layer}.weight"] = parameters[f"{layer}.weight"] * scale[:, None]
            parameters[f"{layer}.bias"] = parameters[f"{layer}.bias"] * scale
    packed = pack_block({key: p.detach() for key, p in parameters.items()}, **sizes)
    examples = [((1, frames, joints, sizes["dim"]),) for frames, joints in ((2, 3), (40, 2))]
    if attends:
        return Rewrite("block", lambda module: FrozenBlock(packed), examples)
    make = lambda module: FrozenBlock(packed, module.norm1, getattr(module, name), scales[0])
    return Rewrite("block's MLP", make, examples, stub=lambda module: _without_mixer(module, name))


def _without_mixer(block, name):
    """A block to compare in place of one whose mixer may want inputs of another shape."""
    twin = shallow_copy(block)
    setattr(twin, name, nn.Identity())
    return twin


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


def readable(parameters, entries, dim, head):
    """Return whether `parameters` are all that a kernel reads, and there is one for their dtype and these channels."""
    read = shapes(entries)
    absent = [name for name in read if name not in parameters and not name.endswith("attn.qkv.bias")]
    other = [name for name, p in parameters.items() if tuple(p.shape) != read.get(name)]
    dtypes = {p.dtype for p in parameters.values()}
    return not absent and not other and len(dtypes) == 1 and has_kernel(*dtypes, dim, head)
