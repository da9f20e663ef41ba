"""mamba-ssm's extension; see `lifter.compat`."""

from lifter.compat.scan import mamba_bwd as bwd
from lifter.compat.scan import mamba_fwd as fwd

__all__ = ["bwd", "fwd"]
