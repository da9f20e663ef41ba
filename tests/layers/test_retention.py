"""The retention layer alone, and its decays."""

import pytest
import torch

from lifter import kernels, load_checkpoint
from lifter.layers import Retention, joint_decays, shared_decays
from tests.models.eager import eager_mixers


def layer(**kwargs):
    torch.manual_seed(0)
    layer = Retention(**{"dim": 16, "num_heads": 2, "decay": shared_decays(2)} | kwargs)
    for p in (layer.qkvg.weight, layer.out.weight):
        torch.nn.init.normal_(p, std=0.2)
    return layer


def test_decays():
    torch.testing.assert_close(shared_decays(8)[[0, -1]], torch.tensor([1 - 1 / 8, 1 - 1 / 128]))
    torch.testing.assert_close(shared_decays(1, divider=4), torch.tensor([0.75]))
    table = joint_decays(8)
    assert table.shape == (17, 8) and joint_decays(4, "mpii3d", 14).shape == (14, 4)
    torch.testing.assert_close(table[0, [0, -1]], torch.tensor([1 - 1 / 32, 1 - 1 / 512]))  # the pelvis
    torch.testing.assert_close(table[16], shared_decays(8, divider=4))  # the right wrist
    with pytest.raises(ValueError, match="dataset is 'mpii3d' with 17 joints, expected one of h36m with 17"):
        joint_decays(8, "mpii3d")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("decay", [shared_decays(2), joint_decays(2)[:5]], ids=["shared", "joint"])
def test_it_is_the_chain_of_the_paper(causal, decay):
    x = torch.randn(2, 7, 5, 16)
    ours = layer(decay=decay, causal=causal, chunk_size=3)
    with kernels.backend("reference"), torch.no_grad():
        y = ours(x)
        with eager_mixers():
            torch.testing.assert_close(y, ours(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype, norm", [
    (torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
])  # fmt: skip
def test_its_group_norm(dtype, norm):
    """The module's own numbers and gradients, in the dtype of what is normalized."""
    ours = layer()
    for p in ours.group_norm.to(norm).parameters():
        torch.nn.init.normal_(p)
    y = torch.randn(2, 3, 5, 2, 8, dtype=dtype).transpose(1, 2).requires_grad_()
    found, expected = ours.normalize(y), ours.group_norm(y.flatten(0, 2).flatten(1)).view(y.shape)
    assert found.dtype == expected.dtype == dtype
    tolerance = {"atol": 16 * torch.finfo(dtype).eps, "rtol": 16 * torch.finfo(dtype).eps}
    torch.testing.assert_close(found, expected, **tolerance)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((out * weight).sum(), [y, *ours.group_norm.parameters()]) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=8 * tolerance["atol"], rtol=8 * tolerance["rtol"])


def test_layers_do_not_share_their_decay():
    decay = shared_decays(2)
    first, second = layer(decay=decay, trainable_decay=True), layer(decay=decay)
    with torch.no_grad():
        first.decay.mul_(0.5)
    assert torch.equal(second.decay, decay)
    assert first.decay.requires_grad and not second.decay.requires_grad


def test_official_weights_of_one_layer():
    """The names of the official MultiScaleRetention, found in a dict that has nothing else in common with ours."""
    source, target = layer(), Retention(16, 2, joint_decays(2)[0])
    official = {key: value.clone() for key, value in source.official_weights().items()}
    assert {key: tuple(value.shape) for key, value in official.items() if key.startswith("retentions.1.")} == {
        "retentions.1.W_Q": (16, 8), "retentions.1.W_K": (16, 8), "retentions.1.W_V": (16, 8),
        "retentions.1.gamma": (), "retentions.1.xpos.scale": (4,),
    }  # fmt: skip
    load_checkpoint(target, {"attn": official})
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))
    with torch.no_grad():
        x = torch.randn(1, 3, 5, 16)
        q = target.qkvg(x).unflatten(-1, (4, 2, 8))[..., 0, 1, :]
        torch.testing.assert_close(q, x @ official["retentions.1.W_Q"])


def test_dtypes_of_a_module():
    for dtype in (torch.bfloat16, torch.float16):
        half = layer().to(dtype)
        assert half.qkvg.weight.dtype == dtype and half.decay.dtype == torch.float32
        assert half.float().decay.dtype == torch.float32
    assert layer().double().decay.dtype == torch.float64
    assert layer(trainable_decay=True).bfloat16().decay.requires_grad


def test_errors():
    with pytest.raises(ValueError, match="dim is 18, expected a multiple of 2 \\* num_heads = 4"):
        layer(dim=18)
    for decay in (torch.ones(3), torch.ones(2, 3, 2), 0.9):
        with pytest.raises(ValueError, match=r"decay has shape .*, expected \(2,\) or \(J, 2\)"):
            layer(decay=decay)
    with kernels.backend("reference"), pytest.raises(ValueError, match=r"decay has shape \(4, 2\)"):
        layer(decay=joint_decays(2)[:4])(torch.zeros(1, 3, 5, 16))
