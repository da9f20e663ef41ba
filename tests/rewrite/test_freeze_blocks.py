"""`lifter.freeze` of the blocks of transformers: each one call, the same numbers, and what is no plain block stays."""

import copy

import pytest
import torch
from torch import nn

import lifter
from lifter.layers import AxialAttention, Retention, ScaledBlock, TransformerBlock, shared_decays
from lifter.models import (
    HTP,
    HoTMixSTE,
    HTPMixSTE,
    HTPMotionBERT,
    KTPFormer,
    MASCPose,
    MotionAGFormer,
    MotionBERT,
    TCPFormer,
)
from lifter.rewrite.rules.blocks import FrozenBlock
from lifter.rewrite.rules.linear import LINEAR, packs
from tests.conftest import assert_as_good

SIZES = {"num_frames": 9, "dim": 16, "depth": 2}
BLOCKS = (TransformerBlock, ScaledBlock)
MODELS = {
    "ktpformer": lambda: KTPFormer(**SIZES),
    "hot": lambda: HoTMixSTE(**SIZES, tokens=9, prune_at=1),  # no choice of frames, which rounding could change
    "htp_mixste": lambda: HTPMixSTE(**SIZES | {"depth": 3}, tcep=False, sft=False, mgptp=False, guided=False),
    "motionbert": lambda: MotionBERT(**SIZES),
    "motionbert with retention": lambda: MotionBERT(**SIZES, temporal_mixer="retention"),
    "motionagformer": lambda: MotionAGFormer(**SIZES, temporal_graph="tcn"),
    "hierarchical": lambda: MotionAGFormer(**SIZES | {"dim": 32}, temporal_graph="tcn", hierarchical=True, qkv_bias=True),
}


