"""`lifter.freeze`, `lifter.optimize` and `lifter.compat` on the models of Hugging Face transformers."""

import copy
import importlib
import inspect
import pickle
import sys

import pytest
import torch

import lifter
from lifter.kernels import causal_conv1d_update, selective_scan_fn


@pytest.fixture
def transformers():
    """Not this repository's folder `kernels`, which lies in the path of the tests, for Hugging Face's package."""
    sys.modules.setdefault("kernels", None)
    yield pytest.importorskip("transformers")
    if sys.modules.get("kernels", 0) is None:
        del sys.modules["kernels"]


SMALL = dict(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=3)


def build(transformers, kind):
    if kind == "Mamba":
        config = transformers.MambaConfig(**SMALL)
        return transformers.MambaForCausalLM(config)
    if kind == "FalconMamba":
        return transformers.FalconMambaForCausalLM(transformers.FalconMambaConfig(**SMALL))
    config = transformers.JambaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, mamba_d_state=4, mamba_dt_rank=3, num_experts=1, num_experts_per_tok=1,
        attn_layer_period=2, attn_layer_offset=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.JambaForCausalLM(config)


@pytest.mark.parametrize("kind", ["Mamba", "T5"])
@torch.no_grad()
def test_freeze(transformers, kind):
    """T5 asks for the weights of linear layers, Mamba multiplies by them."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    t5 = kind == "T5"
    model = (transformers.T5Model(transformers.T5Config(**sizes)) if t5 else build(transformers, kind)).eval()
    tokens = torch.randint(3, 40, (2, 11))
    call = dict(input_ids=tokens) | (dict(decoder_input_ids=tokens) if t5 else {})
    frozen = lifter.freeze(model)
    assert not any(type(m) is torch.nn.Linear for m in frozen.modules())
    torch.testing.assert_close(frozen(**call)[0], model(**call)[0], atol=1e-5, rtol=1e-4)


def test_optimized_models_are_pickled(transformers):
    model = build(transformers, "Mamba").eval()
    assert len(lifter.optimize(model).swapped) == 2
    again, tokens = pickle.loads(pickle.dumps(model)), torch.randint(3, 40, (2, 11))
    assert lifter.optimize(again).swapped == []
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba", "Jamba"])
def test_transformers(transformers, kind):
    torch.manual_seed(0)
    model = build(transformers, kind).eval()
    theirs = copy.deepcopy(model)
    report = lifter.optimize(model)
    assert len(report.swapped) == (1 if kind == "Jamba" else 2), str(report)
    tokens = torch.randint(3, 40, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[0, :4] = 0
    results = []
    for each in (theirs, model):
        for training in (False, True):
            each.train(training).zero_grad()
            out = each(tokens, attention_mask=mask, use_cache=False, labels=tokens)
            out.loss.backward()
            results.append([out.logits.detach(), *(p.grad for p in each.parameters() if p.grad is not None)])
        each.eval()
    for expected, found in zip(results[:2], results[2:]):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    with torch.no_grad():  # a prompt, then token by token
        generated = [each.generate(tokens, attention_mask=mask, max_new_tokens=9, do_sample=False) for each in (theirs, model)]
        assert torch.equal(*generated)
        caches = [each(tokens, use_cache=True) for each in (theirs, model)]
        name = "cache_params" if hasattr(caches[0], "cache_params") else "past_key_values"
        steps = [
            each(tokens[:, :1], use_cache=True, **{name: getattr(cache, name)}).logits
            for each, cache in zip((theirs, model), caches)
        ]
        torch.testing.assert_close(steps[1], steps[0], atol=1e-4, rtol=1e-3)


def test_transformers_compiles(transformers):
    model = transformers.MambaModel(transformers.MambaConfig(**SMALL)).eval()
    lifter.optimize(model)
    tokens = torch.randint(3, 40, (2, 11))
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(tokens, use_cache=False).last_hidden_state
        torch.testing.assert_close(compiled, model(tokens, use_cache=False).last_hidden_state)


def test_transformers_takes_the_functions_of_compat(transformers):
    """Of what `install` provides when a model's file is imported."""
    import lifter.compat

    name = "transformers.models.mamba.modeling_mamba"
    before = importlib.import_module(name)
    lifter.compat.install()
    try:
        del sys.modules[name]
        again = importlib.import_module(name)
        implementation = lambda function: inspect.getclosurevars(function).nonlocals["implementation"]
        assert implementation(again.mamba_selective_scan) is selective_scan_fn
        assert implementation(again.causal_conv1d_update) is causal_conv1d_update
        torch.manual_seed(0)
        config = transformers.MambaConfig(**SMALL)
        theirs, ours = before.MambaModel(config), again.MambaModel(config)
        ours.load_state_dict(theirs.state_dict())
        tokens = torch.randint(3, 40, (2, 11))
        for training in (False, True):
            found = [model.train(training)(tokens).last_hidden_state for model in (theirs, ours)]
            torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)
    finally:
        lifter.compat.uninstall()
        sys.modules[name] = before
