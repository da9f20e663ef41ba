"""MixSynthFormer (ICCV 2023) from keyframes to poses: interpolation, embedding, encoder and head in one call.

The network is so small that overhead dominates: 112 parameters and about a hundred calls for 0.1 ms of arithmetic. Here it is
one call, with all parameters packed once into one tensor in the kernel's layout.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_shape
from ._op import Cost, Op
from ._panels import pack_panels, pack_vector, padded, panels_size, unpack_panels

__all__ = ["MixSynthSizes", "mixsynth_encoder", "mixsynth_encoder_ref", "pack_mixsynth"]


class MixSynthSizes(NamedTuple):
    """Sizes of the network: frames per window, keyframes (0: all frames are given), values per pose, width, hidden width of
    the MLPs, number of layers, reductions of the temporal and the spatial attention."""

    frames: int
    keyframes: int
    poses: int
    dim: int
    hidden: int
    depth: int
    r_t: int
    r_s: int


def mixsynth_encoder(x: Tensor, weights: Tensor, sizes: MixSynthSizes) -> Tensor:
    """Compute the poses of all frames of a window from its keyframes, or refine the poses of all frames.

    With keyframes, x is first interpolated by a linear layer along the frames. The result is x + fc(norm(encoder(emb(x)))).
    The encoder has `sizes.depth` post-norm layers of mixed synthetic attention ("official" variant, both branches) and MLP, as
    in `lifter.layers.MixSynthEncoder`. GELU is exact; the epsilon of the norms is 1e-5.

    Args:
        x: (N, keyframes, poses), or (N, frames, poses) if `sizes.keyframes` is 0; float32, bfloat16 or float16 (float64 runs
            on the reference), any strides. The arithmetic is float32 for all dtypes; autocast has no effect.
        weights: parameters packed by `pack_mixsynth`, float32 (float64 if x is).
        sizes: `MixSynthSizes`.

    Returns:
        (N, frames, poses) with the dtype of `x`. There is a CPU kernel for inference; the reference runs on a GPU and if a
        gradient is needed.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    op = "mixsynth_encoder"
    check_float(op, x=x, weights=weights)
    size = packed_size(sizes) if torch.compiler.is_compiling() else _known_size(sizes)
    check_shape(op, "x", x, ("N", sizes.keyframes or sizes.frames, sizes.poses))
    check_shape(op, "weights", weights, (size,))
    wanted = torch.float64 if x.dtype == torch.float64 else torch.float32
    if weights.dtype != wanted:
        raise TypeError(f"{op}: weights has dtype {weights.dtype}, expected {wanted} for x of {x.dtype}")

    return MIXSYNTH_ENCODER(x, weights, sizes)


def mixsynth_encoder_ref(x: Tensor, weights: Tensor, sizes: MixSynthSizes) -> Tensor:
    """Reference of `mixsynth_encoder`."""
    w = unpack_mixsynth(weights, sizes)
    dtype, x = x.dtype, x.to(weights.dtype)
    if sizes.keyframes:
        x = w["interpolation"] @ x + w["interpolation_bias"][:, None]
    recovered, norm = x, (sizes.dim,)
    x = F.linear(x, w["embedding"], w["embedding_bias"])
    for i in range(sizes.depth):
        layer = {name.partition(".")[2]: value for name, value in w.items() if name.startswith(f"{i}.")}
        attended = F.linear(_attention(x, layer, sizes), layer["proj"], layer["proj_bias"])
        x = F.layer_norm(x + attended, norm, layer["norm1"], layer["norm1_bias"])
        hidden = F.gelu(F.linear(x, layer["fc1"], layer["fc1_bias"]))
        x = F.layer_norm(x + F.linear(hidden, layer["fc2"], layer["fc2_bias"]), norm, layer["norm2"], layer["norm2_bias"])
    x = F.layer_norm(x, norm, w["norm"], w["norm_bias"])
    return (F.linear(x, w["fc"], w["fc_bias"]) + recovered).to(dtype)


