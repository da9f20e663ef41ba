"""Changes of Triton's interpreter for the tests: products that are the same everywhere, and no work done twice."""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

patch_lang = interpreter._patch_lang


def product(builder, a, b, sums, *precision):
    """Compute `tl.dot` without a BLAS, which rounds equal rows differently in different places."""
    a, b = (x.data.astype(sums.data.dtype) for x in (a, b))
    return type(sums)(np.einsum("...ik,...kj->...ij", a, b) + sums.data, sums.dtype.scalar)


def patch_once(fn):
    """Make triton.language interpreted, unless it is already: the interpreter does so in each call of a device function."""
    languages = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
    if any(tl.core.is_builtin(language.load) for language in languages):
        return patch_lang(fn)


def install():
    interpreter.InterpreterBuilder.create_dot = product
    interpreter._patch_lang = patch_once
