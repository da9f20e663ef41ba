"""The papers' own code, where `benchmarks.peers` has fetched it: networks of the sizes of our models, with random weights."""

import importlib.abc
import sys
from contextlib import contextmanager
from functools import cache, partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from torch import nn

import lifter.compat
from lifter.layers import DeformConv2d, DropPath
from lifter.layers.graph_conv import known_graph, partly_learned
from lifter.models import PSTMO, StridedTransformer
from lifter.models._inputs import bones_or_default
from lifter.models._windows import widths_of
from lifter.models.poseformerv2 import DCT
from lifter.skeleton import H36M

from . import PEERS

# What the official codes import and hardly use, stood in for where it is not installed. A few layers of timm and torchvision
# are used: they are ours then.
STOOD_IN = (
    "timm", "fvcore", "torchvision", "torch_dct", "dc1d", "Dwconv", "thop", "local_attention", "scipy",
    "selective_scan_cuda_oflex_rh", "clip",
)  # fmt: skip


class NoClip(nn.Module):
    """Stands for FinePOSE's CLIP: the denoiser is given what the text encoder makes of a prompt."""

    dtype = torch.float32


_transform = cache(DCT)
KNOWN = {
    "DropPath": DropPath, "DeformConv2d": DeformConv2d, "trunc_normal_": nn.init.trunc_normal_, "to_2tuple": lambda x: (x, x),
    "register_model": lambda function: function, "load": lambda *args: (NoClip(), None),
    "dct": lambda x: _transform(x.shape[-1]).to(x)(x.mT).mT, "idct": lambda x: _transform(x.shape[-1]).to(x).inverse(x.mT).mT,
}  # fmt: skip


def _mixste(frames, dim=512, depth=8, **others):
    return {"num_frame": frames, "num_joints": 17, "in_chans": 2, "embed_dim_ratio": dim, "depth": depth, **others}


def _agformer(frames, dim=128, layers=16, **others):
    return {"n_layers": layers, "dim_in": 3, "dim_feat": dim, "n_frames": frames, "num_heads": 8, **others}


def _motionagformer(frames, **sizes):
    return _agformer(frames, neighbour_num=2, **sizes)


def _poseretnet(frames):
    return _mixste(frames, joint_related=True, causal=False, chunk_size=frames)


def _motionbert(frames):
    sizes = {"dim_in": 3, "dim_feat": 512, "dim_rep": 512, "depth": 5, "num_heads": 8, "mlp_ratio": 2, "maxlen": frames}
    return {**sizes, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}  # as its load_backbone does


def _mixsynthformer(poses, dim, layers, steps):
    sizes = {"joint_dim": poses, "emb_dim": dim, "num_encoder_layers": layers, "step": steps}
    return {**sizes, "reduce_token": 4, "reduce_channel": 4}


def _args(frames, layers, channel, d_hid, **others):
    """The options of a command, which many take for their sizes."""
    sizes = {"layers": layers, "channel": channel, "d_hid": d_hid, "n_joints": 17, "out_joints": 17, "frames": frames}
    return {"args": SimpleNamespace(**sizes, **others)}


