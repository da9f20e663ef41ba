"""Names and descriptions of models."""

import pytest

import lifter
from lifter.registry import official_model
from lifter.skeleton import H36M

MODELS = ["posemamba_b", "posemamba_l", "posemamba_s", "sasmamba", "sasmamba_large"]


def test_list_models():
    models = lifter.list_models()
    assert set(MODELS) <= set(models)
    assert list(models) == sorted(models)
    assert all(line and "\n" not in line for line in models.values())


def test_unknown_names():
    with pytest.raises(ValueError, match="sasmamba_large"):
        lifter.create_model("sasmamba_huge")
    with pytest.raises(TypeError, match="no_such_argument"):
        lifter.create_model("sasmamba", no_such_argument=1)
    with pytest.raises(KeyError, match="model.SasMamba.SasPoseMamba"):
        official_model("some.other.Model")


@pytest.mark.parametrize("name", ["num_frames", "num_joints", "in_channels", "dim", "depth", "num_heads"])
@pytest.mark.parametrize("size", [0, -1, 2.5, "9"])
def test_nonsensical_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} is {size!r}, expected a positive integer"):
        lifter.create_model("sasmamba", **{name: size})


@pytest.mark.parametrize("model", ["mixste", "htp", "motionbert", "masc_pose", "tcpformer", "motionagformer_xs"])
@pytest.mark.parametrize("kwargs, message", [
    ({"mlp_ratio": 0}, "hidden is 0, expected at least 1"),
    ({"drop_path": 1.5}, "p is .*, expected 0 <= p < 1"),
    ({"attn_drop": -1}, "attn_drop is -1, expected 0 <= attn_drop < 1"),
])  # fmt: skip
def test_nonsensical_rates(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        lifter.create_model(model, 27, depth=4, dim=32, **kwargs)


def test_command_lists_models(capsys):
    from lifter.__main__ import main

    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in MODELS)


def test_h36m_skeleton():
    assert H36M.num_joints == 17 and len(H36M.bones) == 16
    assert all(parent < joint for joint, parent in H36M.bones)
    assert [H36M.flip[joint] for joint in H36M.flip] == list(range(17))
    for left, right in H36M.flip_pairs:
        assert H36M.joints[left].replace("left", "right") == H36M.joints[right]
        # a mirrored bone is a bone
        assert H36M.flip[H36M.parents[left]] == H36M.parents[right]
