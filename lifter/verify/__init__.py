"""`lifter verify`: our numbers against numbers that the official code produced.

A file is an npz of `config` (JSON: the official class and its arguments), `param/<key>` (the official state dict),
`input/<i>` and `output/<i>`; or, without a class, of groups `<unit>/<name>` that each try one op or layer.
"""

import contextlib
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lifter.data.files import Npz
from lifter.kernels import backend as forced_backend
from lifter.pretrained import no_larger
from lifter.registry import official_model

from . import diffusion, hgmamba, metrics, models, units

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
UNIT_TOLERANCE = 1e-5

NOISE_FACTOR = 4  # ours may be off by that many times the official float32's own error, where the file tells it

# Reduced precision is bounded relative to the largest output, in eps of the dtype. A rounding is eps / 2 at most. In a
# model some 40 of them in sequence (ten in each of four blocks) add up as a random walk, and the largest of many
# outputs is four deviations out: 4 * sqrt(40) / 2 = 12.6. A unit rounds its inputs and its output. Where a norm divides
# by the spread of a nearly constant token there is no bound, so a model may have one output in a hundred beyond it.
MODEL_EPS, UNIT_EPS = 16, 4
MODEL_SHARE = 0.99


@dataclass
class Result:
    """One comparison: a file, or one unit of a file. `absolute` is the largest difference (of a model in reduced
    precision: of 99 outputs in 100), `relative` the same by the largest output."""

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
        tol: largest absolute difference. Default: the tolerance of the class (1e-5 for units), four times the file's own
            rounding error where it tells that, and in reduced precision 16 eps (units: 4 eps) times the largest output;
            whichever is most.
    """
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    try:
        checks = _checks(path, *_read(path, "cuda" if on_gpu else "cpu"))
    except Exception as error:  # a damaged file can fail in any way, and the caller has more files to go through
        return [Result(Path(path).name, message=_describe(error))]

    results = []
    for unit, tolerance, noise, check in checks:
        result = Result(Path(path).name, unit)
        try:
            with _exactly(backend):
                pairs = check(DTYPES[dtype])
            _compare(result, pairs, tolerance, noise, DTYPES[dtype], tol)
        except Exception as error:  # as above
            result.message = _describe(error)
        results.append(result)
    return results


def _read(path, device):
    """({key: tensor}, config)."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        archive = Npz(path)
        if "config" not in archive:
            raise ValueError("it has no config")
        config = archive.json("config")
        if not isinstance(config, dict):
            raise ValueError(f"its config is a {type(config).__name__}, expected an object")
        arrays = {key: np.array(archive[key]) for key in archive.keys if key != "config"}
    except ValueError as error:
        raise ValueError(f"not a readable npz file of this kind ({error})") from error
    return {key: torch.from_numpy(value).to(device) for key, value in arrays.items()}, config


def _checks(path, data, config):
    """(unit, tolerance, noise, check) of all that the file holds; `check(dtype)` returns pairs (got, expected)."""
    if config.get("class") not in (None, diffusion.AGGREGATION, units.CLUSTERING, hgmamba.LAYERS):
        official = official_model(config["class"])
        kwargs = config.get("kwargs", {}) | official.told(config)
        with torch.device("meta"), no_larger(Path(path)):  # sizes that are only claimed take no memory
            official.build(**kwargs)
        check = partial(models.check, official, kwargs, data)
        if config["class"] == diffusion.SAMPLER:
            check = partial(diffusion.check_sampler, data, kwargs)
        return [("", official.tolerance, config.get("fp32_vs_fp64_max_abs", 0.0), check)]

    if config.get("what") == metrics.METRICS:
        return [(unit, UNIT_TOLERANCE, 0.0, check) for unit, check in metrics.checks(data)]
    if config.get("class") == hgmamba.LAYERS:
        return [(unit, UNIT_TOLERANCE, 0.0, check) for unit, check in hgmamba.checks(data, config)]
    groups = defaultdict(dict)
    for key, value in data.items():
        group, _, name = key.partition("/")
        groups[group][name] = value
    if config.get("class") == diffusion.AGGREGATION:
        checks = diffusion.aggregation_checks(data)
    elif config.get("class") == units.CLUSTERING:
        checks = units.clustering_checks(groups, config)
    else:
        checks = units.checks(groups, config)
    if not checks:
        raise ValueError("it holds nothing to compare")
    return [(unit, UNIT_TOLERANCE, 0.0, check) for unit, check in checks]


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


def _compare(result, pairs, tolerance, noise, dtype, tol):
    """Fill in the numbers: the worst over all pairs (got, expected)."""
    eps = torch.finfo(dtype).eps
    reduced = eps > torch.finfo(torch.float32).eps
    share = MODEL_SHARE if reduced and not result.unit else 1.0
    differences, magnitudes = [], []
    for got, expected in pairs:
        if got.shape != expected.shape:
            raise ValueError(f"output has shape {tuple(got.shape)}, the file has {tuple(expected.shape)}")
        difference = (got.double() - expected.double()).abs().flatten().sort().values  # NaN comes last
        if not difference[-1].isfinite():
            raise ValueError("it is not finite, ours or the file's")
        differences.append(difference[math.ceil(share * len(difference)) - 1])
        magnitudes.append(expected.double().abs().max())
    differences, magnitudes = torch.stack(differences), torch.stack(magnitudes)
    result.absolute = differences.max().item()
    result.relative = (differences / magnitudes.clamp(min=1e-30)).max().item()
    tolerance = max(tolerance, NOISE_FACTOR * noise)
    if reduced:
        tolerance = max(tolerance, (UNIT_EPS if result.unit else MODEL_EPS) * eps * magnitudes.max().item())
    result.tolerance = tolerance if tol is None else tol
    result.passed = result.absolute <= result.tolerance  # False for NaN


def _describe(error):
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
