"""TCEP, SFT and MGPTP, each written out again from the paper's formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lifter import kernels
from lifter.kernels import pack_mask, unpack_mask
from lifter.layers import MGPTP, SFT, TCEP, AxialAttention, TransformerBlock


def clip(B=2, T=9, J=3, C=8):
    torch.manual_seed(1)
    return torch.randn(B, T, J, C)


def random_mask(B=2, T=9, J=3):
    """Symmetric, with self loops."""
    torch.manual_seed(2)
    mask = torch.rand(B, J, T, T) < 0.3
    return mask | mask.mT | torch.eye(T, dtype=torch.bool)


def tcep(dim=8, num_frames=9):
    torch.manual_seed(0)
    layer = TCEP(dim, num_frames)
    nn.init.normal_(layer.topology)
    return layer


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
@pytest.mark.parametrize("k", [None, 1, 3, 243])
def test_tcep(frames, k):
    layer, x = tcep().double(), clip(T=frames).double()
    out, mask = layer(x, k)
    chain = torch.zeros(frames, frames).double()
    for t in range(frames):
        near = [s for s in (t - 1, t + 1) if 0 <= s < frames]
        chain[t, near] = 1 / max(1, len(near))
    total = chain + layer.topology[:frames, :frames]
    graph = (total + total.T) / 2
    count = min(frames - 1, max(1, 2 * frames // 3) if k is None else k)
    for b in range(2):
        for j in range(3):
            rows = x[b, :, j]
            similarity = rows @ rows.T / 8**0.5
            others = similarity.clone().fill_diagonal_(-torch.inf)
            visible = torch.eye(frames, dtype=torch.bool)
            for t in range(frames):
                visible[t, others[t].sort(descending=True, stable=True).indices[:count]] = True
            visible = visible | visible.T
            weights = similarity.masked_fill(~visible, -1e300).softmax(-1) * graph
            assert torch.equal(unpack_mask(mask, frames)[b, j], visible)
            torch.testing.assert_close(out[b, :, j], rows + F.gelu(layer.proj(weights @ rows)))


def test_tcep_trains(backend):
    layer, x = tcep(), clip().requires_grad_()
    out, mask = layer(x)
    assert (mask.dtype, mask.shape) == (torch.int32, (2, 3, 9, 1))
    out.square().sum().backward()
    assert x.grad.any() and layer.proj.weight.grad.any() and layer.topology.grad.any()


def test_tcep_longer_clip():
    with pytest.raises(ValueError, match="TCEP: x has 10 frames, expected at most num_frames=9"):
        tcep()(clip(T=10))


def test_sft_is_a_block_under_a_mask(backend):
    torch.manual_seed(0)
    layer, visible, x = SFT(8, 2), random_mask(), clip()
    plain = TransformerBlock(8, AxialAttention(8, 2, "frame"))
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x, mask=pack_mask(visible)), plain(x, mask=visible), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)


def test_mgptp_takes_the_mean_of_the_graphs(backend):
    visible, x = random_mask(), clip()
    for mask, mean in ((None, None), (pack_mask(visible), visible.float().mean(1))):
        kept, indices = MGPTP(k=3)(x, 4, mask)
        assert torch.equal(indices, kernels.density_peak_prune(x.mean(2), 4, 3, mean)[0])
        assert torch.equal(kept, torch.stack([x[b, indices[b]] for b in range(2)]))
