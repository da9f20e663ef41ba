"""axial_attention as MixSTE calls it: 512 channels in 8 heads, along the 17 joints of a frame or the frames of a joint.

With k, as HTP does: a frame sees the k frames that are most like it.
"""

import torch
import torch.nn.functional as F

from lifter.kernels import axial_attention, topk_temporal_mask, unpack_mask

from . import Case

JOINTS, HEADS, CHANNELS = 17, 8, 64
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)
QUICK = (1, 27, 243)
SIMILAR = (162, 8)


def inputs(frames, k, device, dtype):
    """The frames of a walk: as those of a motion, they are like what is near."""
    qkv = torch.randn(1, frames, JOINTS, 3, HEADS, CHANNELS, device=device, dtype=dtype)
    if k is None:
        return {"qkv": qkv}
    walk = torch.randn(1, frames, JOINTS, HEADS * CHANNELS, device=device).cumsum(1)
    mask = topk_temporal_mask(F.layer_norm(walk, walk.shape[-1:]), k)
    return {"qkv": qkv, "mask": mask, "seen": unpack_mask(mask, frames)[:, :, None]}


def cases(setup):
    # The last case is run in bfloat16 too; here so are the other axis and the masks.
    frames, half = QUICK if setup.quick else FRAMES, {"dtype": torch.bfloat16}
    wanted = [("joint", n, None, {}) for n in frames] + [("joint", frames[-1], None, half)]
    wanted += [("frame", frames[-1], k, options) for k in SIMILAR for options in ({}, half)]
    return [case(axis, n, k, **options) for axis, n, k, options in wanted + [("frame", n, None, {}) for n in frames]]


def case(axis, frames, k=None, **options):
    rows = {"joint": (3, 0, 1, 4, 2, 5), "frame": (3, 0, 2, 4, 1, 5)}[axis]  # (3, B, rows, H, N, D)
    back = {"joint": (0, 1, 3, 2, 4), "frame": (0, 3, 1, 2, 4)}[axis]

    def eager(qkv, mask=None, seen=None):
        q, k, v = qkv.permute(rows)
        scores = q @ k.transpose(-2, -1) * CHANNELS**-0.5
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return (scores.softmax(-1) @ v).permute(back).flatten(3)

    def sdpa(qkv, mask=None, seen=None):
        return F.scaled_dot_product_attention(*qkv.permute(rows), attn_mask=seen).permute(back).flatten(3)

    return Case(
        f"axial_attention {axis} T={frames}{f' k={k}' if k else ''}{' bfloat16' if options else ''}",
        lambda device, dtype: inputs(frames, k, device, dtype),
        lambda qkv, mask=None, seen=None: axial_attention(qkv, axis, mask),
        {"eager": eager, "sdpa": sdpa},
        **options,
    )
