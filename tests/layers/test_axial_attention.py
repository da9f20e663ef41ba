"""The attention layer and the residual block alone."""

import pytest
import torch

from lifter import kernels
from lifter.layers import AxialAttention, Mlp, Retention, TransformerBlock, shared_decays
from tests.models.eager import eager_mixers


@pytest.mark.parametrize("axis", ["joint", "frame"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_it_is_attention(backend, axis, scale):
    torch.manual_seed(0)
    layer, x = AxialAttention(16, 2, axis, scale=scale), torch.randn(1, 4, 3, 16)
    with torch.no_grad():
        y = layer(x)
        with eager_mixers():
            torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-5)
        rows = x.transpose(1, 2) if axis == "frame" else x
        one = layer(rows[:, 1:2].transpose(1, 2) if axis == "frame" else rows[:, 1:2])  # rows do not see each other
        torch.testing.assert_close(one, y[:, :, 1:2] if axis == "frame" else y[:, 1:2], rtol=1e-4, atol=1e-5)


def test_dropout_in_training():
    torch.manual_seed(0)
    layer, x = AxialAttention(16, 2, "frame", attn_drop=0.5), torch.randn(2, 4, 3, 16)
    with kernels.backend("reference"), torch.no_grad():
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))


def test_errors():
    with pytest.raises(ValueError, match="axis is 'time', expected 'joint' or 'frame'"):
        AxialAttention(16, 2, "time")
    with pytest.raises(ValueError, match="dim is 16, expected a multiple of num_heads=5"):
        AxialAttention(16, 5, "joint")
    with kernels.backend("reference"), pytest.raises(ValueError, match=r"mask has shape \(4, 4\)"):
        AxialAttention(16, 2, "frame")(torch.zeros(1, 4, 3, 16), torch.ones(4, 4, dtype=torch.bool))


def test_block_passes_arguments_and_state():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 16)
    block = TransformerBlock(16, Retention(16, 2, shared_decays(2))).eval()
    with kernels.backend("reference"), torch.no_grad():
        y, state = block(x, return_state=True)
        assert torch.equal(y, block(x)) and state.shape == (1, 3, 2, 8, 8)
        assert not torch.equal(block(x, state=state), y)
        masked = TransformerBlock(16, AxialAttention(16, 2, "frame"))
        assert not torch.equal(masked(x), masked(x, mask=torch.eye(4, dtype=torch.bool)[None, None]))


def test_block_is_pre_norm_and_residual():
    torch.manual_seed(0)
    block, x = TransformerBlock(16, Mlp(16, 8), mlp_ratio=3).eval(), torch.randn(1, 4, 3, 16)
    assert block.mlp.fc1.out_features == 48
    h = x + block.attn(block.norm1(x))
    assert torch.equal(block(x), h + block.mlp(block.norm2(h)))
