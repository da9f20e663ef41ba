"""Figures that the papers print, as data. Nothing here is measured; nothing elsewhere repeats it."""

import math
from dataclasses import dataclass, field

HALF = "published is half of what thop counts for the official code"


@dataclass(frozen=True)
class Published:
    """One printed row: the figures as printed ("0.64M", "2.604G"; "" if not), and the arguments that build the model.

    `per_frame`: the printed multiply-accumulates are those of a clip, by its frames. `calls`: of the model for one clip,
    whose sum is printed. `all_params`: the printed parameters are all there are, not those that thop sees. `counted`: the
    count that the printed multiply-accumulates are, one of `tables.CONVENTIONS`. `public`: whether there is code of it.
    `mpjpe`: the error in mm on Human3.6M from detected keypoints, in one of the tables that print the model.
    """

    model: str
    source: str
    params: str
    macs: str
    kwargs: dict = field(default_factory=dict)
    frames: int = 243
    note: str = ""
    per_frame: bool = False
    calls: int = 1
    all_params: bool = False
    counted: str = "thop"
    public: bool = True
    mpjpe: float | None = None

    @property
    def printed(self) -> str:
        return f"{self.params or '-'} / {self.macs or '-'}{'/frame' if self.per_frame else ''}"

    @property
    def name(self) -> str:
        """Model and arguments: `sasmamba kernel_size=5`."""
        return " ".join([self.model, *(f"{key}={value}" for key, value in self.kwargs.items())])


def value(printed: str) -> float:
    """2.01M -> 2010000.0"""
    return float(printed[:-1]) * {"M": 1e6, "G": 1e9}[printed[-1]]


def as_printed(number: float, printed: str) -> bool:
    """Return whether `number`, rounded to the digits of `printed`, or cut to them as table 5 does, is `printed`."""
    digits = len(printed[:-1].partition(".")[2])
    scaled = number / value("1" + printed[-1])
    return float(printed[:-1]) in (round(scaled, digits), math.floor(scaled * 10**digits) / 10**digits)


TABLE_1 = "SasMamba, table 1"
TABLE_5 = "SasMamba, table 5"  # its "Flops" are multiply-accumulates, thop's
POSERETNET = "PoseRetNet, table 5"  # per frame; its "FLOPs" are multiply-accumulates, thop's
HTP = "HTP, table {}"  # its parameters are all there are
MASC = "MASC-Pose, table I"
MIXSYNTH = "MixSynthFormer, table {}"  # per frame, thop's multiply-accumulates; the estimator's are not in them
CODE = "official code, counted by thop"

A_CLIP = "printed as of a frame; it is that of a clip of 243, so 321M per frame"
UNSEEN = "retention's matrices are raw parameters, which thop does not see: really 35.75M, 642M/frame"
ANY_CHUNK = "printed for 243; thop sees nothing that depends on the chunk"
NO_CODE = "there is no official code; the layer fusion, 0.17M and 0.69G of it, is ours"
ONE_PROJECTION = "learned queries are the same for all joints, and projected once: 1.019G less"
ONE_PROJECTION_64M = "learned queries are projected once, 0.064G less; thop counts the mean over the joints, 0.001G"
CUT = "cut to the printed digits, not rounded"
PARE = "official configuration for PARE, every fifth frame; the paper says every tenth"
DENSE = "printed by torchprofile; the official code multiplies each dense T x T graph of its chosen frames by both degrees, {}"
NOT_PUBLIC = "no public code"
H2OT = "no public code; attention is counted in it, unlike in the rows of thop"
MORE_LAYERS = "thop has rules for the official code's softmax and pooling layers: 0.08M"

LINEAR = {"interpolation": "linear"}  # in MixSynthFormer's ablations
TEMPORAL = {"branches": ("temporal",), "dim": 64}

HTP_PARTS = "2.169G more: the GCN's, which the total has no room for; 1.019G less: queries projected once"
HTP_ALONE = "printed 4.33G over D3DP's: two such GCNs; one is 2.169G"
HTP_BERT = "the printed total has room for the attention of the first SFT block, not for its MLP, 4.33G"

FINEPOSE = "printed with the text's encoder, 164.2M, which is given here; 2.17G less: the time is projected once per clip"
FINEPOSE_K1 = f"{FINEPOSE}; 40 times the printed 0.60G are 24.0G, and 22.9G is what D3DP has"
KTP = "printed for its diffusion variant, which has 1.05M more to tell the time"

