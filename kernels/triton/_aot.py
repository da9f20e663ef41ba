"""Kernels as a GPU would get them, without a GPU.

Every module of this package has `aot_cases()`, which yields (name, kernel, signature, constexprs, options) for
`triton.compile(ASTSource(kernel, signature, constexprs, attrs), options=options)`; `options["attrs"]`, if there, is the
`attrs` (which arguments are divisible by 16). `recorded` makes these cases from ordinary calls.
"""

from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


def recorded(label: str, function, *args):
    """The kernels that `function(*args)` launches, specialised for its arguments; nothing runs: use meta tensors."""
    calls = []
    run = JITFunction.run
    JITFunction.run = lambda self, *args, grid, warmup, **kwargs: calls.append((self, args, kwargs))
    try:
        function(*args)
    finally:
        JITFunction.run = run
    backend = make_backend(GPUTarget("cuda", 80, 32))
    seen = set()
    for kernel, arguments, options in calls:
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, rest = bind(*arguments, **options)
        _, signature, constexprs, attrs = kernel._pack_args(backend, options, bound, specialization, rest)
        # _pack_args gives them by path; a keyword that is no parameter is an option of the compiler
        if (key := repr((kernel.__name__, signature, constexprs, attrs, rest))) in seen:
            continue
        seen.add(key)
        yield f"{label}: {kernel.__name__}", kernel, signature, constexprs, {**rest, "attrs": attrs}
