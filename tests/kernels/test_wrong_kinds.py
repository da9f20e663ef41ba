"""What is no tensor where an op wants one: a TypeError that names the argument and says what came."""

import inspect

import pytest
import torch

from lifter import kernels
from lifter.kernels import MixSynthSizes, PackedBlock, PackedTransformer
from lifter.kernels.mixsynth_encoder import packed_size

r = torch.rand
NEIGHBOURS = torch.tensor([[1, -1], [0, 2], [1, -1]], dtype=torch.int32)
SIZES = MixSynthSizes(frames=3, keyframes=0, poses=2, dim=4, hidden=4, depth=1, r_t=1, r_s=1)
BLOCKS = dict(num_joints=3, dim=4, hidden=4, num_heads=1, depth=1, scale=1.0)
PACKED = PackedTransformer(r(576), r(368), **BLOCKS)
BLOCK = PackedBlock(r(256), r(128), dim=4, hidden=4, axis="frame")
CALLS = {
    "alternating_transformer": dict(x=r(1, 2, 3, 4), packed=PACKED, mask=torch.ones(1, 3, 2, 2, dtype=torch.bool)),
    "axial_attention": dict(qkv=r(1, 4, 3, 3, 2, 4), axis="frame", mask=torch.ones(1, 3, 4, 4, dtype=torch.bool)),
    "causal_conv1d_fn": dict(x=r(1, 3, 5), weight=r(3, 2), bias=r(3), initial_states=r(1, 1, 3).mT),
    "causal_conv1d_update": dict(x=r(1, 3), conv_state=r(1, 3, 2), weight=r(3, 2), bias=r(3)),
    "deform_conv2d": dict(input=r(1, 2, 4, 3), offset=r(1, 18, 4, 3), weight=r(2, 2, 3, 3), bias=r(2), padding=(1, 1)),
    "density_peak_prune": dict(x=r(1, 6, 4), kept=3, noise=r(1, 6)),
    "mixsynth_encoder": dict(x=r(1, 3, 2), weights=r(packed_size(SIZES)), sizes=SIZES),
    "retention": dict(q=r(1, 4, 3, 1, 2), k=r(1, 4, 3, 1, 2), v=r(1, 4, 3, 1, 5), decay=r(1), initial_state=r(1, 3, 1, 2, 5)),
    "selective_scan_fn": dict(
        u=r(1, 3, 5), delta=r(1, 3, 5), A=-r(3, 2), B=r(1, 2, 5), C=r(1, 2, 5), D=r(3), z=r(1, 3, 5), delta_bias=r(3)
    ),
    "selective_state_update": dict(state=r(1, 3, 2), x=r(1, 3), dt=r(1, 3), A=-r(3, 2), B=r(1, 2), C=r(1, 2), D=r(3)),
    "skeleton_graph_conv": dict(x=r(1, 4, 3, 2), neighbours=NEIGHBOURS, weights=r(3, 2), root=r(1, 4, 3, 2)),
    "skeleton_scan": dict(
        x=r(1, 4, 3, 2), x_proj_weight=r(4, 5, 2), dt_proj_weight=r(4, 2, 1), dt_proj_bias=r(4, 2), A=-r(4, 2, 2), D=r(4, 2),
        gather=torch.zeros(4, 1, 1, 3, dtype=torch.int32),
    ),
    "temporal_graph_conv": dict(x=r(1, 4, 3, 2), graph=r(4, 4), mask=torch.ones(1, 3, 4, 1, dtype=torch.int32)),
    "temporal_topk_graph_conv": dict(x=r(1, 4, 3, 2), values=r(1, 4, 3, 2), root=r(1, 4, 3, 2)),
    "topk_temporal_mask": dict(x=r(1, 4, 3, 2), k=2),
    "transformer_block": dict(x=r(1, 4, 3, 4), packed=BLOCK, mask=torch.ones(1, 3, 4, 4, dtype=torch.bool)),
    "pack_mask": dict(mask=torch.ones(1, 3, 4, 4, dtype=torch.bool)),
    "unpack_mask": dict(mask=torch.ones(1, 3, 4, 1, dtype=torch.int32), frames=4),
}  # fmt: skip
TENSORS = [(op, name) for op, kwargs in CALLS.items() for name, value in kwargs.items() if isinstance(value, torch.Tensor)]


def test_every_op_is_here():
    assert {name.removesuffix("_ref") for name in kernels.__all__ if name.endswith("_ref")} <= {
        op.replace("_fn", "") for op in CALLS
    } | set(CALLS)


@pytest.mark.parametrize("op, name", TENSORS)
def test_no_tensor(op, name):
    function, kwargs = getattr(kernels, op), CALLS[op]
    function(**kwargs)  # is fine as it is
    optional = inspect.signature(function).parameters[name].default is None
    for wrong in ([1.0], "x", 3.0) + (() if optional else (None,)):
        with pytest.raises(TypeError, match=rf"{op}: {name} (is|has dtype) {type(wrong).__name__}, expected"):
            function(**{**kwargs, name: wrong})


def test_masks_of_other_lengths():
    with pytest.raises(ValueError, match=r"unpack_mask: mask has shape \(1, 3, 4, 1\), expected \(1, 3, 4, 2\)"):
        kernels.unpack_mask(CALLS["unpack_mask"]["mask"], 33)
