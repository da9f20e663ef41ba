"""When two outputs count as the same."""

import torch


def error(output, expected) -> float:
    """Largest difference, relative to the largest expected value; of several tensors the worst. NaN is infinite."""
    if isinstance(expected, (tuple, list)):
        return max(error(x, y) for x, y in zip(output, expected, strict=True))
    scale = expected.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    worst = ((output.double() - expected.double()).abs().max() / scale).item()
    return worst if worst == worst else float("inf")


def tolerance(dtype) -> float:
    return {torch.float32: 1e-4}.get(dtype) or 16 * torch.finfo(dtype).eps


def fail(failure: Exception):
    raise failure