def draw(model):
    """Parameters of which each counts."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if p.dim() > 1 and p.is_floating_point():
            nn.init.normal_(p, std=p.shape[-1] ** -0.5)
        elif "layer_scale" in name or name.endswith("bias"):
            nn.init.normal_(p, std=0.3)
    return model.eval().requires_grad_(False)


def blocks(model, kinds=BLOCKS):
    return sum(isinstance(m, kinds) for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models(name, dtype):
    model = draw(MODELS[name]())
    x = torch.randn(2, 9, 17, model.in_channels, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(model).double()(x.double())
    model = model.to(dtype)
    frozen = lifter.freeze(model)
    assert blocks(model) and blocks(frozen, FrozenBlock) == blocks(model) and not blocks(frozen)
    assert not packs(dtype) or not any(type(m) in LINEAR for m in frozen.modules())
    assert_as_good(name, frozen(x.to(dtype)), model(x.to(dtype)), exact, rounding=64)


@torch.no_grad()
def test_models_that_choose_frames():
    """Rounding may choose other frames: the blocks are counted, and one with a mask compared."""
    sizes = SIZES | {"depth": 3}
    models = [HTPMixSTE(**sizes), HTP(**sizes), HTPMotionBERT(**sizes), MotionAGFormer(**SIZES), TCPFormer(**SIZES)]
    for model in [*models, MASCPose(**SIZES, scales=(1, 3, 9))]:
        frozen = lifter.freeze(draw(model))
        assert blocks(model) and blocks(frozen, FrozenBlock) == blocks(model) and not blocks(frozen)
    block = draw(TransformerBlock(16, AxialAttention(16, 4, "frame")))
    x, mask = torch.randn(2, 9, 17, 16), torch.rand(2, 17, 9, 9) < 0.5
    torch.testing.assert_close(lifter.freeze(block)(x, mask=mask), block(x, mask=mask), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_state_goes_through():
    block = draw(TransformerBlock(16, Retention(16, 4, shared_decays(4))))
    frozen, x = lifter.freeze(block), torch.randn(1, 6, 17, 16)
    (first, state), (expected, before) = (b(x, return_state=True) for b in (frozen, block))
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(frozen(x, state=state), block(x, state=before), atol=1e-4, rtol=1e-4)


class Doubled(TransformerBlock):
    def forward(self, x):
        return 2 * super().forward(x)


CHANGES = {
    "activation": lambda b: setattr(b.mlp, "act", nn.GELU("tanh")),
    "a part of another kind": lambda b: setattr(b.mlp, "fc2", nn.Sequential(b.mlp.fc2)),
    "norm without bias": lambda b: setattr(b, "norm2", nn.LayerNorm(16, bias=False)),
    "bias where there is none": lambda b: setattr(b.mlp, "fc1", nn.Linear(16, 32, bias=False)),
    "forward of an instance": lambda b: setattr(b.mlp, "forward", lambda x: 0 * x),
    "hook": lambda b: b.norm2.register_forward_hook(lambda module, args, out: 2 * out),
    "hook on the block": lambda b: b.register_forward_hook(lambda module, args, out: 2 * out),
    "hook before": lambda b: b.mlp.fc1.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    "parametrization": lambda b: nn.utils.parametrizations.weight_norm(b.mlp.fc1),
    "mixed dtypes": lambda b: b.mlp.double().register_forward_pre_hook(lambda module, args: (args[0].double(),)),
    "drop": lambda b: setattr(b, "drop_path", nn.Tanh()),
    "another forward": lambda b: setattr(b, "__class__", Doubled),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_blocks_stay(change):
    model, x = nn.Sequential(draw(TransformerBlock(16, AxialAttention(16, 4, "joint")))), torch.randn(1, 4, 17, 16)
    CHANGES[change](model[0])
    frozen, expected = lifter.freeze(model), model(x)
    assert not blocks(frozen, FrozenBlock)
    torch.testing.assert_close(frozen(x), expected, atol=1e-5, rtol=1e-4)


MIXERS = {
    "hook": lambda b: b.attn.register_forward_hook(lambda module, args, out: 2 * out),
    "hook on the norm": lambda b: b.norm1.register_forward_hook(lambda module, args, out: 2 * out),
    "eps": lambda b: setattr(b.norm1, "eps", 1e-2),
    "projection without a bias": lambda b: setattr(b.attn, "proj", nn.Linear(16, 16, bias=False)),
    "projection of another kind": lambda b: setattr(b.attn, "proj", nn.Sequential(b.attn.proj)),
    "norm without bias": lambda b: setattr(b, "norm1", nn.LayerNorm(16, bias=False)),
    "another mixer": lambda b: setattr(b, "attn", nn.Linear(16, 16)),
}


@pytest.mark.parametrize("change", MIXERS)
@torch.no_grad()
def test_a_changed_mixer_stays_before_the_mlp(change):
    model, x = nn.Sequential(draw(TransformerBlock(16, AxialAttention(16, 4, "joint")))), torch.randn(1, 4, 17, 16)
    MIXERS[change](model[0])
    frozen, expected = lifter.freeze(model), model(x)
    assert not blocks(frozen, FrozenBlock) or frozen[0].packed.axis is None
    torch.testing.assert_close(frozen(x), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_shared_blocks_are_packed_once():
    block = draw(ScaledBlock(16, AxialAttention(16, 4, "frame")))
    model, x = nn.Sequential(block, nn.Linear(16, 16), block), torch.randn(1, 4, 17, 16)
    frozen = lifter.freeze(model)
    assert frozen[0] is frozen[2] and isinstance(frozen[0], FrozenBlock)
    torch.testing.assert_close(frozen(x), model(x), atol=1e-5, rtol=1e-4)


def test_refusals():
    frozen, x = lifter.freeze(TransformerBlock(16, AxialAttention(16, 4, "joint"))), torch.randn(1, 4, 17, 16)
    with pytest.raises(TypeError, match="called under autocast"), torch.autocast("cpu", torch.bfloat16):
        frozen(x)
    with pytest.raises(RuntimeError, match="x requires a gradient"):
        frozen(x.clone().requires_grad_())
    with pytest.raises(TypeError, match="x is torch.bfloat16 on cpu, expected torch.float32 on the CPU"):
        frozen(x.bfloat16())
    with pytest.raises(ValueError, match="mask is given, expected none"):
        frozen(x, mask=torch.ones(1, 17, 4, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="frozen model cannot be copied"):
        copy.deepcopy(frozen)


@torch.no_grad()
def test_odd_widths_and_float64_stay():
    odd, plain = (TransformerBlock(dim, AxialAttention(dim, heads, "joint")) for dim, heads in ((15, 3), (16, 4)))
    for block in (odd, plain.double()):
        x = torch.randn(1, 2, 17, block.norm1.normalized_shape[0], dtype=block.norm1.weight.dtype)
        frozen = lifter.freeze(block)
        assert not blocks(frozen, FrozenBlock)
        torch.testing.assert_close(frozen(x), block.eval()(x), atol=1e-5, rtol=1e-4)