def _attention(x, w, sizes):
    """Mix synthetic attention among frames and among channels: (N, frames, dim) -> (N, frames, dim)."""
    channels, frames = _keys(sizes)
    left = F.linear(x, w["left"], w["left_bias"])
    right = w["right"] @ x + w["right_bias"][:, None]
    channel_values, frame_values = left[..., :channels], right[:, channels:]
    if sizes.r_s == 1:
        channel_values = x
    if sizes.r_t == 1:
        frame_values = x
    frame_scores, channel_scores = left[..., -frames:], right[:, :channels].mT

    def weights(scores, kind):
        squeezed = F.relu(F.linear(scores.mean(-1), w[f"squeeze_{kind}"]))
        return (scores * F.linear(squeezed, w[f"excite_{kind}"]).sigmoid()[..., None]).softmax(-1)

    temporal = weights(frame_scores, "frames") @ frame_values
    spatial = channel_values @ weights(channel_scores, "channels").mT
    hidden = F.gelu(F.linear((temporal + spatial).mean(-1), w["share1"], w["share1_bias"]))
    share = F.linear(hidden, w["share2"], w["share2_bias"]).sigmoid()[..., None]  # the softmax of two
    return share * temporal + (1 - share) * spatial


# ---- weights ---------------------------------------------------------------------------------------------------------


def pack_mixsynth(tensors: dict[str, Tensor], sizes: MixSynthSizes) -> Tensor:
    """Pack tensors with the names and shapes of `layout` into one vector (packed_size(sizes),).

    The result is float32, or float64 if the tensors are. It is differentiable.
    """
    pieces = []
    for name, (*_, kind) in layout(sizes).items():
        x = tensors[name].to(torch.promote_types(tensors[name].dtype, torch.float32))
        pieces.append(pack_panels(x) if kind == "panels" else pack_vector(x))
    return torch.cat(pieces)


def unpack_mixsynth(weights: Tensor, sizes: MixSynthSizes) -> dict[str, Tensor]:
    """Undo `pack_mixsynth`: return {name: tensor}, copies or views."""
    tensors, begin = {}, 0
    for name, (shape, size, kind) in layout(sizes).items():
        piece = weights[begin : begin + size]
        begin += size
        if kind == "panels":
            tensors[name] = unpack_panels(piece, *shape)
        else:
            tensors[name] = piece[: torch.Size(shape).numel()].view(shape)
    return tensors


def packed_size(sizes: MixSynthSizes) -> int:
    """Return the number of elements of `pack_mixsynth`'s result; raise ValueError for impossible sizes."""
    for name, value in sizes._asdict().items():
        if value < (least := 0 if name == "keyframes" else 1):
            raise ValueError(f"mixsynth_encoder: sizes.{name} is {value}, expected at least {least}")
    for name, value, most in (("r_t", sizes.r_t, sizes.frames), ("r_s", sizes.r_s, sizes.dim)):
        if value > most:
            raise ValueError(f"mixsynth_encoder: sizes.{name} is {value}, expected 1 to {most}")
    return sum(size for _, size, _ in layout(sizes).values())


_known_size = cache(packed_size)  # computing the layout of 100 tensors would take longer than the network


def _keys(sizes):
    """Return the mixtures that channels and frames attend to."""
    return sizes.dim // sizes.r_s, sizes.frames // sizes.r_t


