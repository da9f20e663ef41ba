"""D3DP: diffusion-based 3D pose estimation with multi-hypothesis aggregation. Here its denoiser, for `lifter.diffusion`.

ICCV 2023, arXiv 2303.11579.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lifter.kernels import linear
from lifter.layers import Linear

from ._inputs import check_keypoints
from ._register import register_model, register_official
from .mixste import MixSTE

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

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 8,
        *,
        timesteps: int = 1000,
        scale: float = 1.0,
        **mixste,
    ):
        if not isinstance(dim, int) or dim < 4 or dim % 2:
            raise ValueError(f"D3DP: dim is {dim!r}, expected an even number of at least 4")
        super().__init__(num_frames, num_joints, in_channels, dim, depth, **mixste)
        self.timesteps, self.scale = timesteps, scale
        self.Spatial_patch_to_embedding = SplitLinear(in_channels + 3, dim)
        layers = {"1": Linear(dim, 2 * dim), "2": nn.GELU(), "3": Linear(2 * dim, dim)}  # the official names
        self.time_mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, keypoints: Tensor, poses: Tensor, time: Tensor, **choices) -> Tensor:
        return self.denoise(self.embed(keypoints), poses, time, **choices)

    def embed(self, keypoints: Tensor):
        """Compute what depends on the keypoints alone, for `denoise`: (B, T, J, in_channels) -> (B, T, J, C)."""
        check_keypoints(type(self).__name__, keypoints, self.num_frames, self.num_joints, self.in_channels)
        return self.Spatial_patch_to_embedding(keypoints.to(self.Spatial_pos_embed.dtype), 0) + self.Spatial_pos_embed

    def denoise(self, embedded: Tensor, poses: Tensor, time: Tensor, **choices):
        """`forward` from what `embed` made of the keypoints."""
        self._check(embedded, poses, time)
        noisy = poses[:, None] if poses.dim() == 4 else poses
        moment = self._moment(time, embedded.shape[0], **choices)[:, None, None, None]  # of (B, H, T, J, C)
        x = (embedded[:, None] + moment) + self.Spatial_patch_to_embedding(noisy.to(embedded.dtype), self.in_channels)
        moment = moment.expand(*x.shape[:2], 1, 1, -1).flatten(0, 1)
        x = self.pos_drop(x.flatten(0, 1))
        return self._lift_told(x, moment, noisy.shape[1], **choices).reshape(poses.shape).to(poses.dtype)

    def _moment(self, time, clips, **choices):
        """The embedding of the time, (1, C) or one for each of so many clips."""
        return self.time_mlp(time_embedding(time, self.Spatial_pos_embed.shape[-1]).to(self.Spatial_pos_embed.dtype))

    def _lift_told(self, x, moment, hypotheses):
        """`_lift`, for networks that want to be told the time again, and how many hypotheses of a clip follow one another."""
        return self._lift(x)

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


class SplitLinear(Linear):
    """A linear layer of inputs that come in parts: `forward(part, first)` is the share of those that begin at input
    `first`, the bias being with input 0. The sum over the parts is the layer's output."""

    def forward(self, part: Tensor, first: int) -> Tensor:
        weight = self.weight[:, first : first + part.shape[-1]]
        return linear(part, weight, self.bias if first == 0 else None)


def time_embedding(time, dim):
    """Sines, then cosines, of the time at dim / 2 frequencies from 1 down to 1e-4: (B,) -> (B, dim) in float64, where the
    angles are exact; those of the last time steps are off by 1e-4 in float32."""
    half = dim // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=time.device) / (half - 1))
    angles = time[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1)


@register_model
def d3dp(**kwargs):
    """D3DP: the denoiser for lifter.diffusion, MixSTE with 8 block pairs of width 512, 34.84 M parameters."""
    return D3DP(**kwargs)


@register_official("common.mixste.MixSTE2", tolerance=5e-5)
def official_denoiser(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=32, depth=4, num_heads=8, mlp_ratio=2.0, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.2, is_train=True, H=1,
):  # fmt: skip
    """`is_train` chooses between the forms with and without hypotheses, H is their number; ours sees both from its input."""
    return D3DP(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, num_heads=num_heads, mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias, qk_scale=qk_scale, drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate,
    )  # fmt: skip


@register_official("common.diffusionpose.D3DP", tolerance=1e-4)
def official_d3dp(
    num_frame=243, embed_dim_ratio=512, depth=8, timestep=1000, scale=1.0, num_proposals=1, sampling_timesteps=1
):
    """The last two, hypotheses and steps, are arguments of `lifter.diffusion.sample`."""
    return D3DP(num_frame, dim=embed_dim_ratio, depth=depth, timesteps=timestep, scale=scale)
