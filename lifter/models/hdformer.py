"""HDFormer: high-order directed transformer for 3D human pose estimation.

IJCAI 2023, arXiv 2302.01825.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import AdaptiveGraphConv, Linear, Mlp, bone_graphs

from ._inputs import bones_or_default, check_keypoints
from ._register import register_model, register_official

# The official list of paths along three bones forgets these: from the pelvis to the shoulders.
FORGOTTEN = {(0, 7, 8, 11), (0, 7, 8, 14)}
SHRINK = 16  # frames that become one on the way down


class FirstOrderAttention(AdaptiveGraphConv):
    """GLA-GCN's adaptive graph convolution, with a projection of what is sent over each of the three graphs."""

    def __init__(self, in_channels, out_channels, known):
        super().__init__(in_channels, out_channels, known, drop=0.0)
        self.linears = nn.ModuleList(Linear(in_channels, in_channels) for _ in known)

    def sent(self, x: Tensor, graph: int):
        return self.linears[graph](x.movedim(1, -1)).movedim(-1, 1)


class BoneAttention(nn.Module):
    """Attention of the joints of a frame to its bones and paths along bones: (B, T, J, C), (B, T, E, C) -> (B, T, J, C)."""

    def __init__(self, dim: int, num_heads: int = 8, drop: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"HDFormer: planes begin with {dim}, expected a multiple of {num_heads}, the heads")
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v, self.proj = (Linear(dim, dim) for _ in range(4))
        self.attn_drop, self.proj_drop = nn.Dropout(drop), nn.Dropout(drop)

    def forward(self, joints, bones):
        heads = lambda y: y.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)  # (B, T, heads, nodes, channels)
        q, k, v = heads(self.to_q(joints)), heads(self.to_k(bones)), heads(self.to_v(bones))
        weights = self.attn_drop((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))
        return self.proj_drop(self.proj((weights @ v).transpose(2, 3).flatten(3)))


