"""alternating_transformer on the blocks of PoseRetNet, whose chunks come with a state, and of MixSTE; "layers" is the same
network of lifter's layers. It is for inference on a CPU."""

from functools import cache

import torch

import lifter
from lifter.kernels import alternating_transformer
from lifter.rewrite.rules.trunks import pack_trunk

from . import Case, chosen

CHUNKS = (1, 3, 9, 27)
FRAMES = (27, 81, 243)


@cache
def build(name, dtype, **sizes):
    torch.manual_seed(0)
    model = lifter.create_model(name, **sizes).eval().to(dtype)
    return model, pack_trunk(model)


def inputs(name, frames, dtype, **sizes):
    model, packed = build(name, dtype, **sizes)
    x = torch.randn(1, frames, packed.num_joints, packed.dim, dtype=dtype)
    if packed.xpos_scale is None:
        return {"x": x}
    return {"x": x, "state": alternating_transformer(x, packed, return_state=True)[1]}


def ours(name, x, state=None, **sizes):
    return alternating_transformer(x, build(name, x.dtype, **sizes)[1], state=state, return_state=state is not None)


def layers(name, x, state=None, **sizes):
    model, _ = build(name, x.dtype, **sizes)
    return model._lift(x) if state is None else model._lift(x, state, True)


def case(name, label, frames, **sizes):
    return Case(
        f"alternating_transformer {label} T={frames}",
        lambda device, dtype: inputs(name, frames, dtype, **sizes),
        lambda **kwargs: ours(name, **kwargs, **sizes),
        {"layers": lambda **kwargs: layers(name, **kwargs, **sizes)},
        differentiable=False,
        compared=lambda output: output if isinstance(output, torch.Tensor) else output[0],
    )


def cases(setup):
    if setup.device != "cpu":
        return []
    chunks, frames = chosen(setup, CHUNKS, (1, 9)), chosen(setup, FRAMES, FRAMES[:1])
    streamed = [case("poseretnet", "stream", n, chunk_size=n) for n in chunks]
    return streamed + [case("mixste", "attention", n) for n in frames]
