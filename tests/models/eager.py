"""The chains of the official codes in plain PyTorch, every step in the dtype of its input."""

import contextlib
from unittest import mock

import torch
import torch.nn.functional as F

from lifter import kernels
from lifter.kernels.retention import XPOS_BASE
from tests.conftest import assert_as_good


@contextlib.contextmanager
def eager_mixers():
    """Inside, the layers run these chains instead of our ops."""
    with (
        mock.patch("lifter.layers.axial_attention.axial_attention", attention),
        mock.patch("lifter.layers.retention.retention", retention),
        mock.patch("lifter.models.tcpformer.axial_attention", attention),
        mock.patch("lifter.layers.graph_conv.skeleton_graph_conv", skeleton_graph_conv),
        mock.patch("lifter.layers.graph_conv.temporal_topk_graph_conv", temporal_topk_graph_conv),
        mock.patch("lifter.layers.multi_scale.skeleton_graph_conv", skeleton_graph_conv),
        mock.patch("lifter.layers.multi_scale.temporal_topk_graph_conv", temporal_topk_graph_conv),
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


@torch.no_grad()
def assert_compiles(model, *inputs):
    """Assert that a model compiles to one graph with the CPU kernels, and to the same poses.

    The interpreter cannot be compiled; tests/kernels/test_conformance.py compiles every op on every backend.
    """
    with kernels.backend("cpu"):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def assert_exports(model, *inputs):
    """Assert that `torch.export` takes a model with the CPU kernels, and gives the same poses."""
    with kernels.backend("cpu"):
        exported = torch.export.export(model, inputs).module()
        torch.testing.assert_close(exported(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


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
        + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * (angle.sin() * size).repeat_interleave(2, -1).to(dtype)
    )
    out = (rotate(q, size) @ rotate(k, 1 / size).mT * weights) @ v
    return out.movedim(3, 1).contiguous(), None


def skeleton_graph_conv(x, neighbours, weights, **tail):
    """A dense product per frame."""
    J = x.shape[2]
    graph = torch.zeros(J, J + 1, dtype=x.dtype).scatter_add(1, neighbours.long() % (J + 1), weights.to(x.dtype))[:, :J]
    return graph_tail(graph @ x, lambda p: p[:, None], **tail)


def temporal_topk_graph_conv(x, values, k, window=None, similarity="dot", ties="all", **tail):
    """MotionAGFormer's chain: similarities, their k-th largest, a dense graph, its degrees, a product."""
    if values.dim() == 5:
        split = lambda y: y.unbind(y.dim() - 1 if y.dim() == 2 else 3) if isinstance(y, torch.Tensor) else [y] * len(window)
        tails = [dict(zip(tail, each, strict=True)) for each in zip(*map(split, tail.values()), strict=True)]
        each = zip(values.unbind(3), window, tails, strict=True)
        return torch.stack([temporal_topk_graph_conv(x, part, k, w, similarity, ties, **tail) for part, w, tail in each], 3)
    windows = lambda y: y.unflatten(1, (-1, window or x.shape[1])).transpose(2, 3)
    x, parts = windows(F.normalize(x, dim=-1) if similarity == "cosine" else x), windows(values)
    similar = x @ x.mT
    graph = (similar >= similar.topk(min(k, similar.shape[-1])).values[..., -1:]).to(x.dtype)
    root_degrees = graph.sum(-1) ** -0.5
    y = root_degrees[..., None] * graph * root_degrees[..., None, :] @ parts
    return graph_tail(y.transpose(2, 3).flatten(1, 2), lambda p: p[:, None, None], **tail)


def graph_tail(y, beside, root=None, scale=None, shift=None, residual=None, relu=False):
    """`beside` gives scale and shift the dimensions of y."""
    y = y if root is None else y + root
    y = y if scale is None else y * beside(scale)
    y = y if shift is None else y + beside(shift)
    y = y if residual is None else y + residual
    return y.relu() if relu else y
