"""What the papers print, as data. Nothing here is measured; nothing elsewhere repeats it."""

import math
from dataclasses import dataclass, field

HALF = "published is half of what thop counts for the official code"


@dataclass(frozen=True)
class Published:
    """One printed row: the figures as printed ("0.64M", "2.604G"; "" if not), and the arguments that build the model.

    `per_frame`: the printed multiply-accumulates are those of a clip, by its frames. `calls`: of the model for one clip,
    whose sum is printed.
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

    @property
    def printed(self) -> str:
        return f"{self.params or '-'} / {self.macs}{'/frame' if self.per_frame else ''}"

    @property
    def name(self) -> str:
        """Model and arguments: `sasmamba kernel_size=5`."""
        return " ".join([self.model, *(f"{key}={value}" for key, value in self.kwargs.items())])


def value(printed: str) -> float:
    """2.01M -> 2010000.0"""
    return float(printed[:-1]) * {"M": 1e6, "G": 1e9}[printed[-1]]


def as_printed(number: float, printed: str) -> bool:
    """Whether `number`, rounded to the digits of `printed`, or cut to them as table 5 does, is `printed`."""
    digits = len(printed[:-1].partition(".")[2])
    scaled = number / value("1" + printed[-1])
    return float(printed[:-1]) in (round(scaled, digits), math.floor(scaled * 10**digits) / 10**digits)


TABLE_1 = "SasMamba, table 1"
TABLE_5 = "SasMamba, table 5"  # its "Flops" are multiply-accumulates, thop's
POSERETNET = "PoseRetNet, table 5"  # per frame; its "FLOPs" are multiply-accumulates, thop's
HTP = "HTP, table {}"
MIXSYNTH = "MixSynthFormer, table {}"  # per frame, thop's multiply-accumulates; the estimator's are not in them
CODE = "official code, counted by thop"

UNSEEN = "retention's matrices are raw parameters, which thop does not see: really 35.75M, 642M/frame"
ANY_CHUNK = "printed for 243; thop sees nothing that depends on the chunk"
ONE_PROJECTION = "learned queries are the same for all joints, and projected once: 1.019G less"
CUT = "cut to the printed digits, not rounded"
PARE = "official configuration for PARE, every fifth frame; the paper says every tenth"
MORE_LAYERS = "thop has rules for the official code's softmax and pooling layers: 0.08M"

LINEAR = {"interpolation": "linear"}  # in MixSynthFormer's ablations
TEMPORAL = {"branches": ("temporal",), "dim": 64}

ROWS = [
    Published("sasmamba", TABLE_1, "0.64M", "1.3G", note=f"{HALF}; 0.64M with the deformable layers"),
    Published("sasmamba_large", TABLE_1, "4.1M", "8.56G", note=HALF),
    Published("posemamba_s", TABLE_1, "0.9M", "3.6G"),
    Published("posemamba_b", TABLE_1, "3.4M", "13.9G"),
    Published("posemamba_l", TABLE_1, "6.7M", "27.9G"),
    Published("sasmamba", TABLE_5, "0.417M", "1.74G", {"kernel_size": 1}),
    Published("sasmamba", TABLE_5, "0.624M", "2.60G", {"kernel_size": 3}),
    Published("sasmamba", TABLE_5, "2.01M", "8.35G", {"kernel_size": 5}),
    Published("sasmamba", TABLE_5, "6.56M", "27.13G", {"kernel_size": 7}),
    Published("mixste", TABLE_1, "33.6M", "139.0G"),
    Published("ktpformer", TABLE_1, "33.7M", "69.5G", note=HALF),
    Published("mixste", POSERETNET, "33.6M", "572M", per_frame=True),
    Published("motionbert", TABLE_1, "42.3M", "174.8G"),
    Published("poseretnet", POSERETNET, "25.2M", "430M", note=UNSEEN, per_frame=True),
    *(
        Published("poseretnet", POSERETNET, "25.2M", "430M", {"chunk_size": chunk}, note=ANY_CHUNK, per_frame=True)
        for chunk in (81, 27, 9)
    ),
    Published("hot_mixste", HTP.format("I"), "35.0M", "83.8G", note=ONE_PROJECTION),
    Published("d3dp", HTP.format("I"), "34.8M", "139.1G", note="one call"),
    Published("d3dp", HTP.format("V"), "34.8M", "22.9G", note="40 calls: H=20, K=1, flip", per_frame=True, calls=40),
    Published("d3dp", HTP.format("V"), "34.8M", "228.8G", note="400 calls: H=20, K=10, flip", per_frame=True, calls=400),
    Published("sasmamba", CODE, "0.624951M", "2.604G"),
    Published("sasmamba_large", CODE, "4.136299M", "17.179G"),
    Published("posemamba_s", CODE, "0.859651M", "3.587G"),
    Published("posemamba_b", CODE, "3.357699M", "13.943G"),
    Published("posemamba_l", CODE, "6.713859M", "27.881G"),
    Published("mixste", CODE, "33.650691M", "139.038G"),
    Published("hot_mixste", CODE, "34.701315M", "84.004G", note=ONE_PROJECTION),
    Published("ktpformer", CODE, "33.652227M", "139.060G"),
    Published("d3dp", CODE, "34.702339M", "139.046G"),
    Published("motionbert", CODE, "42.333197M", "174.751G"),
    Published("poseretnet", CODE, "25.245699M", "104.385G"),
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
