"""`pytest benchmarks --benchmark-only`: the cases of `python -m benchmarks` for users of pytest-benchmark."""

import pytest
import torch

from . import inputs, kernels, models
from .__main__ import Setup

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETUP = Setup(DEVICE, inputs.synthetic_gait(), "default", seconds=0.4, patience=20)


CASES = [
    pytest.param(case, implementation, id=f"{case.name} {implementation}")
    for case in kernels.all_cases(SETUP)
    for implementation in case.implementations()
]


@pytest.mark.parametrize("case, implementation", CASES)
def test_kernel(benchmark, case, implementation):
    benchmark.group = case.name
    _, call = case.inputs, case.implementations()[implementation]  # the inputs are built here, not in the timed region
    if implementation == "reference":
        benchmark.pedantic(call, rounds=3, warmup_rounds=1)
    else:
        benchmark(call)


@pytest.mark.parametrize(
    "name, frames, batch", [(name, *clip) for name, clips in models.planned(SETUP).items() for clip in clips]
)
def test_model(benchmark, name, frames, batch):
    model = models.build(name, frames, DEVICE)
    given = models.inputs(model, SETUP, frames, batch)
    with torch.inference_mode():
        benchmark(model, *given)
