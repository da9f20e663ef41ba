"""ONNX for the operators of PyTorch that its exporter does not know."""

import torch
from onnxscript import opset18 as op


def _sort(x, stable=None, dim: int = -1, descending: bool = False):
    """TopK of all: of equal values it gives that of the lower index first."""
    count = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
    return op.TopK(x, count, axis=dim, largest=int(descending))


def _cdist(x, y, p: float, compute_mode=None):
    """Compute Euclidean distances from the differences."""
    return op.ReduceL2(op.Sub(op.Unsqueeze(x, [-2]), op.Unsqueeze(y, [-3])), [-1], keepdims=0)


TRANSLATIONS = {torch.ops.aten.sort.stable: _sort, torch.ops.aten._cdist_forward.default: _cdist}
