"""`lifter verify`: our numbers against numbers that the official code produced.

A file is an npz of `config` (JSON: the official class and its arguments), `param/<key>` (the official state dict),
`input/<i>` and `output/<i>`; or, without a class, of groups `<unit>/<name>` that each try one op.
"""

import contextlib
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lifter.checkpoints import load_checkpoint
from lifter.kernels import backend as forced_backend
from lifter.kernels import deform_conv2d, selective_scan_fn, selective_scan_ref, skeleton_scan
from lifter.kernels.skeleton_scan import DIRECTIONS, _gathered, _unwalk, _walk
from lifter.models.posemamba import limb_gather
from lifter.models.sasmamba import stride_gather
from lifter.registry import official_model

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
UNIT_TOLERANCE = 1e-5

# Reduced precision is bounded relative to the largest output, in eps of the dtype. A rounding is eps / 2 at most. In a
# model some 40 of them in sequence (ten in each of four blocks) add up as a random walk, and the largest of many
# outputs is four deviations out: 4 * sqrt(40) / 2 = 12.6. A unit rounds its inputs and its output.
MODEL_EPS, UNIT_EPS = 16, 4


@dataclass
class Result:
    """One comparison: a file, or one unit of a file. `relative` is the largest difference by the largest output."""

    file: str
    unit: str = ""
    absolute: float = float("nan")
    relative: float = float("nan")
    tolerance: float = float("nan")
    passed: bool = False
    message: str = ""

    def __str__(self):
        name = f"{self.file}:{self.unit}" if self.unit else self.file
        if self.message:
            return f"FAIL  {name}  {self.message}"
        numbers = f"abs {self.absolute:.2e}  rel {self.relative:.2e}  tol {self.tolerance:.1e}"
        return f"{'PASS' if self.passed else 'FAIL'}  {name}  {numbers}"


def verify(path, backend=None, dtype="float32", tol=None) -> list[Result]:
    """Check one file. Whatever is wrong with it becomes a failed result with a message.

    Args:
        path: the npz file.
        backend: "reference", "cpu", "triton" or "cuda"; None takes what a user's call on the CPU would take.
        dtype: dtype of weights and inputs: "float32", "float64" (on the reference), "bfloat16" or "float16".
        tol: largest absolute difference. Default: the tolerance of the class (1e-5 for units), and in reduced precision
            16 eps (units: 4 eps) times the largest output if that is more.
    """
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    try:
        checks = _checks(*_read(path, "cuda" if on_gpu else "cpu"))
    except Exception as error:  # a damaged file can fail in any way, and the caller has more files to go through
        return [Result(Path(path).name, message=_describe(error))]

    results = []
    for unit, tolerance, check in checks:
        result = Result(Path(path).name, unit)
        try:
            with _exactly(backend):
                pairs = check(DTYPES[dtype])
            _compare(result, pairs, tolerance, DTYPES[dtype], tol)
        except Exception as error:  # as above
            result.message = _describe(error)
        results.append(result)
    return results


def _read(path, device):
    """({key: tensor}, config)."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:
        raise ValueError(f"not a readable npz file ({error})") from error
    if "config" not in arrays:
        raise ValueError("it has no config")
    config = json.loads(str(arrays.pop("config")))
    return {key: torch.from_numpy(value).to(device) for key, value in arrays.items()}, config


def _checks(data, config):
    """(unit, tolerance, check) of all that the file holds; `check(dtype)` returns pairs (got, expected)."""
    if "class" in config:
        official = official_model(config["class"])
        return [("", official.tolerance, partial(_check_model, official.build, config.get("kwargs", {}), data))]

    groups = defaultdict(dict)
    for key, value in data.items():
        group, _, name = key.partition("/")
        groups[group][name] = value
    checks = []
    for group, tensors in sorted(groups.items()):
        kind = group.rstrip("0123456789")
        if kind in ("scan", "merge"):  # one input, and what several official codes make of it
            names = sorted(tensors.keys() - {"input"})
            checks += [(f"{group}/{name}", partial(UNITS[kind], tensors, name)) for name in names]
        else:
            checks.append((group, partial(UNITS.get(kind, _check_unknown), tensors)))
    if not checks:
        raise ValueError("it holds nothing to compare")
    return [(unit, UNIT_TOLERANCE, check) for unit, check in checks]


def _check_model(build, kwargs, data, dtype):
    model = build(**kwargs).eval()
    load_checkpoint(model, {key[len("param/") :]: value for key, value in data.items() if key.startswith("param/")})
    inputs, expected = _numbered(data, "input"), _numbered(data, "output")
    if not inputs or not expected:
        raise ValueError("input/0 or output/0 is missing")
    model.to(device=inputs[0].device, dtype=dtype)
    with torch.no_grad():
        got = model(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
    return list(zip(got if isinstance(got, tuple) else (got,), expected, strict=True))


def _numbered(data, prefix):
    """The tensors `prefix`/0, `prefix`/1, ..."""
    keys = (f"{prefix}/{i}" for i in itertools.count())
    return [data[key] for key in itertools.takewhile(data.__contains__, keys)]


def _check_unknown(tensors, dtype):
    raise NotImplementedError("lifter has no check for these arrays")


# ---- units -----------------------------------------------------------------------------------------------------------


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


UNITS = {
    "scan": _check_scan,
    "merge": _check_merge,
    "ssm": _check_selective_scan,
    "dcn": _check_deform_conv2d,
}


def _official_gather(name, num_joints):
    if name.startswith("posemamba"):
        return limb_gather(DIRECTIONS, num_joints)
    if name.startswith("sasmamba"):
        return stride_gather((1, 2, 3), DIRECTIONS, num_joints)
    raise NotImplementedError(f"lifter knows no cross scan {name!r}")


# ---- comparison ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _exactly(backend):
    """The backend that was asked for, and no TF32 where float32 was asked for."""
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with forced_backend(backend) if backend else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


def _compare(result, pairs, tolerance, dtype, tol):
    """Fill in the numbers: the worst over all pairs (got, expected)."""
    differences, magnitudes = [], []
    for got, expected in pairs:
        if got.shape != expected.shape:
            raise ValueError(f"output has shape {tuple(got.shape)}, the file has {tuple(expected.shape)}")
        differences.append((got.double() - expected.double()).abs().max())
        magnitudes.append(expected.double().abs().max())
    differences, magnitudes = torch.stack(differences), torch.stack(magnitudes)
    result.absolute = differences.max().item()
    result.relative = (differences / magnitudes.clamp(min=1e-30)).max().item()
    if torch.finfo(dtype).bits < 32:
        roundings = (UNIT_EPS if result.unit else MODEL_EPS) * torch.finfo(dtype).eps
        tolerance = max(tolerance, roundings * magnitudes.max().item())
    result.tolerance = tolerance if tol is None else tol
    result.passed = result.absolute <= result.tolerance  # False for NaN


def _describe(error):
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
