"""PoseFormerV2: a few frames in the centre of a window, and of the whole window its low frequencies.

CVPR 2023, arXiv 2303.17472.
"""

import math

import torch
from torch import Tensor, nn

from lifter.layers import AxialAttention, DropPath, Linear, Mlp

from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, windows
from .poseformer import transformer


class DCT(nn.Module):
    """The first `kept` coefficients of the discrete cosine transform (II) along the frames: (B, T, C) -> (B, kept, C).

    It is not normalised: y_k = 2 sum_n x_n cos(pi k (2 n + 1) / (2 T)). `inverse` takes all T coefficients.
    """

    def __init__(self, frames: int, kept: int | None = None):
        super().__init__()
        k, n = torch.arange(kept or frames)[:, None], torch.arange(frames)
        matrix = 2 * torch.cos(math.pi / (2 * frames) * (k * (2 * n + 1)).double())
        scale = (1 + (k == 0)) * 2 * frames  # the squares of the rows, summed
        self.register_buffer("matrix", matrix.float(), persistent=False)
        self.register_buffer("inverted", (matrix / scale).mT.float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def inverse(self, x: Tensor):
        return self.inverted @ x


class MixedBlock(nn.Module):
    """Transformer block whose MLP, for the later half of the tokens, works on their frequencies: (B, N, C) -> (B, N, C)."""

    def __init__(self, tokens, dim, attention, mlp_ratio, drop, drop_path):
        super().__init__()
        self.half = tokens // 2
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attn = attention
        self.mlp1, self.mlp2 = (Mlp(dim, int(dim * mlp_ratio), drop) for _ in range(2))
        self.dct = DCT(tokens - self.half)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)[:, :, None])[:, :, 0])
        early, late = x[:, : self.half], x[:, self.half :]
        early = early + self.drop_path(self.mlp1(self.norm2(early)))
        late = late + self.drop_path(self.dct.inverse(self.mlp2(self.dct(self.norm3(late)))))
        return torch.cat((early, late), 1)


class PoseFormerV2(nn.Module):
    """PoseFormerV2: attention between the frames in the centre, after attention along their joints, and the low frequencies.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames: the poses in the centres of all windows.
    Attention along the joints of a frame runs once for all windows that have it in their middle.

    Args:
        num_frames: frames of a window; no weight depends on it. num_joints, in_channels: J, channels of a keypoint.
        dim, depth, num_heads, mlp_ratio: see `lifter.models.PoseFormer`.
        kept_frames: frames in the centre, an odd number. kept_coeffs: coefficients of the cosine transform, from the lowest.
        qkv_bias, qk_scale, drop, attn_drop, drop_path: see `lifter.models.PoseFormer`.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 32,
        depth: int = 4,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        *,
        kept_frames: int = 27,
        kept_coeffs: int = 27,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.1,
    ):
        super().__init__()
        for name, kept, odd in (("kept_frames", kept_frames, True), ("kept_coeffs", kept_coeffs, False)):
            if not 1 <= kept <= num_frames or odd and kept % 2 == 0:
                expected = f"{'an odd number of ' if odd else ''}1 to num_frames={num_frames}"
                raise ValueError(f"PoseFormerV2: {name} is {kept}, expected {expected}")
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.margins, self.kept_frames, self.kept_coeffs = margins_around_centre(num_frames), kept_frames, kept_coeffs
        width, tokens = num_joints * dim, kept_frames + kept_coeffs
        self.Joint_embedding = Linear(in_channels, dim)
        self.Freq_embedding = Linear(in_channels * num_joints, width)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, num_joints, dim))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, kept_frames, width))
        self.Temporal_pos_embed_ = nn.Parameter(torch.zeros(1, kept_coeffs, width))
        self.pos_drop = nn.Dropout(drop)
        self.dct = DCT(num_frames, kept_coeffs)
        options = num_heads, mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, drop_path
        self.Spatial_blocks = transformer("joint", depth, dim, *options)
        self.blocks = nn.ModuleList(
            MixedBlock(
                tokens, width, AxialAttention(width, num_heads, "frame", qkv_bias, qk_scale, attn_drop, drop), mlp_ratio, drop,
                drop_path * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )  # fmt: skip
        self.Spatial_norm = nn.LayerNorm(dim, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(width, eps=1e-6)
        self.weighted_mean = nn.Conv1d(kept_coeffs, 1, 1)
        self.weighted_mean_ = nn.Conv1d(kept_frames, 1, 1)
        self.head = nn.Sequential(nn.LayerNorm(2 * width), Linear(2 * width, num_joints * 3))

    def forward(self, keypoints: Tensor) -> Tensor:
        check_clip(self, keypoints)
        x = keypoints.to(self.Spatial_pos_embed.dtype)
        frequencies = self.Freq_embedding(self.dct(windows(x.flatten(2), self.num_frames))) + self.Temporal_pos_embed_
        frames = windows(self._frames(x), self.kept_frames) + self.Temporal_pos_embed
        x = torch.cat((frequencies, frames), 1)
        for block in self.blocks:
            x = block(x)
        frequencies, frames = self.Temporal_norm(x).split([self.kept_coeffs, self.kept_frames], 1)
        x = self.head(torch.cat((self.weighted_mean(frequencies), self.weighted_mean_(frames)), -1))
        return poses_of_windows(self, x, keypoints).unflatten(-1, (self.num_joints, 3)).to(keypoints.dtype)

    def _frames(self, x):
        """The features of all frames that are in the centre of some window: (B, N, J * dim)."""
        (before, after), side = self.margins, self.kept_frames // 2
        x = self.Joint_embedding(x[:, before - side : x.shape[1] - after + side])
        x = self.pos_drop(x + self.Spatial_pos_embed)
        for block in self.Spatial_blocks:
            x = block(x)
        return self.Spatial_norm(x).flatten(2)


@register_model
def poseformerv2(**kwargs):
    """PoseFormerV2: 27 frames and 27 frequencies of 243 frames, 4 blocks, one pose, 14.38 M parameters."""
    return PoseFormerV2(**kwargs)


@register_official("common.model_poseformer.PoseTransformerV2", tolerance=1e-5)
def official_poseformerv2(
    num_frame=9, num_joints=17, in_chans=2, num_heads=8, mlp_ratio=2.0, qkv_bias=True, qk_scale=None, drop_rate=0.0,
    attn_drop_rate=0.0, drop_path_rate=0.2, *, args,
):  # fmt: skip
    """No `number_of_kept_coeffs`: as many as frames."""
    kept_frames = args["number_of_kept_frames"]
    return PoseFormerV2(
        num_frame, num_joints, in_chans, args["embed_dim_ratio"], args["depth"], num_heads, mlp_ratio,
        kept_frames=kept_frames, kept_coeffs=args["number_of_kept_coeffs"] or kept_frames, qkv_bias=qkv_bias,
        qk_scale=qk_scale, drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate,
    )  # fmt: skip
