"""Recipes: the published sums of losses, learning rates, and which recipe a model has."""

import pytest
import torch
import yaml

from lifter import create_model, list_models, losses
from lifter.recipe import FOLDER, Recipe, find_recipe
from lifter.skeleton import H36M, LSP
from lifter.training.loop import loss_of

LOSSES = {
    "sasmamba": losses.sasmamba_loss, "poseretnet": losses.poseretnet_loss, "mixste": losses.mixste_loss,
    "htp": losses.htp_loss, "d3dp": losses.htp_loss, "masc_pose": losses.masc_pose_loss,
    "motionagformer": losses.motionagformer_loss,
    "mixsynthformer": losses.mixsynthformer_loss, "mixsynthformer_lifter": losses.mixsynthformer_loss,
    "htp_mixste": losses.mixste_loss, "htp_motionbert": losses.motionagformer_loss,
    "deciwatch": losses.deciwatch_loss, "smoothnet": losses.smoothnet_loss,
    "stcformer": losses.htp_loss, "hgmamba": losses.motionagformer_loss,
}  # fmt: skip
OF_ONE_FRAME = ("videopose3d", "poseformer", "poseformerv2", "strided_transformer", "pstmo", "mhformer", "gla_gcn", "ftcm")
LOSSES |= dict.fromkeys(OF_ONE_FRAME, losses.mpjpe)


def read(name):
    return Recipe(**yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_recipes(name):
    """All can be read; the weights of their losses make the sum that lifter.losses has."""
    recipe = read(name)
    p, t = torch.randn(2, 2, 5, 17, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    if name != "linear":
        torch.testing.assert_close(loss_of(recipe, p, t, H36M), LOSSES[name](p, t))
    if name not in ("mixsynthformer", "motionagformer", "hgmamba"):
        sizes = {} if name in ("linear", "deciwatch", *OF_ONE_FRAME) else {"dim": 16, "depth": 5}
        with torch.device("meta"):
            create_model(name, num_frames=recipe.num_frames, **sizes)


def test_of_which_model():
    for name in ("sasmamba", "mixsynthformer", "mixsynthformer_lifter", "masc_pose"):
        assert find_recipe(name).stem == name
    assert find_recipe("sasmamba_large").stem == "sasmamba"
    assert find_recipe("mixsynthformer_aist_smpl").stem == "mixsynthformer"
    assert find_recipe("ktpformer") is None and find_recipe("") is None
    assert sum(find_recipe(name) is not None for name in list_models()) >= 17


def test_learning_rate():
    recipe = Recipe(lr=1.0, lr_decay=0.5, warmup=4)
    rates = [recipe.lr_at(step, 10, 30) for step in (0, 1, 3, 9, 10, 29)]
    assert rates == [0.25, 0.5, 1.0, 1.0, 0.5, 0.25]
    cosine = Recipe(lr=1.0, lr_decay=0.1, schedule="cosine", warmup=2)
    rates = [cosine.lr_at(step, 10, 12) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[7] == pytest.approx(0.55) and 0.1 < rates[-1] < 0.13
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_errors():
    for match, options in (
        ("num_frames is 0, expected a positive", {"num_frames": 0}),
        ("batch_size is -1", {"batch_size": -1}),
        ("lr is -1.0, expected a number of at least 0", {"lr": -1.0}),
        ("ema is 1, expected a number between 0 and 1", {"ema": 1}),
        ("loss has the terms p1, expected of mpjpe", {"loss": {"p1": 1.0}}),
        ("loss has the terms none", {"loss": {}}),
    ):
        with pytest.raises(ValueError, match=match):
            Recipe(**options)
    with pytest.raises(ValueError, match="no weights for the joints of lsp"):
        loss_of(Recipe(loss={"weighted_mpjpe": 1.0}), torch.zeros(1, 2, 14, 3), torch.zeros(1, 2, 14, 3), LSP)
