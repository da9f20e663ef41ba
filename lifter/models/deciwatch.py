"""DeciWatch: every tenth pose denoised by a transformer, and all poses recovered by another one.

ECCV 2022, arXiv 2203.08713.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import Linear

from ._inputs import check_poses
from ._register import register_model, register_official

ACTIVATIONS = {"leaky_relu": F.leaky_relu, "relu": F.relu, "gelu": F.gelu}


class Layer(nn.Module):
    """Attention among the frames, with `cross` also to a memory, and an MLP, each beside a residual: (B, T, C) -> (B, T, C).

    Positions are added to queries and keys. The norms come before the branches, or (`pre_norm` False) after the sums.
    """

    def __init__(self, dim, num_heads, hidden, drop, activation, pre_norm, cross):
        super().__init__()
        attention = lambda: nn.MultiheadAttention(dim, num_heads, drop, batch_first=True)
        self.self_attn = attention()
        if cross:
            self.multihead_attn = attention()
        self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.norms = ("norm1", "norm2", "norm3")[: 3 if cross else 2]
        for name in self.norms:
            self.add_module(name, nn.LayerNorm(dim))
        self.drop, self.activation, self.pre_norm = nn.Dropout(drop), activation, pre_norm

    def forward(self, x, position, mask=None, memory=None, memory_mask=None):
        attend = lambda attention, x, y, mask: attention(x + position, y + position, y, attn_mask=mask, need_weights=False)[0]
        branches = [lambda x: attend(self.self_attn, x, x, mask)]
        if memory is not None:
            branches.append(lambda x: attend(self.multihead_attn, x, memory, memory_mask))
        branches.append(lambda x: self.linear2(self.drop(ACTIVATIONS[self.activation](self.linear1(x)))))
        for name, branch in zip(self.norms, branches, strict=True):
            norm = getattr(self, name)
            x = x + self.drop(branch(norm(x))) if self.pre_norm else norm(x + self.drop(branch(x)))
        return x


class Denoiser(nn.Module):
    """DeciWatch's two transformers, under their official names: DenoiseNet, the encoder, and RecoverNet, the decoder."""

    def __init__(self, channels, dim, hidden, depth, decoder_depth, num_heads, drop, activation, pre_norm):
        super().__init__()
        layers = lambda n, cross: nn.ModuleList(
            Layer(dim, num_heads, hidden, drop, activation, pre_norm, cross) for _ in range(n)
        )
        norm = lambda: nn.LayerNorm(dim)
        self.encoder_embed = Linear(channels, dim)
        self.encoder = nn.ModuleDict({"layers": layers(depth, False), "norm": norm() if pre_norm else nn.Identity()})
        self.encoder_joints_embed = Linear(dim, channels)
        self.decoder_embed = nn.Conv1d(channels, dim, 5, padding=2)
        self.decoder = nn.ModuleDict({"layers": layers(decoder_depth, True), "norm": norm()})
        self.decoder_joints_embed = Linear(dim, channels)

    def forward(self, x, position, interval, boolean, recovering):
        """The recovered and the denoised poses, (B, T, P) each."""
        frames = torch.arange(x.shape[1], device=x.device)
        unseen = frames % interval != 0
        x = x.masked_fill(unseen[:, None], 0)
        memory = self.encoder_embed(x)
        mask = (frames[:, None] == frames) | unseen  # a frame does not see itself
        for layer in self.encoder["layers"]:
            memory = layer(memory, position, mask)
        memory = self.encoder["norm"](memory)
        denoised = self.encoder_joints_embed(memory) + x
        between = F.interpolate(denoised[:, ::interval].mT, x.shape[1], mode="linear", align_corners=True)
        if not recovering:
            return between.mT, denoised
        mask = (unseen if boolean else unseen.to(x.dtype)).expand(x.shape[1], -1)
        x = self.decoder_embed(between).mT
        for layer in self.decoder["layers"]:
            x = layer(x, position, None, memory, mask)
        return self.decoder_joints_embed(self.decoder["norm"](x)) + between.mT, denoised