def layout(sizes):
    """Return {name: (shape, packed elements, kind)} in the order of the buffer.

    "panels": a weight (out, in) that multiplies from the right, stored transposed in panels of PANEL columns, padded. "plain":
    vectors, and weights that multiply from the left.
    """
    parts = {}

    def add(name, *shape, plain=False):
        plain = plain or len(shape) == 1
        size = padded(torch.Size(shape).numel()) if plain else panels_size(*shape)
        parts[name] = shape, size, "plain" if plain else "panels"

    def linear(name, out, inner, **kind):
        add(name, out, inner, **kind)
        add(f"{name}_bias", out)

    frames, keyframes, poses, dim, hidden, depth, r_t, r_s = sizes
    channel_keys, frame_keys = _keys(sizes)
    few_frames, few_channels = max(1, frames // 4), max(1, dim // 4)
    if keyframes:
        linear("interpolation", frames, keyframes, plain=True)
    linear("embedding", dim, poses)
    add("norm", dim)
    add("norm_bias", dim)
    linear("fc", poses, dim)
    for i in range(depth):
        linear(f"{i}.left", frame_keys + (channel_keys if r_s > 1 else 0), dim)
        linear(f"{i}.right", channel_keys + (frame_keys if r_t > 1 else 0), frames, plain=True)
        add(f"{i}.squeeze_frames", few_frames, frames)
        add(f"{i}.excite_frames", frames, few_frames)
        add(f"{i}.squeeze_channels", few_channels, dim)
        add(f"{i}.excite_channels", dim, few_channels)
        linear(f"{i}.share1", few_frames, frames)
        linear(f"{i}.share2", frames, few_frames)
        linear(f"{i}.proj", dim, dim)
        add(f"{i}.norm1", dim)
        add(f"{i}.norm1_bias", dim)
        linear(f"{i}.fc1", hidden, dim)
        linear(f"{i}.fc2", dim, hidden)
        add(f"{i}.norm2", dim)
        add(f"{i}.norm2_bias", dim)
    return parts


# ---- registration ----------------------------------------------------------------------------------------------------


def _kernels(ops, x, weights, sizes):
    frames, keyframes, _, *rest = sizes
    return ops.mixsynth_encoder(x, weights, frames, *rest, bool(keyframes))


def _fake(x, weights, frames, dim, hidden, depth, r_t, r_s, interpolates):
    return x.new_empty(x.shape[0], frames, x.shape[2])


def _cost(x, weights, frames, dim, hidden, depth, r_t, r_s, interpolates):
    """Count the products at two FLOPs per multiplication, including squeeze-excitation and re-weighting, which are not part of
    the bound's products. Layers with weights process all windows at once. Exponentials are those of softmax and GELU."""
    N, given, poses = x.shape
    channel_keys, frame_keys = dim // r_s, frames // r_t
    few_frames, few_channels = max(1, frames // 4), max(1, dim // 4)
    left, right = frame_keys + channel_keys * (r_s > 1), channel_keys + frame_keys * (r_t > 1)
    attention = frames * dim * (left + right + frame_keys + channel_keys + dim)
    small = 4 * frames * few_frames + 2 * dim * few_channels
    layer = attention + small + 2 * frames * dim * hidden
    products = [(1, N * frames, dim, left), (N, right, frames, dim), (N, frames, channel_keys + frame_keys, dim)]
    products += [(1, N * frames, dim, dim), (1, N * frames, dim, hidden), (1, N * frames, hidden, dim)]
    ends = [(1, N * frames, poses, dim), (1, N * frames, dim, poses)] + [(N, frames, given, poses)] * interpolates
    return Cost(
        flops=2 * N * (depth * layer + 2 * frames * dim * poses + (frames * given * poses if interpolates else 0)),
        products=ends + products * depth,
        exponentials=N * depth * (frames * frame_keys + dim * channel_keys + frames * hidden),
    )


MIXSYNTH_ENCODER = Op(
    mixsynth_encoder,
    mixsynth_encoder_ref,
    "mixsynth_encoder(Tensor x, Tensor weights, int frames, int dim, int hidden, int depth, int r_t, int r_s, "
    "bool interpolates) -> Tensor",
    maps="x",
    kernels=_kernels,
    autocast=False,
    fake=_fake,
    cost=_cost,
    triton="mixsynth_encoder:forward",
)
