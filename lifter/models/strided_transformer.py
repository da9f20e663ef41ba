"""StridedTransformer: an encoder of the whole window, then one whose layers each leave out frames until one is left.

IEEE TMM 2022, arXiv 2103.14304. And the parts that P-STMO has of it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import AxialAttention, Linear

from ._register import register_model, register_official
from ._windows import check_clip, margins_around_centre, poses_of_windows, windows


class Norm(nn.Module):
    """Layer norm by the unbiased deviation, to which epsilon is added: a_2 (x - mean) / (std + 1e-6) + b_2."""

    def __init__(self, dim: int):
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, -1, keepdim=True)
        return self.a_2 * ((x - mean) / (std + 1e-6)) + self.b_2


class Attention(AxialAttention):
    """Attention along the frames, (B, T, C) -> (B, T, C), whose official code has a layer for each projection."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None])[:, :, 0]

    def official_weights(self):
        parts = {f"linears.{i}.": part for i, part in enumerate(zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)))}
        parts["linears.3."] = self.proj.weight, self.proj.bias
        return {name + kind: tensor for name, pair in parts.items() for kind, tensor in zip(("weight", "bias"), pair)}


class FeedForward(nn.Module):
    """w_2(ReLU(w_1(x))): linear layers, or with a stride convolutions, of which the second sees three frames at each step."""

    def __init__(self, dim, hidden, stride=None, drop=0.0):
        super().__init__()
        self.strided, self.drop = stride is not None, nn.Dropout(drop)
        self.w_1 = nn.Conv1d(dim, hidden, 1) if self.strided else Linear(dim, hidden)
        self.w_2 = nn.Conv1d(hidden, dim, 3, stride, padding=1) if self.strided else Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT if self.strided else x
        x = self.w_2(self.drop(F.relu(self.w_1(x))))
        return x.mT if self.strided else x


class Layer(nn.Module):
    """Attention and MLP, each after a norm and beside a residual: (B, T, C) -> (B, T, C), or every stride-th frame of it."""

    def __init__(self, dim, hidden, num_heads=8, stride=None, drop=0.0):
        super().__init__()
        self.self_attn = Attention(dim, num_heads, "frame", attn_drop=drop)
        self.feed_forward = FeedForward(dim, hidden, stride, drop)
        self.sublayer = nn.ModuleList(nn.ModuleDict({"norm": Norm(dim)}) for _ in range(2))
        self.drop, self.stride = nn.Dropout(drop), stride or 1

    def forward(self, x):
        x = x + self.drop(self.self_attn(self.sublayer[0]["norm"](x)))
        return x[:, :: self.stride] + self.drop(self.feed_forward(self.sublayer[1]["norm"](x)))


