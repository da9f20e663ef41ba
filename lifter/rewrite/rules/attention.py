"""Self-attention blocks with `qkv` and `proj`: MixSTE's, MotionBERT's, MotionAGFormer's and their kin."""

import inspect

from torch import nn

from lifter.kernels import axial_attention
from lifter.kernels.axial_attention import MAX_CHANNELS

from ..engine import Rewrite, extend, is_extended

CHILDREN = {"qkv": nn.Linear, "proj": nn.Linear, "attn_drop": nn.Dropout, "proj_drop": nn.Dropout}
AXES = {"spatial": "joint", "vanilla": "joint", "temporal": "frame"}  # of the `mode` of MotionBERT and MotionAGFormer


def self_attention(module):
    parts = dict(module.named_children())
    if parts.keys() != CHILDREN.keys() or not hasattr(module, "num_heads") or not hasattr(module, "scale"):
        return None
    if is_extended(module) or "forward" in vars(module):
        return "its forward was replaced before"
    odd = [name for name, kind in CHILDREN.items() if type(parts[name]) is not kind]
    if odd:
        return f"its {odd[0]} is {type(parts[odd[0]]).__name__}, not {CHILDREN[odd[0]].__name__}"
    if module.attn_drop._forward_hooks or module.attn_drop._forward_pre_hooks:
        return "its attn_drop has hooks, which would not run"
    if own := [*module._parameters, *module._buffers]:
        return f"it has more than its projections: {', '.join(own)}"
    C = module.qkv.in_features
    if module.qkv.out_features != 3 * C or module.proj.in_features != C or C % module.num_heads:
        return "its projections have other widths than (C, 3 C) and (C, ...)"
    if C // module.num_heads > MAX_CHANNELS:
        return f"its heads have {C // module.num_heads} channels, more than {MAX_CHANNELS}"
    if getattr(module, "comb", False):
        return "it attends along the channels (comb=True)"

    signature = tuple(inspect.signature(type(module).forward).parameters)[1:]
    mode = getattr(module, "mode", None)
    if mode is not None and mode not in AXES:
        return f"its mode is {mode!r}, not one of {', '.join(AXES)}"
    tokens = [((4, 5, C),), ((2, 18, C),), ((1, 300, C),)]
    if signature in (("x",), ("x", "vis")) and mode is None:
        return _swap("tokens", Tokens, tokens)
    if signature == ("x", "seqlen") and AXES.get(mode) == "joint":
        return _swap("joints", Tokens, tokens)
    if signature == ("x", "seqlen") and mode == "temporal":
        return _swap("frames", Frames, [((6, 5, C), 3), ((14, 2, C), 7), ((300, 2, C), 300)])
    if signature == ("x",) and mode is not None:
        axis = AXES[mode]
        grids = [((2, 5, 3, C),), ((1, 3, 7, C),), ((1, 300, 2, C),), ((1, 2, 300, C),)]
        return _swap(f"{axis}s", {"joint": GridJoints, "frame": GridFrames}[axis], grids)
    return f"its forward takes ({', '.join(signature)}), which is none of those known"


def _swap(tokens, mixin, examples):
    return Rewrite(f"attention of {tokens}", lambda module: extend(module, mixin), examples)


def _attend(module, x, axis):
    """(B, T, J, C) -> (B, T, J, C') along one axis."""
    qkv = module.qkv(x).unflatten(-1, (3, module.num_heads, -1))
    dropout_p = module.attn_drop.p if module.training else 0.0
    return module.proj_drop(module.proj(axial_attention(qkv, axis, None, module.scale, dropout_p)))


class Tokens:
    def forward(self, x, *args, **kwargs):
        """(B, N, C), all N tokens. What else comes (`vis`, `seqlen`) means nothing here."""
        return _attend(self, x.unsqueeze(1), "joint").squeeze(1)


class Frames:
    def forward(self, x, seqlen=1):
        """(B T, J, C), along the `seqlen` frames."""
        return _attend(self, x.unflatten(0, (-1, seqlen)), "frame").flatten(0, 1)


class GridJoints:
    def forward(self, x):
        return _attend(self, x, "joint")


class GridFrames:
    def forward(self, x):
        return _attend(self, x, "frame")
