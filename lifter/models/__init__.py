"""One file per architecture. Importing this package registers all of them."""

from .d3dp import D3DP
from .hot import HoTMixSTE
from .ktpformer import KTPFormer
from .mixste import MixSTE
from .mixsynthformer import MixSynthFormer
from .motionbert import MotionBERT
from .posemamba import PoseMamba
from .poseretnet import PoseRetNet
from .sasmamba import SasMamba

__all__ = [
    "D3DP",
    "HoTMixSTE",
    "KTPFormer",
    "MixSTE",
    "MixSynthFormer",
    "MotionBERT",
    "PoseMamba",
    "PoseRetNet",
    "SasMamba",
]
