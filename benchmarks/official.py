"""The papers' own code, where `benchmarks.peers` has fetched it: networks of the sizes of our models, with random weights."""

import importlib
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import torch

from . import PEERS

# Packages that the official files import and their networks do not use.
UNUSED = (
    "local_attention", "torch_dct", "dc1d", "dc1d.nn", "Dwconv", "Dwconv.dwconv_layer", "fvcore", "fvcore.nn",
    "selective_scan_cuda_oflex_rh",
)  # fmt: skip


def _mixste(frames, dim=512, depth=8, **others):
    return {"num_frame": frames, "num_joints": 17, "in_chans": 2, "embed_dim_ratio": dim, "depth": depth, **others}


def _agformer(frames, dim=128, layers=16, **others):
    return {"n_layers": layers, "dim_in": 3, "dim_feat": dim, "n_frames": frames, "num_heads": 8, **others}


def _motionagformer(frames, **sizes):
    return _agformer(frames, neighbour_num=2, **sizes)


def _poseretnet(frames):
    return _mixste(frames, joint_related=True, causal=False, chunk_size=frames)


def _motionbert(frames):
    return {"dim_in": 3, "dim_feat": 512, "dim_rep": 512, "depth": 5, "num_heads": 8, "mlp_ratio": 2, "maxlen": frames}


def _hot(frames):
    sizes = {"layers": 8, "channel": 512, "d_hid": 1024, "n_joints": 17, "out_joints": 17, "layer_index": 3}
    return {**sizes, "frames": frames, "token_num": frames // 3}


# Our model -> repository, class, and its arguments for clips of so many frames.
CODE = {
    "mixste": ("MixSTE", "common.model_cross.MixSTE2", _mixste),
    "d3dp": ("D3DP", "common.mixste.MixSTE2", _mixste),
    "ktpformer": ("KTPFormer", "common.model_ktpformer.KTPFormer", lambda frames: _mixste(frames, depth=7)),
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
for _name, _sizes in {"s": (64, 10), "b": (128, 10), "l": (128, 20)}.items():
    CODE[f"posemamba_{_name}"] = (
        "PoseMamba", "lib.model.PoseMamba.PoseMamba", lambda frames, sizes=_sizes: _mixste(frames, *sizes)
    )  # fmt: skip
for _name, _sizes in {"sasmamba": (64, 5), "sasmamba_large": (128, 10)}.items():
    CODE[_name] = ("sasmamba", "model.SasMamba.SasPoseMamba", lambda frames, sizes=_sizes: _mixste(frames, *sizes))


def build(name, frames) -> torch.nn.Module:
    """The official network, which takes what ours takes. LookupError if there is no code of it here; or whatever it raises."""
    if name not in CODE:
        raise LookupError("no public code")
    repository, path, arguments = CODE[name]
    if not (PEERS / "official" / repository).is_dir():
        raise LookupError(f"no {repository} in {PEERS} (python -m benchmarks.peers fetch)")
    module, _, name = path.rpartition(".")
    with _imports_from(PEERS / "official" / repository):
        network = getattr(importlib.import_module(module), name)
    given = arguments(frames)
    if repository == "HoT":
        return network(SimpleNamespace(**given))
    if repository == "KTPFormer":
        graphs = (torch.eye(n) for n in (given["num_joints"], frames))  # what is in them costs nothing
        return network(*graphs, **given)
    return network(**given)


@contextmanager
def _imports_from(folder):
    """All official codes have packages called common, lib or model: what is imported from `folder` is forgotten again."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    sys.modules.update({name: _Unused(name) for name in UNUSED if name not in sys.modules})
    try:
        yield
    finally:
        sys.path[:] = path  # they add to it, too
        for name in set(sys.modules) - before:
            if name in UNUSED or name.split(".")[0] in ("common", "lib", "model"):
                del sys.modules[name]


class _Unused(ModuleType):
    """A module that has whatever is imported from it."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
