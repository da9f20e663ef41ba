"""One file per architecture. Importing this package registers all of them."""

from .posemamba import PoseMamba
from .sasmamba import SasMamba

__all__ = ["PoseMamba", "SasMamba"]
