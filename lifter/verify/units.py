"""Single ops and layers: groups `<unit>/<name>` of arrays, each of which tries one."""

import re
from functools import partial

import torch

from lifter.checkpoints import load_checkpoint
from lifter.kernels import deform_conv2d, density_peak_prune, selective_scan_fn, selective_scan_ref, skeleton_scan
from lifter.kernels.retention import xpos
from lifter.kernels.skeleton_scan import DIRECTIONS, _gathered, _unwalk, _walk
from lifter.layers import Retention, joint_decays, shared_decays
from lifter.models.posemamba import limb_gather
from lifter.models.sasmamba import stride_gather

CLUSTERING = "model.mixste.hot_mixste.cluster_dpc_knn"


def checks(groups, config):
    """[(unit, check)] of {group: {name: tensor}}; `check(dtype)` returns pairs (got, expected)."""
    found = []
    for group, tensors in sorted(groups.items()):
        kind = re.match("[a-z]*", group)[0]
        if kind in ("scan", "merge"):  # one input, and what several official codes make of it
            names = sorted(tensors.keys() - {"input"})
            found += [(f"{group}/{name}", partial(UNITS[kind], tensors, name)) for name in names]
        elif kind == "msr":
            found.append((group, partial(_check_retention, tensors, config.get(group, {}), "uncausal" not in group)))
        else:
            found.append((group, partial(UNITS.get(kind, _check_unknown), tensors)))
    return found


def clustering_checks(groups, config):
    """The same of HoT's clustering: a group per case of the config, with its recorded noise."""
    cases = enumerate(config["cases"])
    return [(str(n), partial(_check_clustering, groups[str(n)], case["cluster_num"], case["k"])) for n, case in cases]


def _check_clustering(tensors, kept, k, dtype):
    """The kept frames, and their order by score. In float32 at least: which frame is denser is no matter of rounding."""
    dtype = torch.promote_types(dtype, torch.float32)
    x, noise = (tensors[name].to(dtype) for name in ("x", "noise"))
    valid = tensors["token_mask"] > 0 if "token_mask" in tensors else None
    indices, scores = density_peak_prune(x, kept, k, noise=noise, valid=valid)
    order = scores.argsort(dim=-1, descending=True, stable=True)[:, :kept]
    return [(indices, tensors["index_sorted"]), (order, tensors["index_down"])]


def _check_unknown(tensors, dtype):
    raise NotImplementedError("lifter has no check for these arrays")


def _check_scan(tensors, name, dtype):
    """Official cross scan, (B, C, T, J) -> (B, 4, C, T*J).

    Against it our reference's walk; and, which shows the order and the gather of any backend, `skeleton_scan` of the
    map against plain selective scans of the official sequences.
    """
    x = tensors["input"].to(dtype).permute(0, 2, 3, 1).contiguous()
    sequences = tensors[name].to(dtype).transpose(2, 3)
    T, J, C = x.shape[1:]
    gather = _official_gather(name, J).to(x.device)
    walk = torch.stack([_walk(_gathered(x, gather, None, k), code) for k, code in enumerate(DIRECTIONS.values())], 1)

    scale = x.abs().max().clamp(min=1)  # the stored maps count up to thousands, tolerances are for outputs of order 1
    x, u = x / scale, sequences / scale
    K, N, R = len(DIRECTIONS), 4, 2
    shapes = {"x_proj_weight": (K, R + 2 * N, C), "dt_proj_weight": (K, C, R), "dt_proj_bias": (K, C), "D": (K, C)}
    seed = torch.Generator().manual_seed(0)
    weights = {key: (torch.randn(shape, generator=seed) / C**0.5).to(x) for key, shape in shapes.items()}
    weights["A"] = -torch.rand(K, C, N, generator=seed).to(x)
    return [(walk, sequences), (skeleton_scan(x, gather=gather, **weights), _scan(u, T, J, **weights))]


def _scan(sequences, T, J, x_proj_weight, dt_proj_weight, dt_proj_bias, A, D):
    """Selective scans of (B, 4, L, C) sequences, back on the map and summed: what `skeleton_scan` fuses."""
    N, R = A.shape[-1], dt_proj_weight.shape[-1]
    merged = 0
    for k, code in enumerate(DIRECTIONS.values()):
        u = sequences[:, k]
        dt, B, C = (u @ x_proj_weight[k].T).transpose(1, 2).split([R, N, N], 1)
        delta = dt_proj_weight[k] @ dt
        y = selective_scan_ref(u.transpose(1, 2), delta, A[k], B, C, D[k], None, dt_proj_bias[k], delta_softplus=True)
        merged = merged + _unwalk(y.transpose(1, 2), code, T, J)
    return merged


