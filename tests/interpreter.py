"""Changes of Triton's interpreter for the tests: numbers as a GPU has them, the same everywhere, and no work done twice."""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

patch_lang, convert_float = interpreter._patch_lang, interpreter._convert_float


def product(builder, a, b, sums, *precision):
    """Compute `tl.dot` without a BLAS, which rounds equal rows differently in different places."""
    a, b = (x.data.astype(sums.data.dtype) for x in (a, b))
    return type(sums)(np.einsum("...ik,...kj->...ij", a, b) + sums.data, sums.dtype.scalar)


def patch_once(fn):
    """Make triton.language interpreted, unless it is already: the interpreter does so in each call of a device function."""
    languages = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
    if any(tl.core.is_builtin(language.load) for language in languages):
        return patch_lang(fn)


def convert(data, given, wanted, rounding):
    """Convert between types of floats: to bfloat16 rounding to the nearest, where the interpreter cuts bits off."""
    if (given, wanted) == (tl.float32, tl.bfloat16):
        return torch.from_numpy(np.array(data, order="C")).bfloat16().view(torch.int16).numpy()
    return convert_float(data, given, wanted, rounding)


def install():
    interpreter.InterpreterBuilder.create_dot = product
    interpreter._convert_float = convert
    interpreter._patch_lang = patch_once