# n of HTP, as printed in its table VII.
HTP_BY_N = {1: "60.6G", 2: "74.2G", 3: "87.7G", 4: "101.2G"}
NOTHING = {"tcep": False, "sft": False, "mgptp": False, "guided": False}

# Frames per second of HTP's table V by hypotheses and steps; its HTP runs with n=1.
FPS = {
    (20, 1): {"d3dp": 772.7, "finepose": 723.7, "ktpformer": 705.8, "htp n=1": 2277.5},
    (20, 10): {"d3dp": 79.6, "finepose": 73.8, "ktpformer": 73.5, "htp n=1": 137.0},
}


def _htp(model, table, params, macs, note=HTP_PARTS, **row):
    return Published(model, HTP.format(table), params, macs, note=note, all_params=True, **row)


def _hgmamba(model, source, params, macs, dense, frames=243, **row):
    note = DENSE.format(dense)
    return Published(model, source, params, macs, frames=frames, note=note, all_params=True, counted="torchprofile", **row)


ROWS = [
    Published("sasmamba", TABLE_1, "0.64M", "1.3G", note=f"{HALF}; 0.64M with the deformable layers", mpjpe=41.48),
    Published("sasmamba_large", TABLE_1, "4.1M", "8.56G", note=HALF, mpjpe=39.77),
    Published("stcformer", TABLE_1, "4.7M", "19.6G", mpjpe=41.0),
    Published("hdformer", TABLE_1, "3.7M", "0.6G", frames=96, mpjpe=42.6),
    Published("motionagformer_xs", TABLE_1, "2.2M", "1.0G", frames=27, mpjpe=45.1),
    Published("motionagformer_s", TABLE_1, "4.8M", "6.6G", frames=81, mpjpe=42.5),
    Published("motionagformer_b", TABLE_1, "11.7M", "48.3G", mpjpe=38.4),
    Published("motionagformer_l", TABLE_1, "19.0M", "78.3G", mpjpe=38.4),
    _hgmamba("hgmamba_xs", TABLE_1, "2.8M", "1.14G", "0.018G", 27, mpjpe=44.9),
    _hgmamba("hgmamba_s", TABLE_1, "6.1M", "8.02G", "0.66G", 81, mpjpe=42.8),
    Published("posemamba_s", TABLE_1, "0.9M", "3.6G", mpjpe=41.8),
    Published("posemamba_b", TABLE_1, "3.4M", "13.9G", mpjpe=40.8),
    Published("posemamba_l", TABLE_1, "6.7M", "27.9G", mpjpe=38.1),
    Published("sasmamba", TABLE_5, "0.417M", "1.74G", {"kernel_size": 1}),
    Published("sasmamba", TABLE_5, "0.624M", "2.60G", {"kernel_size": 3}),
    Published("sasmamba", TABLE_5, "2.01M", "8.35G", {"kernel_size": 5}),
    Published("sasmamba", TABLE_5, "6.56M", "27.13G", {"kernel_size": 7}),
    Published("mixste", TABLE_1, "33.6M", "139.0G", mpjpe=40.9),
    Published("ktpformer", TABLE_1, "33.7M", "69.5G", note=HALF, mpjpe=40.1),
    Published("mixste", POSERETNET, "33.6M", "572M", per_frame=True),
    Published("motionbert", TABLE_1, "42.3M", "174.8G", mpjpe=39.2),
    Published("stcformer_l", POSERETNET, "18.9M", "78107M", counted="old thop", note=A_CLIP),
    Published("poseretnet", POSERETNET, "25.2M", "430M", note=UNSEEN, per_frame=True, mpjpe=40.4),
    *(
        Published("poseretnet", POSERETNET, "25.2M", "430M", {"chunk_size": chunk}, note=ANY_CHUNK, per_frame=True)
        for chunk in (81, 27, 9)
    ),
    _htp("mixste", "I", "33.8M", "139.0G", ""),
    _htp("motionbert", "I", "42.5M", "174.8G", ""),
    Published(
        "posemamba_x", HTP.format("I"), "26.5M", "109.9G", note="26.5M as thop counts, unlike the other rows", mpjpe=37.1
    ),
    _htp("stcformer_l", "I", "18.9M", "78.2G", "", mpjpe=40.5),
    _htp("sama_l", "I", "17.3M", "53.2G", NOT_PUBLIC, public=False),
    _htp("tc_mixste", "I", "", "", NOT_PUBLIC, public=False),
    _htp("dualformer", "I", "", "", NOT_PUBLIC, frames=351, public=False),
    _htp("hot_mixste", "I", "35.0M", "83.8G", ONE_PROJECTION, mpjpe=41.0),
    _htp("d3dp", "I", "34.8M", "139.1G", "one call"),
    _htp("finepose", "I", "200.6M", "146G", FINEPOSE),
    _htp("ktpformer", "I", "36.3M", "139.1G", KTP),
    _htp("htp", "I", "37.5M", "87.7G", kwargs={"n": 3}),
    _htp("htp_mixste", "I", "36.4M", "87.6G", kwargs={"n": 3}, mpjpe=39.9),
    _htp("htp_motionbert", "I", "47.6M", "101.7G", HTP_BERT, mpjpe=38.9),
    _htp("d3dp", "V", "34.8M", "0.58G", "training: one call", per_frame=True),
    _htp("d3dp", "V", "34.8M", "22.9G", "40 calls: H=20, K=1, flip", per_frame=True, calls=40, mpjpe=38.8),
    _htp("d3dp", "V", "34.8M", "228.8G", "400 calls: H=20, K=10, flip", per_frame=True, calls=400, mpjpe=35.4),
    _htp("finepose", "V", "200.6M", "0.60G", FINEPOSE, per_frame=True),
    _htp("finepose", "V", "200.6M", "22.9G", FINEPOSE_K1, per_frame=True, calls=40, mpjpe=40.0),
    _htp("finepose", "V", "200.6M", "236.2G", FINEPOSE, per_frame=True, calls=400, mpjpe=31.9),
    _htp("ktpformer", "V", "36.3M", "0.58G", KTP, per_frame=True),
    _htp(
        "ktpformer",
        "V",
        "36.3M",
        "23.6G",
        f"{KTP}; 23.6G is of no multiple of its 0.58G",
        per_frame=True,
        calls=40,
        mpjpe=39.5,
    ),
    _htp("ktpformer", "V", "36.3M", "228.8G", KTP, per_frame=True, calls=400, mpjpe=33.0),
    _htp("htp", "V", "37.5M", "0.36G", kwargs={"n": 3}, per_frame=True),
    _htp("htp", "V", "37.5M", "10.0G", kwargs={"n": 1}, per_frame=True, calls=40, mpjpe=32.9),
    _htp("htp", "V", "37.5M", "99.8G", kwargs={"n": 1}, per_frame=True, calls=400, mpjpe=29.9),
    _htp("stcformer_l", "VI", "18.9M", "0.32G", "", per_frame=True),
    _htp("htp_mixste", "VI", "36.4M", "0.36G", kwargs={"n": 3}, per_frame=True),
    _htp("d3dp", "VI", "34.6M", "1.14G", "2 calls: flip", per_frame=True, calls=2, mpjpe=40.0),
    _htp("htp", "VI", "37.5M", "0.72G", kwargs={"n": 3}, per_frame=True, calls=2, mpjpe=39.8),
    _htp("htp", "VI", "37.5M", "0.50G", kwargs={"n": 1}, per_frame=True, calls=2, mpjpe=40.6),
    *(_htp("htp", "VII", "37.5M", macs, kwargs={"n": n}) for n, macs in HTP_BY_N.items()),
    _htp("htp", "XI, baseline", "35.5M", "143.375G", HTP_ALONE, kwargs=NOTHING),
    _htp("htp", "XI, setting 1", "36.3M", "143.392G", HTP_ALONE, kwargs={"sft": False, "mgptp": False}),
    _htp("htp", "XI", "37.5M", "87.648G", kwargs={"n": 3}),
    *(
        _htp("htp", "XIII", "37.5M", macs, kwargs={"n": 1}, frames=frames, per_frame=True, calls=400)
        for frames, macs in {81: "119.2G", 162: "119.2G", 243: "99.8G"}.items()
    ),
    Published("mixste", MASC, "33.6M", "139.0G"),
    Published("motionbert", MASC, "42.3M", "174.8G"),
    Published("ktpformer", MASC, "33.7M", "69.5G", note=HALF),
    Published("motionagformer_l", MASC, "19.0M", "78.3G"),
    _hgmamba("hgmamba_b", MASC, "14.2M", "64.5G", "9.9G", mpjpe=38.7),
    _hgmamba("hgmamba_b", MASC, "14.2M", "265M", "9.9G a clip", per_frame=True),
    Published("h2ot_motionagformer", MASC, "11.7M", "38.9G", note=H2OT, public=False),
    Published("tcpformer", MASC, "35.1M", "109.2G", note="35.1M with its raw parameters, which thop does not see", mpjpe=37.9),
    Published("masc_pose", MASC, "13.0M", "53.4G", note=NO_CODE, mpjpe=37.8),
    Published("masc_pose", MASC, "13.0M", "219M", note=NO_CODE, per_frame=True),
    Published("sasmamba", CODE, "0.624951M", "2.604G"),
    Published("stcformer", CODE, "4.747520M", "19.606G"),
    Published("stcformer_l", CODE, "18.932224M", "78.196G"),
    Published("hgmamba_xs", CODE, "1.839547M", "0.844G", frames=27),
    Published("hgmamba_s", CODE, "3.947423M", "5.428G", frames=81),
    Published("hgmamba_b", CODE, "9.604003M", "39.640G"),
    Published("sasmamba_large", CODE, "4.136299M", "17.179G"),
    Published("posemamba_s", CODE, "0.859651M", "3.587G"),
    Published("posemamba_b", CODE, "3.357699M", "13.943G"),
    Published("posemamba_l", CODE, "6.713859M", "27.881G"),
    Published("posemamba_x", CODE, "26.534915M", "109.909G"),
    Published("mixste", CODE, "33.650691M", "139.038G"),
    Published("hot_mixste", CODE, "34.701315M", "84.004G", note=ONE_PROJECTION),
    Published("ktpformer", CODE, "33.652227M", "139.060G"),
    Published("d3dp", CODE, "34.702339M", "139.046G"),
    Published("motionbert", CODE, "42.333197M", "174.751G"),
    Published("poseretnet", CODE, "25.245699M", "104.385G"),
    Published("motionagformer_xs", CODE, "2.234299M", "1.024G", frames=27),
    Published("motionagformer_s", CODE, "4.802719M", "6.601G", frames=81),
    Published("motionagformer_b", CODE, "11.705251M", "48.301G"),
    Published("motionagformer_l", CODE, "18.978311M", "78.314G"),
    Published("hot_motionagformer", CODE, "11.767999M", "30.473G", note=ONE_PROJECTION_64M),
    Published("hdformer", CODE, "3.703350M", "591.2M", frames=96, note="thop counts the softmax, 0.19M"),
    Published("finepose", CODE, "36.281347M", "143.435G", note="2.17G less: the time is projected once per clip"),
    Published("tcpformer", CODE, "34.904867M", "109.215G"),
    Published("mixsynthformer_jhmdb", MIXSYNTH.format(1), "", "0.0004G", frames=11, note=CUT, per_frame=True),
    Published("mixsynthformer_h36m", MIXSYNTH.format(2), "", "0.0001G", frames=101, per_frame=True),
    Published("mixsynthformer_3dpw", MIXSYNTH.format(2), "", "0.00003G", frames=51, per_frame=True),
    Published("mixsynthformer_3dpw", MIXSYNTH.format(2), "", "0.00003G", {"interval": 5, "steps": 10}, 51, PARE, True),
    Published("mixsynthformer_aist", MIXSYNTH.format(2), "", "0.0005G", frames=101, per_frame=True),
    Published("mixsynthformer_3dpw", MIXSYNTH.format(5), "0.10M", "0.09M", LINEAR | TEMPORAL, 51, f"width 64; {CUT}", True),
    *(
        Published("mixsynthformer_h36m", MIXSYNTH.format(6), params, macs, LINEAR | reductions, 101, note, True)
        for reductions, params, macs, note in [
            ({"r_t": 1, "r_s": 1}, "0.26M", "0.13M", ""),
            ({"r_t": 4, "r_s": 1}, "0.21M", "0.12M", ""),
            ({"r_t": 1, "r_s": 4}, "0.23M", "0.12M", CUT),
            ({"r_t": 4, "r_s": 4}, "0.18M", "0.11M", ""),
        ]
    ),
    Published("mixsynthformer_h36m", CODE, "0.178939M", "11.48M", frames=101, note=MORE_LAYERS),
]

