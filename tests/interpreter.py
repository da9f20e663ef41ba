"""Changes of Triton's interpreter for the tests: numbers as a GPU has them, the same everywhere, and no work done twice."""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

patch_lang, convert_float = interpreter._patch_lang, interpreter._convert_float
get_numpy_dtype, numpy_dtypes = interpreter._get_np_dtype, {}


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


def remembered(init, key):
    """Let an `__init__` copy the attributes that it once made for the same key; they depend on nothing else."""
    known = {}

    def copy(self, *args):
        found = known.get(name := key(*args))
        if found is None:
            init(self, *args)
            known[name] = dict(vars(self))
        else:
            vars(self).update(found)

    return copy


init_type = remembered(tl.core.tensor.__init__, lambda handle, type: type.name)


def init_tensor(self, handle, type):
    init_type(self, None, type)
    self.handle = handle


init_block_type = remembered(
    tl.core.block_type.__init__, lambda element_ty, shape: (element_ty.name, *(getattr(n, "value", n) for n in shape))
)


def numpy_dtype(type):
    if type.name not in numpy_dtypes:
        numpy_dtypes[type.name] = get_numpy_dtype(type)
    return numpy_dtypes[type.name]


def install():
    interpreter.InterpreterBuilder.create_dot = product
    interpreter._convert_float = convert
    interpreter._patch_lang = patch_once
    interpreter._get_np_dtype = numpy_dtype
    tl.core.tensor.__init__ = init_tensor
    tl.core.block_type.__init__ = init_block_type
