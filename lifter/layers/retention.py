"""Retention layer of PoseRetNet and its decays."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.kernels import retention, xpos_scale

from .linear import Linear

# Memory length of each joint in multiples of `divider` frames: PoseRetNet's official tables by data set and number of joints.
# In Human3.6M the trunk has the longest memory, elbows and wrists the shortest.
JOINT_MEMORY = {
    ("h36m", 17): (4, 4, 1, 1, 4, 1, 1, 4, 4, 4, 2, 2, 0.5, 0.5, 2, 0.5, 0.5),
    ("h36m", 16): (2, 2, 1, 0.5, 2, 1, 0.5, 2, 1.5, 1.5, 2, 1, 0.5, 2, 1, 0.5),
    ("mpii3d", 14): (0.5, 1, 2, 2, 1, 0.5, 0.5, 1, 2, 2, 1, 0.5, 1.5, 1.5),
    ("mpii3d_univ", 17): (1.5, 1.5, 2, 1, 0.5, 2, 1, 0.5, 2, 1, 0.5, 2, 1, 0.5, 2, 2, 1.5),
}


def shared_decays(num_heads: int, divider: float = 8) -> Tensor:
    """Return decays per frame (H,): the heads forget 1 / divider to 1 / (16 divider) of the past, spaced log-uniformly."""
    if divider <= 1:
        raise ValueError(f"shared_decays: divider is {divider}, expected more than 1")
    return 1 - torch.linspace(math.log(1 / divider), math.log(1 / (16 * divider)), num_heads).exp()


def joint_decays(num_heads: int, dataset: str = "h36m", num_joints: int = 17, divider: float = 8) -> Tensor:
    """Return decays per frame (J, H): for every joint, the `shared_decays` with its own divider. JOINT_MEMORY lists the known
    data sets."""
    if (dataset, num_joints) not in JOINT_MEMORY:
        known = ", ".join(f"{name} with {joints}" for name, joints in JOINT_MEMORY)
        raise ValueError(f"joint_decays: dataset is {dataset!r} with {num_joints} joints, expected one of {known}")
    return torch.stack([shared_decays(num_heads, divider * memory) for memory in JOINT_MEMORY[dataset, num_joints]])


class Retention(nn.Module):
    """Multi-scale retention along the frames of a clip, gated: (B, T, J, C) -> (B, T, J, C).

    Sun et al. 2023, equation 8, with PoseRetNet's mask, in which a frame sees all of its chunk: out(SiLU(g) *
    GroupNorm(retention(q, k, v))), where q, k, v and g are projections of x and xPos rotates q and k. Any T.

    Args:
        dim: C. num_heads: H; C must be a multiple of 2 H.
        decay: decays per frame, (H,), or (J, H) for one per joint; 0 < decay <= 1. See `shared_decays` and `joint_decays`.
        causal: a frame does not see later frames.
        chunk_size: number of frames that see each other if not causal. Chunks start at the first frame of a call; the last may
            be shorter. None: all frames of a call.
        trainable_decay: learn the decay. It is not kept within its valid range.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        decay: Tensor | Sequence,
        causal: bool = False,
        chunk_size: int | None = None,
        trainable_decay: bool = False,
    ):
        super().__init__()
        if num_heads < 1 or dim % (2 * num_heads):
            raise ValueError(f"Retention: dim is {dim}, expected a multiple of 2 * num_heads = {2 * num_heads}")
        decay = torch.as_tensor(decay)
        if decay.dim() not in (1, 2) or decay.shape[-1] != num_heads:
            raise ValueError(f"Retention: decay has shape {tuple(decay.shape)}, expected ({num_heads},) or (J, {num_heads})")
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise ValueError(f"Retention: chunk_size is {chunk_size!r}, expected an integer of at least 1")
        self.num_heads, self.causal, self.chunk_size = num_heads, causal, chunk_size
        self.qkvg = Linear(dim, 4 * dim, bias=False)
        self.out = Linear(dim, dim, bias=False)
        self.group_norm = nn.GroupNorm(num_heads, dim)
        self.decay = nn.Parameter(decay.to(torch.float32, copy=True), requires_grad=trainable_decay)
        self.register_buffer("xpos_scale", xpos_scale(dim // num_heads))
        self.reset_parameters()

    def reset_parameters(self):
        for layer in (self.qkvg, self.out):
            nn.init.normal_(layer.weight, std=1 / layer.in_features)

    def forward(self, x: Tensor, state: Tensor | None = None, return_state: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Apply retention. `state`, (B, J, H, C / H, C / H) float32, is returned by the call for the previous frames; None:
        the clip starts here. With `return_state`, return (out, state after the last frame)."""
        q, k, v, gate = self.qkvg(x).unflatten(-1, (4, self.num_heads, -1)).unbind(-3)
        y, state = retention(
            q, k, v, self.decay, 1.0, state, return_state,
            chunk_size=self.chunk_size, causal=self.causal, xpos_scale=self.xpos_scale,
        )  # fmt: skip
        y = self.out((F.silu(gate) * self.normalize(y)).flatten(-2))
        return (y, state) if return_state else y  # pyright: ignore[reportReturnType]

    def normalize(self, y: Tensor):
        """Compute the group norm of (..., H, V) as a layer norm of every head, which is several times faster in PyTorch. The
        module `group_norm` only holds the weights."""
        weight, bias = (p.unflatten(0, (self.num_heads, -1)) for p in (self.group_norm.weight, self.group_norm.bias))
        return torch.addcmul(bias, F.layer_norm(y, y.shape[-1:], eps=self.group_norm.eps), weight).to(y.dtype)

    def official_weights(self):
        """Return {official name: view of our tensor}; PoseRetNet has one matrix (in, out) per head and projection."""
        qkvg = self.qkvg.weight.unflatten(0, (4, self.num_heads, -1))
        weights = {"W_G": qkvg[3].flatten(0, 1).mT, "W_O": self.out.weight.mT}
        weights |= {f"group_norm.{name}": p for name, p in self.group_norm.named_parameters()}
        for h in range(self.num_heads):
            head = {f"W_{name}": qkvg[i, h].mT for i, name in enumerate("QKV")}
            head |= {"gamma": self.decay[..., h], "xpos.scale": self.xpos_scale}
            weights |= {f"retentions.{h}.{name}": value for name, value in head.items()}
        return weights

    def _apply(self, fn, recurse=True):
        """Keep decays and scales in float32 in a half-precision model: bfloat16 has no numbers between 0.996 and 1."""
        exact = {name: getattr(self, name).data for name in ("decay", "xpos_scale")}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            tensor = getattr(self, name)
            if tensor.dtype.itemsize < 4:
                tensor.data = before.to(tensor.device, torch.float32)
        return self

    def extra_repr(self):
        joints = f", joints={len(self.decay)}" if self.decay.dim() == 2 else ""
        return f"heads={self.num_heads}{joints}, causal={self.causal}, chunk_size={self.chunk_size}"
