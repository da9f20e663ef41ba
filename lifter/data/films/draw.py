"""Random numbers for a batch of clips, which follow from a seed alone."""

import numpy as np
import torch


class Draw:
    """Draws of shape (B, ...) for the B clips of a batch. The same seeds give the same draws, in the same order."""

    def __init__(self, clips, *seeds):
        self.clips = clips
        self.generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))

    def share(self, *shape):
        """Uniform from 0 to 1."""
        return torch.rand(self.clips, *shape, generator=self.generator)

    def uniform(self, low, high, *shape):
        return low + (high - low) * self.share(*shape)

    def log_uniform(self, low, high, *shape):
        return low * (high / low) ** self.share(*shape)

    def normal(self, *shape):
        return torch.randn(self.clips, *shape, generator=self.generator)

    def chance(self, probability, *shape):
        """True with this probability."""
        return self.share(*shape) < probability

    def index(self, cumulative, *shape):
        """Places in a list, by the cumulative sum of their weights."""
        found = torch.searchsorted(cumulative, self.share(*shape).to(cumulative) * cumulative[-1], right=True)
        return found.clamp(max=len(cumulative) - 1)

    def slow(self, frames, every, *shape):
        """(B, frames, *shape): normal at every so many frames, on lines between them."""
        knots = self.normal(-(-frames // every) + 1, *shape)
        time = torch.arange(frames) / every
        before, part = time.long(), time.frac().view(-1, *[1] * len(shape))
        return knots[:, before] * (1 - part) + knots[:, before + 1] * part

    def spell(self, frames, longest, *shape):
        """(B, frames, *shape) bool: a run of 1 to `longest` frames, which begins anywhere."""
        length = 1 + (self.share(*shape) * longest).long()
        start = (self.share(*shape) * frames).long()
        time = torch.arange(frames).view(-1, *[1] * len(shape))
        return (time >= start[:, None]) & (time < (start + length)[:, None])
