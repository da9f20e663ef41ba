"""One file per architecture. Importing this package registers all of them."""

from .d3dp import D3DP
from .hgmamba import HGMamba
from .hot import HoTMixSTE
from .htp import HTP, HTPMixSTE, HTPMotionBERT
from .ktpformer import KTPFormer
from .linear import LinearLifter
from .masc_pose import MASCPose
from .mixste import MixSTE
from .mixsynthformer import MixSynthFormer
from .motionagformer import MotionAGFormer
from .motionbert import MotionBERT
from .posemamba import PoseMamba
from .poseretnet import PoseRetNet
from .sasmamba import SasMamba
from .sparse_lifter import MixSynthFormerLifter
from .stcformer import STCFormer
from .tcpformer import TCPFormer

__all__ = [
    "D3DP",
    "HGMamba",
    "HTP",
    "HTPMixSTE",
    "HTPMotionBERT",
    "HoTMixSTE",
    "KTPFormer",
    "LinearLifter",
    "MASCPose",
    "MixSTE",
    "MixSynthFormer",
    "MixSynthFormerLifter",
    "MotionAGFormer",
    "MotionBERT",
    "PoseMamba",
    "PoseRetNet",
    "STCFormer",
    "SasMamba",
    "TCPFormer",
]
