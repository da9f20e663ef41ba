"""Memory layout of maps (B, D, L): contiguous along the steps or along the channels."""

import torch


def channels_last(x: torch.Tensor) -> bool:
    """Return whether a map (B, D, L) is contiguous along its channels, like a transposed (B, L, D) map."""
    return x.stride(1) == 1 and x.stride(2) != 1


def map_like(x: torch.Tensor) -> torch.Tensor:
    """Return a new map in the layout of this one. It is not a view of another tensor, so autograd allows changing it in
    place."""
    _, dim, length = x.shape
    return x.new_empty_strided(x.shape, (dim * length, 1, dim) if channels_last(x) else (dim * length, length, 1))
