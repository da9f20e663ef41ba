"""P-STMO: StridedTransformer on another embedding, trained first to fill in hidden joints and frames.

ECCV 2022, arXiv 2203.07628.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifter.layers import Linear

from ._inputs import check_keypoints
from ._register import register_model, register_official
from .strided_transformer import Encoder, Layers, Norm, StridedTransformer, official_sizes


class Embedding(nn.Module):
    """Residual MLP with batch norms, frame by frame: (B, J * C, T) -> (B, dim, T)."""

    def __init__(self, channels: int, dim: int, drop: float):
        super().__init__()
        hidden = 2 * dim
        conv = lambda into, out: nn.Conv1d(into, out, 1)
        self.fc_1, self.bn_1 = conv(channels, hidden), nn.BatchNorm1d(hidden)
        block = {"w1": conv(hidden, hidden), "batch_norm1": nn.BatchNorm1d(hidden)}
        block |= {"w2": conv(hidden, hidden), "batch_norm2": nn.BatchNorm1d(hidden)}
        self.layers = nn.ModuleList([nn.ModuleDict(block)])
        self.fc_2 = conv(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        activated = lambda x: self.drop(F.leaky_relu(x, 0.2))
        x = activated(self.bn_1(self.fc_1(x)))
        for block in self.layers:
            y = activated(block["batch_norm1"](block["w1"](x)))
            x = x + activated(block["batch_norm2"](block["w2"](y)))
        return self.fc_2(x)


class PSTMO(StridedTransformer):
    """P-STMO's second stage, which lifts: a StridedTransformer whose frames are embedded by a residual MLP.

    (B, T, J, in_channels) -> (B, T - num_frames + 1, J, 3), in training a pair: see `lifter.models.StridedTransformer`, whose
    arguments it takes. Weights of the first stage load with `lifter.load_checkpoint(model, weights, strict=False)`.
    """

    STRIDES = {9: (1, 3, 3), 351: (3, 9, 13)}

    def __init__(self, num_frames: int = 243, *args, **kwargs):
        super().__init__(num_frames, *args, **kwargs)

    def _encoder(self, channels, dim, drop):
        return Embedding(channels, dim, drop)


class PSTMOPretrain(nn.Module):
    """P-STMO's first stage: keypoints of which joints and frames are hidden -> all keypoints, by an auto-encoder.

    `forward(keypoints, hidden_frames, hidden_joints)` takes (B, num_frames, J, C), a mask (num_frames,) and a mask
    (num_frames, J), True where hidden, as many joints in every frame. It returns (B, num_frames, J, C) in the order of
    `order(hidden_frames)`: the frames that are seen, then those that are not.

    Args:
        num_frames, num_joints, in_channels, dim, hidden, depth, drop: see `lifter.models.StridedTransformer`; the decoder has
            half the width and one layer less.
    """

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 256,
        hidden: int = 512,
        depth: int = 3,
        *,
        drop: float = 0.1,
    ):
        super().__init__()
        self.num_frames, self.num_joints, self.in_channels = num_frames, num_joints, in_channels
        channels = num_joints * in_channels
        self.spatial_mask_token = nn.Parameter(torch.randn(1, 1, in_channels))
        self.encoder = Embedding(channels, dim, drop)
        self.Transformer = Encoder(num_frames, dim, hidden, depth, drop)
        self.encoder_LN = Norm(dim)
        self.encoder_to_decoder = Linear(dim, dim // 2, bias=False)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim // 2))
        self.dec_pos_embedding = nn.Parameter(torch.randn(1, num_frames, dim // 2))
        self.Transformer_dec = nn.ModuleDict({"model": Layers(dim // 2, hidden // 2, [None] * (depth - 1), drop=drop)})
        self.fcn_dec = nn.Sequential(nn.BatchNorm1d(dim // 2, momentum=0.1), nn.Conv1d(dim // 2, channels, 1))

    def forward(self, keypoints: Tensor, hidden_frames: Tensor, hidden_joints: Tensor) -> Tensor:
        sizes = self.num_frames, self.num_joints, self.in_channels
        check_keypoints("PSTMOPretrain", keypoints, *sizes, least=self.num_frames)
        for name, mask, shape in (("frames", hidden_frames, sizes[:1]), ("joints", hidden_joints, sizes[:2])):
            if mask.dtype != torch.bool or mask.shape != shape:
                got = f"hidden_{name} has shape {tuple(mask.shape)} and dtype {mask.dtype}"
                raise ValueError(f"PSTMOPretrain: {got}, expected {shape} and torch.bool")
        x = keypoints.to(self.mask_token.dtype)
        x = torch.where(hidden_joints[..., None], self.spatial_mask_token, x)
        x = self.Transformer(self.encoder(x.flatten(2).mT).mT, hidden_frames)
        seen = self.encoder_to_decoder(self.encoder_LN(x))
        unseen = self.mask_token.expand(x.shape[0], self.num_frames - seen.shape[1], -1)
        x = torch.cat((seen, unseen), 1) + self.dec_pos_embedding[:, self.order(hidden_frames)]
        x = self.fcn_dec(self.Transformer_dec["model"](x).mT).mT
        return x.unflatten(-1, (self.num_joints, self.in_channels)).to(keypoints.dtype)

    @staticmethod
    def order(hidden_frames: Tensor):
        """Numbers of the frames as the output has them: those that are seen, then the hidden ones."""
        return hidden_frames.int().argsort(stable=True)


@register_model
def pstmo(**kwargs):
    """P-STMO: 4 layers on 243 frames, 5 that stride to one, one pose, 7.01 M parameters."""
    return PSTMO(**{"depth": 4} | kwargs)


@register_model
def pstmo_s(**kwargs):
    """P-STMO-S: 3 layers on 243 frames, 5 that stride to one, one pose, 6.48 M parameters."""
    return PSTMO(**kwargs)


def from_official(x: Tensor):
    """(B, C, T, J, 1) -> (B, T, J, C)."""
    return x[..., 0].permute(0, 2, 3, 1)


def to_official(x: Tensor):
    """(B, T, J, C) -> (B, C, T, J, 1)."""
    return x.permute(0, 3, 1, 2)[..., None]


def _run(model, keypoints):
    return tuple(map(to_official, model.lift_all(from_official(keypoints))))


def _run_pretrain(model, keypoints, *hidden):
    return to_official(model(from_official(keypoints), *hidden))


@register_official("model.stmo.Model", tolerance=1e-5, run=_run)
def official_pstmo(**kwargs):
    return PSTMO(**official_sizes(**kwargs))


@register_official("model.stmo_pretrain.Model_MAE", tolerance=1e-5, run=_run_pretrain)
def official_pstmo_pretrain(spatial_mask_num=2, **kwargs):
    """Build the first stage. The masks tell how many joints are hidden; it has no strides."""
    sizes = official_sizes(**kwargs)
    del sizes["strides"]
    return PSTMOPretrain(**sizes)
