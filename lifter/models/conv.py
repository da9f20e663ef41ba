"""A lifter of neighbouring frames: a convolution over time and an MLP, in residual blocks."""

from collections.abc import Iterable

from torch import Tensor, nn

from lifter.layers import Linear
from lifter.layers.block import TransformerBlock

from ._inputs import check_keypoints
from ._register import register_model
from .linear import LinearLifter


class ConvLifter(nn.Module):
    """Keypoints to poses through what each frame and its neighbours show: (B, T, J, in_channels) -> (B, T, J, 3) for any T.

    A linear layer estimates the pose of each frame. Residual blocks of a depthwise convolution over time and an MLP correct
    the estimate, from `depth * (kernel_size // 2)` frames to each side. The clip is continued with zeros.

    Args:
        num_frames: frames per call where a whole sequence is lifted; no limit on T, and without influence.
        num_joints: J. in_channels: 2, or 3 with confidences.
        dim, depth, mlp_ratio: width, blocks, hidden width of the MLPs by dim.
        kernel_size: frames of a convolution, odd.
        drop: dropout of the MLPs.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 256,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        *,
        kernel_size: int = 5,
        drop: float = 0.0,
    ):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.linear = LinearLifter(num_frames, num_joints, in_channels)
        self.embed = Linear(num_joints * in_channels, dim)
        blocks = [TransformerBlock(dim, TemporalConv(dim, kernel_size), mlp_ratio, drop) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = Linear(dim, num_joints * 3)
        nn.init.zeros_(self.head.weight)  # training starts from the linear estimates
        nn.init.zeros_(self.head.bias)

    def forward(self, keypoints: Tensor) -> Tensor:
        check_keypoints("ConvLifter", keypoints, None, self.num_joints, self.in_channels)
        x = keypoints.to(self.norm.weight.dtype).flatten(2)
        x = self.blocks(self.embed(x)[:, :, None])  # one token for each frame
        correction = self.head(self.norm(x)).unflatten(3, (self.num_joints, 3)).squeeze(2)
        return self.linear(keypoints) + correction.to(keypoints.dtype)

    def fit(self, pairs: Iterable[tuple]):
        """Fit the linear layer; see `lifter.models.LinearLifter.fit`."""
        self.linear.fit(pairs)


class TemporalConv(nn.Conv1d):
    """Depthwise convolution over time, each frame in the middle of its window: (B, T, J, dim) -> (B, T, J, dim)."""

    def __init__(self, dim: int, kernel_size: int):
        if kernel_size % 2 == 0:
            raise ValueError(f"TemporalConv: kernel_size is {kernel_size}, expected an odd number")
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        rows = super().forward(x.permute(0, 2, 3, 1).flatten(0, 1))
        return rows.unflatten(0, (x.shape[0], x.shape[2])).permute(0, 3, 1, 2)


@register_model
def conv(**kwargs):
    """A convolution over neighbouring frames and an MLP, four times: 1.1 M parameters."""
    return ConvLifter(**kwargs)