class Layers(nn.Module):
    """One layer after the other, (B, T, C) -> (B, T', C); with `frames` the first three add a position for each frame."""

    def __init__(self, dim, hidden, strides, frames=None, drop=0.0):
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, hidden, stride=stride, drop=drop) for stride in strides)
        self.positions = [] if frames is None else [f"pos_embedding_{i}" for i in (1, 2, 3)]
        for name in self.positions:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, frames, dim)))
        self.norm = Norm(dim).requires_grad_(False)  # checkpoints have it, and nothing runs it

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            if i < len(self.positions):
                x = x + getattr(self, self.positions[i])[:, : x.shape[1]]
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Positions and layers on all frames of a window, (B, T, C) -> (B, T, C); with `hidden` (T,) on the others alone."""

    def __init__(self, frames: int, dim: int, hidden: int, depth: int, drop: float = 0.0):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(1, frames, dim))
        self.model = Layers(dim, hidden, [None] * depth, drop=drop)

    def forward(self, x: Tensor, hidden: int | None = None) -> Tensor:
        x = x + self.pos_embedding
        return self.model(x if hidden is None else x[:, ~hidden])


class StridedTransformer(nn.Module):
    """StridedTransformer: every frame embedded, an encoder of all frames, and one that strides to the frame in the centre.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3) for any T >= num_frames: the poses in the centres of all windows.
    In training it gives a pair: those, and the poses of all frames of a window, (B, num_frames, J, 3), from the first encoder.

    Args:
        num_frames: frames of a window, which the strides lead to one. num_joints, in_channels: J, channels of a keypoint.
        dim, hidden, depth: width, hidden width of the MLPs, layers of the first encoder.
        strides: of the second encoder's layers; None: as published for 9, 243 and 351 frames, threes for a power of 3.
        drop: dropout.
    """

    STRIDES = {9: (1, 3, 3), 243: (3, 9, 9), 351: (3, 9, 13)}

    def __init__(
        self,
        num_frames: int = 351,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 256,
        hidden: int = 512,
        depth: int = 3,
        *,
        strides: Sequence[int] | None = None,
        drop: float = 0.1,
    ):
        super().__init__()
        name = type(self).__name__
        strides = self.strides_of(num_frames) if strides is None else tuple(strides)
        if not strides or math.prod(strides) != num_frames or min(strides) < 1:
            expected = f"positive numbers whose product is num_frames={num_frames}"
            raise ValueError(f"{name}: strides is {strides}, expected {expected}")
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.margins = margins_around_centre(num_frames)
        self.encoder = self._encoder(num_joints * in_channels, dim, drop)
        self.Transformer = Encoder(num_frames, dim, hidden, depth, drop)
        self.Transformer_reduce = nn.ModuleDict({"model": Layers(dim, hidden, strides, num_frames, drop)})
        head = lambda: nn.Sequential(nn.BatchNorm1d(dim, momentum=0.1), nn.Conv1d(dim, 3 * num_joints, 1))
        self.fcn, self.fcn_1 = head(), head()

    @classmethod
    def strides_of(cls, num_frames: int):
        """The strides of a model of so many frames."""
        return cls.STRIDES.get(num_frames) or (3,) * round(math.log(num_frames, 3))

    def forward(self, keypoints: Tensor) -> Tensor:
        return self.lift_all(keypoints) if self.training else self._lift(keypoints)[0]

    def lift_all(self, keypoints: Tensor):
        """Lift as in training: the poses in the centres of the windows, and of all frames of each window."""
        centre, encoded = self._lift(keypoints)
        return centre, self._poses(self.fcn_1, encoded, keypoints)

    def _lift(self, keypoints):
        """The poses in the centres, and what the first encoder makes of all windows; frames are embedded once for all."""
        check_clip(self, keypoints)
        x = self.encoder(keypoints.flatten(2).mT.to(self.Transformer.pos_embedding.dtype)).mT
        encoded = self.Transformer(windows(x, self.num_frames))
        centre = self._poses(self.fcn, self.Transformer_reduce["model"](encoded), keypoints)
        return poses_of_windows(self, centre, keypoints), encoded

    def _poses(self, head, x, keypoints):
        return head(x.mT).mT.unflatten(-1, (self.num_joints, 3)).to(keypoints.dtype)

    def _encoder(self, channels, dim, drop):
        return nn.Sequential(nn.Conv1d(channels, dim, 1), nn.BatchNorm1d(dim, momentum=0.1), nn.ReLU(), nn.Dropout(drop))


@register_model
def strided_transformer(**kwargs):
    """StridedTransformer: 351 frames to one in three steps of width 256, one pose, 4.35 M parameters."""
    return StridedTransformer(**kwargs)


def official_sizes(layers=3, channel=256, d_hid=512, frames=351, stride_num=None, n_joints=17, out_joints=17):
    """The arguments of `StridedTransformer`; the official codes have as many joints out as in."""
    return {
        "num_frames": frames, "num_joints": n_joints, "dim": channel, "hidden": d_hid, "depth": layers, "strides": stride_num,
    }  # fmt: skip


@register_official("model.strided_transformer.Model", tolerance=1e-5, run=lambda model, keypoints: model.lift_all(keypoints))
def official_strided_transformer(**kwargs):
    return StridedTransformer(**official_sizes(**kwargs))
