"""Recipes: everything that decides what a training comes to, but for data and seed.

Nothing here needs torch, so that `lifter train --help` does not wait for it.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "training" / "recipes"

TERMS = ("mpjpe", "weighted_mpjpe", "n_mpjpe", "velocity", "consistency", "weighted_consistency", "l1", "acceleration")


@dataclass(frozen=True)
class Recipe:
    """Options of a training. The published ones are in recipes/NAME.yaml; the defaults here are nobody's.

    Args:
        num_frames: frames of a clip.
        stride: frames from the start of one clip to that of the next; default: num_frames.
        network: what else create_model gets, as {dim: 64, depth: 5}.
        call: what else the network gets with each clip in training, as HTP's n.
        film: the data are motions in the world, of which every batch is filmed anew; the options of `lifter.data.films.Films`,
            as {weights: {"idle*": 0.25}, cameras: {roll: [12, 35]}}. Stride, inputs and flip then have no meaning.
        inputs: which array of a sequence the model sees.
        centred: of keypoints it sees `lifter.evaluation.centre` of each clip, neither place nor size in the image.
        loss: weights of the terms mpjpe, weighted_mpjpe, n_mpjpe, velocity, consistency, weighted_consistency, l1,
            acceleration.
        loss_is_gradient: the gradient is multiplied by the loss, as in MixSTE's code.
        optimizer: with betas of 0.9 and 0.999.
        lr: learning rate at the start, or after the warm-up.
        lr_decay: factor after each epoch, or with the cosine schedule what is left at the end.
        schedule: the learning rate falls in steps after each epoch, or all the time.
        warmup: steps in which the learning rate grows from 0.
        weight_decay: as the optimizer has it.
        batch_size: clips per step, over all processes.
        epochs: how often every clip is seen.
        max_steps: stop after so many steps; default: after the epochs.
        clip_gradient: largest norm of the gradient; default: any.
        ema: decay of the moving average of the weights, which then is what is evaluated and kept; default: none.
        flip: half of the clips are mirrored.
        flip_test: evaluate the mean with the mirrored poses of mirrored keypoints.
    """

    num_frames: int = 243
    stride: int | None = None
    network: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    film: dict[str, Any] | None = None
    inputs: Literal["keypoints", "keypoints_true", "estimates"] = "keypoints"
    centred: bool = False
    loss: dict[str, float] = field(default_factory=lambda: {"mpjpe": 1.0})
    loss_is_gradient: bool = False
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 5e-4
    lr_decay: float = 0.99
    schedule: Literal["epochs", "cosine"] = "epochs"
    warmup: int = 0
    weight_decay: float = 0.01
    batch_size: int = 16
    epochs: int = 60
    max_steps: int | None = None
    clip_gradient: float | None = None
    ema: float | None = None
    flip: bool = True
    flip_test: bool = True

    def __post_init__(self):
        for name in ("num_frames", "stride", "batch_size", "max_steps", "clip_gradient"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"recipe: {name} is {value}, expected a positive number")
        for name in ("epochs", "lr", "lr_decay", "warmup", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"recipe: {name} is {getattr(self, name)}, expected a number of at least 0")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"recipe: ema is {self.ema}, expected a number between 0 and 1")
        if not self.loss or not set(self.loss) <= set(TERMS):
            raise ValueError(f"recipe: loss has the terms {', '.join(self.loss) or 'none'}, expected of {', '.join(TERMS)}")

    def lr_at(self, step, steps_per_epoch, steps):
        """The learning rate of a step, counted from 0, of so many."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "epochs":
            return self.lr * warm * self.lr_decay ** (step // steps_per_epoch)
        done = max(0, step - self.warmup) / max(1, steps - self.warmup)
        return self.lr * warm * (self.lr_decay + (1 - self.lr_decay) * (1 + math.cos(math.pi * done)) / 2)


def find_recipe(model: str) -> Path | None:
    """The file of a model's recipe, or of that of which it is a size: sasmamba's for sasmamba_large. None: there is none."""
    while model:
        if (path := FOLDER / f"{model}.yaml").is_file():
            return path
        model = model.rpartition("_")[0]
    return None
