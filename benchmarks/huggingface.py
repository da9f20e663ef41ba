"""Hugging Face transformers' Mamba on a CPU: its own path, and the same model after `lifter.optimize`."""

import copy
import importlib.util
import sys
from functools import cache, partial

import torch

import lifter

from .accuracy import error
from .timing import measure

TITLE = "transformers' Mamba, 130M configuration, random weights"
COLUMNS = [
    ("case", "case", "{}"),
    ("implementation", "implementation", "{}"),
    ("latency", "time", "{}"),
    ("tokens/s", "tokens_per_second", "{:,.1f}"),
    ("speedup", "speedup", "{:.1f}x"),
    ("error", "error", "{:.1e}"),
]
NOTES = [
    "Prefill: batch 1, no cache before, one kept after, logits of the last token. Decode: one more token on such a cache.",
    "Speedup: over transformers' own path in the same dtype. Error: of the logits, to transformers' in float32, relative "
    "to the largest; none above twice transformers' own error in that dtype counts.",
]
CONFIG = {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16}
LENGTHS = (128, 1024, 4096)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPT = 16  # tokens before those that are decoded


def cases(setup):
    if importlib.util.find_spec("transformers") is None:
        raise ValueError('huggingface: transformers is not installed (pip install "lifter[test]")')
    shapes = [("prefill", length) for length in (LENGTHS[:1] if setup.quick else LENGTHS)] + [("decode", PROMPT)]
    known = {}
    return [
        (f"{kind} L={length} {dtype}", partial(run, kind, length, dtype, setup, known))
        for dtype in DTYPES
        for kind, length in shapes
    ]


@cache
def build(dtype, device):
    """(the model as transformers made it, a copy that was optimized)."""
    sys.modules.setdefault("kernels", None)  # transformers would take this repository's folder for the package of that name
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**CONFIG)).eval().bfloat16().to(device, DTYPES[dtype])  # the same weights in both
    optimized = copy.deepcopy(model)
    report = lifter.optimize(optimized)
    if len(report.swapped) != CONFIG["num_hidden_layers"]:
        raise RuntimeError(f"huggingface: lifter.optimize left mixers alone:\n{report}")
    return model, optimized


@torch.no_grad()
def run(kind, length, dtype, setup, known) -> list[dict]:
    """`known`: transformers' logits in float32 of earlier cases, for which a long prefill need not run again."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(CONFIG["vocab_size"], (1, length + 1), generator=generator).to(setup.device)
    call = partial(prefill, tokens[:, :-1]) if kind == "prefill" else partial(decode, tokens)
    theirs, ours = build(dtype, setup.device)
    calls = {"transformers": call(theirs), "lifter": call(ours)}
    timings, outputs = measure(calls, setup.device, setup.seconds, rounds=20)
    if dtype == "float32":
        known[kind, length] = outputs["transformers"]
    if (kind, length) not in known:
        known[kind, length] = call(build("float32", setup.device)[0])()
    exact = known[kind, length]
    errors = {name: error(output.float(), exact) for name, output in outputs.items()}
    rows = []
    for name, time in timings.items():
        matches = errors[name] <= max(2 * errors["transformers"], 1e-4)
        rows.append(
            {
                "case": f"{kind} L={length} {dtype}",
                "implementation": name,
                "dtype": dtype,
                "time": time,
                "tokens_per_second": (length if kind == "prefill" else 1) / time.median,
                "speedup": timings["transformers"].median / time.median if matches else None,
                "error": errors[name],
                "matches": matches,
            }
        )
    return rows


def prefill(tokens, model):
    return lambda: model(tokens, use_cache=True, logits_to_keep=1).logits


def decode(tokens, model):
    """The same step again and again: the cache goes on, the first output is that of the first step."""
    cache = model(tokens[:, :-1], use_cache=True).cache_params
    return lambda: model(tokens[:, -1:], cache_params=cache, use_cache=True).logits
