"""Synthesised attention, its mix of both axes and the encoder alone, against the paper's equations written out."""

import pytest
import torch
import torch.nn.functional as F

from lifter.layers import MixSynthAttention, MixSynthEncoder, MixSynthEncoderLayer, SynthAttention


def random_input(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def build(cls, *args, **kwargs):
    torch.manual_seed(0)
    return cls(*args, **kwargs).double().eval()


def attention_by_the_equations(layer, z):
    """Equations 10 to 14, token by token, (N, D) -> (N, D)."""
    squeeze, excite = layer.se.fc[0].weight, layer.se.fc[2].weight
    energy = torch.stack([layer.dense.weight @ token + layer.dense.bias for token in z])
    scale = torch.sigmoid(excite @ torch.relu(squeeze @ energy.mean(1)))
    values = z
    if layer.reduction > 1:
        mixed = zip(layer.value_reduce.weight, layer.value_reduce.bias)
        values = torch.stack([sum(w * token for w, token in zip(weights, z)) + bias for weights, bias in mixed])
    rows = []
    for n in range(len(z)):
        weights = torch.exp(energy[n] * scale[n])
        rows.append(sum(w * value for w, value in zip(weights / weights.sum(), values)))
    return torch.stack(rows)


@pytest.mark.parametrize("tokens, dim, reduction", [(7, 5, 1), (7, 5, 2), (12, 3, 4), (2, 9, 1), (3, 4, 3), (1, 1, 1)])
@torch.no_grad()
def test_synth_attention(tokens, dim, reduction):
    layer, x = build(SynthAttention, dim, tokens, reduction), random_input(2, tokens, dim)
    expected = torch.stack([attention_by_the_equations(layer, z) for z in x])
    torch.testing.assert_close(layer(x), expected)
    strided = random_input(2, dim, 2 * tokens)[..., ::2].mT
    torch.testing.assert_close(layer(strided), layer(strided.contiguous()))


@pytest.mark.parametrize("variant", ["official", "paper"])
@torch.no_grad()
def test_split_attention(variant):
    """Equations 6 to 9; with weights per frame in the official code, per channel in the paper."""
    T, C = 9, 6
    layer, x = build(MixSynthAttention, T, C, 2, 3, variant), random_input(2, T, C)
    temporal, spatial = layer.synth_token(x), layer.synth_channel(x.mT).mT
    pooled = (temporal + spatial).mean(2 if variant == "official" else 1)
    hidden = (F.gelu if variant == "official" else F.relu)(layer.reweight.fc1(pooled))
    scores = layer.reweight.fc2(hidden)
    expected = torch.empty_like(x)
    for t in range(T):
        for c in range(C):
            n = t if variant == "official" else c
            share = torch.sigmoid(scores[:, 2 * n] - scores[:, 2 * n + 1])  # the softmax of two
            expected[:, t, c] = share * temporal[:, t, c] + (1 - share) * spatial[:, t, c]
    torch.testing.assert_close(layer(x), layer.proj(expected))


@torch.no_grad()
def test_one_branch():
    x = random_input(2, 9, 6)
    for branch, own in (("temporal", "synth_token"), ("spatial", "synth_channel")):
        layer = build(MixSynthAttention, 9, 6, 2, 3, branches=(branch,))
        assert {name.partition(".")[0] for name in layer.state_dict()} == {own, "proj"}
        attend = getattr(layer, own)
        mixed = attend(x) if branch == "temporal" else attend(x.mT).mT
        torch.testing.assert_close(layer(x), layer.proj(mixed))


@torch.no_grad()
def test_encoder_is_post_norm_layers_in_sequence():
    encoder, expected = build(MixSynthEncoder, 9, 6, 2, r_t=2, r_s=3), random_input(2, 9, 6)
    got = encoder(expected)
    for layer in encoder.layers:
        assert isinstance(layer, MixSynthEncoderLayer) and layer.ff.fc1.out_features == 12
        expected = F.layer_norm(expected + layer.synth_att(expected), (6,), layer.norm1.weight, layer.norm1.bias)
        hidden = F.gelu(layer.ff.fc1(expected))
        expected = F.layer_norm(expected + layer.ff.fc2(hidden), (6,), layer.norm2.weight, layer.norm2.bias)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("reductions", [(1, 1), (2, 3)])
def test_gradients(variant, reductions):
    layer = build(MixSynthEncoderLayer, 5, 4, r_t=reductions[0], r_s=reductions[1], variant=variant)
    x = random_input(2, 5, 4).requires_grad_()
    weights = dict(layer.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(weights, values)), (x,))

    assert torch.autograd.gradcheck(function, (x, *weights.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    layer, x = build(MixSynthEncoderLayer, 17, 16), random_input(2, 17, 16)
    expected = layer(x)
    got = layer.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_dropout_in_training():
    layer, x = build(MixSynthEncoderLayer, 9, 6, drop=0.5), random_input(2, 9, 6)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_errors():
    for reduction in (0, 8):
        with pytest.raises(ValueError, match=f"SynthAttention: reduction is {reduction}, expected 1 to num_tokens=7"):
            SynthAttention(5, 7, reduction)
    with pytest.raises(ValueError, match="variant is 'code', expected one of"):
        MixSynthAttention(9, 6, variant="code")
    for branches in ((), ("temporal", "channel")):
        with pytest.raises(ValueError, match="branches is .* expected one or both of"):
            MixSynthAttention(9, 6, branches=branches)
    with pytest.raises(ValueError, match=r"x has shape \(2, 6, 9\), expected \(B, 9, 6\)"):
        MixSynthAttention(9, 6)(torch.randn(2, 6, 9))