def _hot(frames):
    return _args(frames, 8, 512, 1024, layer_index=3, token_num=frames // 3)


def _hot_motionagformer(frames):
    return {"args": SimpleNamespace(maxlen=frames), "num_heads": 8, "neighbour_num": 2}


def _stcformer(frames, dim=256):
    return _args(frames, 6, None, dim)


def _strided(frames, model=StridedTransformer, layers=3):
    return _args(frames, layers, 256, 512, stride_num=model.strides_of(frames))


def _poseformerv2(frames):
    sizes = {"embed_dim_ratio": 32, "depth": 4, "number_of_kept_frames": 27, "number_of_kept_coeffs": 27}
    return {"num_frame": frames, "args": SimpleNamespace(**sizes)}


def _convolutions(frames):
    return {"num_joints_in": 17, "in_features": 2, "num_joints_out": 17, "filter_widths": widths_of("", frames, None)}


def _deciwatch(poses, dim, layers=5):
    return {
        "input_dim": poses, "sample_interval": 10, "encoder_hidden_dim": dim, "decoder_hidden_dim": dim, "enc_layers": layers,
        "dec_layers": layers,
    }  # fmt: skip


def _hdformer(frames):
    parents = [-1, *(parent for _, parent in sorted(H36M.bones))]
    options = {"in_channels": 2, "n_joints": 17, "max_hop": 4, "dropout": 0.0, "attention_merge": True, "PJN": True}
    options |= {"backbone": "HDFormer", "edeg_importance_weighting": True, "residual": True, "data_bn": True}
    return {"skeleton": SimpleNamespace(parents=lambda: parents), "cfg": SimpleNamespace(**options)}


OWN = ("common", "lib", "model", "models", "base")
# Our model -> repository, class, and its arguments for clips of so many frames.
CODE = {
    "mixste": ("MixSTE", "common.model_cross.MixSTE2", _mixste),
    "d3dp": ("D3DP", "common.mixste.MixSTE2", _mixste),
    "ktpformer": ("KTPFormer", "common.model_ktpformer.KTPFormer", lambda frames: _mixste(frames, depth=7)),
    "stcformer": ("STCFormer", "model.stcformer.Model", _stcformer),
    "stcformer_l": ("STCFormer", "model.stcformer.Model", partial(_stcformer, dim=512)),
    "hot_mixste": ("HoT", "model.mixste.hot_mixste.Model", _hot),
    "hot_motionagformer": ("HoT", "model.motionagformer.hot_motionagformer.Model", _hot_motionagformer),
    "poseformer": ("PoseFormer", "common.model_poseformer.PoseTransformer", lambda frames: {"num_frame": frames}),
    "poseformerv2": ("PoseFormerV2", "common.model_poseformer.PoseTransformerV2", _poseformerv2),
    "pstmo": ("P-STMO", "model.stmo.Model", partial(_strided, model=PSTMO, layers=4)),
    "pstmo_s": ("P-STMO", "model.stmo.Model", partial(_strided, model=PSTMO)),
    "strided_transformer": ("StridedTransformer-Pose3D", "model.strided_transformer.Model", _strided),
    "mhformer": ("MHFormer", "model.mhformer.Model", lambda frames: _args(frames, 3, 512, 1024)),
    "gla_gcn": ("GLA-GCN", "common.s_agcn.S_AGCN", _convolutions),
    "videopose3d": ("VideoPose3D", "common.model.TemporalModelOptimized1f", _convolutions),
    "ftcm": ("FTCM", "model.my_ftcm_drop.Model", lambda frames: _args(frames, 6, 256, 512)),
    "finepose": ("FinePOSE_CVPR2024", "common.mixste_finepose.MixSTE2", _mixste),
    "smoothnet": (
        "SmoothNet",
        "lib.models.smoothnet.SmoothNet",
        lambda frames: {"window_size": frames, "output_size": frames, "res_hidden_size": 128, "num_blocks": 5},
    ),
    "hdformer": ("HDFormer", "models.vertex_model.Model", _hdformer),
    "poseretnet": ("PoseRetNet", "common.model.model_retnet.RetMixSTE", _poseretnet),
    "motionbert": ("MotionBERT", "lib.model.DSTformer.DSTformer", _motionbert),
    "tcpformer": ("TCPFormer", "model.Model.MemoryInducedTransformer", _agformer),
}
for _name, _sizes in {"xs": (64, 12), "s": (64, 26), "b": (128, 16), "l": (128, 26)}.items():
    CODE[f"motionagformer_{_name}"] = (
        "MotionAGFormer", "model.MotionAGFormer.MotionAGFormer",
        lambda frames, sizes=_sizes: _motionagformer(frames, dim=sizes[0], layers=sizes[1]),
    )  # fmt: skip
for _name, _sizes in {"xs": (64, 12), "s": (64, 26), "b": (128, 16)}.items():
    CODE[f"hgmamba_{_name}"] = (
        "HGMamba", "model.HGMamba.HGMamba",
        lambda frames, sizes=_sizes: _motionagformer(frames, dim=sizes[0], layers=sizes[1]),
    )  # fmt: skip
for _name, _sizes in {"deciwatch": (51, 128), "deciwatch_3dpw": (42, 32), "deciwatch_jhmdb": (30, 128)}.items():
    CODE[_name] = ("DeciWatch", "lib.models.deciwatch.DeciWatch", lambda frames, sizes=_sizes: _deciwatch(*sizes))
for _name, _sizes in {"s": (64, 10), "b": (128, 10), "l": (128, 20), "x": (256, 20)}.items():
    CODE[f"posemamba_{_name}"] = (
        "PoseMamba", "lib.model.PoseMamba.PoseMamba", lambda frames, sizes=_sizes: _mixste(frames, *sizes)
    )  # fmt: skip
for _name, _sizes in {"sasmamba": (64, 5), "sasmamba_large": (128, 10)}.items():
    CODE[_name] = ("sasmamba", "model.SasMamba.SasPoseMamba", lambda frames, sizes=_sizes: _mixste(frames, *sizes))
# Numbers of a pose, width, layers, steps of ten frames from keyframe to keyframe.
for _name, _sizes in {
    "h36m": (51, 64, 4, 10), "jhmdb": (30, 128, 5, 1), "3dpw": (42, 32, 4, 5), "3dpw_smpl": (144, 64, 4, 5),
    "aist": (42, 128, 5, 10), "aist_smpl": (144, 128, 5, 10),
}.items():  # fmt: skip
    CODE[f"mixsynthformer_{_name}"] = (
        "MixSynthFormer", "lib.models.mixsynthformer.PoseRefinementModel",
        lambda frames, sizes=_sizes: _mixsynthformer(*sizes),
    )  # fmt: skip


def _last(x):
    """(B, T, J, C) -> (B, C, T, J, 1)."""
    return x.permute(0, 3, 1, 2)[..., None]


def _first(x):
    """(B, C, T, J, 1) -> (B, T, J, C)."""
    return x[..., 0].permute(0, 2, 3, 1)


# Repository -> what its networks take of our arguments, and what of their outputs ours give; others are alike.
LAYOUTS = {
    "MixSynthFormer": (lambda poses: (poses.flatten(2),), lambda poses: poses),
    "DeciWatch": (lambda poses: (poses.flatten(2), poses.device), lambda both: both[0]),
    "SmoothNet": (lambda poses: (poses.flatten(2).mT,), lambda poses: poses.mT),
    "MHFormer": (lambda x: (x,), lambda poses: poses[:, poses.shape[1] // 2, None]),
    "StridedTransformer-Pose3D": (lambda x: (x,), lambda both: both[0]),
    "P-STMO": (lambda x: (_last(x),), lambda both: _first(both[0])),
    "FTCM": (lambda x: (_last(x),), _first),
    "HDFormer": (lambda x: (_last(x)[..., 0], x.new_zeros(1), x.new_ones(1)), lambda poses: poses.permute(0, 2, 3, 1)),
}


def build(name, frames, **changes) -> nn.Module:
    """The official network; `changes`: of its arguments. LookupError if there is no code of it here; or whatever it raises."""
    if name not in CODE:
        raise LookupError("no public code")
    repository, path, arguments = CODE[name]
    if not (PEERS / "official" / repository).is_dir():
        raise LookupError(f"no {repository} in {PEERS} (python -m benchmarks.peers fetch)")
    if repository == "HGMamba":
        lifter.compat.install()  # on a CPU its scans are ours
    module, _, name = path.rpartition(".")
    with _imports_from(PEERS / "official" / repository):
        network = getattr(importlib.import_module(module), name)
    given = arguments(frames) | changes
    if repository == "KTPFormer":
        bones, neighbours = bones_or_default(name, None, given["num_joints"]), [(t, t + 1) for t in range(frames - 1)]
        return network(_known_graph(given["num_joints"], bones), _known_graph(frames, neighbours), **given)
    with constants_stay():
        return ADAPTED.get(repository, lambda network: network)(network(**given))


def call(name, network, given):
    """A call without arguments of an official network, or of what is compiled of it, with `given`, our model's arguments, that
    returns what our model does."""
    into, out = LAYOUTS.get(CODE[name][0], (lambda *given: given, lambda poses: poses))
    arguments = into(*given)
    return lambda: out(network(*arguments))


def _told(network):
    """FinePOSE, given what its encoder of texts makes of them."""
    network.encode_text = lambda pooled, tokens: (pooled, tokens)
    return network


def _masked_as_of_old(network):
    """DeciWatch, whose masks are integers: true or false to its encoder, and added to scores by its decoder, as in PyTorch
    1.10, which it pins; newer ones refuse them."""
    transformer = network.transformer
    encode, decode = transformer.encode, transformer.decode
    transformer.encode = lambda x, mask, position: encode(x, mask.bool(), position)
    transformer.decode = lambda memory, mask, position, x, its_mask, its_position: decode(
        memory, mask.float(), position, x, its_mask.float(), its_position
    )
    return network


ADAPTED = {"FinePOSE_CVPR2024": _told, "DeciWatch": _masked_as_of_old}


def _known_graph(nodes, edges):
    return partly_learned(known_graph("KTPFormer", nodes, edges), torch.zeros(nodes, nodes)) + torch.eye(nodes)


@contextmanager
def constants_stay():
    """Some official codes put their constants onto a GPU, also where there is none, some of them in every call."""
    if torch.cuda.is_available():
        yield
        return
    tensor = torch.tensor
    here = lambda data, device=None, **options: tensor(data, **options)
    with mock.patch.object(torch.Tensor, "cuda", lambda x, *args: x), mock.patch.object(torch, "tensor", here):
        yield


@contextmanager
def _imports_from(folder):
    """All official codes have packages of the names in `OWN`: what is imported from `folder` is forgotten again."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    sys.meta_path.append(stand_ins := StandIns())
    try:
        yield
    finally:
        sys.meta_path.remove(stand_ins)
        sys.path[:] = path  # they add to it, too
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], StandIn) or name.split(".")[0] in OWN:
                del sys.modules[name]


class StandIn(ModuleType):
    """A module that has whatever is imported from it."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return KNOWN.get(name) or type(name, (), {})


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `STOOD_IN`; the last of sys.meta_path, it is asked for what is not installed: also for parts that an installed
    package looks for in vain, which are not its business."""

    def find_spec(self, name, path=None, target=None):
        parent = name.rpartition(".")[0]
        wanted = isinstance(sys.modules.get(parent), StandIn) if parent else name in STOOD_IN
        return ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass
