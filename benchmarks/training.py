"""Five architectures, trained for the same time on motion capture: `python -m benchmarks.training --data cmu_h36m17.npz`.

Subjects S1 and S2 to train on, S3 to test, seen by the file's four cameras, with the noise of a detector. The weights that are
evaluated are the last ones: nothing is chosen by the test.
"""

import argparse
import csv
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

import lifter
from lifter.data import open_data
from lifter.inference.diffusion import Sampler
from lifter.inference.windows import centre, centred, with_channels
from lifter.info import environment
from lifter.metrics.protocols import PROTOCOLS, evaluate
from lifter.training import Recipe, checkpoints, split, train
from lifter.training.data import Clips, pair

from . import report, tables, timing

TITLE = "Training: the same clips for all, tested on a person who was not among them"
COLUMNS = [
    ("model", "name", "{}"),
    ("P1, mm", "MPJPE", "{:.1f}"),
    ("P2, mm", "P-MPJPE", "{:.1f}"),
    ("MPJVE, mm", "MPJVE", "{:.2f}"),
    ("parameters", "params", "{:,}"),
    ("MACs per frame, paper convention", "macs_per_frame", "{:,.0f}"),
    ("frames/s", "frames_per_second", "{:,.0f}"),
    ("steps of 8 clips", "steps", "{:,}"),
    ("training", "seconds", "{:.0f} s"),
]
NOTES = [
    "P1, P2, MPJVE (per frame of 50 Hz): over all frames of S3 and four cameras, from keypoints with a detector's noise, the "
    "predicted root set to 0, mean with the mirrored poses of mirrored keypoints.",
    "Mean pose: of the training set. Linear: ridge regression, frame by frame.",
    "MixSynthFormer sees every second frame, lifted by a linear layer that is trained with it. HTP: one hypothesis in one "
    "step.",
    "MACs and frames/s without the mirrored keypoints; frames/s for 8 clips of 27 frames at once. Training includes looking "
    "at the first camera of S3 for the learning curve.",
]

FRAMES = 27
BUDGET = 2.0  # seconds of timing, per model
COMMON = {
    "num_frames": FRAMES, "centred": True, "loss": {"mpjpe": 1.0, "velocity": 2.0}, "schedule": "cosine", "lr_decay": 0.01,
    "warmup": 100, "weight_decay": 0.01, "batch_size": 8, "epochs": 1000, "clip_gradient": 1.0, "flip_test": False,
}  # fmt: skip
# As many steps as take about as long: ten minutes on one core.
RECIPES = {
    name: Recipe(network=network, lr=lr, max_steps=steps, **COMMON)
    for name, steps, lr, network in (
        ("sasmamba", 2500, 1e-3, {"dim": 64, "depth": 2, "drop_path": 0.0}),
        ("poseretnet", 4500, 3e-3, {"dim": 64, "depth": 4, "num_heads": 4, "drop_path": 0.0}),
        ("htp", 5500, 3e-3, {"dim": 64, "depth": 4, "num_heads": 4, "drop_path": 0.0}),
        ("masc_pose", 2200, 2e-3, {"dim": 64, "depth": 3, "dim_rep": 128, "num_heads": 4, "layer_scale": 0.1}),
        ("mixsynthformer_lifter", 15000, 1e-3, {"dim": 128, "depth": 5, "interval": 2, "steps": 13, "drop": 0.0}),
    )
}
# A clip is evaluated as it is trained on; MPJVE needs no windows.
PROTOCOL = replace(PROTOCOLS["vp3d"], name="all frames", window=FRAMES, stride=FRAMES, root_rule="zeroed", average="frame")


