"""FinePOSE's denoiser against the official code's numbers, and what is its own: whose text a joint reads."""

import pytest
import torch
from torch import nn

import lifter
from benchmarks import tables
from lifter import kernels
from lifter.models import D3DP, FinePOSE
from lifter.verify import verify

TINY = {"num_frames": 5, "dim": 8, "depth": 2, "num_heads": 2, "drop_path": 0.0}


def tiny(**kwargs):
    torch.manual_seed(0)
    model = FinePOSE(**TINY | kwargs).eval()
    nn.init.normal_(model.temporal_cross_attn.proj_out.out_layers[2].weight)
    return model


def inputs(clips=2, hypotheses=3, texts=2):
    torch.manual_seed(1)
    shape = (clips, hypotheses, 5, 17, 3)
    return (
        torch.randn(clips, 5, 17, 2),
        torch.randn(shape),
        torch.full((clips,), 70.0),
        torch.randn(texts, 8),
        torch.randn(texts, 4, 8),
    )


@pytest.mark.parametrize("name", ["reference", "cpu"])  # its blocks are MixSTE's, which are tried in the interpreter
@pytest.mark.parametrize("file", ["finepose_denoiser", "finepose_denoiser_train", "finepose_cross_attention"])
def test_golden(shared, file, name):
    (result,) = verify(shared / "golden" / f"{file}.npz", name)
    assert result.passed, result


def test_counts():
    """The official denoiser's, less the time's projection, which is the same for all tokens of a clip."""
    counts = tables.count("finepose", 243)
    assert (counts["params"], counts["params_paper_convention"]) == (36_414_467, 36_281_347)
    saved = (243 * 17 - 1) * 512 * 1024 / 1e9
    assert counts["macs_paper_convention"] / 1e9 == pytest.approx(143.435 - saved, abs=0.001)
    assert counts["macs"] / 1e9 == pytest.approx(152.128 - saved, abs=0.001)


@torch.no_grad()
def test_whose_text():
    """A clip reads its own text as in the paper; as in the official code joint j of clip i reads text (i J + j) % b."""
    keypoints, poses, time, pooled, tokens = inputs(hypotheses=1)
    for variant in ("paper", "official"):
        model = tiny(variant=variant)
        with kernels.backend("reference"):
            both = model(keypoints, poses, time, pooled, tokens)
            alone = model(keypoints[:1], poses[:1], time[:1], pooled[:1], tokens[:1])
        assert torch.allclose(both[:1], alone, atol=1e-5) == (variant == "paper")
    hidden = torch.randn(2, 5, 3, 8)
    layer = model.temporal_cross_attn
    moment = torch.randn(2, 1, 1, 8)
    got = layer(hidden, tokens, moment)
    for clip in range(2):
        for joint in range(3):
            text = tokens[(clip * 3 + joint) % 2][None]
            expected = layer(hidden[clip : clip + 1, :, joint : joint + 1], text, moment[clip : clip + 1])
            torch.testing.assert_close(got[clip, :, joint], expected[0, :, 0])


@torch.no_grad()
def test_without_a_text_it_is_d3dp():
    model = tiny()
    plain = D3DP(**TINY).eval()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "cross" not in key})
    keypoints, poses, time, *_ = inputs()
    with kernels.backend("reference"):
        torch.testing.assert_close(model(keypoints, poses, time), plain(keypoints, poses, time))


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_sampler_takes_a_text(variant):
    """Every step reads it; with the mirror image the clips are twice the texts."""
    model = tiny(variant=variant)
    keypoints, _, _, pooled, tokens = inputs()
    noise = torch.randn(2, 2, 3, 5, 17, 3)
    sample = lambda **text: lifter.diffusion.sample(model, keypoints, 3, 2, noise=noise, **text)
    with kernels.backend("reference"):
        told = sample(pooled=pooled, tokens=tokens)
        parts = lifter.diffusion.sample(model, keypoints, 3, 2, noise=noise, batch_hypotheses=2, pooled=pooled, tokens=tokens)
        assert told.shape == (2, 3, 5, 17, 3) and not torch.allclose(told, sample())
    assert variant == "official" or torch.allclose(told, parts, atol=1e-5)


def test_official_checkpoint_without_its_text_encoder():
    model = tiny()
    weights = {f"module.{key}": torch.randn_like(value) for key, value in model.official_weights().items() if "pose" in key}
    weights |= {f"module.{key}": value for key, value in model.official_weights().items() if "pose" not in key}
    encoder = {
        "clip_text.token_embedding.weight": 3,
        "textTransEncoder.layers.0.norm1.weight": 2,
        "text_ln.weight": 1,
        "ctx_leg": 4,
    }
    weights |= {f"module.pose_estimator.{name}": torch.zeros(size) for name, size in encoder.items()}
    assert lifter.load_checkpoint(model, {"model_pos": weights}) == ([], [])
    key = "temporal_cross_attn.query.weight"
    assert torch.equal(model.state_dict()[key], weights[f"module.pose_estimator.{key}"])


def test_errors():
    keypoints, poses, time, pooled, tokens = inputs()
    with pytest.raises(ValueError, match="variant is 'mine', expected 'official' or 'paper'"):
        tiny(variant="mine")
    with pytest.raises(ValueError, match="expected both pooled and tokens of a text, or neither"):
        tiny()(keypoints, poses, time, pooled)
    with pytest.raises(ValueError, match=r"\(2, 8\) and \(2, 4, 7\), expected \(b, 8\) and \(b, N, 8\) with b a divisor of 2"):
        tiny()(keypoints, poses, time, pooled, tokens[..., :7])
    with pytest.raises(ValueError, match="with b a divisor of 2"):
        tiny()(keypoints, poses, time, *inputs(texts=3)[3:])
