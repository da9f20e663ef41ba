"""FinePOSE: fine-grained prompt-driven 3D pose estimation via diffusion models. Here its denoiser, for `lifter.diffusion`.

CVPR 2024, arXiv 2405.05216. What its text encoder makes of a prompt is given to it.
"""

from torch import Tensor, nn

from lifter.layers import Linear

from ._register import register_model, register_official
from .d3dp import D3DP

TOKENS = 77  # of a prompt, as CLIP has it


class Stylization(nn.Module):
    """A projection of what is scaled and shifted by the time. It starts at nothing."""

    def __init__(self, dim: int, time_dim: int, drop: float):
        super().__init__()
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(time_dim, 2 * dim))
        self.norm = nn.LayerNorm(dim)
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Dropout(drop), Linear(dim, dim))
        for p in self.out_layers[2].parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        scale, shift = self.emb_layers(moment).chunk(2, -1)
        return self.out_layers(self.norm(x) * (1 + scale) + shift)


class TextCrossAttention(nn.Module):
    """Attention of all tokens of a clip to those of a text: (B, T, J, C), (b, N, C_text) -> (B, T, J, C), B a multiple of b.

    `moment`: the embedding of the time, which broadcasts to x. Each clip reads its own text, the texts being repeated for
    more clips; or, not `matched`, as in the official code, joint j of clip i reads text (i J + j) % b.
    """

    def __init__(self, dim: int, num_heads: int, text_dim: int, time_dim: int, drop: float = 0.0, matched: bool = False):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"TextCrossAttention: dim is {dim}, expected a multiple of num_heads={num_heads}")
        self.num_heads, self.matched = num_heads, matched
        self.norm, self.text_norm = nn.LayerNorm(dim), nn.LayerNorm(text_dim)
        self.query = Linear(dim, dim)
        self.key, self.value = Linear(text_dim, dim), Linear(text_dim, dim)
        self.dropout = nn.Dropout(drop)
        self.proj_out = Stylization(dim, time_dim, drop)

    def forward(self, x: Tensor, text: Tensor, moment: Tensor, hypotheses: int = 1) -> Tensor:
        """`hypotheses`: how many clips that follow one another share a text."""
        clips, _, joints, _ = x.shape
        heads = lambda y: y.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # (..., heads, tokens, channels)
        rows = heads(self.query(self.norm(x)).transpose(1, 2)).flatten(0, 1)
        q = rows.unflatten(0, (-1, text.shape[0], hypotheses * joints if self.matched else 1))
        text = self.text_norm(text)
        k, v = (heads(y)[:, None] for y in (self.key(text), self.value(text)))
        weights = self.dropout((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))
        y = (weights @ v).flatten(0, 2).unflatten(0, (clips, joints)).permute(0, 3, 1, 2, 4).flatten(3)
        return x + self.proj_out(y, moment)