class MeanPose(nn.Module):
    """The mean of the training poses, whatever it sees."""

    def __init__(self, clips):
        super().__init__()
        self.register_buffer("pose", torch.stack([poses.mean(0) for poses in clips]).mean(0))
        self.num_frames = FRAMES
        self.eval()

    def forward(self, keypoints):
        return self.pose.expand(*keypoints.shape[:2], -1, -1).to(keypoints)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--data", required=True, metavar="FILE", help="cmu_h36m17.npz, or other motion capture in the same format"
    )
    parser.add_argument(
        "--out", default="build/training", metavar="FOLDER", help="output folder; an interrupted run continues there"
    )
    parser.add_argument("--steps", type=int, help="steps per model (default: about the same time for each)")
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--train", nargs="+", default=["S1/*", "S2/*"], metavar="PATTERN")
    parser.add_argument("--test", nargs="+", default=["S3/*"], metavar="PATTERN")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    out = Path(args.out)
    data = open_data(args.data, noise=args.seed)
    training, test = split(data, args.train, args.test)
    watched = test.select(*(name for name in test.names if name.endswith("/0")))  # one camera, for the curves

    clips = Clips(training, FRAMES)
    linear = lifter.create_model("linear", num_frames=FRAMES).eval()
    linear.centred = True
    linear.fit((centre(with_channels(seen, 2)), poses) for seen, poses in (clips[i, False] for i in range(len(clips))))
    mean = MeanPose(poses for _, poses in (clips[i, False] for i in range(len(clips))))
    rows = [_row("mean pose", mean, test), _row("linear", linear, test) | tables_of("linear", {})]
    about = {"model": "linear", "kwargs": {"num_frames": FRAMES}, "centred": True}
    lifter.save_pretrained(_folder(out) / "linear.safetensors", linear, about)
    networks = {"linear": linear}
    for name in args.models:
        recipe = RECIPES[name] if args.steps is None else replace(RECIPES[name], max_steps=args.steps)
        print(f"{name}: {recipe.max_steps} steps", file=sys.stderr, flush=True)
        train(name, recipe, training, watched, out / name, resume=True, seed=args.seed, accelerator="cpu", devices=1)
        kwargs = {"num_frames": FRAMES} | recipe.network
        networks[name] = model = lifter.create_model(name, **kwargs)
        state = checkpoints.newest(out / name / "checkpoints")
        model.load_state_dict(state["model"])
        model.centred = recipe.centred
        rows.append(_row(name, model.eval(), test) | tables_of(name, recipe.network))
        rows[-1] |= {"steps": recipe.max_steps, "seconds": state["seconds"]}
        about = {"model": name, "kwargs": kwargs, "centred": recipe.centred, "data": Path(args.data).name}
        about |= {"train": args.train, "steps": recipe.max_steps, "batch_size": recipe.batch_size}
        figures = {figure: rows[-1][figure] for figure in ("MPJPE", "P-MPJPE", "MPJVE")}
        about |= {"test": args.test, "protocol": str(PROTOCOL), "figures": figures}
        lifter.save_pretrained(out / f"{name}.safetensors", model, about)
        report.show(sys.modules[__name__], rows)
    _time(networks, rows, test)
    _write(out, rows, args)
    return 0


def _folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def _row(name, model, test):
    predictions, targets, actions = [], [], []
    for sequence in test:
        seen, poses = pair(sequence)
        predictions.append(PROTOCOL.lift(model, seen, batch=32))
        targets.append(poses)
        actions.append(sequence.action)
    return {"name": name} | evaluate(predictions, targets, actions, PROTOCOL).metrics


def tables_of(name, kwargs):
    counts = tables.count(name, FRAMES, **kwargs)
    return {"params": counts["params"], "macs_per_frame": counts["macs_paper_convention"] / FRAMES, "kwargs": kwargs}


def _time(networks, rows, test):
    """Frames per second, all models in turn."""
    seen = torch.from_numpy(next(iter(test)).keypoints)
    clips = seen[torch.arange(8 * FRAMES) % len(seen)].unflatten(0, (8, FRAMES))
    calls = {}
    for name, network in networks.items():
        model = Sampler(network, flip=None).eval() if hasattr(network, "denoise") else network
        calls[name] = partial(model, centred(network, with_channels(clips, network.in_channels)))
    with torch.inference_mode():
        timings, _ = timing.measure(calls, budget=BUDGET, rounds=200)
    for row in rows:
        if row["name"] in timings:
            row["frames_per_second"] = 8 * FRAMES / timings[row["name"]].median


def _write(out, rows, args):
    section = sys.modules[__name__]
    clips = f"{Path(args.data).name}, clips of {FRAMES} frames"
    result = report.Report(environment(), "cpu", clips, f"seed {args.seed}", sections={section: rows})
    report.write(out, result)
    report.show(section, rows)
    if _draw(out, [row["name"] for row in rows if "seconds" in row]):
        with (out / "report.md").open("a") as file:
            file.write("\n![learning curves](curves.png)\n")


def _draw(out, names):
    """The loss, and P1 of the test's first camera, of each model."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12, 4), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for name, color in zip(names, report.COLORS):
        points = _logged(out / name)
        for axes, key in ((loss, "loss"), (error, "P1")):
            curve = [(step / points[-1][0], row[key]) for step, row in points if key in row]
            axes.plot(*zip(*curve), color=color, label=name)
    loss.set(yscale="log", xlabel="share of the training", ylabel="loss in training")
    error.set(yscale="log", xlabel="share of the training", ylabel="P1 of S3, first camera, mm")
    for axes in (loss, error):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "curves.png", dpi=150)
    return True


def _logged(folder):
    """(step, {name: number}) of all parts of a training."""
    points = []
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with path.open() as file:
            points += [(int(row["step"]), {k: float(v) for k, v in row.items() if v}) for row in csv.DictReader(file)]
    return sorted(points, key=lambda point: point[0])


if __name__ == "__main__":
    sys.exit(main())
