"""Freezing of MixSynthFormer: interpolation, embedding, encoder and head in one call."""

import torch
from torch import nn

from lifter.kernels import MixSynthSizes, mixsynth_encoder, pack_mixsynth
from lifter.kernels.mixsynth_encoder import MIXSYNTH_ENCODER
from lifter.layers.block import Mlp
from lifter.layers.synth_attention import (
    MixSynthAttention,
    MixSynthEncoder,
    MixSynthEncoderLayer,
    SqueezeExcitation,
    SynthAttention,
)
from lifter.models import MixSynthFormer
from lifter.models.mixsynthformer import LinearInterpolation

from ..engine import Rewrite, extend, shallow_copy, untouched
from ..frozen import Frozen
from .linear import LINEAR, is_exact_gelu

KINDS = {LinearInterpolation, MixSynthEncoder, MixSynthEncoderLayer, MixSynthAttention, SynthAttention, SqueezeExcitation, Mlp,
         *LINEAR, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Sigmoid, nn.Dropout, nn.Sequential, nn.ModuleList}  # fmt: skip
NAMES = {"embedding": "encoder_emb", "norm": "norm", "fc": "fc"}  # the op's names, and the model's
LAYER_NAMES = {
    "share1": "synth_att.reweight.fc1", "proj": "synth_att.proj", "norm1": "norm1", "fc1": "ff.fc1", "fc2": "ff.fc2",
    "norm2": "norm2",
}  # fmt: skip


def mixsynth(module):
    """A `MixSynthFormer` of the official variant with both branches."""
    if type(module) is not MixSynthFormer or MIXSYNTH_ENCODER.chosen("cpu") != "cpu" or not _is_plain(module):
        return None
    return Rewrite("MixSynthFormer", _freeze, [((2, module.steps + 1, module.num_joints, module.in_channels),)])


def _is_plain(model):
    """Return whether all parts are of the kinds that the op computes."""
    if not untouched([model]) or not untouched((m for m in model.modules() if m is not model), KINDS):
        return False
    layers = model.encoder.layers
    if not layers or not all(layer.synth_att.reweight and layer.synth_att.variant == "official" for layer in layers):
        return False
    if not all(is_exact_gelu(act) for layer in layers for act in (layer.ff.act, layer.synth_att.reweight.act)):
        return False
    if any(name.endswith((".se.fc.0.bias", ".se.fc.2.bias")) for name, _ in model.named_parameters()):  # would not be read
        return False
    dtypes = {p.dtype for p in model.parameters()}
    return len(dtypes) == 1 and torch.float64 not in dtypes


def _freeze(model):
    frozen = shallow_copy(model)
    frozen.encode = FrozenEncoder(pack_encoder(_parameters(model), sizes(model)), sizes(model))
    frozen.l_interp = frozen.encoder_emb = frozen.encoder = frozen.fc = None
    return extend(frozen, OneCall)


class OneCall:
    def _windows(self, keyframes):
        return self.encode(keyframes)


class FrozenEncoder(Frozen):
    """(N, steps + 1, P) -> (N, window, P) by `lifter.kernels.mixsynth_encoder`."""

    def __init__(self, weights, sizes):
        super().__init__()
        self.weights, self.sizes = weights, sizes

    def forward(self, keyframes):
        return mixsynth_encoder(keyframes, self.weights, self.sizes)

    def extra_repr(self):
        return ", ".join(f"{name}={size}" for name, size in self.sizes._asdict().items())


def sizes(model):
    attention, mlp = model.encoder.layers[0].synth_att, model.encoder.layers[0].ff
    reductions = attention.synth_token.reduction, attention.synth_channel.reduction
    poses = model.num_joints * model.in_channels
    return MixSynthSizes(
        model.window, model.steps + 1, poses, attention.dim, mlp.fc1.out_features, len(model.encoder.layers), *reductions
    )


def _parameters(model):
    """All parameters, and those that linear interpolation is equal to."""
    parameters = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    if isinstance(model.l_interp, LinearInterpolation):
        eye = torch.eye(model.steps + 1, dtype=model.norm.weight.dtype)
        parameters |= {"l_interp.weight": model.l_interp(eye).mT, "l_interp.bias": eye.new_zeros(model.window)}
    return parameters


def pack_encoder(parameters, sizes):
    """The parameters of a MixSynthFormer, by the names of its state_dict, -> weights for `mixsynth_encoder`."""
    tensors = {}

    def add(ours, *theirs):
        """Layers, or several that have the same input, under the names of the op."""
        for ending, part in (("", "weight"), ("_bias", "bias")):
            tensors[ours + ending] = torch.cat([parameters[f"{name}.{part}"] for name in theirs])

    if sizes.keyframes:
        add("interpolation", "l_interp")
    for ours, theirs in NAMES.items():
        add(ours, theirs)
    for i in range(sizes.depth):
        layer = f"encoder.layers.{i}"
        token, channel, reweight = (f"{layer}.synth_att.{name}" for name in ("synth_token", "synth_channel", "reweight"))
        add(f"{i}.left", *[f"{channel}.value_reduce"] * (sizes.r_s > 1), f"{token}.dense")
        add(f"{i}.right", f"{channel}.dense", *[f"{token}.value_reduce"] * (sizes.r_t > 1))
        for name, part in (("frames", token), ("channels", channel)):
            tensors[f"{i}.squeeze_{name}"] = parameters[f"{part}.se.fc.0.weight"]
            tensors[f"{i}.excite_{name}"] = parameters[f"{part}.se.fc.2.weight"]
        for name, part in (("share2", "weight"), ("share2_bias", "bias")):  # the softmax of two needs their difference
            both = parameters[f"{reweight}.fc2.{part}"]
            both = both.to(torch.promote_types(both.dtype, torch.float32))
            tensors[f"{i}.{name}"] = both[::2] - both[1::2]
        for ours, theirs in LAYER_NAMES.items():
            add(f"{i}.{ours}", f"{layer}.{theirs}")
    return pack_mixsynth(tensors, sizes)
