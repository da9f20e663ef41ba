"""D3DP: diffusion-based 3D pose estimation with multi-hypothesis aggregation. Here its denoiser, for `lifter.diffusion`.

ICCV 2023, arXiv 2303.11579.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lifter.registry import register_model, register_official

from .mixste import MixSTE, check_keypoints

# The schedule's tables that an official checkpoint carries beside the weights; ours follow from the number of timesteps.
SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


class D3DP(MixSTE):
    """D3DP's denoiser: MixSTE on keypoints and noisy poses, told the time step.

    `forward(keypoints, poses, time)` returns clean poses like `poses`, for any T <= num_frames:

        keypoints: (B, T, J, in_channels).
        poses: (B, T, J, 3), or (B, H, T, J, 3) with H hypotheses per clip.
        time: (B,) time steps of the noise, or (1,) for all clips; integers or floating point, 0 to timesteps - 1.

    Args:
        num_frames, num_joints, in_channels, dim, depth, num_heads, mlp_ratio, and others: see `lifter.models.MixSTE`.
        timesteps, scale: of the diffusion that it is trained for, see `lifter.diffusion.sample`.
    """

    def __init__(self, num_frames=243, num_joints=17, in_channels=2, dim=512, depth=8, *, timesteps=1000, scale=1.0, **mixste):
        if not isinstance(dim, int) or dim < 4 or dim % 2:
            raise ValueError(f"D3DP: dim is {dim!r}, expected an even number of at least 4")
        super().__init__(num_frames, num_joints, in_channels, dim, depth, **mixste)
        self.in_channels, self.timesteps, self.scale = in_channels, timesteps, scale
        self.Spatial_patch_to_embedding = SplitLinear(in_channels + 3, dim)
        self.time_mlp = nn.Sequential(TimeEmbedding(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, keypoints, poses, time):
        return self.denoise(self.embed(keypoints), poses, time)

    def embed(self, keypoints):
        """What depends on the keypoints alone, for `denoise`: (B, T, J, in_channels) -> (B, T, J, C)."""
        frames, joints = self.Temporal_pos_embed.shape[1], self.Spatial_pos_embed.shape[1]
        check_keypoints(type(self).__name__, keypoints, frames, joints, self.in_channels)
        return self.Spatial_patch_to_embedding(keypoints.to(self.Spatial_pos_embed.dtype), 0) + self.Spatial_pos_embed

    def denoise(self, embedded, poses, time):
        """`forward` from what `embed` made of the keypoints."""
        self._check(embedded, poses, time)
        noisy = poses[:, None] if poses.dim() == 4 else poses
        clips = embedded + self.time_mlp(time)[:, None, None]
        x = clips[:, None] + self.Spatial_patch_to_embedding(noisy.to(clips.dtype), self.in_channels)
        return self._lift(self.pos_drop(x.flatten(0, 1))).reshape(poses.shape).to(poses.dtype)

    def official_weights(self):
        """{official name: our tensor}; those of the schedule are not ours and only read."""
        weights = {f"pose_estimator.{key}": tensor for key, tensor in self.state_dict().items()}
        return weights | {name: torch.empty(self.timesteps, dtype=torch.float64) for name in SCHEDULE}

    def _check(self, embedded, poses, time):
        name = type(self).__name__
        if not poses.is_floating_point():
            raise TypeError(f"{name}: poses have dtype {poses.dtype}, expected a floating-point dtype")
        B, T, J, _ = embedded.shape
        if poses.dim() not in (4, 5) or (poses.shape[0], *poses.shape[-3:]) != (B, T, J, 3):
            shape = tuple(poses.shape)
            raise ValueError(f"{name}: poses have shape {shape}, expected ({B}, {T}, {J}, 3) or ({B}, H, {T}, {J}, 3)")
        if time.shape not in ((B,), (1,)):
            raise ValueError(f"{name}: time has shape {tuple(time.shape)}, expected ({B},) or (1,)")


class SplitLinear(nn.Linear):
    """A linear layer of inputs that come in parts: `forward(part, first)` is the share of those that begin at input
    `first`, the bias being with input 0. The sum over the parts is the layer's output."""

    def forward(self, part, first):
        weight = self.weight[:, first : first + part.shape[-1]]
        return F.linear(part, weight, self.bias if first == 0 else None)


class TimeEmbedding(nn.Module):
    """Sines, then cosines, of the time at dim / 2 frequencies from 1 down to 1e-4: (B,) -> (B, dim).

    The angles are formed in float64: in float32 they would be off by 1e-4 at the last time steps. The result has the dtype
    of the layer that follows.
    """

    def __init__(self, dim):
        super().__init__()
        half = dim // 2
        self.register_buffer(
            "frequencies", torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1))), persistent=False
        )

    def forward(self, time):
        return time


@register_model
def d3dp(**kwargs):
    """D3DP: the denoiser for lifter.diffusion, MixSTE with 8 block pairs of width 512, 34.84 M parameters."""
    return D3DP(**kwargs)
