"""axial_attention as MixSTE calls it: 512 channels in 8 heads, along the 17 joints of a frame or the frames of a joint.

With k, as HTP does: a frame sees the k frames that are most like it.
"""

from functools import cache, partial

import torch
import torch.nn.functional as F

from lifter.kernels import axial_attention, topk_temporal_mask, unpack_mask

from . import LENGTHS, Case, chosen, sizes

JOINTS, HEADS, CHANNELS = 17, 8, 64
FRAMES = (1, 2, 3, 9, 27, 81, 129, 243)
SIMILAR = (162, 8)


def inputs(frames, batch, k, device, dtype):
    """The frames of a walk: as those of a motion, they are like what is near."""
    qkv = torch.randn(batch, frames, JOINTS, 3, HEADS, CHANNELS, device=device, dtype=dtype)
    if k is None:
        return {"qkv": qkv}
    walk = torch.randn(batch, frames, JOINTS, HEADS * CHANNELS, device=device).cumsum(1)
    mask = topk_temporal_mask(F.layer_norm(walk, walk.shape[-1:]), k)
    return {"qkv": qkv, "mask": mask, "seen": unpack_mask(mask, frames)[:, :, None]}


def cases(setup):
    # The last case is run in bfloat16 too; here so are the other axis and the masks.
    found, half = sizes(setup, FRAMES), {"dtype": torch.bfloat16}
    wanted = [("joint", size, None, {}) for size in found] + [("joint", found[-1], None, half)]
    similar = chosen(setup, SIMILAR, SIMILAR[:1])
    masked = [size for size in found if size[1] == found[-1][1]]
    dtypes = ({}, half) if setup.everything else ({},)
    wanted += [("frame", size, k, options) for size in masked for k in similar for options in dtypes]
    wanted += [("frame", size, None, {}) for size in found]
    return [case(setup.device, axis, *size, k, **options) for axis, size, k, options in wanted]


@cache
def flex_attention():
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = 256  # of the sizes here; beyond it, it would run unfused
    return torch.compile(flex_attention, dynamic=False)


def case(device, axis, label, frames, batch, k=None, **options):
    rows = {"joint": (3, 0, 1, 4, 2, 5), "frame": (3, 0, 2, 4, 1, 5)}[axis]  # (3, B, rows, H, N, D)
    back = {"joint": (0, 1, 3, 2, 4), "frame": (0, 3, 1, 2, 4)}[axis]

    def eager(qkv, mask=None, seen=None):
        q, k, v = qkv.permute(rows)
        scores = q @ k.transpose(-2, -1) * CHANNELS**-0.5
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return (scores.softmax(-1) @ v).permute(back).flatten(3)

    def sdpa(qkv, mask=None, seen=None):
        seen = None if seen is None else seen.flatten(0, 1)  # in four dimensions, or a GPU runs no fused kernel
        out = F.scaled_dot_product_attention(*qkv.permute(rows).flatten(1, 2), attn_mask=seen)
        return out.unflatten(0, (len(qkv), -1)).permute(back).flatten(3)

    def flex(qkv, mask=None, seen=None):
        visible = None if seen is None else seen.flatten(0, 2)
        hide = None if seen is None else lambda score, b, h, i, j: torch.where(visible[b, i, j], score, -torch.inf)
        out = flex_attention()(*qkv.permute(rows).flatten(1, 2), score_mod=hide)
        return out.unflatten(0, (len(qkv), -1)).permute(back).flatten(3)

    peers = {"eager": eager, "sdpa": sdpa}
    if device != "cpu" and axis == "frame" and frames in LENGTHS:  # it takes seconds to compile
        peers["flex_attention"] = flex
    return Case(
        f"axial_attention {axis} {label}{f' k={k}' if k else ''}{' bfloat16' if options else ''}",
        partial(inputs, frames, batch, k),
        lambda qkv, mask=None, seen=None: axial_attention(qkv, axis, mask),
        peers,
        **options,
    )
