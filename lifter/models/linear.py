"""The baseline of everything else: each frame by itself, and no layer but one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lifter.layers import Linear

from ._inputs import check_keypoints
from ._register import register_model


class LinearLifter(nn.Module):
    """A linear layer from the keypoints of a frame to its pose: (B, T, J, in_channels) -> (B, T, J, 3) for any T.

    Args:
        num_frames: frames per call where a whole sequence is lifted; no limit on T, and without influence.
        num_joints: J. in_channels: 2, or 3 with confidences.
    """

    def __init__(self, num_frames: int = 243, num_joints: int = 17, in_channels: int = 2):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.linear = Linear(num_joints * in_channels, num_joints * 3)

    def forward(self, keypoints: Tensor) -> Tensor:
        check_keypoints("LinearLifter", keypoints, None, self.num_joints, self.in_channels)
        poses = self.linear(keypoints.to(self.linear.bias.dtype).flatten(2))
        return poses.unflatten(2, (self.num_joints, 3)).to(keypoints.dtype)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple], penalty: float = 1e-4):
        """Set the weights to the best ones for the squared error: ridge regression, in float64.

        Args:
            pairs: iterable of (keypoints (T, J, in_channels), poses (T, J, 3)), arrays or tensors, taken one at a time.
            penalty: of the squared weights, beside the mean squared error; the bias is free.
        """
        inputs, outputs = self.linear.in_features + 1, self.linear.out_features
        products = torch.zeros(inputs, inputs + outputs, dtype=torch.float64)
        frames = 0
        for keypoints, poses in pairs:
            x = torch.as_tensor(keypoints, dtype=torch.float64).flatten(1)
            y = torch.as_tensor(poses, dtype=torch.float64).flatten(1)
            if x.shape[1] != inputs - 1 or y.shape != (len(x), outputs):
                got = f"keypoints {tuple(keypoints.shape)} and poses {tuple(poses.shape)}"
                raise ValueError(f"LinearLifter: {got}, expected (T, {self.num_joints}, {self.in_channels} and 3)")
            x = torch.cat((x, torch.ones(len(x), 1, dtype=torch.float64)), 1)
            products += x.mT @ torch.cat((x, y), 1)
            frames += len(x)
        if frames == 0:
            raise ValueError("LinearLifter: no frames to fit to")
        squares, mixed = products.split([inputs, outputs], 1)
        squares = squares + frames * penalty * torch.eye(inputs, dtype=torch.float64)
        squares[-1, -1] -= frames * penalty
        solution = torch.linalg.solve(squares, mixed)
        self.linear.weight.copy_(solution[:-1].mT)
        self.linear.bias.copy_(solution[-1])


@register_model
def linear(**kwargs):
    """A linear layer per frame, the baseline: 0.002 M parameters."""
    return LinearLifter(**kwargs)
