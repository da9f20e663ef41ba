"""Maps (B, D, L), which lie along their steps or along their channels."""

import torch


def channels_last(x: torch.Tensor) -> bool:
    """Return whether a map (B, D, L) lies along its channels, as a (B, L, D) map does that is seen so."""
    return x.stride(1) == 1 and x.stride(2) != 1


def map_like(x: torch.Tensor) -> torch.Tensor:
    """A new map in the layout of this one. It is no view of another tensor: autograd lets callers change it in place."""
    _, dim, length = x.shape
    return x.new_empty_strided(x.shape, (dim * length, 1, dim) if channels_last(x) else (dim * length, length, 1))
