"""The loop. It is Lightning Fabric's, not its Trainer's: what a resumed training goes on from is all in sight here.

Nothing is random but by the seed and the number of the step, so a state needs no generators: the order of the clips follows
from (seed, epoch), dropout and diffusion from (seed, step, process).
"""

import copy
import os
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader
from tqdm import tqdm

from lifter import metrics
from lifter._io import StrPath
from lifter.checkpoints import check_finite, load_checkpoint
from lifter.data.sequence import Dataset
from lifter.inference.diffusion import diffuse
from lifter.inference.windows import centred, lift_sequence, margins_of, with_channels
from lifter.metrics import losses
from lifter.metrics.protocols import align_root
from lifter.pretrained import save_pretrained
from lifter.recipe import Recipe
from lifter.registry import create_model

from . import checkpoints
from .data import Clips, FilmedClips, pair

LOG_EVERY = 10  # steps
MAY_CHANGE = ("epochs", "max_steps")  # of the recipe of a training that is resumed
JOINT_WEIGHTS = {"h36m": "h36m", "mpi3dhp": "3dhp-univ"}  # by skeleton, of those in lifter.losses
METRICS = {"P1": metrics.MPJPE, "P2": metrics.PMPJPE, "MPJVE": metrics.MPJVE}


def train(
    model: str,
    recipe: Recipe,
    data: Dataset,
    validation: Dataset | None = None,
    out: StrPath = "runs",
    *,
    resume: bool = False,
    seed: int = 0,
    save_every: int = 500,
    validate_every: int | None = None,
    workers: int = 0,
    accelerator: str = "auto",
    devices: int | str = "auto",
    nodes: int = 1,
    precision: str = "32-true",
    start: StrPath | None = None,
):
    """Train a model, validating after each epoch, or every so many steps, and at the end.

    Args:
        model: a name of `list_models()`. recipe: a `Recipe`.
        data, validation: `lifter.data.Dataset`s, as `split` makes them; without the second the last weights are the best.
        out: the folder for best.safetensors (of the least P1 so far, see `lifter.load_pretrained`), checkpoints/, logs/ (CSV)
            and tensorboard/.
        resume: go on from the newest whole checkpoint in `out`, or start where there never was one. On a CPU of as many
            threads this gives bit for bit what an uninterrupted training gives.
        save_every: steps from one checkpoint to the next, of which the last two are kept; there is one after each validation
            too. validate_every: steps; None: an epoch.
        workers: processes that read, for each that trains.
        accelerator, devices, nodes, precision: of Lightning Fabric; torchrun's variables are heeded.
        start: file of weights to start from, any that `load_checkpoint` takes; None: random ones. A resumed training
            goes on from its checkpoint.

    Returns:
        {"P1", "P2", "MPJVE"} in millimetres (per frame) of best.safetensors, over all frames of `validation`, the predicted
        root set to 0; empty without it.

    Raises:
        ValueError for what does not fit: sizes, recipe of the checkpoint; for weights that are no longer finite, which are
        never saved; if all checkpoints are damaged. FileExistsError for a folder with a training that is not to be resumed.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if devices == "auto" and "LOCAL_WORLD_SIZE" in os.environ:  # torchrun's; on the CPU Fabric would not look
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    options = {"accelerator": accelerator, "devices": devices, "num_nodes": nodes, "precision": precision}
    try:
        fabric = Fabric(**options, loggers=_loggers(out))
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"train: {options}: {error}") from None
    fabric.launch()
    if not resume and checkpoints.found(out / "checkpoints"):
        raise FileExistsError(f"{out}: has the checkpoints of a training: resume it, or choose another folder")
    if recipe.batch_size % fabric.world_size:
        got = f"batch_size is {recipe.batch_size}"
        raise ValueError(f"recipe: {got}, expected a multiple of the {fabric.world_size} processes that share it")
    if recipe.film is None:
        clips = Clips(data, recipe.num_frames, recipe.stride, recipe.inputs)
    else:
        clips = FilmedClips(data, recipe, (seed, fabric.global_rank), fabric.world_size)
    if len(clips) < recipe.batch_size:
        raise ValueError(f"{data.path}: {len(clips)} clips, expected at least one batch of {recipe.batch_size}")

    torch.manual_seed(seed)
    kwargs = {"num_frames": recipe.num_frames} | recipe.network
    network = create_model(model, **kwargs)
    network.centred = recipe.centred
    about = {
        "model": model, "kwargs": kwargs, "centred": recipe.centred, "recipe": asdict(recipe), "data": Path(data.path).name,
        "seed": seed,
    }  # fmt: skip
    state = checkpoints.newest(out / "checkpoints", fabric.print) if resume else None
    if state is None and start is not None:
        load_checkpoint(network, start)
    elif state is None and hasattr(network, "fit"):
        network.fit((_as_seen(network, inputs), poses) for inputs, poses in clips.pairs())
    training = Training(fabric, network, recipe, clips, validation, out, about)
    if state is not None:
        training.load(state)
    training.run(save_every, validate_every, workers)
    return training.best


def _loggers(out):
    return [CSVLogger(out, name="logs", flush_logs_every_n_steps=1), TensorBoardLogger(out, name="tensorboard", version="")]


def _as_seen(network, inputs):
    return centred(network, with_channels(inputs, network.in_channels))


def _seen_by(network, poses, predictions):
    """Return the frames of `poses` that are predicted: all, those that a model with an `interval` reads, or those that one
    with `margins` gives."""
    frames = predictions.shape[1]
    if frames < poses.shape[1] and hasattr(network, "interval"):
        return poses[:, :: network.interval]
    return poses if frames == poses.shape[1] else poses.narrow(1, margins_of(network)[0], frames)


class Training:
    """State and steps of a training."""

    def __init__(self, fabric, network, recipe, clips, validation, out, about):
        self.fabric, self.recipe, self.clips, self.validation, self.out, self.about = (
            fabric, recipe, clips, validation, out, about,
        )  # fmt: skip
        self.seed, self.step, self.seconds, self.best = about["seed"], 0, 0.0, {}
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[recipe.optimizer](network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.network = network  # the wrapped one shares its weights
        self.wrapped, self.optimizer = fabric.setup(network, optimizer)
        self.average = copy.deepcopy(network).requires_grad_(False) if recipe.ema else None
        self.steps_per_epoch = len(clips) // recipe.batch_size
        self.steps = recipe.epochs * self.steps_per_epoch
        self.steps = self.steps if recipe.max_steps is None else min(self.steps, recipe.max_steps)

    def state(self):
        return {
            "step": self.step,
            "seconds": self.seconds,
            "about": self.about,
            "best": self.best,
            "clips": len(self.clips),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and self.average.state_dict(),
        }

    def load(self, state):
        before, now = state["about"], self.about
        changed = [key for key in ("model", "kwargs", "data", "seed") if before[key] != now[key]]
        changed += [key for key, value in before["recipe"].items() if now["recipe"][key] != value and key not in MAY_CHANGE]
        changed += ["clips"] if state["clips"] != len(self.clips) else []
        if changed:
            raise ValueError(f"{self.out}: was trained with other {', '.join(changed)}: these must not change on the way")
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.print(f"{self.out}: goes on after step {self.step}")

    def run(self, save_every, validate_every, workers):
        validate_every = self.steps_per_epoch if validate_every is None else validate_every
        if self.step >= self.steps and not self.best:
            self.validate()
        hidden = None if self.fabric.is_global_zero else True  # None: where it is no terminal
        progress = tqdm(total=self.steps, initial=self.step, unit="step", disable=hidden)
        total, began = 0.0, time.perf_counter() - self.seconds
        for clips in self._stream(workers):
            loss = self._step(clips)
            self.step += 1
            total += loss
            progress.update()
            if self.step % LOG_EVERY == 0 or self.step == self.steps:
                self._log_loss(total / (self.step % LOG_EVERY or LOG_EVERY), progress)
                total = 0.0
            due = self.step % validate_every == 0 or self.step == self.steps
            if due:
                self.validate(progress)
            self.seconds = time.perf_counter() - began
            if due or self.step % save_every == 0:
                self._save()
        progress.close()

    def _stream(self, workers):
        """The batches from the next step to the last."""
        share = slice(self.fabric.global_rank, None, self.fabric.world_size)
        while self.step < self.steps:
            batches = self.clips.batches(self.recipe, self.seed, self.step, self.steps, share)
            yield from map(self.fabric.to_device, DataLoader(**batches, num_workers=workers))

    def _step(self, clips):
        """One step; its loss."""
        recipe, rank = self.recipe, self.fabric.global_rank
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.step, rank)).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step, self.steps_per_epoch, self.steps)
        self.wrapped.train()
        inputs, poses = clips
        inputs = _as_seen(self.network, inputs)
        if hasattr(self.network, "denoise"):
            time = torch.randint(self.network.timesteps, (len(poses),), device=poses.device)
            noisy = diffuse(poses, time, torch.randn_like(poses), self.network.timesteps, self.network.scale)
            predictions = self.wrapped(inputs, noisy, time, **recipe.call)
        else:
            predictions = self.wrapped(inputs, **recipe.call)
        parts = predictions if isinstance(predictions, tuple) else (predictions,)
        loss = sum(loss_of(recipe, part, _seen_by(self.network, poses, part), self.clips.skeleton) for part in parts)
        self.optimizer.zero_grad()
        self.fabric.backward(loss * loss.detach() if recipe.loss_is_gradient else loss)
        if recipe.clip_gradient is not None:
            self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=recipe.clip_gradient)
        self.optimizer.step()
        if self.average is not None:
            with torch.no_grad():
                decay = min(recipe.ema, (self.step + 1) / (self.step + 10))  # the first weights are soon forgotten
                for mean, new in zip(self.average.parameters(), self.network.parameters()):
                    mean.lerp_(new, 1 - decay)
                for mean, new in zip(self.average.buffers(), self.network.buffers()):
                    mean.copy_(new)
        return loss.detach()

    def _log_loss(self, loss, progress):
        loss = loss.item()
        if loss != loss:
            raise ValueError(f"the loss is NaN at step {self.step}: a smaller lr, or clip_gradient, may help")
        progress.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self.fabric.log_dict({"loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}, self.step)

    def _check(self):
        """Check the state in every process: all have the same."""
        check_finite(self.state(), f"{self.out}: after step {self.step}, which is not saved")

    def _save(self):
        self._check()
        if self.fabric.is_global_zero:
            checkpoints.save(self.out / "checkpoints", self.step, self.state())
        self.fabric.barrier()

    def validate(self, progress=tqdm):
        """Figures of the weights as they are; if these are the best so far they become best.safetensors."""
        network = self.network if self.average is None else self.average
        self._check()
        network.eval()
        figures = {} if self.validation is None else self._figures(network)
        if figures:
            self.fabric.log_dict(figures, self.step)
            if self.fabric.is_global_zero:
                text = ", ".join(f"{name} {value:.1f} mm" for name, value in figures.items())
                progress.write(f"step {self.step}: {text}")
        if not (figures and self.best and self.best["P1"] <= figures["P1"]):
            self.best = figures
            if self.fabric.is_global_zero:
                about = self.about | {"step": self.step, "figures": figures, "protocol": "all frames, predicted root set to 0"}
                save_pretrained(self.out / "best.safetensors", network, about)

    def _figures(self, network):
        recipe, found = self.recipe, {name: metric() for name, metric in METRICS.items()}
        lift = partial(lift_sequence, network, window=recipe.num_frames)
        for name in self.validation.names[self.fabric.global_rank :: self.fabric.world_size]:
            sequence = self.validation[name]
            inputs, poses = pair(sequence, recipe.inputs)
            flip = sequence.skeleton if recipe.flip_test else None
            predictions = lift(torch.tensor(inputs), flip=flip, camera=sequence.camera).float().cpu()
            root = sequence.skeleton.parents.index(-1)
            predictions, targets = align_root(predictions, torch.from_numpy(poses), "zeroed", root)
            valid = None if sequence.valid is None else torch.from_numpy(sequence.valid)[:, None].expand(targets.shape[:2])
            for metric in found.values():
                metric.update(predictions, targets, valid)
        sums = torch.tensor([[float(metric.total), float(metric.count)] for metric in found.values()], dtype=torch.float64)
        sums = self.fabric.all_reduce(sums, reduce_op="sum")
        return {name: 1000 * (total / count).item() for name, (total, count) in zip(found, sums)}


def loss_of(recipe, predictions, targets, skeleton):
    """The weighted sum of a recipe's terms for (B, T, J, 3); of the weighted ones by the joints of `skeleton`."""
    weights = None
    if any(term.startswith("weighted") for term in recipe.loss):
        if skeleton.name not in JOINT_WEIGHTS:
            known = ", ".join(JOINT_WEIGHTS)
            raise ValueError(f"recipe: loss: no weights for the joints of {skeleton.name}, only of {known}")
        weights = losses.JOINT_WEIGHTS[JOINT_WEIGHTS[skeleton.name]]
    terms = {
        "mpjpe": lambda: losses.mpjpe(predictions, targets),
        "weighted_mpjpe": lambda: losses.weighted_mpjpe(predictions, targets, weights),
        "n_mpjpe": lambda: losses.n_mpjpe(predictions, targets),
        "velocity": lambda: losses.loss_velocity(predictions, targets),
        "consistency": lambda: losses.tc_loss(predictions),
        "weighted_consistency": lambda: losses.tc_loss(predictions, weights),
        "l1": lambda: losses.loss_joint(predictions, targets),
        "acceleration": lambda: losses.loss_acceleration(predictions, targets),
    }
    return sum(weight * terms[term]() for term, weight in recipe.loss.items())
