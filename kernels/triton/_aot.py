"""Kernels as a GPU would get them, without a GPU.

Every module of this package has `aot_cases()`, which yields (name, kernel, signature, constexprs, options) for
`triton.compile(ASTSource(kernel, signature, constexprs, attrs), options=options)`; `options["attrs"]`, if there, is the
`attrs` (which arguments are divisible by 16). `recorded` makes these cases from ordinary calls.
"""

from contextlib import contextmanager
from typing import NamedTuple

from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


class Launch(NamedTuple):
    """One launch of a kernel, specialised for its arguments."""

    kernel: JITFunction
    programs: int
    arguments: dict  # by name
    signature: dict
    constexprs: dict
    options: dict

    @property
    def name(self) -> str:
        return f"{self.kernel.__module__.rsplit('.', 1)[1]}.{self.kernel.__name__}"

    @property
    def key(self) -> str:
        return repr((self.kernel.__name__, *self[3:]))


@contextmanager
def launches():
    """List the launches of what runs inside; no kernel runs: use meta tensors."""
    backend, made = make_backend(GPUTarget("cuda", 80, 32)), []

    def record(kernel, *args, grid, warmup, **options):
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, rest = bind(*args, **options)
        _, signature, constexprs, attrs = kernel._pack_args(backend, options, bound, specialization, rest)
        # _pack_args gives them by path; a keyword that is no parameter is an option of the compiler
        made.append(Launch(kernel, grid[0], dict(bound), signature, constexprs, {**rest, "attrs": attrs}))

    run, JITFunction.run = JITFunction.run, record
    try:
        yield made
    finally:
        JITFunction.run = run


def recorded(label: str, function, *args):
    """The kernels that `function(*args)` launches, each once."""
    with launches() as made:
        function(*args)
    for launch in {launch.key: launch for launch in made}.values():
        yield f"{label}: {launch.kernel.__name__}", launch.kernel, launch.signature, launch.constexprs, launch.options
