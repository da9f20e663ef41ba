"""Residual transformer blocks and their parts."""

import torch
from torch import Tensor, nn

from lifter.kernels import linear

from .linear import Linear


class Pointwise(nn.Conv2d):
    """1x1 convolution of a channels-last map (B, T, J, C): a linear layer with a convolution's weight."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.flatten(1), self.bias)


class Mlp(nn.Module):
    """MLP of the transformers: fc2(GELU(fc1(x))) with dropout after both layers."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, bias: bool = True):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"Mlp: hidden is {hidden}, expected at least 1 (a model's mlp_ratio times its dim)")
        self.fc1 = Linear(dim, hidden, bias=bias)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim, bias=bias)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drop the branch for whole samples and rescale the others to keep the mean."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        check_rate("DropPath", "p", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)

    def extra_repr(self):
        return f"p={self.p:.3f}"


def check_rate(layer, name, rate):
    """Raise ValueError unless `rate` is a valid dropout rate below 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"{layer}: {name} is {rate}, expected 0 <= {name} < 1")


class TransformerBlock(nn.Module):
    """Pre-norm residual block: x + attn(norm1(x)), then x + mlp(norm2(x)). (B, T, J, C) -> (B, T, J, C).

    `mixer` is any module with this signature. Other arguments of `forward` are passed to it; if it returns more than the map,
    such as a state, so does the block.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float = 2.0, drop: float = 0.0, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, **mixer) -> Tensor | tuple[Tensor, ...]:
        mixed = self.attn(self.norm1(x), **mixer)
        mixed, *more = mixed if isinstance(mixed, tuple) else (mixed,)
        x = x + self.drop_path(mixed)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return (x, *more) if more else x


class ScaledBlock(nn.Module):
    """`TransformerBlock` whose branches are scaled per channel: x + s_1 mixer(norm1(x)), then x + s_2 mlp(norm2(x)).

    Names and epsilon, 1e-5, are MotionAGFormer's. `scale` is the initial value of s_1 and s_2.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        scale: float = 1e-5,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), scale))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1 * self.mixer(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


def fuse_streams(fusion: nn.Linear, a: Tensor, b: Tensor) -> Tensor:
    """Return the weighted mean of two maps (B, T, J, C); `fusion`, a Linear(2 C, 2), computes the weights of every token."""
    alpha = fusion(torch.cat([a, b], -1)).softmax(-1)
    return a * alpha[..., :1] + b * alpha[..., 1:]
