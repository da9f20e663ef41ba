"""The state-space layers of PoseMamba and SasMamba, from the bare scan to the residual block.

Maps are (B, T, J, C), contiguous in C, from end to end: the convolution sees a channels-last view, the scan walks the
same buffer in four orders. Parameter names are the official ones, so that official weights load key by key.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import linear, skeleton_scan
from lifter.kernels.skeleton_scan import DIRECTIONS

from .block import DropPath, Mlp
from .linear import Linear


class SkeletonScan(nn.Module):
    """Selective scans of a pose map in K directions, summed: (B, T, J, C) -> (B, T, J, C).

    SasMamba paper, equations 5, 6 and 15. A drop-in layer: time steps, B and C of every direction come from its input.

    Args:
        dim: C.
        d_state: N, states per channel. dt_rank: R, rank of the time step's projection, default ceil(dim / 16).
        directions: K of "T-f", "T-b" (frame by frame, forward and backward) and "S-f", "S-b" (joint by joint).
        gather: (K, G, M, J) joints that every direction reads, see `lifter.kernels.skeleton_scan`; default: the joint
            itself.
        channel_groups: sizes of the G channel groups of `gather`. Default: one group.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        dt_rank: int | None = None,
        directions: Sequence[str] = ("T-f", "S-f", "T-b", "S-b"),
        gather: Tensor | None = None,
        channel_groups: Sequence[int] | None = None,
    ):
        super().__init__()
        if not directions or any(direction not in DIRECTIONS for direction in directions):
            raise ValueError(f"SkeletonScan: directions is {directions!r}, expected some of {tuple(DIRECTIONS)}")
        self.directions, self.channel_groups = tuple(directions), channel_groups
        groups, dt_rank = len(self.directions), dt_rank or math.ceil(dim / 16)
        self.x_proj_weight = nn.Parameter(torch.empty(groups, dt_rank + 2 * d_state, dim))
        self.dt_projs_weight = nn.Parameter(torch.empty(groups, dim, dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(groups, dim))
        self.A_logs = nn.Parameter(torch.empty(groups * dim, d_state))
        self.Ds = nn.Parameter(torch.empty(groups * dim))
        gather = None if gather is None else torch.as_tensor(gather, dtype=torch.int32)
        self.register_buffer("gather", gather, persistent=False)  # a constant of the architecture, not a weight
        self.reset_parameters()

    def reset_parameters(self):
        """Mamba's start: A = -(1..N) (S4D-real), time steps log-uniform in 0.001..0.1, D = 1."""
        dim, dt_rank = self.dt_projs_weight.shape[1:]
        nn.init.uniform_(self.x_proj_weight, -(dim**-0.5), dim**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            dt = torch.empty_like(self.dt_projs_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
            self.A_logs.copy_(torch.arange(1, self.A_logs.shape[1] + 1).log())
            self.Ds.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        groups, dim = self.dt_projs_bias.shape
        # At least float32: exp(A * delta) turns a rounding of A into a wrong memory length.
        A = -torch.exp(self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32)))
        return skeleton_scan(
            x,
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias,
            A.view(groups, dim, -1),
            self.Ds.view(groups, dim),
            self.gather,
            self.channel_groups,
            self.directions,
        )

    def extra_repr(self):
        return f"{self.dt_projs_weight.shape[1]}, d_state={self.A_logs.shape[1]}, directions={self.directions}"


class SkeletonMixer(SkeletonScan):
    """The gated mixer around the scan: out_proj(LayerNorm(scan(SiLU(conv(x)))) * SiLU(z)), x and z = in_proj(input).

    Figure 2 of the SasMamba paper (SAS-SSM), BiSTSSM of the official codes. (B, T, J, C) -> (B, T, J, C), the scan at
    `expand` times the width. `conv` makes the convolution over (T, J) for a given width, None leaves it out.
    """

    def __init__(self, dim: int, conv: Callable[[int], nn.Module] | None = None, expand: int = 2, d_state: int = 16, **scan):
        inner = expand * dim
        super().__init__(inner, d_state, dt_rank=math.ceil(dim / 16), **scan)
        self.out_norm = nn.LayerNorm(inner)
        self.in_proj = _HalvesLinear(dim, 2 * inner, bias=False)
        self.conv2d = nn.Identity() if conv is None else conv(inner)
        self.out_proj = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.out_proj(self.out_norm(super().forward(x)) * F.silu(z))


class _HalvesLinear(Linear):
    """A Linear whose output comes as two contiguous halves: two products cost less than one and a copy."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.weight.chunk(2)
        return linear(x, first), linear(x, second)


class SkeletonBlock(nn.Module):
    """Pre-norm residual block: x + op(norm(x)), then x + mlp(norm2(x)); SasMamba paper, equation 16."""

    def __init__(self, dim: int, op: nn.Module, mlp_ratio: float = 2.0, drop_path: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.op = op
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor):
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