class DeciWatch(nn.Module):
    """DeciWatch: poses of which every `interval`-th is read, (B, T, J, C) or (B, T, J * C) -> the same shape, refined.

    T is a multiple of `interval` and 1. The poses that are read are denoised; between them the others are interpolated, and
    then recovered. In training it gives a pair: all poses, and the denoised ones.

    Args:
        num_frames: T as it is meant; any other multiple of `interval` and 1 is taken, too.
        num_joints, in_channels: J, C.
        dim, depth, decoder_depth, num_heads, hidden: width, layers of the encoder and of the decoder (None: as many), heads,
            hidden width of the MLPs.
        interval: from one pose that is read to the next.
        masks: how the decoder takes the mask of frames that were not read. "added": they get 1 added to their scores, which is
            what PyTorch 1.10 made of the official code's integers, and its checkpoints were trained with; "boolean": they are
            not seen.
        activation, pre_norm: of the MLPs, one of leaky_relu, relu, gelu; norms before the branches.
        recovering: False leaves the second transformer out: other poses are interpolated.
        drop: dropout.
    """

    def __init__(
        self,
        num_frames: int = 101,
        num_joints: int = 17,
        in_channels: int = 3,
        dim: int = 128,
        depth: int = 5,
        decoder_depth: int | None = None,
        num_heads: int = 4,
        hidden: int = 256,
        *,
        interval: int = 10,
        masks: str = "added",
        activation: str = "leaky_relu",
        pre_norm: bool = True,
        recovering: bool = True,
        drop: float = 0.1,
    ):
        super().__init__()
        for name, value, known in (("masks", masks, ("added", "boolean")), ("activation", activation, ACTIVATIONS)):
            if value not in known:
                raise ValueError(f"DeciWatch: {name} is {value!r}, expected one of {', '.join(known)}")
        if dim % 2:
            raise ValueError(f"DeciWatch: dim is {dim}, expected an even number")
        if interval < 1:
            raise ValueError(f"DeciWatch: interval is {interval}, expected a positive integer")
        self._check_frames("num_frames is", num_frames, interval)
        self.num_frames, self.num_joints, self.in_channels, self.dim = num_frames, num_joints, in_channels, dim
        self.interval, self.masks, self.recovering = interval, masks, recovering
        self.transformer = Denoiser(
            num_joints * in_channels, dim, hidden, depth, decoder_depth or depth, num_heads, drop, activation, pre_norm
        )
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, poses: Tensor) -> Tensor:
        recovered, denoised = self.refine_all(poses)
        return (recovered, denoised[:, :: self.interval]) if self.training else recovered

    def refine_all(self, poses: Tensor):
        """The recovered poses, and the denoised ones, of which only every `interval`-th means something."""
        check_poses("DeciWatch", poses, self.num_joints, self.in_channels)
        self._check_frames("frames of poses are", poses.shape[1], self.interval)
        x = poses.flatten(2).to(self.transformer.encoder_embed.weight.dtype)
        refined = self.transformer(x, self._position(x), self.interval, self.masks == "boolean", self.recovering)
        return tuple(y.to(poses.dtype).reshape(poses.shape) for y in refined)

    @staticmethod
    def _check_frames(what, frames, interval):
        if frames < 2 or (frames - 1) % interval:
            raise ValueError(f"DeciWatch: {what} {frames}, expected a multiple of interval={interval} and 1")

    def _position(self, x):
        """(T, dim): sines and cosines in turn, over the window as over a circle."""
        exact = torch.promote_types(x.dtype, torch.float32)
        n = torch.arange(x.shape[1], dtype=exact, device=x.device)
        angle = n / (n[-1] + 1e-6) * 2 * math.pi
        half = self.dim // 2
        angle = angle[:, None] / 10000 ** (2 * torch.arange(half, dtype=exact, device=x.device) / half)
        return torch.stack((angle.sin(), angle.cos()), -1).flatten(1).to(x.dtype)


@register_model
def deciwatch(**kwargs):
    """DeciWatch for Human3.6M: 101 frames of 17 joints in 3D from every tenth, 1.71 M parameters."""
    return DeciWatch(**kwargs)


@register_model
def deciwatch_3dpw(**kwargs):
    """DeciWatch for 3DPW: 101 frames of 14 joints in 3D from every tenth, 0.24 M parameters."""
    return DeciWatch(**{"num_joints": 14, "dim": 32} | kwargs)


@register_model
def deciwatch_jhmdb(**kwargs):
    """DeciWatch for Sub-JHMDB: 11 frames of 15 joints in 2D from every tenth, 1.69 M parameters."""
    return DeciWatch(**{"num_frames": 11, "num_joints": 15, "in_channels": 2} | kwargs)


def _masks(config):
    """Return how the official code of a file took its masks."""
    return {"masks": "boolean"} if config.get("mask_semantics", "").startswith("masks read as booleans") else {}


@register_official(
    "lib.models.deciwatch.DeciWatch", tolerance=1e-5, run=lambda model, poses: model.refine_all(poses), told=_masks
)
def official_deciwatch(
    input_dim, sample_interval, encoder_hidden_dim, decoder_hidden_dim, dropout=0.1, nheads=4, dim_feedforward=256,
    enc_layers=3, dec_layers=3, activation="leaky_relu", pre_norm=True, recovernet_interp_method="linear",
    recovernet_mode="transformer", masks="added",
):  # fmt: skip
    """Its poses are flat. `masks` is ours: what the PyTorch that ran the official code made of its masks."""
    if decoder_hidden_dim != encoder_hidden_dim or recovernet_interp_method != "linear":
        got = f"decoder_hidden_dim={decoder_hidden_dim} and recovernet_interp_method={recovernet_interp_method!r}"
        raise ValueError(f"DeciWatch: {got}, expected encoder_hidden_dim={encoder_hidden_dim} and 'linear'")
    return DeciWatch(
        sample_interval + 1, 1, input_dim, encoder_hidden_dim, enc_layers, dec_layers, nheads, dim_feedforward,
        interval=sample_interval, masks=masks, activation=activation, pre_norm=pre_norm,
        recovering=recovernet_mode == "transformer", drop=dropout,
    )  # fmt: skip
