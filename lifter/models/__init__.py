"""One file per architecture. Importing this package registers all of them."""

from .d3dp import D3DP
from .hot import HoTMixSTE
from .htp import HTP, HTPMixSTE, HTPMotionBERT
from .ktpformer import KTPFormer
from .mixste import MixSTE
from .motionbert import MotionBERT
from .posemamba import PoseMamba
from .poseretnet import PoseRetNet
from .sasmamba import SasMamba

__all__ = [
    "D3DP",
    "HTP",
    "HTPMixSTE",
    "HTPMotionBERT",
    "HoTMixSTE",
    "KTPFormer",
    "MixSTE",
    "MotionBERT",
    "PoseMamba",
    "PoseRetNet",
    "SasMamba",
]