class FinePOSE(D3DP):
    """FinePOSE's denoiser: D3DP's, told a text besides the time.

    `forward(keypoints, poses, time, pooled, tokens)` as `lifter.models.D3DP`, and of each clip's text, which hypotheses
    share: pooled (b, dim), which is added to the embedding of the time, and tokens (b, N, dim), to which all tokens of the
    clip attend between the first spatial and the first temporal block. b divides the clips: those of
    `lifter.diffusion.sample(..., pooled=..., tokens=...)` are twice the texts with `flip`. Without both there is no text.

    In the official code they are what `encode_text` returns, of a CLIP model, whose weights belong to the checkpoints and
    are left out when one is loaded.

    Args:
        num_frames, num_joints, in_channels, dim, depth, and others: see `lifter.models.D3DP`.
        variant: "official", where with several texts in a batch joints read those of other clips, see `TextCrossAttention`;
            "paper": each clip reads its own.
    """

    left_out = ("clip_text.", "textTransEncoder.", "text_pre_proj.", "text_ln.", "text_proj.", "ctx_")  # of a checkpoint

    def __init__(
        self,
        num_frames: int = 243,
        num_joints: int = 17,
        in_channels: int = 2,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        *,
        variant: str = "official",
        drop: float = 0.0,
        **d3dp,
    ):
        if variant not in ("official", "paper"):
            raise ValueError(f"FinePOSE: variant is {variant!r}, expected 'official' or 'paper'")
        super().__init__(num_frames, num_joints, in_channels, dim, depth, num_heads=num_heads, drop=drop, **d3dp)
        self.temporal_cross_attn = TextCrossAttention(dim, num_heads, dim, dim, drop, matched=variant == "paper")

    def forward(
        self, keypoints: Tensor, poses: Tensor, time: Tensor, pooled: Tensor | None = None, tokens: int | None = None
    ) -> Tensor:
        return super().forward(keypoints, poses, time, pooled=pooled, tokens=tokens)

    def denoise(self, embedded: Tensor, poses: Tensor, time: Tensor, pooled: Tensor | None = None, tokens: int | None = None):
        dim = embedded.shape[-1]
        if (pooled is None) != (tokens is None):
            raise ValueError("FinePOSE: expected both pooled and tokens of a text, or neither")
        if pooled is not None:
            fits = pooled.dim() == 2 and tokens.dim() == 3 and len(pooled) and len(embedded) % len(pooled) == 0
            if not fits or (len(tokens), tokens.shape[-1], pooled.shape[-1]) != (len(pooled), dim, dim):
                got = f"pooled and tokens have shapes {tuple(pooled.shape)} and {tuple(tokens.shape)}"
                raise ValueError(f"FinePOSE: {got}, expected (b, {dim}) and (b, N, {dim}) with b a divisor of {len(embedded)}")
            pooled, tokens = pooled.to(embedded.dtype), tokens.to(embedded.dtype)
        return super().denoise(embedded, poses, time, pooled=pooled, tokens=tokens)

    def _moment(self, time, clips, pooled, tokens):
        moment = super()._moment(time, clips)
        return moment if pooled is None else moment + pooled.repeat(clips // pooled.shape[0], 1)

    def _lift_told(self, x, moment, hypotheses, pooled, tokens):
        x = self.Spatial_norm(self.STEblocks[0](x))
        if tokens is not None:
            x = self.temporal_cross_attn(x, tokens, moment, hypotheses)
        x = self.pos_drop(x + self.Temporal_pos_embed[:, : x.shape[1], None])
        x = self.Temporal_norm(self.TTEblocks[0](x))
        for spatial, temporal in zip(self.STEblocks[1:], self.TTEblocks[1:], strict=True):
            x = self.Temporal_norm(temporal(self.Spatial_norm(spatial(x))))
        return self.head(x)


@register_model
def finepose(**kwargs):
    """FinePOSE: the denoiser of d3dp told a text, for lifter.diffusion, 36.41 M parameters without the text's encoder."""
    return FinePOSE(**kwargs)


@register_official("common.mixste_finepose.MixSTE2", tolerance=5e-5)
def official_finepose(
    num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=32, depth=4, num_heads=8, mlp_ratio=2.0, qkv_bias=True,
    qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.2, is_train=True,
):  # fmt: skip
    """`is_train` chooses between the forms with and without hypotheses; ours sees it from its input."""
    return FinePOSE(
        num_frame, num_joints, in_chans, embed_dim_ratio, depth, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
        qk_scale=qk_scale, drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate,
    )  # fmt: skip


def _run_attention(layer, x, text, moment):
    """The layer as the official code calls it: rows (b joints) of frames, and an embedding (b frames, joints) that it reads as
    the rows are, the first of each."""
    rows, frames, _ = x.shape
    joints = rows // text.shape[0]
    moment = moment.reshape(rows, frames, -1)[:, :1].unflatten(0, (-1, joints)).transpose(1, 2)
    y = layer(x.unflatten(0, (-1, joints)).transpose(1, 2), text, moment)
    return y.transpose(1, 2).flatten(0, 1)


@register_official("common.mixste_finepose.TemporalCrossAttention", tolerance=1e-5, run=_run_attention)
def official_cross_attention(latent_dim, text_latent_dim, num_head, dropout, time_embed_dim):
    return TextCrossAttention(latent_dim, num_head, text_latent_dim, time_embed_dim, dropout)
