"""The layers of HGMamba: `param/<case>/<key>`, `input/<case>/0` and `output/<case>/0`, a case per layer and its options."""

import re
from functools import partial

import torch

from lifter.checkpoints import load_checkpoint
from lifter.layers import BidirectionalMamba, ChainGraphConv, HyperGraphConv
from lifter.models.hgmamba import BODY, BODY_PARTS, STMamba
from lifter.models.motionagformer import edges_or_default

LAYERS = "model.modules.stmamba / model.modules.hypergraph"


def checks(data, config):
    """[(unit, check)]; `check(dtype)` returns pairs (got, expected)."""
    return [(name, partial(_check, data, name, about["what"])) for name, about in sorted(config["cases"].items())]


def _check(data, name, what, dtype):
    prefix = f"param/{name}/"
    weights = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
    x = data[f"input/{name}/0"].to(dtype)
    layer = _layer(name, what, x, weights)
    pairs = []
    for scale in ("part", "body"):  # the hypergraph that the learned one starts as
        if hasattr(layer, f"{scale[0]}_adj"):
            pairs.append((getattr(layer, f"{scale[0]}_adj").clone(), data[f"const/{scale}_adjacency_{_dataset(name)}"].cpu()))
    load_checkpoint(layer, weights)
    with torch.no_grad():
        return [*pairs, (layer.to(device=x.device, dtype=dtype).eval()(x), data[f"output/{name}/0"])]


def _layer(name, what, x, weights):
    dim = x.shape[-1]
    if name.startswith("mamba"):
        inner, states = weights["A_log"].shape
        sizes = {"d_state": states, "d_conv": weights["conv1d.weight"].shape[-1], "expand": inner // dim}
        return BidirectionalMamba(dim, divide_out="divide_out" in name, **sizes)
    if name.startswith("st_mamba"):
        return STMamba(dim, "frame" if name.endswith("temporal") else "joint")
    if reach := re.search(r"use_temporal_similarity=False, temporal_connection_len=(\d+)", what):
        return ChainGraphConv(dim, x.shape[1], int(reach[1]))
    parts = BODY_PARTS[_dataset(name)] if "part1" in name else None
    body = BODY[_dataset(name)] if "body1" in name else None
    return HyperGraphConv(dim, x.shape[2], edges_or_default("HyperGraphConv", None, x.shape[2]), parts, body)


def _dataset(name):
    return name.rpartition("_")[2]