def _check_merge(tensors, name, dtype):
    """Official cross merge, (B, 4, C, T, J) -> (B, C, T*J), against our reference's sum of the directions."""
    maps = tensors["input"].to(dtype)
    T, J = maps.shape[3:]
    sequences = maps.flatten(3).transpose(2, 3)
    merged = sum(_unwalk(sequences[:, k], code, T, J) for k, code in enumerate(DIRECTIONS.values()))
    return [(merged.flatten(1, 2).transpose(1, 2), tensors[name])]


def _check_selective_scan(tensors, dtype):
    u, delta, B, C = (tensors[name].to(dtype) for name in ("u", "delta", "B", "C"))
    z = tensors["z"].to(dtype) if "z" in tensors else None
    D, delta_bias = tensors.get("D"), tensors.get("delta_bias")
    y = selective_scan_fn(u, delta, tensors["A"], B, C, D, z, delta_bias, delta_softplus=True)
    return [(y, tensors["y"])]


def _check_deform_conv2d(tensors, dtype):
    input, offset, weight = (tensors[name].to(dtype) for name in ("input", "offset", "weight"))
    bias, mask = (tensors[name].to(dtype) if name in tensors else None for name in ("bias", "mask"))
    padding = [size // 2 for size in weight.shape[2:]]
    return [(deform_conv2d(input, offset, weight, bias, padding=padding, mask=mask), tensors["output"])]


def _check_decays(tensors, dtype):
    """Official tables, (H, J) named `<dataset>_<J>`, or (H,) named `shared`."""
    pairs = []
    for name, expected in tensors.items():
        dataset, _, joints = name.rpartition("_")
        ours = joint_decays(len(expected), dataset, int(joints)) if dataset else shared_decays(len(expected))
        pairs.append((ours.to(expected).t(), expected))
    return pairs


def _check_xpos(tensors, dtype):
    """`up_off<n>`, `down_off<n>`: queries and keys whose first frame is n, relative to the largest of them.

    In float32 for any dtype: so are the official angles, which makes them wrong by 2e-5 at frame 2000.
    """
    x, scale = tensors["input"], tensors["scale"]
    pairs = []
    for name in sorted(tensors.keys() - {"input", "scale"}):
        kind, first = name.split("_off")
        frames = torch.arange(int(first), int(first) + x.shape[1], device=x.device)
        size = tensors[name].abs().max().clamp(min=1)
        pairs.append((xpos(x, frames, scale, downscale=kind == "down") / size, tensors[name] / size))
    return pairs


def _check_retention(tensors, config, causal, dtype):
    """The retention layer, (J, T, C): its parallel and chunkwise forms, and frame by frame."""
    heads, hidden, joints = config["heads"], config["hidden"], len(tensors["input"])
    decay = joint_decays(heads, "h36m", joints) if config["joint_related"] else shared_decays(heads)
    weights = {name.removeprefix("param/"): value for name, value in tensors.items() if name.startswith("param/")}

    def in_chunks(length):
        state, outs = None, []
        for chunk in x.split(length, 1):
            out, state = layer(chunk, state, return_state=True)
            outs.append(out)
        return torch.cat(outs, 1)

    layer = Retention(hidden, heads, decay, causal, config["chunk_size"])
    load_checkpoint(layer, weights)
    x = tensors["input"].to(dtype).transpose(0, 1)[None].contiguous()
    layer.to(device=x.device, dtype=dtype)
    with torch.no_grad():
        outs = {"parallel": layer(x), "chunkwise4": in_chunks(4), "recurrent": in_chunks(1)}
    return [(out[0].transpose(0, 1), tensors[name]) for name, out in outs.items()]


UNITS = {
    "scan": _check_scan,
    "merge": _check_merge,
    "ssm": _check_selective_scan,
    "dcn": _check_deform_conv2d,
    "gamma": _check_decays,
    "xpos": _check_xpos,
}


def _official_gather(name, num_joints):
    if name.startswith("posemamba"):
        return limb_gather(DIRECTIONS, num_joints)
    if name.startswith("sasmamba"):
        return stride_gather((1, 2, 3), DIRECTIONS, num_joints)
    raise NotImplementedError(f"lifter knows no cross scan {name!r}")
