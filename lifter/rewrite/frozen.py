"""Modules of a frozen model: they compute from packed weights."""

import torch
from torch import nn


class Frozen(nn.Module):
    """A part of a frozen model. It cannot be copied, saved, loaded or trained."""

    def __init__(self):
        nn.Module.__init__(self)  # of a subclass that is a linear layer, too, not the layer's
        self.training = False

    def train(self, mode=True):
        if mode:
            raise TypeError("a frozen model cannot be trained: train the model that was frozen")
        return super().train(False)

    def __reduce__(self):
        raise TypeError("a frozen model cannot be copied or saved: do that with the model that was frozen")

    def _save_to_state_dict(self, *args):
        self.__reduce__()

    def _load_from_state_dict(self, *args):
        raise TypeError("a frozen model cannot load weights: load them before freezing")

    def check(self, x, dtype, channels):
        """Raise an error unless x (..., channels) can be computed here."""
        if torch.is_autocast_enabled("cpu"):
            raise TypeError(f"frozen layer: called under autocast, expected to compute in {dtype}")
        if x.dtype != dtype or x.device.type != "cpu":
            raise TypeError(f"frozen layer: x is {x.dtype} on {x.device}, expected {dtype} on the CPU")
        if x.shape[-1] != channels:
            raise ValueError(f"frozen layer: x has {x.shape[-1]} channels, expected {channels}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("frozen layer: x requires a gradient, which a frozen model does not have")
