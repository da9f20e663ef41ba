"""Synthesised attention of MixSynthFormer (ICCV 2023): its weights are computed from each token alone, not from pairs.

Equation numbers are those of the paper. Maps are (B, T, C): T frames, C channels of a whole pose.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from .block import Mlp
from .linear import Linear

BRANCHES = ("temporal", "spatial")
VARIANTS = {"official": nn.GELU, "paper": nn.ReLU}  # and the activation between the two layers of the re-weighting
SQUEEZE = 4  # hidden width of squeeze-excitation and re-weighting: one in so many


class SqueezeExcitation(nn.Module):
    """Equation 11, after Hu et al. 2018: scales each token by what the means of all tokens say. (B, N, d) -> (B, N, d)."""

    def __init__(self, num_tokens: int):
        super().__init__()
        squeeze = Linear(num_tokens, _squeezed(num_tokens), bias=False)
        excite = Linear(_squeezed(num_tokens), num_tokens, bias=False)
        self.fc = nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(-1))[..., None]


class SynthAttention(nn.Module):
    """Attention whose N x N/r weights are a linear layer of the tokens, section 3.3. (B, N, D) -> (B, N, D).

    softmax(SE(Z W_z)) (W_v Z): every token's weights for N // reduction mixtures of all tokens, or for the tokens themselves
    if `reduction` is 1. The layer W_v is there even so, unused, as in the official code.

    Args:
        dim, num_tokens: D, N, which the weights fix.
        reduction: the paper's r, 1 to N.
    """

    def __init__(self, dim: int, num_tokens: int, reduction: int = 4):
        super().__init__()
        if not 1 <= reduction <= num_tokens:
            raise ValueError(f"SynthAttention: reduction is {reduction}, expected 1 to num_tokens={num_tokens}")
        self.reduction = reduction
        self.dense = Linear(dim, num_tokens // reduction)
        self.se = SqueezeExcitation(num_tokens)
        self.value_reduce = Linear(num_tokens, num_tokens // reduction)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.se(self.dense(x)).softmax(-1)
        return weights @ (x if self.reduction == 1 else self.value_reduce(x.mT).mT)

    def extra_repr(self):
        return f"reduction={self.reduction}"


class MixSynthAttention(nn.Module):
    """Synthesised attention among frames and among channels, mixed by split attention, section 3.2. (B, T, C) -> (B, T, C).

    Paper and official code differ in how the two branches are weighted. `variant="official"`: per frame, by the means
    over the channels, with GELU between the two layers. `variant="paper"` (equation 7): per channel, by the means over the
    frames, with ReLU.

    Args:
        num_frames, dim: T, C, which the weights fix.
        r_t, r_s: reduction of the temporal and of the spatial branch.
        variant: "official" or "paper".
        branches: "temporal", "spatial" or both; one alone needs no weights (tables 5 and 7).
        proj_drop: dropout of the result.
    """

    def __init__(
        self,
        num_frames: int,
        dim: int,
        r_t: int = 4,
        r_s: int = 4,
        variant: str = "official",
        branches: Sequence[str] = BRANCHES,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"MixSynthAttention: variant is {variant!r}, expected one of {tuple(VARIANTS)}")
        if not branches or not set(branches) <= set(BRANCHES):
            raise ValueError(f"MixSynthAttention: branches is {branches!r}, expected one or both of {BRANCHES}")
        self.num_frames, self.dim, self.variant = num_frames, dim, variant
        self.synth_token = SynthAttention(dim, num_frames, r_t) if "temporal" in branches else None
        self.synth_channel = SynthAttention(num_frames, dim, r_s) if "spatial" in branches else None
        self.reweight = None
        if self.synth_token and self.synth_channel:
            size = num_frames if variant == "official" else dim
            fc1, fc2 = Linear(size, _squeezed(size)), Linear(_squeezed(size), 2 * size)
            self.reweight = nn.Sequential(OrderedDict(fc1=fc1, act=VARIANTS[variant](), fc2=fc2))
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1:] != (self.num_frames, self.dim):
            shape = tuple(x.shape)
            raise ValueError(f"MixSynthAttention: x has shape {shape}, expected (B, {self.num_frames}, {self.dim})")
        temporal = self.synth_token(x) if self.synth_token else None
        spatial = self.synth_channel(x.mT).mT if self.synth_channel else None
        mixed = self._mix(temporal, spatial) if self.reweight else temporal if spatial is None else spatial
        return self.proj_drop(self.proj(mixed))

    def _mix(self, temporal, spatial):
        axis = 2 if self.variant == "official" else 1  # the one without weights of its own
        scores = self.reweight((temporal + spatial).mean(axis))
        weights = scores.unflatten(-1, (-1, 2)).softmax(-1).unsqueeze(axis)
        return temporal * weights[..., 0] + spatial * weights[..., 1]

    def extra_repr(self):
        return f"frames={self.num_frames}, dim={self.dim}, variant={self.variant!r}"


class MixSynthEncoderLayer(nn.Module):
    """Post-norm block: norm1(x + attention(x)), then norm2(x + mlp(x)), equations 3 and 4. (B, T, C) -> (B, T, C).

    Args:
        num_frames, dim: T, C.
        mlp_ratio: hidden width of the MLP by dim.
        drop: dropout of attention and MLP.
        attention: other arguments of `MixSynthAttention`.
    """

    def __init__(self, num_frames: int, dim: int, mlp_ratio: float = 2.0, drop: float = 0.0, **attention):
        super().__init__()
        self.synth_att = MixSynthAttention(num_frames, dim, proj_drop=drop, **attention)
        self.ff = Mlp(dim, int(dim * mlp_ratio), drop)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.synth_att(x))
        return self.norm2(x + self.ff(x))


class MixSynthEncoder(nn.Module):
    """`depth` encoder layers in sequence, (B, T, C) -> (B, T, C); for the other arguments see `MixSynthEncoderLayer`."""

    def __init__(self, num_frames: int, dim: int, depth: int, **layer):
        super().__init__()
        self.layers = nn.ModuleList(MixSynthEncoderLayer(num_frames, dim, **layer) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _squeezed(size):
    return max(1, size // SQUEEZE)
