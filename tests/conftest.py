"""Fixtures of all tests. Without a GPU the Triton kernels run in Triton's interpreter."""

import contextlib
import importlib.util
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported

import lifter.kernels

if importlib.util.find_spec("triton"):
    from tests import interpreter

    interpreter.install()

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the golden files and the motion capture: $LIFTER_SHARED, or beside the repository."""
    folder = Path(os.environ.get("LIFTER_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "golden").is_dir():
        missing = f"needs the golden files: none in {folder}, set LIFTER_SHARED"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return folder


def pytest_collection_modifyitems(config, items):
    """Tests that need a GPU do not exist without one."""
    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_terminal_summary(terminalreporter):
    """Print what passing tests have to say."""
    passed = terminalreporter.getreports("passed")
    for line in sorted(value for report in passed for key, value in report.user_properties if key == "summary"):
        terminalreporter.write_line(line)


class Target:
    """A backend and the device of its tensors."""

    def __init__(self, backend: str, device: str):
        self.backend, self.device = backend, device

    def run(self, function, *args, **kwargs):
        """function(*args) on this backend: tensors are moved there, and gradients flow back."""
        move = lambda x: x.to(self.device) if isinstance(x, torch.Tensor) else x
        with self.forced():
            return function(*map(move, args), **{name: move(x) for name, x in kwargs.items()})

    def forced(self) -> contextlib.AbstractContextManager:
        return lifter.kernels.backend(self.backend)

    @property
    def slow(self) -> bool:
        """The interpreter takes a millisecond where a kernel takes a microsecond: draw small shapes."""
        return self.backend == "triton" and self.device == "cpu"

    def __repr__(self):
        return f"{self.backend}-{self.device}"


TARGETS = {
    "cpu": pytest.param(Target("cpu", "cpu"), id="cpu"),
    "triton": pytest.param(Target("triton", "cpu"), id="triton"),
    "gpu": pytest.param(Target("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
}


@pytest.fixture(params=TARGETS.values())
def target(request) -> Target:
    """Every backend with kernels; `-m gpu` runs those of the GPU."""
    return request.param


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request):
    """Forces every backend in turn, on CPU tensors."""
    with lifter.kernels.backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def poisoned():
    """torch.empty is filled with NaN, also in C++: an output that a kernel forgot to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def compiled_anew(request):
    """Dynamo gives up on code that it has compiled for too many models."""
    if "compile" in request.node.name:
        torch.compiler.reset()


@pytest.fixture(params=["baseline", "avx2", "avx512", "avx512_bf16"])
def instruction_set(request):
    """Runs the CPU kernels on every instruction set in turn, as far as this machine has them."""
    before = lifter._library._C.cpu_capability()
    try:
        lifter._library._C.set_cpu_capability(request.param)
    except ValueError:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    lifter._library._C.set_cpu_capability(before)


FEW = 32  # elements


def assert_as_good(name, ours, torchs, exact, factor=3.0, rounding=16, dtype=None, groups=()):
    """Our error against float64 is at most `factor` times PyTorch's own in this dtype, and a sum in another order.

    PyTorch may be lucky with few elements: one unit in the last place of a 16-bit dtype is always granted, `dtype` if
    the computation is in another dtype than its result.

    All three are compared by their largest element: `exact` is the reference in float64, `torchs` in the dtype of `ours`.
    `groups` are dimensions whose entries are compared each by its own, as the joints of a state, which forget at different
    speeds; where an entry has fewer than FEW elements, they may all have cancelled, and all entries are compared as one.
    """
    assert ours.dtype == torchs.dtype and ours.shape == torchs.shape, (name, ours.dtype, ours.shape, torchs.shape)
    assert torch.isfinite(ours).all(), f"{name}: not finite (or not written)"
    others = [dim for dim in range(exact.dim()) if dim not in groups]
    if math.prod(exact.shape[dim] for dim in others) < FEW:
        others = None
    scale = exact.abs().amax(others)
    error, bound = ((x.cpu().double() - exact).abs().amax(others) for x in (ours, torchs))
    bound *= factor
    if (dtype or ours.dtype).itemsize == 2:
        bound = torch.maximum(bound, torch.finfo(dtype or ours.dtype).eps * scale)
    bound += rounding * torch.finfo(torch.float32).eps * scale + 1e-30  # below that float32 is nothing
    worst = (error / bound).argmax()
    error, bound, scale = (x.flatten()[worst].item() for x in (error, bound, scale))
    assert error <= bound, f"{name}: error {error:.3g} over {bound:.3g}, largest value {scale:.3g}"
