"""One file per architecture. Importing this package registers all of them."""

from .mixste import MixSTE
from .motionbert import MotionBERT
from .posemamba import PoseMamba
from .poseretnet import PoseRetNet
from .sasmamba import SasMamba

__all__ = ["MixSTE", "MotionBERT", "PoseMamba", "PoseRetNet", "SasMamba"]
