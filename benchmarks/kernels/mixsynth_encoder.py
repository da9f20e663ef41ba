"""mixsynth_encoder at the sizes of the official configurations, one window and many; "layers" is the same network of PyTorch's
layers, as the official code has it."""

from functools import cache

import torch

import lifter
from lifter.kernels import backend, mixsynth_encoder
from lifter.rewrite.rules.mixsynthformer import pack_encoder, sizes

from . import Case, chosen

MODELS = ("h36m", "jhmdb", "3dpw", "aist")
BATCHES = (1, 256)


@cache
def build(name, device, dtype):
    torch.manual_seed(0)
    return lifter.create_model(f"mixsynthformer_{name}").eval().to(device, dtype)


@cache
def sizes_of(name):
    return sizes(build(name, "cpu", torch.float32))


def inputs(name, batch, device, dtype):
    model = build(name, device, dtype)
    with torch.no_grad():
        weights = pack_encoder(dict(model.named_parameters()), sizes_of(name))
    return {"x": torch.randn(batch, model.steps + 1, sizes_of(name).poses, device=device, dtype=dtype), "weights": weights}


def layers(name, x):
    with backend("reference"):
        return build(name, str(x.device), x.dtype)(x)


def case(name, batch):
    return Case(
        f"mixsynth_encoder {name} N={batch}",
        lambda device, dtype: inputs(name, batch, device, dtype),
        lambda x, weights: mixsynth_encoder(x, weights, sizes_of(name)),
        {"layers": lambda x, weights: layers(name, x)},
        differentiable=False,
    )


def cases(setup):
    return [case(name, batch) for name in chosen(setup, MODELS, MODELS[:1]) for batch in BATCHES]
