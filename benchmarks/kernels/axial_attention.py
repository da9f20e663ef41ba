"""axial_attention as MixSTE calls it: 512 channels in 8 heads, along the 17 joints of a frame or the frames of a joint."""

import torch
import torch.nn.functional as F

from lifter.kernels import axial_attention

from . import Case

JOINTS, HEADS, CHANNELS = 17, 8, 64
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)
QUICK = (1, 27, 243)


def inputs(frames, device, dtype):
    return {"qkv": torch.randn(1, frames, JOINTS, 3, HEADS, CHANNELS, device=device, dtype=dtype)}


def cases(setup):
    # The last case is run in bfloat16 too; here so is the other axis.
    frames = QUICK if setup.quick else FRAMES
    wanted = [("joint", n, {}) for n in frames] + [("joint", frames[-1], {"dtype": torch.bfloat16})]
    return [case(axis, n, **options) for axis, n, options in wanted + [("frame", n, {}) for n in frames]]


def case(axis, frames, **options):
    rows = {"joint": (3, 0, 1, 4, 2, 5), "frame": (3, 0, 2, 4, 1, 5)}[axis]  # (3, B, rows, H, N, D)
    back = {"joint": (0, 1, 3, 2, 4), "frame": (0, 3, 1, 2, 4)}[axis]

    def eager(qkv):
        q, k, v = qkv.permute(rows)
        weights = (q @ k.transpose(-2, -1) * CHANNELS**-0.5).softmax(-1)
        return (weights @ v).permute(back).flatten(3)

    def sdpa(qkv):
        return F.scaled_dot_product_attention(*qkv.permute(rows)).permute(back).flatten(3)

    return Case(
        f"axial_attention {axis} T={frames}{' bfloat16' if options else ''}",
        lambda device, dtype: inputs(frames, device, dtype),
        lambda qkv: axial_attention(qkv, axis),
        {"eager": eager, "sdpa": sdpa},
        **options,
    )
