"""One file per architecture. Importing this package registers all of them."""

from .conv import ConvLifter
from .d3dp import D3DP
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
from .tcpformer import TCPFormer

__all__ = [
    "ConvLifter",
    "D3DP",
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
    "SasMamba",
    "TCPFormer",
]
