"""Models by the viewpoint of the camera: `python -m benchmarks.viewpoints --data FOLDER --checkpoint A.safetensors ...`.

Motions in the world, of people whom the models have not seen, filmed by cameras that look down and are rolled by so many
degrees, with the noise of a detector. Windows overlap and mirror images are averaged, as `lifter lift` does it.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import lifter
from lifter._io import whole
from lifter.data import open_data
from lifter.data.mocap import film, middle
from lifter.inference.windows import lift_sequences
from lifter.metrics.errors import MPJPE, MPJVE, PMPJPE
from lifter.skeleton import H36M

LIMBS = [number for number, name in enumerate(H36M.joints) if name not in ("spine", "thorax", "neck", "head")]
FIGURES = {"MPJPE": (MPJPE, slice(None)), "P-MPJPE": (PMPJPE, slice(None)), "MPJVE": (MPJVE, slice(None))}
FIGURES |= {"limbs MPJPE": (MPJPE, LIMBS), "limbs P-MPJPE": (PMPJPE, LIMBS)}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewpoints", description=__doc__)
    parser.add_argument(
        "--data",
        required=True,
        metavar="PATH",
        help='motions in world coordinates, in a format such as "motions", "asf" or "bvh"',
    )
    parser.add_argument("--select", nargs="+", default=["*"], metavar="PATTERN", help="names of the motions to use")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="FILE", help="models to compare with the shipped one")
    parser.add_argument(
        "--pitch", nargs="+", type=float, default=[0, 20, 40], metavar="DEGREES", help="downward tilt of the camera"
    )
    parser.add_argument("--roll", nargs="+", type=float, default=[0, 20], metavar="DEGREES")
    parser.add_argument("--noise", type=int, default=0, metavar="SEED")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="seconds to take from the middle of each motion (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args(argv)
    models = {str(path or "shipped"): lifter.load_pretrained(path).model for path in (None, *args.checkpoint)}
    motions = middle(open_data(args.data).select(*args.select), args.seconds)
    print(f"{'model':24} {'pitch':>5} {'roll':>5}" + "".join(f" {name:>13}" for name in FIGURES) + "  (mm)")
    rows = []
    for pitch in args.pitch:
        for roll in args.roll:
            views = views_of(motions, args.noise, pitch, roll)
            for name, model in models.items():
                rows.append({"model": name, "pitch": pitch, "roll": roll} | measure(model, views))
                figures = "".join(f" {rows[-1][figure]:13.1f}" for figure in FIGURES)
                print(f"{Path(name).name:24} {pitch:5g} {roll:5g}{figures}", flush=True)
    if args.json:
        with whole(args.json) as partly:
            partly.write_text(json.dumps({"motions": args.select, "noise": args.noise, "rows": rows}, indent=1) + "\n")
    return 0


def views_of(motions, noise, pitch, roll):
    """Each motion as one of four cameras sees it, in turn."""
    films = film(motions, noise, pitch, roll)
    return [films[f"{name}/{number % 4}"] for number, name in enumerate(motions.names)]


def measure(model, views):
    """Millimetres (MPJVE per frame) over all frames, the predicted root set to 0."""
    found = {name: metric() for name, (metric, _) in FIGURES.items()}
    keypoints = ((view, view.keypoints) for view in views)
    stride = max(1, model.num_frames // 2)
    lifted = lift_sequences(model, keypoints, stride=stride, batch=16, fade=True, camera_of=lambda view: view.camera)
    for view, poses in lifted:
        poses = poses.clone()
        poses[:, 0] = 0
        targets = torch.from_numpy(view.rooted())
        for name, (_, joints) in FIGURES.items():
            found[name].update(poses[:, joints], targets[:, joints])
    return {name: 1000 * metric.compute().item() for name, metric in found.items()}


if __name__ == "__main__":
    sys.exit(main())
