"""PoseRetNet (ECCV 2024) on a chunk of few frames, with its state, in one call.

A chunk of one frame has 17 rows. Its time is that of reading 36 million weights, and of the overhead of 300 calls. Here it is
one call, and the weights lie as they are read.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ._op import Op, check_device, check_dtype, check_float, check_shape, no_autocast
from ._panels import pack_panels, pack_vector, padded, panels_size, unpack_panels
from .axial_attention import axial_attention_ref
from .retention import retention_ref

BLOCK_EPS, EPS = 1e-6, 1e-5  # of the norms in and after blocks, and of those in retention and head


class PoseRetNetSizes(NamedTuple):
    """Sizes of the network: joints, channels of a keypoint, width, hidden width of the MLPs, heads, pairs of blocks."""

    num_joints: int
    in_channels: int
    dim: int
    hidden: int
    num_heads: int
    depth: int


class PackedPoseRetNet(NamedTuple):
    """What `pack_poseretnet` makes of a model: the weights of its linear layers in one tensor, all other parameters in another
    in float32, and what else it is made of; `scale` is that of the spatial attention."""

    weights: torch.Tensor
    vectors: torch.Tensor
    xpos_scale: torch.Tensor
    sizes: PoseRetNetSizes
    chunk_size: int
    causal: bool
    scale: float


def poseretnet_chunk(keypoints, packed, state=None, return_state=False):
    """The poses of a few frames, and the state after them: `lifter.models.PoseRetNet` in evaluation.

    Args:
        keypoints: (B, T, J, in_channels), the dtype of the packed weights, float32 or bfloat16 (float64 runs on the reference);
            any strides. T of at least 1 may be longer or shorter than `packed.chunk_size`, as in the model.
        packed: `PackedPoseRetNet`.
        state: what an earlier call returned for the frames before, of every temporal block (B, J, H, C / H, C / H) float32; None:
            nothing came before.

    Returns:
        (B, T, J, 3) with the dtype of `keypoints`; with `return_state` (poses, state after the last frame). Made for few rows
        B T J: from some hundred on the layers one by one are faster. For inference only, not differentiable; there is no
        GPU kernel.

    Raises:
        ValueError for wrong shapes, TypeError for wrong dtypes; both name the argument.
    """
    op, sizes = "poseretnet_chunk", packed.sizes
    check_float(op, keypoints=keypoints)
    check_shape(op, "keypoints", keypoints, ("B", "T", sizes.num_joints, sizes.in_channels))
    if keypoints.shape[1] < 1:
        raise ValueError(f"{op}: keypoints has shape {tuple(keypoints.shape)}, expected at least one frame")
    check_dtype(op, "keypoints", keypoints, packed.weights.dtype)
    check_device(op, "keypoints", keypoints, weights=packed.weights)
    state = [] if state is None else list(state)
    if len(state) not in (0, sizes.depth):
        raise ValueError(f"{op}: state has {len(state)} tensors, expected one per temporal block, {sizes.depth}")
    head = sizes.dim // sizes.num_heads
    for i, x in enumerate(state):
        check_dtype(op, f"state[{i}]", x, torch.promote_types(packed.weights.dtype, torch.float32))
        check_shape(op, f"state[{i}]", x, (keypoints.shape[0], sizes.num_joints, sizes.num_heads, head, head))
        check_device(op, "keypoints", keypoints, **{f"state[{i}]": x})

    ops = POSERETNET_CHUNK.namespace(keypoints)
    if ops is None:
        with no_autocast(keypoints):
            poses, after = poseretnet_chunk_ref(keypoints, packed, state)
    else:
        poses, after = ops.poseretnet_chunk(
            keypoints, packed.weights, packed.vectors, state, packed.xpos_scale, *sizes[2:], packed.chunk_size, packed.causal,
            packed.scale, return_state,
        )  # fmt: skip
    return (poses, after) if return_state else poses


def poseretnet_chunk_ref(keypoints, packed, state=()):
    """`poseretnet_chunk` as written, in at least float32: (poses, state after the last frame)."""
    sizes, dim = packed.sizes, packed.sizes.dim
    dtype = torch.promote_types(keypoints.dtype, torch.float32)
    read = _Reader(packed, dtype)

    def feed_forward(x):
        h = read.linear(read.norm(x, BLOCK_EPS), sizes.hidden)
        return x + read.linear(F.gelu(h), dim)

    def attend(x):
        qkv = read.linear(read.norm(x, BLOCK_EPS), 3 * dim).unflatten(-1, (3, sizes.num_heads, -1))
        return x + read.linear(axial_attention_ref(qkv, "joint", scale=packed.scale), dim)

    def retain(x, before):
        heads = (4, sizes.num_heads, -1)
        q, k, v, gate = read.linear(read.norm(x, BLOCK_EPS), 4 * dim, False).unflatten(-1, heads).unbind(-3)
        y, after = retention_ref(
            q, k, v, read.vector(sizes.num_joints, sizes.num_heads), 1.0, before,
            chunk_size=packed.chunk_size, causal=packed.causal, xpos_scale=packed.xpos_scale,
        )  # fmt: skip
        weight, bias = (read.vector(sizes.num_heads, dim // sizes.num_heads) for _ in range(2))
        y = F.layer_norm(y, y.shape[-1:], eps=EPS) * weight + bias
        return x + read.linear((F.silu(gate) * y).flatten(-2), dim, False), after

    position = read.vector(sizes.num_joints, dim)
    x = read.linear(keypoints.to(dtype), dim) + position
    spatial_norm, temporal_norm = [(read.vector(dim), read.vector(dim)) for _ in range(2)]
    states = []
    for i in range(sizes.depth):
        x = F.layer_norm(feed_forward(attend(x)), (dim,), *spatial_norm, BLOCK_EPS)
        x, after = retain(x, state[i] if len(state) else None)
        states.append(after)
        x = F.layer_norm(feed_forward(x), (dim,), *temporal_norm, BLOCK_EPS)
    return read.linear(read.norm(x, EPS), 3).to(keypoints.dtype), states


# ---- parameters ------------------------------------------------------------------------------------------------------


def pack_poseretnet(parameters, sizes, chunk_size, causal, scale):
    """The parameters and buffers of a `lifter.models.PoseRetNet`, by the names of its state_dict, -> `PackedPoseRetNet`, whose
    linear layers keep the dtype that they have."""
    wide = torch.promote_types(parameters["head.1.weight"].dtype, torch.float32)
    weights, vectors = [], []
    for kind, name in _order(sizes.depth):
        if kind == "linear":
            weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
            weights.append(pack_panels(weight))
            vectors.append(weight.new_zeros(len(weight)) if bias is None else bias)
        elif kind == "linear without bias":
            weights.append(pack_panels(parameters[f"{name}.weight"]))
        elif kind == "norm":
            vectors += parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        elif kind == "decay":
            vectors.append(parameters[name].expand(sizes.num_joints, -1))
        else:
            vectors.append(parameters[name])
    vectors = torch.cat([pack_vector(x.to(wide)) for x in vectors])
    xpos_scale = parameters["TTEblocks.0.attn.xpos_scale"]
    return PackedPoseRetNet(torch.cat(weights), vectors, xpos_scale, sizes, chunk_size, causal, scale)


def _order(depth):
    """(kind, name) of all parameters in the order in which they are read."""
    yield "vector", "Spatial_pos_embed"
    yield "linear", "Spatial_patch_to_embedding"
    yield from (("norm", f"{kind}_norm") for kind in ("Spatial", "Temporal"))
    feed_forward = ("norm", "norm2"), ("linear", "mlp.fc1"), ("linear", "mlp.fc2")
    attend = ("norm", "norm1"), ("linear", "attn.qkv"), ("linear", "attn.proj"), *feed_forward
    retain = (
        ("norm", "norm1"), ("linear without bias", "attn.qkvg"), ("decay", "attn.decay"), ("norm", "attn.group_norm"),
        ("linear without bias", "attn.out"), *feed_forward,
    )  # fmt: skip
    for i in range(depth):
        for blocks, parts in (("STEblocks", attend), ("TTEblocks", retain)):
            yield from ((kind, f"{blocks}.{i}.{name}") for kind, name in parts)
    yield "norm", "head.0"
    yield "linear", "head.1"


class _Reader:
    """The parameters of a `PackedPoseRetNet`, taken one after another."""

    def __init__(self, packed, dtype):
        self.weights, self.vectors, self.dtype = packed.weights, packed.vectors.to(dtype), dtype

    def vector(self, *shape):
        count = torch.Size(shape).numel()
        x, self.vectors = self.vectors[:count].view(shape), self.vectors[padded(count) :]
        return x

    def norm(self, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.vector(x.shape[-1]), self.vector(x.shape[-1]), eps)

    def linear(self, x, out, has_bias=True):
        inner = x.shape[-1]
        size = panels_size(out, inner, self.weights.dtype)
        weight, self.weights = unpack_panels(self.weights[:size], out, inner), self.weights[size:]
        return F.linear(x, weight.to(self.dtype), self.vector(out) if has_bias else None)


# ---- registration ----------------------------------------------------------------------------------------------------


def _fake(keypoints, weights, vectors, state, xpos_scale, dim, hidden, heads, depth, chunk_size, causal, scale, return_state):
    B, T, J, _ = keypoints.shape
    shape = (B, J, heads, dim // heads, dim // heads)
    return keypoints.new_empty(B, T, J, 3), [vectors.new_empty(shape) for _ in range(depth if return_state else 0)]


def _flops(
    keypoints_shape, weights_shape, vectors_shape, state_shape, xpos_shape, dim, hidden, heads, depth, chunk_size, causal,
    *args, out_shape=None, **kwargs,
) -> int:  # fmt: skip
    """The products, two per multiplication; of retention those that `retention` counts with a state."""
    B, T, J, channels = keypoints_shape
    full, last = divmod(T, chunk_size)
    pairs = sum(n * (n + 1) // 2 if causal else n * n for n in [chunk_size] * full + [last])
    linear = channels * dim + depth * (9 * dim * dim + 4 * dim * hidden) + 3 * dim
    attention = 2 * J * dim
    return 2 * B * T * J * (linear + depth * attention) + 4 * depth * B * J * dim * (pairs + T * dim // heads)


POSERETNET_CHUNK = Op(
    "poseretnet_chunk(Tensor keypoints, Tensor weights, Tensor vectors, Tensor[] state, Tensor xpos_scale, int dim, int hidden, "
    "int heads, int depth, int chunk_size, bool causal, float scale, bool return_state) -> (Tensor poses, Tensor[] state)",
    fake=_fake,
    flops=_flops,
)