class HDBlock(nn.Module):
    """Graph convolution, attention to paths if there are any, convolution along the frames, residual.

    (B, C_in, T, J) -> (B, C_out, T / stride, J).

    Args:
        known: (3, J, J) graphs. stride: of the frames. drop: dropout.
        paths: for each number of bones from 1 on the paths along so many, sequences of joints; empty: no attention.
        residual: whether there is one.
    """

    def __init__(self, in_channels, out_channels, known, stride=1, drop=0.0, paths=(), residual=True):
        super().__init__()
        self.foa_block = FirstOrderAttention(in_channels, out_channels, known)
        along = nn.Conv2d(out_channels, out_channels, (9, 1), (stride, 1), (4, 0))
        norm = lambda: nn.BatchNorm2d(out_channels)
        self.tcn_v = nn.Sequential(norm(), nn.ReLU(), along, norm(), nn.Dropout(drop))
        self.residual, self.paths = residual, paths
        if residual and (in_channels != out_channels or stride > 1):
            self.residual_v = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, (stride, 1)), norm())
        if paths:
            self.cross_attn = BoneAttention(out_channels, drop=drop)
            self.norm_v, self.norm_mlp = nn.LayerNorm(out_channels), nn.LayerNorm(out_channels)
            self.mlp = Mlp(out_channels, 2 * out_channels, drop)
            linears = (nn.ModuleList(Linear(len(path) - 1, 1) for path in longer) for longer in paths[1:])
            self.linears = nn.ModuleList(linears)
            for hop, each in enumerate(paths):  # constants of the architecture
                self.register_buffer(f"joints_{hop}", torch.tensor(each).mT, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.foa_block(x)
        if self.paths:
            y = y.permute(0, 2, 3, 1)
            y = y + self.norm_v(self.cross_attn(y, self._bones(y)))
            y = (y + self.mlp(self.norm_mlp(y))).permute(0, 3, 1, 2)
        y = self.tcn_v(y)
        if self.residual:
            y = y + (self.residual_v(x) if hasattr(self, "residual_v") else x)
        return y.relu()

    def _bones(self, x):
        """(B, T, E, C): the bones, then for every longer path a weighted sum of its own."""
        found = []
        for hop in range(len(self.paths)):
            along = x[:, :, getattr(self, f"joints_{hop}")].diff(dim=2)  # (B, T, bones, paths, C)
            if hop:
                weight, bias = (
                    torch.cat([getattr(linear, p) for linear in self.linears[hop - 1]]) for p in ("weight", "bias")
                )
                along = (along * weight.mT[..., None]).sum(2, keepdim=True) + bias[:, None]
            found.append(along[:, :, 0])
        return torch.cat(found, 2)


def paths_along(bones, most):
    """For 1 to `most` bones, (joint, parent), the paths from a joint along so many of them, in the order of their joints."""
    found = [sorted((parent, joint) for joint, parent in bones)]
    for _ in range(most - 1):
        found.append([(*path, child) for path in found[-1] for parent, child in found[0] if parent == path[-1]])
    return tuple(tuple(paths) for paths in found)


class HDFormer(nn.Module):
    """HDFormer: a U of graph convolutions over ever fewer frames, whose stages are merged after attention to paths of bones.

    (B, T, J, in_channels) -> (B, T, J, 3) for any T that is a multiple of 16. `forward(keypoints, mean, std)`: the poses are
    std times what the network gives, plus mean, which broadcast to them; the official ones are those of the training data
    for each joint. The root is at its mean.

    Args:
        num_frames: T of the training. num_joints, in_channels: J, channels of a keypoint.
        planes: widths of the five stages; the first is a multiple of 8.
        max_hop: the longest paths that joints attend to, in bones.
        norm_joints: whether the keypoints are normalised for each joint and channel, or for each channel.
        smooth: whether what has fewer frames is interpolated, or repeated.
        bones: (joint, parent), the root being joint 0; None: those of Human3.6M, for 17 joints.
        drop: dropout of the stages with the most channels.
    """

    def __init__(
        self,
        num_frames: int = 96,
        num_joints: int = 17,
        in_channels: int = 2,
        planes: Sequence[int] = (16, 32, 64, 128, 256),
        max_hop: int = 4,
        norm_joints: bool = True,
        smooth: bool = True,
        bones: Sequence[tuple[int, int]] | None = None,
        drop: float = 0.3,
    ):
        super().__init__()
        if num_frames % SHRINK:
            raise ValueError(f"HDFormer: num_frames is {num_frames}, expected a multiple of {SHRINK}")
        if len(planes) != 5:
            raise ValueError(f"HDFormer: planes are {planes}, expected five widths")
        if not isinstance(max_hop, int) or max_hop < 1:
            raise ValueError(f"HDFormer: max_hop is {max_hop!r}, expected a positive integer")
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        self.smooth, self.clip_multiple = smooth, SHRINK
        default, bones = bones is None, bones_or_default("HDFormer", bones, num_joints)
        paths = paths_along(bones, max_hop)
        if default:
            paths = tuple(tuple(path for path in each if path not in FORGOTTEN) for each in paths)
        if not all(paths):
            raise ValueError(f"HDFormer: max_hop is {max_hop}, expected at most {paths.index(())}, the longest path of bones")
        # The official root has the last joint for a parent: its number is -1.
        known = bone_graphs(num_joints, (*bones, (0, num_joints - 1)))

        a, b, c, d, e = planes
        block = lambda into, out, **kwargs: HDBlock(into, out, known, **kwargs)
        self.backbone = nn.Module()  # the official names
        self.backbone.data_bn = nn.BatchNorm1d(in_channels * num_joints) if norm_joints else nn.BatchNorm2d(in_channels)
        down = [block(in_channels, a, residual=False)]
        for into, out, rate in ((a, b, 0.0), (b, c, 0.0), (c, d, drop), (d, e, drop)):
            down += [block(into, out, stride=2, drop=rate), block(out, out, drop=rate)]
        self.backbone.downsample = nn.ModuleList(down)
        up = ((e, d, drop), (d, c, drop), (c, b, 0.0), (b, a, 0.0))
        self.backbone.upsample = nn.ModuleList(block(into, out, drop=rate) for into, out, rate in up)
        self.backbone.merge = nn.ModuleList(block(into, a, drop=rate, paths=paths) for into, _, rate in up)
        self.joint_regressor = nn.Conv2d(a, 3 * (num_joints - 1), (3, num_joints), padding=(1, 0))

    def forward(self, keypoints: Tensor, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> Tensor:
        check_keypoints("HDFormer", keypoints, None, self.num_joints, self.in_channels)
        if keypoints.shape[1] % SHRINK:
            raise ValueError(f"HDFormer: keypoints have {keypoints.shape[1]} frames, expected a multiple of {SHRINK}")
        stages = []
        x = self._normalised(keypoints.to(self.joint_regressor.weight.dtype))
        for i, block in enumerate(self.backbone.downsample):
            x = block(x)
            if i % 2 == 0:
                stages.append(x)
        bottom = []
        for block, beside in zip(self.backbone.upsample, reversed(stages[:-1]), strict=True):
            bottom.append(x)
            x = self._longer(block(x), beside.shape[2]) + beside
        for block, stage in zip(self.backbone.merge, bottom, strict=True):
            x = x + self._longer(block(stage), x.shape[2])
        poses = self.joint_regressor(x)[..., 0].unflatten(1, (3, -1)).permute(0, 3, 2, 1)  # (B, T, J - 1, 3)
        return (F.pad(poses, (0, 0, 1, 0)) * std + mean).to(keypoints.dtype)

    def _normalised(self, keypoints):
        """(B, C, T, J)"""
        x = keypoints.permute(0, 3, 2, 1)
        if isinstance(self.backbone.data_bn, nn.BatchNorm2d):
            return self.backbone.data_bn(x).mT
        return self.backbone.data_bn(x.flatten(1, 2)).view(x.shape).mT

    def _longer(self, x, frames):
        size = (frames, x.shape[3])
        if self.smooth:
            return F.interpolate(x, size, mode="bilinear", align_corners=False)
        return F.interpolate(x, size, mode="nearest")


@register_model
def hdformer(**kwargs):
    """HDFormer: a U of graph convolutions over 96 frames and attention to paths of bones, 3.72 M parameters."""
    return HDFormer(**kwargs)


def _run(model, keypoints, mean, std):
    """Build the model of the official code, where channels come before frames."""
    last = lambda x: x.permute(0, 2, 3, 1)
    return model(last(keypoints), last(mean), last(std)).permute(0, 3, 1, 2)


@register_official(
    "models.vertex_model.Model", tolerance=5e-5, run=_run,
    told=lambda config: {"planes": tuple(config["planes"])} if "planes" in config else {},
)  # fmt: skip
def official_hdformer(
    backbone="HDFormer", PJN=False, in_channels=2, n_joints=17, max_hop=2, dropout=0.0, data_bn=True, deterministic=False,
    residual=True, attention_down=False, attention_up=False, attention_merge=True, edeg_importance_weighting=True,
    regress_with_edge=False, regressor_type="conv", planes=(16, 32, 64, 128, 256),
):  # fmt: skip
    """All but the sizes, the norm and the interpolation are as in the shipped configurations."""
    shipped = (backbone, data_bn, residual, attention_down, attention_up, attention_merge, regress_with_edge, regressor_type)
    if shipped != ("HDFormer", True, True, False, False, True, False, "conv"):
        raise ValueError(f"vertex_model.Model: options are {shipped}, expected those of the shipped configurations")
    return HDFormer(
        num_joints=n_joints, in_channels=in_channels, planes=planes, max_hop=max_hop, norm_joints=PJN,
        smooth=not deterministic, drop=dropout,
    )  # fmt: skip
