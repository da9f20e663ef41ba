"""transformer_block at the widths of MotionBERT and MotionAGFormer-B; "layers" is the same block of lifter's layers. It is for
inference on a CPU."""

from functools import cache

import torch

from lifter.kernels import pack_block, transformer_block
from lifter.layers import AxialAttention, TransformerBlock

from . import Case, chosen

WIDTHS = {"512": (512, 1024), "128": (128, 512)}
FRAMES = (27, 81, 243)


@cache
def build(width, axis, dtype):
    torch.manual_seed(0)
    dim, hidden = WIDTHS[width]
    block = TransformerBlock(dim, AxialAttention(dim, 8, axis), hidden / dim).eval().to(dtype)
    sizes = {"dim": dim, "hidden": hidden, "num_heads": 8, "axis": axis, "scale": (dim / 8) ** -0.5}
    return block, pack_block({name: p.detach() for name, p in block.named_parameters()}, **sizes)


def case(width, axis, frames):
    return Case(
        f"transformer_block {axis} C={width} T={frames}",
        lambda device, dtype: {"x": torch.randn(1, frames, 17, WIDTHS[width][0], dtype=dtype)},
        lambda x: transformer_block(x, build(width, axis, x.dtype)[1]),
        {"layers": lambda x: build(width, axis, x.dtype)[0](x)},
        differentiable=False,
    )


def cases(setup):
    if setup.device != "cpu":
        return []
    frames = chosen(setup, FRAMES, FRAMES[:2])
    return [case(width, axis, n) for width in WIDTHS for axis in ("joint", "frame") for n in frames]
