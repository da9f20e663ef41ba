"""VMamba's extension; see `lifter.compat`."""

from lifter.compat.scan import core_bwd as bwd
from lifter.compat.scan import core_fwd as fwd

__all__ = ["bwd", "fwd"]
