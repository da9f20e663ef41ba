"""VMamba's extension with float32 output from half precision; see `lifter.compat`."""

from lifter.compat.scan import core_bwd as bwd
from lifter.compat.scan import oflex_fwd as fwd

__all__ = ["bwd", "fwd"]
