"""What a user of plain PyTorch runs: the chains of the official codes, every step in the dtype of its input."""

import contextlib
from unittest import mock

import torch

from lifter import kernels
from lifter.kernels.retention import XPOS_BASE
from tests.conftest import assert_as_good


@contextlib.contextmanager
def eager_mixers():
    """Inside, the layers run these chains instead of our ops."""
    with (
        mock.patch("lifter.layers.axial_attention.axial_attention", attention),
        mock.patch("lifter.layers.retention.retention", retention),
    ):
        yield


@torch.no_grad()
def assert_as_good_as_eager(model, dtype, backend, *inputs):
    """The poses of `model` in half precision on `backend`, which errs as eager PyTorch does."""
    cast = lambda dtype: [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    with kernels.backend("reference"):
        exact = model.double()(*cast(torch.float64))
        model.to(dtype)
        with eager_mixers():
            eager = model(*cast(dtype))
    with kernels.backend(backend):
        assert_as_good("poses", model(*cast(dtype)), eager, exact)


def attention(qkv, axis, mask, scale, dropout_p):
    q, k, v = qkv.permute((3, 0, 1, 4, 2, 5) if axis == "joint" else (3, 0, 2, 4, 1, 5))
    scores = q @ k.mT * (scale or qkv.shape[-1] ** -0.5)
    if mask is not None:  # packed
        scores = scores.masked_fill(~kernels.unpack_mask(mask, qkv.shape[1])[:, :, None], -torch.inf)
    out = scores.softmax(-1) @ v
    return (out.transpose(2, 3) if axis == "joint" else out.permute(0, 3, 1, 2, 4)).flatten(3)


def retention(q, k, v, decay, scale, state, return_state, *, chunk_size, causal, xpos_scale):
    """The parallel form with its staircase mask; without state."""
    T, dtype = q.shape[1], q.dtype
    chunk_size = chunk_size or T
    q, k, v = (x.movedim(1, 3) for x in (scale * q, k, v))
    n = torch.arange(T, device=q.device)
    half = q.shape[-1] // 2
    angle = n[:, None] * 10000.0 ** (-torch.arange(half) / half)
    size = xpos_scale ** (n[:, None] / XPOS_BASE)
    seen = n < (n[:, None] + 1 if causal else (n[:, None] // chunk_size + 1) * chunk_size)
    weights = (decay.expand(q.shape[1], -1)[..., None, None] ** (n[:, None] - n).abs() * seen).to(dtype)
    rotate = lambda x, size: (
        x * (angle.cos() * size).repeat_interleave(2, -1).to(dtype)
        + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        * (angle.sin() * size).repeat_interleave(2, -1).to(dtype)
    )
    out = (rotate(q, size) @ rotate(k, 1 / size).mT * weights) @ v
    return out.movedim(3, 1).contiguous(), None
