"""One file per architecture. Importing this package registers all of them."""

from .conv import ConvLifter
from .d3dp import D3DP
from .deciwatch import DeciWatch
from .finepose import FinePOSE
from .ftcm import FTCM
from .gla_gcn import GLAGCN
from .hdformer import HDFormer
from .hgmamba import HGMamba
from .hot import HoTMixSTE, HoTMotionAGFormer, TPCMixSTE
from .htp import HTP, HTPMixSTE, HTPMotionBERT
from .ktpformer import KTPFormer
from .linear import LinearLifter
from .masc_pose import MASCPose
from .mhformer import MHFormer
from .mixste import MixSTE
from .mixsynthformer import MixSynthFormer
from .mixsynthformer_lifter import MixSynthFormerLifter
from .motionagformer import MotionAGFormer
from .motionbert import MotionBERT
from .poseformer import PoseFormer
from .poseformerv2 import PoseFormerV2
from .posemamba import PoseMamba
from .poseretnet import PoseRetNet
from .pstmo import PSTMO, PSTMOPretrain
from .sasmamba import SasMamba
from .smoothnet import SmoothNet
from .stcformer import STCFormer
from .strided_transformer import StridedTransformer
from .tcpformer import TCPFormer
from .videopose3d import VideoPose3D

__all__ = [
    "ConvLifter",
    "D3DP",
    "DeciWatch",
    "FTCM",
    "FinePOSE",
    "GLAGCN",
    "HDFormer",
    "HGMamba",
    "HTP",
    "HTPMixSTE",
    "HTPMotionBERT",
    "HoTMixSTE",
    "HoTMotionAGFormer",
    "KTPFormer",
    "LinearLifter",
    "MASCPose",
    "MHFormer",
    "MixSTE",
    "MixSynthFormer",
    "MixSynthFormerLifter",
    "MotionAGFormer",
    "MotionBERT",
    "PSTMO",
    "PSTMOPretrain",
    "PoseFormer",
    "PoseFormerV2",
    "PoseMamba",
    "PoseRetNet",
    "STCFormer",
    "SasMamba",
    "SmoothNet",
    "StridedTransformer",
    "TCPFormer",
    "TPCMixSTE",
    "VideoPose3D",
]
