"""`lifter.freeze`, `lifter.optimize` and `lifter.compat` on the models of Hugging Face transformers."""

import copy
import importlib
import inspect
import pickle
import sys

import pytest
import torch

import lifter
from lifter.kernels import causal_conv1d_update, mamba_chunk_scan_combined, selective_scan_fn
from lifter.rewrite.rules.linear import LINEAR


@pytest.fixture
def transformers():
    """Not this repository's folder `kernels`, which lies in the path of the tests, for Hugging Face's package."""
    sys.modules.setdefault("kernels", None)
    yield pytest.importorskip("transformers")
    if sys.modules.get("kernels", 0) is None:
        del sys.modules["kernels"]


SMALL = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MAMBA = dict(state_size=4, time_step_rank=3)
ATTENTION = dict(intermediate_size=24, num_attention_heads=2, num_key_value_heads=2)
HEADS = dict(mamba_d_state=4, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_chunk_size=8)
MODELS = {  # class: sizes besides SMALL
    "Mamba": MAMBA,
    "FalconMamba": MAMBA,
    "Jamba": ATTENTION
    | dict(mamba_d_state=4, mamba_dt_rank=3, num_experts=1, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1),
    "Mamba2": dict(state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=8),
    "Bamba": ATTENTION | HEADS | dict(attn_layer_indices=[1]),
    "FalconH1": ATTENTION | HEADS | dict(mamba_d_ssm=32),
    "Zamba2": ATTENTION
    | dict(mamba_d_state=4, n_mamba_heads=4, mamba_headdim=8, mamba_ngroups=1, chunk_size=8, num_mem_blocks=1)
    | dict(layers_block_type=["mamba", "hybrid"]),
}


def build(transformers, kind, module=None):
    """With biases that are not zero; of the class of another `module` if one is given."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SMALL | MODELS[kind])
    model = getattr(module or transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def padded():
    """Tokens and the mask of two sequences, one of which begins with padding."""
    tokens, mask = torch.randint(3, 40, (2, 11), generator=torch.Generator().manual_seed(1)), torch.ones(2, 11).long()
    mask[0, :4] = 0
    return dict(input_ids=tokens, attention_mask=mask)


def results(model):
    """Loss, logits and gradients, in evaluation and in training, and what the model makes of the tokens."""
    each = []
    for training in (False, True):
        model.train(training).zero_grad()
        out = model(**padded(), use_cache=False, labels=padded()["input_ids"])
        out.loss.backward()
        each.append([out.loss.detach(), out.logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    with torch.no_grad():
        return *each, model.eval().generate(**padded(), max_new_tokens=9, do_sample=False)


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
    assert not any(type(m) in LINEAR for m in frozen.modules())
    torch.testing.assert_close(frozen(**call)[0], model(**call)[0], atol=1e-5, rtol=1e-4)


def test_optimized_models_are_pickled(transformers):
    model = build(transformers, "Mamba").eval()
    assert len(lifter.optimize(model).swapped) == 2
    again, tokens = pickle.loads(pickle.dumps(model)), torch.randint(3, 40, (2, 11))
    assert lifter.optimize(again).swapped == []
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("kind", MODELS)
def test_transformers(transformers, kind):
    model = build(transformers, kind)
    theirs = copy.deepcopy(model).eval()
    report = lifter.optimize(model.eval())
    assert len(report.swapped) == (1 if kind in ("Jamba", "Bamba") else 2), str(report)
    torch.testing.assert_close(results(model), results(theirs), atol=1e-4, rtol=1e-3)
    tokens = padded()["input_ids"]
    with torch.no_grad():  # a prompt, then a step
        caches = [each(tokens, use_cache=True) for each in (theirs, model)]
        name = "cache_params" if hasattr(caches[0], "cache_params") else "past_key_values"
        steps = [
            each(tokens[:, :1], use_cache=True, **{name: getattr(cache, name)}).logits
            for each, cache in zip((theirs, model), caches)
        ]
        torch.testing.assert_close(steps[1], steps[0], atol=1e-4, rtol=1e-3)


def test_transformers_compiles(transformers):
    model = transformers.MambaModel(transformers.MambaConfig(**SMALL | MAMBA)).eval()
    lifter.optimize(model)
    tokens = torch.randint(3, 40, (2, 11))
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(tokens, use_cache=False).last_hidden_state
        torch.testing.assert_close(compiled, model(tokens, use_cache=False).last_hidden_state)


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_takes_the_functions_of_compat(transformers, kind):
    """A model whose file found what `install` provides trains the function that it evaluates, and no other."""
    import lifter.compat

    theirs = build(transformers, kind)
    name = type(theirs).__module__
    before = sys.modules[name]
    lifter.compat.install()
    try:
        del sys.modules[name]
        again = importlib.import_module(name)
        implementation = lambda function: inspect.getclosurevars(function).nonlocals["implementation"]
        assert implementation(again.causal_conv1d_update) is causal_conv1d_update
        scan = getattr(again, "mamba_selective_scan", None)
        assert scan is None or implementation(scan) is selective_scan_fn
        chunked = getattr(again, "mamba2_chunk_scan", None)
        assert chunked is None or implementation(chunked) is mamba_chunk_scan_combined
        assert (scan or chunked) is not None
        model = build(transformers, kind, again)
        evaluated, trained, tokens = results(model)
        model.gradient_checkpointing_enable()  # that is not reentrant
        _, checkpointed, _ = results(model)
    finally:
        lifter.compat.uninstall()
        sys.modules[name] = before
    torch.testing.assert_close(trained, evaluated)
    torch.testing.assert_close(checkpointed, trained)
    torch.testing.assert_close((evaluated, trained, tokens), results(theirs), atol=1e-4, rtol=1e-3)
