"""Hugging Face transformers' Mamba on a CPU: its own path, and the same model after `lifter.optimize`."""

import copy
import importlib.util
import sys
from functools import cache, partial

import torch

import lifter
from lifter._extras import install_command

from .accuracy import error
from .timing import RULE, measure, speedup

TITLE = "transformers' Mamba, 130M configuration, random weights"
COLUMNS = [
    ("case", "case", "{}"),
    ("implementation", "implementation", "{}"),
    ("latency", "time", "{}"),
    ("tokens/s", "tokens_per_second", "{:,.1f}"),
    ("speedup", "speedup", "{}"),
    ("error", "error", "{:.1e}"),
]
SCREEN = ("case", "implementation", "latency", "tokens/s", "speedup", "error")
NOTES = [
    "Prefill: batch 1, no cache before, one kept after, logits of the last token. Decode: one more token on such a cache.",
    "Speedup: over transformers' own path in the same dtype. Error: of the logits, to transformers' in float64, relative "
    "to the largest (random weights magnify rounding); none above twice transformers' own error in that dtype counts.",
    RULE,
]
CONFIG = {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16}
LENGTHS = (128, 1024, 4096)
DTYPES = ("float32", "bfloat16")
PROMPT = 16  # tokens before those that are decoded


def cases(setup):
    if importlib.util.find_spec("transformers") is None:
        raise ValueError(f"huggingface needs transformers: {install_command('test')}")
    shapes = [("prefill", length) for length in (LENGTHS[:1] if setup.quick else LENGTHS)] + [("decode", PROMPT)]
    return [
        (f"{kind} L={length} {dtype}", partial(run, kind, length, dtype, setup)) for dtype in DTYPES for kind, length in shapes
    ]


@cache
def build(dtype, device):
    """The model as transformers made it, with the same weights in every dtype."""
    sys.modules.setdefault("kernels", None)  # transformers would take this repository's folder for the package of that name
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(**CONFIG)).eval().bfloat16().to(device, getattr(torch, dtype))


@cache
def build_optimized(dtype, device):
    optimized = copy.deepcopy(build(dtype, device))
    report = lifter.optimize(optimized)
    if len(report.swapped) != CONFIG["num_hidden_layers"]:
        raise RuntimeError(f"huggingface: lifter.optimize left mixers alone:\n{report}")
    return optimized


@cache
@torch.no_grad()
def exact_logits(kind, length, device):
    return CALLS[kind](tokens_of(length, device), build("float64", device))()


def tokens_of(length, device):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CONFIG["vocab_size"], (1, length + 1), generator=generator).to(device)


@torch.no_grad()
def run(kind, length, dtype, setup) -> list[dict]:
    tokens = tokens_of(length, setup.device)
    models = {"transformers": build(dtype, setup.device), "lifter": build_optimized(dtype, setup.device)}
    calls = {name: CALLS[kind](tokens, model) for name, model in models.items()}
    timings, outputs = measure(calls, setup.device, 4 * setup.seconds, rounds=20)  # so that calls of a second are warmed up
    exact = exact_logits(kind, length, setup.device)
    errors = {name: error(output, exact) for name, output in outputs.items()}
    rows = []
    for name, time in timings.items():
        matches = errors[name] <= max(2 * errors["transformers"], 1e-5)
        rows.append(
            {
                "case": f"{kind} L={length} {dtype}",
                "implementation": name,
                "dtype": dtype,
                "time": time,
                "tokens_per_second": (length if kind == "prefill" else 1) / time.median,
                "speedup": speedup(time, timings["transformers"]) if matches else None,
                "error": errors[name],
                "matches": matches,
            }
        )
    return rows


def prefill(tokens, model):
    return lambda: model(tokens[:, :-1], use_cache=True, logits_to_keep=1).logits


def decode(tokens, model):
    """The same step again and again: the cache goes on, the first output is that of the first step."""
    cache = model(tokens[:, :-1], use_cache=True).cache_params
    return lambda: model(tokens[:, -1:], cache_params=cache, use_cache=True).logits


CALLS = {"prefill": prefill, "decode": decode}
