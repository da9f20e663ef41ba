"""Softmax attention along the joints or the frames of a clip, as in MixSTE and MotionBERT."""

from torch import Tensor, nn

from lifter.kernels import axial_attention

from .block import check_rate
from .linear import Linear


class AxialAttention(nn.Module):
    """Multi-head self-attention along one axis of the (frame, joint) grid: (B, T, J, C) -> (B, T, J, C).

    Args:
        dim: C. num_heads: a divisor of C.
        axis: "joint" for attention among the joints of a frame, "frame" for attention among the frames of a joint.
        qkv_bias: use a bias in the projections to queries, keys and values.
        scale: factor of the scores. Default: (C / num_heads)^-0.5.
        attn_drop, proj_drop: dropout rates of the attention weights and of the result.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        axis: str,
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"AxialAttention: dim is {dim}, expected a multiple of num_heads={num_heads}")
        if axis not in ("joint", "frame"):
            raise ValueError(f"AxialAttention: axis is {axis!r}, expected 'joint' or 'frame'")
        check_rate("AxialAttention", "attn_drop", attn_drop)
        self.num_heads, self.axis, self.scale, self.attn_drop = num_heads, axis, scale, attn_drop
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply attention. `mask`, for axis "frame", is (B, J, T, T) or packed; see `lifter.kernels.axial_attention`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        dropout_p = self.attn_drop if self.training else 0.0
        return self.proj_drop(self.proj(axial_attention(qkv, self.axis, mask, self.scale, dropout_p)))

    def extra_repr(self):
        return f"heads={self.num_heads}, axis={self.axis!r}, scale={self.scale}, attn_drop={self.attn_drop}"
