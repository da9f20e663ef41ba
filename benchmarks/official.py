"""The papers' own code, where `benchmarks.peers` has fetched it: networks of the sizes of our models, with random weights."""

import importlib.abc
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from torch import nn

from lifter.layers import DeformConv2d, DropPath
from lifter.layers.graph_conv import known_graph, partly_learned
from lifter.models._inputs import bones_or_default

from . import PEERS

# What the official codes import and hardly use, stood in for where it is not installed. A few layers of timm and torchvision
# are used: they are ours then.
STOOD_IN = (
    "timm", "fvcore", "torchvision", "torch_dct", "dc1d", "Dwconv", "thop", "local_attention", "scipy",
    "selective_scan_cuda_oflex_rh",
)  # fmt: skip
KNOWN = {
    "DropPath": DropPath, "DeformConv2d": DeformConv2d, "trunc_normal_": nn.init.trunc_normal_, "to_2tuple": lambda x: (x, x),
    "register_model": lambda function: function,
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


def _hot(frames):
    sizes = {"layers": 8, "channel": 512, "d_hid": 1024, "n_joints": 17, "out_joints": 17, "layer_index": 3}
    return {**sizes, "frames": frames, "token_num": frames // 3}


def _stcformer(frames, dim=256):
    return {"layers": 6, "d_hid": dim, "n_joints": 17, "out_joints": 17, "frames": frames}


# Our model -> repository, class, and its arguments for clips of so many frames.
CODE = {
    "mixste": ("MixSTE", "common.model_cross.MixSTE2", _mixste),
    "d3dp": ("D3DP", "common.mixste.MixSTE2", _mixste),
    "ktpformer": ("KTPFormer", "common.model_ktpformer.KTPFormer", lambda frames: _mixste(frames, depth=7)),
    "stcformer": ("STCFormer", "model.stcformer.Model", _stcformer),
    "stcformer_l": ("STCFormer", "model.stcformer.Model", partial(_stcformer, dim=512)),
    "hot_mixste": ("HoT", "model.mixste.hot_mixste.Model", _hot),
    "poseretnet": ("PoseRetNet", "common.model.model_retnet.RetMixSTE", _poseretnet),
    "motionbert": ("MotionBERT", "lib.model.DSTformer.DSTformer", _motionbert),
    "tcpformer": ("TCPFormer", "model.Model.MemoryInducedTransformer", _agformer),
}
for _name, _sizes in {"xs": (64, 12), "s": (64, 26), "b": (128, 16), "l": (128, 26)}.items():
    CODE[f"motionagformer_{_name}"] = (
        "MotionAGFormer", "model.MotionAGFormer.MotionAGFormer",
        lambda frames, sizes=_sizes: _motionagformer(frames, dim=sizes[0], layers=sizes[1]),
    )  # fmt: skip
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


def build(name, frames, **changes) -> nn.Module:
    """The official network; `changes`: of its arguments. LookupError if there is no code of it here; or whatever it raises."""
    if name not in CODE:
        raise LookupError("no public code")
    repository, path, arguments = CODE[name]
    if not (PEERS / "official" / repository).is_dir():
        raise LookupError(f"no {repository} in {PEERS} (python -m benchmarks.peers fetch)")
    module, _, name = path.rpartition(".")
    with _imports_from(PEERS / "official" / repository):
        network = getattr(importlib.import_module(module), name)
    given = arguments(frames) | changes
    if repository in ("HoT", "STCFormer"):
        with _constants_stay():
            return network(SimpleNamespace(**given))
    if repository == "KTPFormer":
        bones, neighbours = bones_or_default(name, None, given["num_joints"]), [(t, t + 1) for t in range(frames - 1)]
        return network(_known_graph(given["num_joints"], bones), _known_graph(frames, neighbours), **given)
    return network(**given)


def inputs(name, given) -> list[torch.Tensor]:
    """Convert our network's arguments to the official one's: MixSynthFormer's poses are flat."""
    return [given[0].flatten(2)] if name.startswith("mixsynthformer") else given


def _known_graph(nodes, edges):
    return partly_learned(known_graph("KTPFormer", nodes, edges), torch.zeros(nodes, nodes)) + torch.eye(nodes)


@contextmanager
def _constants_stay():
    """Some official codes put their constants onto a GPU, also where there is none."""
    with nullcontext() if torch.cuda.is_available() else mock.patch.object(torch.Tensor, "cuda", lambda x, *args: x):
        yield


@contextmanager
def _imports_from(folder):
    """All official codes have packages called common, lib or model: what is imported from `folder` is forgotten again."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    sys.meta_path.append(stand_ins := StandIns())
    try:
        yield
    finally:
        sys.meta_path.remove(stand_ins)
        sys.path[:] = path  # they add to it, too
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], StandIn) or name.split(".")[0] in ("common", "lib", "model"):
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
