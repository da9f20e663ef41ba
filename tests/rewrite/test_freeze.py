"""`lifter.freeze`: the same numbers, a copy of its own, and clear refusals."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

import lifter
from lifter.layers import AxialAttention, Mamba, ReorderedLinear, Retention, SkeletonMixer, shared_decays
from lifter.layers.block import Mlp
from lifter.models import D3DP, HoTMixSTE, HTPMixSTE, KTPFormer, MixSTE, PoseRetNet, SasMamba
from lifter.rewrite.rules.linear import LINEAR, PackedLinear, packs
from lifter.rewrite.rules.trunks import FrozenTransformer
from tests.conftest import assert_as_good

TINY = {"num_frames": 9, "dim": 16, "depth": 2, "drop_path": 0.0}
MODELS = {"mixste": MixSTE, "poseretnet": PoseRetNet, "sasmamba": SasMamba}
ONE_CALL = ("mixste", "poseretnet")


def build(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = MODELS[name](**TINY).eval()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=p.shape[-1] ** -0.5)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_same_numbers(name, dtype):
    model = build(name)
    x = torch.randn(2, 7, 17, 2, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(model).double()(x.double())
    model = model.to(dtype)
    frozen = lifter.freeze(model)
    gelus = sum(isinstance(m, PackedLinear) and m.activation == "gelu" for m in frozen.modules())
    assert (gelus == 0 and isinstance(frozen.trunk, FrozenTransformer)) if name in ONE_CALL else gelus or not packs(dtype)
    assert not packs(dtype) or not any(type(m) in LINEAR for m in frozen.modules())
    assert_as_good(name, frozen(x.to(dtype)), model(x.to(dtype)), exact, factor=2, rounding=64)


@pytest.mark.parametrize("frames", [1, 2, 243])
@torch.no_grad()
def test_one_layout_for_all_lengths(frames):
    linear, x = nn.Linear(24, 40), torch.randn(1, frames, 17, 24)
    exact = copy.deepcopy(linear).double()(x.double())
    assert_as_good("linear", PackedLinear(linear)(x), linear(x), exact)
    exact = nn.functional.gelu(exact)
    assert_as_good("gelu", PackedLinear(linear, "gelu")(x), nn.functional.gelu(linear(x)), exact)
    assert PackedLinear(linear)(x[:0]).shape == (0, frames, 17, 40)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_reordered_rows(bias):
    """Once, as the layer does in every call."""
    layer = ReorderedLinear(6, 8, torch.randperm(8), bias)
    x = torch.randn(3, 6)
    frozen = lifter.freeze(nn.Sequential(layer))
    assert isinstance(frozen[0], PackedLinear)
    torch.testing.assert_close(layer(x)[:, 2], nn.Linear.forward(layer, x)[:, layer.order[2]])
    torch.testing.assert_close(frozen(x), layer(x))


@torch.no_grad()
def test_strided_input_and_no_bias():
    linear, x = nn.Linear(24, 40, bias=False), torch.randn(17, 3, 48)[..., ::2].transpose(0, 1)
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


class Reads(nn.Module):
    """Calls one linear layer, reads another, and ties a third."""

    def __init__(self):
        super().__init__()
        self.called, self.read, self.tied = (nn.Linear(16, 16, bias=False) for _ in range(3))
        self.embedding = nn.Embedding(16, 16, _weight=self.tied.weight)

    def forward(self, x):
        x = self.called(x) + nn.functional.linear(x, self.read.weight.T)
        return self.tied(x) + self.embedding(torch.arange(7))


class Asks(nn.Module):
    """Asks for a parameter, and what kind of layers it has, and calls them by the name of their argument."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.ReLU()])

    def forward(self, x):
        x = x.to(next(self.parameters()).dtype)
        for layer in self.layers:
            x = layer(input=x) if isinstance(layer, nn.Linear) else x.relu()
        return x


OTHERS = {
    "encoder layer": lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
    "norm first": lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True, activation="gelu"),
    "reads": Reads,
    "asks": Asks,
    "Mamba": lambda: Mamba(16),
}


@pytest.mark.parametrize("kind", OTHERS)
@torch.no_grad()
def test_modules_that_read_the_weight_of_a_linear_layer(kind):
    torch.manual_seed(0)
    model, x = OTHERS[kind]().eval(), torch.randn(2, 7, 16)
    frozen = lifter.freeze(model)
    assert any(isinstance(m, PackedLinear) for m in frozen.modules())
    torch.testing.assert_close(frozen(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_weight_of_a_packed_layer(bias):
    linear = nn.Linear(37, 21, bias=bias)
    assert torch.equal(PackedLinear(linear).weight, linear.weight)


@torch.no_grad()
def test_replaced_methods_and_shared_layers():
    model, x = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), torch.randn(3, 16)
    model.append(model[1])
    model[0].forward = lambda x: 2 * x
    frozen = lifter.freeze(model)
    assert type(frozen[0]) is nn.Linear and isinstance(frozen[1], PackedLinear) and frozen[1] is frozen[2]
    torch.testing.assert_close(frozen(x), model(x))


@torch.no_grad()
def test_what_differs_is_left_alone(monkeypatch):
    """A part is run before it is handed out, and a model whose part computes something else is not changed."""
    model, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU()), torch.randn(3, 16)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * nn.functional.linear(x, self.weight, self.bias))
    with pytest.warns(UserWarning, match="freeze: 0 stays as it is: its output differs from lifter's by"):
        frozen = lifter.freeze(model)
    assert type(frozen[0]) is nn.Linear and torch.equal(frozen(x), model(x))


@torch.no_grad()
def test_compiles():
    frozen, x = lifter.freeze(Mlp(16, 32)), torch.randn(3, 16)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(frozen, fullgraph=True)(x), frozen(x))


@torch.no_grad()
def test_state_goes_through():
    model, x = build("poseretnet"), torch.randn(1, 8, 17, 2)
    second = lambda model, x: model(x[:, 4:], model(x[:, :4], return_state=True)[1], True)[0]
    exact = second(copy.deepcopy(model).double(), x.double())
    assert_as_good("poses", second(lifter.freeze(model), x), second(model, x), exact, factor=8, rounding=64)


@torch.no_grad()
def test_a_copy_of_its_own():
    model, x = build("mixste").train(), torch.randn(1, 3, 17, 2)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    frozen = lifter.freeze(model)
    expected = frozen(x)
    assert model.training and not frozen.training
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name])
        p.add_(1)
    assert torch.equal(frozen(x), expected)
    assert not any(p.requires_grad for p in frozen.parameters()) and all(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_float64_stays_as_it_is():
    model = build("mixste", torch.float64)
    x = torch.randn(1, 3, 17, 2, dtype=torch.float64)
    assert torch.equal(lifter.freeze(model)(x), model(x))


@torch.no_grad()
def test_what_does_more_than_a_linear_layer_stays():
    model, x = build("mixste"), torch.randn(1, 3, 17, 2)
    model.STEblocks[0].mlp.act = nn.ReLU()
    model.STEblocks[1].mlp.fc2.register_forward_hook(lambda module, args, out: out * 2)
    torch.testing.assert_close(lifter.freeze(model)(x), model(x))


def in_one_call(frozen):
    return any(isinstance(m, FrozenTransformer) for m in frozen.modules())


CHANGES = {
    "activation": lambda m: setattr(m.TTEblocks[1].mlp, "act", nn.GELU("tanh")),
    "a part of another kind": lambda m: setattr(m.STEblocks[0].mlp, "fc2", nn.Sequential(m.STEblocks[0].mlp.fc2)),
    "block": lambda m: m.STEblocks.__setitem__(1, nn.Sequential(m.STEblocks[1], nn.ReLU())),
    "norm": lambda m: setattr(m.Temporal_norm, "eps", 1e-2),
    "head": lambda m: m.head.append(nn.ReLU()),
    "head's norm": lambda m: setattr(m.head[0], "eps", 1e-2),
    "axis": lambda m: setattr(m.STEblocks[1].attn, "axis", "frame"),
    "heads": lambda m: setattr(m.STEblocks[1], "attn", AxialAttention(16, 2, "joint").eval()),
    "scale": lambda m: setattr(m.STEblocks[1].attn, "scale", 1.0),
    "position": lambda m: setattr(m, "pos_drop", nn.Sequential(m.pos_drop, nn.Tanh())),
    "bias where there is none": lambda m: setattr(m.STEblocks[0].attn, "proj", nn.Linear(16, 16, bias=False)),
    "norm without bias": lambda m: setattr(m, "Temporal_norm", nn.LayerNorm(16, eps=1e-6, bias=False)),
    "another hidden width": lambda m: setattr(m.TTEblocks[1], "mlp", Mlp(16, 10)),
    "forward of an instance": lambda m: setattr(m.STEblocks[0].mlp, "forward", lambda x: 0 * x),
    "hook": lambda m: m.STEblocks[1].norm2.register_forward_hook(lambda module, args, out: 2 * out),
    "hook before": lambda m: m.head[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    "parametrization": lambda m: nn.utils.parametrizations.weight_norm(m.TTEblocks[0].mlp.fc1),
}


SAME_NUMBERS = ("a part of another kind", "norm without bias", "parametrization")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ONE_CALL)
@torch.no_grad()
def test_changed_blocks_go_layer_by_layer(name, change):
    model, x = build(name), torch.randn(1, 4, 17, 2)
    before = model(x)
    CHANGES[change](model)
    expected, frozen = model(x), lifter.freeze(model)
    assert not torch.allclose(before, expected, atol=1e-4) or change in SAME_NUMBERS
    assert not in_one_call(frozen)
    assert_as_good(change, frozen(x), expected, copy.deepcopy(model).double()(x.double()), factor=8, rounding=64)


@torch.no_grad()
def test_retention_with_a_bias_goes_layer_by_layer():
    for name in ("qkvg", "out"):
        model, x = build("poseretnet"), torch.randn(1, 4, 17, 2)
        retention = model.TTEblocks[0].attn
        setattr(retention, name, nn.Linear(16, getattr(retention, name).out_features))
        frozen, exact = lifter.freeze(model), copy.deepcopy(model).double()(x.double())
        assert not in_one_call(frozen)
        assert_as_good(name, frozen(x), model(x), exact, factor=8, rounding=64)


@pytest.mark.parametrize("name", ONE_CALL)
@torch.no_grad()
def test_shared_and_fewer_blocks(name):
    model, x = build(name), torch.randn(1, 4, 17, 2)
    model.STEblocks[1].mlp = model.STEblocks[0].mlp
    model.Temporal_norm = model.Spatial_norm
    assert in_one_call(lifter.freeze(model))
    torch.testing.assert_close(lifter.freeze(model)(x), model(x), atol=1e-5, rtol=1e-4)
    model.STEblocks, model.TTEblocks = model.STEblocks[:1], model.TTEblocks[:1]
    torch.testing.assert_close(lifter.freeze(model)(x), model(x), atol=1e-5, rtol=1e-4)
    vmapped = torch.vmap(lifter.freeze(model).trunk)(torch.randn(3, 1, 4, 17, 16))
    assert vmapped.shape == (3, 1, 4, 17, 3)


def test_a_model_pickled_by_an_earlier_version():
    model = build("mixste")
    model.frozen = None
    assert in_one_call(lifter.freeze(pickle.loads(pickle.dumps(model))))


@torch.no_grad()
def test_subclasses_go_layer_by_layer():
    """They may use their blocks in other ways."""

    class Twice(MixSTE):
        def _lift(self, x):
            return 2 * super()._lift(x)

    kept = {"tokens": 3, "prune_at": 1}
    models = [Twice(**TINY), KTPFormer(**TINY), HoTMixSTE(**TINY, **kept), HTPMixSTE(**TINY | {"depth": 4})]
    for model in models:
        model, x = model.eval(), torch.randn(1, 9, 17, 2)
        frozen = lifter.freeze(model)
        assert not in_one_call(frozen)
        torch.testing.assert_close(frozen(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk_size", [None, 2])
@torch.no_grad()
def test_mixste_with_another_mixer(chunk_size):
    """Retention is known, with a position before it."""
    retention = partial(Retention, 16, 8, shared_decays(8), chunk_size=chunk_size)
    other_heads = partial(Retention, 16, 4, shared_decays(4))
    for mixer, known in ((retention, True), (partial(SkeletonMixer, 16), False), (other_heads, False)):
        model = MixSTE(**TINY, temporal_mixer=mixer).eval()
        nn.init.normal_(model.Temporal_pos_embed)
        frozen, x = lifter.freeze(model), torch.randn(2, 7, 17, 2)
        assert in_one_call(frozen) == known
        torch.testing.assert_close(frozen(x), model(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_odd_widths_go_layer_by_layer():
    """16 bits of 15 channels are no whole pairs."""
    model, x = MixSTE(**TINY | {"dim": 15}, num_heads=3).eval(), torch.randn(1, 2, 17, 2)
    frozen = lifter.freeze(model)
    assert not in_one_call(frozen)
    torch.testing.assert_close(frozen(x), model(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_with_masks_and_diffusion():
    model, x = build("mixste"), torch.randn(2, 5, 17, 2)
    mask = torch.rand(2, 17, 5, 5) < 0.5
    torch.testing.assert_close(lifter.freeze(model)(x, mask=mask), model(x, mask=mask), atol=1e-5, rtol=1e-4)
    model = D3DP(**TINY).eval()
    frozen = lifter.freeze(model)
    call = x, torch.randn(2, 3, 5, 17, 3), torch.tensor([3, 700])
    assert in_one_call(frozen)
    torch.testing.assert_close(frozen(*call), model(*call), atol=1e-5, rtol=1e-4)


def test_one_call_refuses_what_layers_refuse():
    frozen, x = lifter.freeze(build("poseretnet")), torch.randn(1, 3, 17, 2)
    with pytest.raises(ValueError, match="PoseRetNet: state has 1 tensors, expected one per temporal block, 2"):
        frozen(x, state=[torch.zeros(1)])
    torch.testing.assert_close(frozen(x, state=[None, None]), frozen(x))
    with pytest.raises(TypeError, match="called under autocast"), torch.autocast("cpu", torch.bfloat16):
        frozen(x)
    with pytest.raises(RuntimeError, match="x requires a gradient"):
        frozen(x.requires_grad_())
    with pytest.raises(ValueError, match="MixSTE: keypoints have 10 frames, expected 1 to num_frames=9"):
        lifter.freeze(build("mixste"))(torch.randn(1, 10, 17, 2))


def test_a_frozen_model_is_not_saved_copied_or_loaded(tmp_path):
    model = build("poseretnet")
    frozen = lifter.freeze(model)
    attempts = [
        copy.deepcopy,
        lifter.freeze,
        lambda m: m.state_dict(),
        lambda m: torch.save(m, tmp_path / "x"),
        lambda m: lifter.save_checkpoint(m, tmp_path / "x.pth"),
        lambda m: lifter.load_checkpoint(m, model.state_dict()),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError, match="frozen model cannot be copied or saved"):
            attempt(frozen)
    with pytest.raises(TypeError, match="load them before freezing"):
        frozen.load_state_dict(model.state_dict(), strict=False)


def test_a_frozen_model_is_not_trained():
    for model in (nn.Sequential(nn.Linear(3, 4), nn.Dropout()), build("mixste"), build("sasmamba")):
        frozen = lifter.freeze(model)
        assert not any(module.training for module in frozen.modules())
        frozen.train(False)
        with pytest.raises(TypeError, match="a frozen model cannot be trained"):
            frozen.train()


@torch.no_grad()
def test_a_cast_model_says_what_it_takes():
    frozen, x = lifter.freeze(nn.Sequential(nn.Linear(3, 4))), torch.randn(2, 3)
    expected = frozen(x)
    assert torch.equal(frozen.to("cpu").half()(x), expected)
    with pytest.raises(TypeError, match="x is torch.float16 on cpu, expected torch.float32"):
        frozen(x.half())


def test_a_lone_linear():
    assert isinstance(lifter.freeze(nn.Linear(3, 4)), PackedLinear)


def test_errors():
    with pytest.raises(ValueError, match="on the CPU, got weight on meta"):
        lifter.freeze(nn.Linear(3, 4, device="meta"))
    with pytest.raises(TypeError, match="x is torch.bfloat16 on cpu, expected torch.float32"):
        PackedLinear(nn.Linear(3, 4))(torch.zeros(2, 3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="x has 5 channels, expected 3"):
        PackedLinear(nn.Linear(3, 4))(torch.zeros(2, 5))
    with pytest.raises(RuntimeError, match="requires a gradient"):
        PackedLinear(nn.Linear(3, 4))(torch.zeros(2, 3, requires_grad=True))
    with pytest.raises(TypeError, match="model is str"):
        lifter.freeze("mixste")