# Models that lift one frame of a window: what is printed is of a window, and so of a frame.
TWICE = "multiplications and additions apart"
THRICE = "1.05G in its paper, multiplications and additions apart, here doubled once more"
FOR_351 = "printed for 351 frames; both figures are of 243"
OTHER_SIZE = "PoseFormerV2's cost, beside PoseFormer's parameters"
ALL_FRAMES = "243 windows, one for each frame, while other rows print one window"
PRODUCTS = "every product, multiplications and additions apart, and elementwise work"
NARROW = "fits a width of 64, which no official configuration has"
NO_SUCH = "fits no official configuration"

ROWS += [
    _htp("videopose3d", "I", "", "", "", mpjpe=46.8),
    _htp("ftcm", "I", "4.7M", "1.5G", "", frames=351, mpjpe=45.3),
    _htp("poseformer", "I", "9.6M", "1.6G", TWICE, frames=81, counted="2 x thop", mpjpe=44.3),
    _htp("pstmo", "I", "7.0M", "1.7G", "", counted="2 x thop"),
    _htp("poseformerv2", "I", "14.4M", "2.1G", THRICE, counted="4 x thop"),
    Published("mhformer", HTP.format("I"), "24.7M", "9.6G", note=FOR_351, counted="2 x thop", mpjpe=43.0),
    Published("poseformer", HTP.format("VI"), "9.5M", "1.62G", frames=81, note=TWICE, counted="2 x thop"),
    Published("poseformerv2", HTP.format("VI"), "", "2.10G", note=f"{THRICE}; {OTHER_SIZE}", counted="4 x thop"),
    Published("pstmo_s", TABLE_1, "6.2M", "0.7G", mpjpe=42.8),
    Published("gla_gcn", TABLE_1, "1.3M", "1.5G", note=CUT, mpjpe=44.4),
    Published("poseformerv2", TABLE_1, "14.3M", "128.2G", note=ALL_FRAMES, calls=243),
    Published(
        "strided_transformer", POSERETNET, "4.2M", "1372M", note=PRODUCTS, all_params=True, counted="2 x all", mpjpe=44.0
    ),
    Published("pstmo", POSERETNET, "6.7M", "1737M", note=TWICE, counted="2 x thop"),
    Published("mhformer", POSERETNET, "24.7M", "4812M", counted="old thop"),
    Published("pstmo_s", MASC, "6.2M", "740M"),
    Published("poseformerv2", MASC, "14.3M", "528M", note=CUT, mpjpe=45.2),
    Published("gla_gcn", MASC, "1.3M", "1556M"),
    Published("deciwatch", MIXSYNTH.format(2), "", "0.0007G", frames=101, per_frame=True),
    Published("deciwatch_3dpw", MIXSYNTH.format(2), "", "0.0004G", {"dim": 64}, 101, NARROW, True),
    Published("deciwatch_jhmdb", MIXSYNTH.format(1), "", "0.0005G", frames=11, note=NO_SUCH, per_frame=True),
    Published("videopose3d", CODE, "8.555571M", "17.8M", frames=27),
    Published("videopose3d", CODE, "12.753971M", "57.6M", frames=81),
    Published("videopose3d", CODE, "16.952371M", "176.9M"),
    Published("poseformer", CODE, "9.558277M", "815.5M", frames=81),
    *(
        Published("poseformerv2", CODE, params, macs, {"kept_frames": kept, "kept_coeffs": kept})
        for kept, params, macs in ((9, "14.351943M", "176.2M"), (27, "14.351979M", "528.6M"), (243, "14.352411M", "4.757G"))
    ),
    Published("pstmo_s", CODE, "6.224230M", "740.9M"),
    Published("pstmo", CODE, "6.750310M", "868.3M"),
    Published("strided_transformer", CODE, "3.979622M", "801.1M", frames=351),
    Published("mhformer", CODE, "24.767043M", "4.827G"),
    Published("mhformer", CODE, "30.941187M", "7.096G", frames=351),
    Published("gla_gcn", CODE, "1.339319M", "1.5564G"),
    Published("ftcm", CODE, "4.191846M", "1.463G", frames=351),
    Published("deciwatch", CODE, "0.718694M", "72.86M", frames=101),
    Published("deciwatch_3dpw", CODE, "0.179348M", "17.98M", frames=101),
    Published("deciwatch_jhmdb", CODE, "0.697148M", "7.70M", frames=11),
    Published("smoothnet", CODE, "0.761572M", "38.6M", frames=100),
]
