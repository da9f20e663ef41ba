"""A call of every op, on which `test_conformance` tests what all ops promise.

A file `test_<op>.py` has `SAMPLES`: by a label, whose first word is the public function, a function (B, T) -> `Sample` of a
batch of B with T steps.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import tests.kernels


@dataclass(frozen=True)
class Sample:
    function: Callable
    inputs: dict  # its arguments
    gradients: tuple[str, ...] = ()  # names of the inputs that have a gradient
    maps: tuple[str, ...] = ()  # names of the inputs that autocast casts
    overwrites: str | None = None  # name of the input that a call overwrites
    selects: tuple[str, ...] = ()  # names of the inputs that only select, which may select anything if they are not finite
    exact: bool = True  # whether inputs of all strides give the same bits
    repeats: bool = True  # whether every number of threads does

    def on(self, device, dtype=None):
        """On a device, and with floats of this dtype; what is packed too."""

        def move(x):
            if isinstance(x, torch.Tensor):
                return x.detach().to(device, dtype if x.is_floating_point() else None)
            return type(x)(*map(move, x)) if hasattr(x, "_fields") else x

        return replace(self, inputs={name: move(x) for name, x in self.inputs.items()})

    def map(self, function, names=None):
        """With `function(name, x)` for every tensor x, or for those of these names."""
        chosen = {name for name, x in self.inputs.items() if isinstance(x, torch.Tensor) and (names is None or name in names)}
        return replace(self, inputs={name: function(name, x) if name in chosen else x for name, x in self.inputs.items()})

    def cast(self, dtype):
        """With maps of this dtype."""
        return self.map(lambda name, x: x.to(dtype), self.maps)

    def leaves(self):
        """The inputs of which there are gradients."""
        return {name: self.inputs[name].detach().requires_grad_() for name in self.gradients}

    def run(self, call=None):
        """The outputs, the gradients of a fixed random combination of them, and what is written, by name."""
        leaves = self.leaves()
        inputs = self.inputs | leaves
        if self.overwrites:  # which keeps its strides
            inputs[self.overwrites] = state = torch.empty_like(inputs[self.overwrites]).copy_(inputs[self.overwrites])
        outputs = tensors((call or self.function)(**inputs))
        results = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
        if wanted := [y for y in outputs if y.requires_grad]:
            g = torch.Generator().manual_seed(9)
            douts = [torch.randn(y.shape, generator=g).to(y.device, y.dtype) for y in wanted]
            torch.autograd.backward(wanted, douts)
            results |= {f"d{name}": x.grad for name, x in leaves.items()}
        return results | ({self.overwrites: state} if self.overwrites else {})


def tensors(outputs):
    return [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None]


def all_samples():
    """Return the samples by label."""
    modules = [f"tests.kernels.{found.name}" for found in pkgutil.iter_modules(tests.kernels.__path__)]
    found = [importlib.import_module(name) for name in modules if name.rsplit(".", 1)[1].startswith("test_")]
    return {label: make for module in found for label, make in getattr(module, "SAMPLES", {}).items()}
