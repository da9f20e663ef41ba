"""`lifter lift` over many files, by two processes that are killed again and again: python -m tests.inference.bulk

Told is how long it took, how many outputs were there, whole, and how many were written twice; and what is lifted again after
inputs, the model and an option were changed.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

import lifter
from lifter.data import open_data, save
from lifter.data.synthetic import open_gait

SIZES = {"num_frames": 27, "dim": 16, "depth": 1}


def weights(path, seed):
    torch.manual_seed(seed)
    lifter.save_pretrained(path, lifter.create_model("sasmamba", **SIZES), {"model": "sasmamba", "kwargs": SIZES})
    return path


def put(folder, number, first):
    clip = next(iter(open_gait(1, 243))).take(slice(first % 190, first % 190 + 20 + number % 30))
    save(folder / f"{number:05}.npz", [replace(clip, name=f"clip {number}")])


def bulk(files=10_000, kills=10, seed=0) -> dict:
    """Run the trial and return its figures."""
    rng, told = random.Random(seed), {"files": files, "kills": kills}
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "in"), Path(folder, "out")
        given.mkdir()
        for number in range(files):
            put(given, number, number)
        model = weights(Path(folder, "a.safetensors"), 0)

        def start(model=model, *options):
            command = ["lift", given, "-o", out, "--checkpoint", model, *options]
            run = [sys.executable, "-m", "lifter", *command]
            return subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        def end(process):
            said = process.communicate()[0]
            return (re.findall(r"\d+ sequences lifted.*failed", said) or [said])[0]

        began, both = time.perf_counter(), [start(), start()]
        for kill in range(kills):
            before = len(list(out.glob("*.npz")))
            enough = before + rng.randrange(1, max(2, (files - before) // (kills - kill + 1)))
            while len(list(out.glob("*.npz"))) < enough and any(one.poll() is None for one in both):
                time.sleep(0.05)
            one = rng.randrange(2)
            both[one].kill()
            both[one].wait()
            both[one] = start()
        told["the last two"] = [end(one) for one in both]
        told["seconds"] = round(time.perf_counter() - began, 1)
        written = Counter(filter(None, (out / ".lifted.jsonl").read_text().splitlines()))
        told["outputs"] = len(list(out.glob("*.npz")))
        told["written twice"] = sum(written.values()) - len(written)
        told["left over"] = len(list(out.glob(".*.part")))
        told["broken"] = sum(len(open_data(path)) != 1 for path in sorted(out.glob("*.npz")))
        told["again, nothing changed"] = end(start())
        changed = range(0, files, max(1, files // 37))
        for number in changed:
            put(given, number, number + 7)
        told[f"again, {len(changed)} inputs changed"] = end(start())
        told["again, another model"] = end(start(weights(Path(folder, "b.safetensors"), 1)))
        told["again, another option"] = end(start(Path(folder, "b.safetensors"), "--no-flip"))
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    for key, value in bulk(args.files, args.kills).items():
        print(f"{key}: {value}")
