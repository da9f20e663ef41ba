"""Lifting of files on many machines with Ray Data (extra: ray).

Inputs and outputs must be on a file system that all machines see. RAY_ADDRESS selects a cluster; without it, this machine is
used.
"""

import math
from pathlib import Path

from lifter._extras import needs

from .files import lift_files
from .sources import Source

FILES = 64  # per call of a worker


class Worker:
    """Worker that lifts batches of files with its own model."""

    def __init__(self, lift):
        self.lift, self.model = lift, lift.model.load()

    def __call__(self, rows):
        sources = [Source(Path(path), str(place)) for path, place in zip(rows["path"], rows["place"])]
        told = []
        lift_files(self.model, sources, self.lift, lambda *event: told.append(event))
        return {"what": [what for what, _ in told], "text": [text for _, text in told]}


def lift_on_ray(sources, lift, report):
    """Run `lift_files` on all sources with one worker per CPU, or per GPU if the model runs on GPUs."""
    with needs("ray", "--engine ray"):
        import ray.data
    on_gpu = lift.model.device != "cpu"
    if not on_gpu:
        lift.model.load()  # report errors here, before every worker does
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    calls = math.ceil(len(sources) / FILES)
    workers = max(1, min(calls, int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1))))
    rows = [{"path": str(source.path), "place": source.place} for source in sources]
    lifted = ray.data.from_items(rows, override_num_blocks=calls).map_batches(
        Worker, fn_constructor_args=(lift,), batch_size=FILES, compute=ray.data.ActorPoolStrategy(size=workers),
        **({"num_gpus": 1} if on_gpu else {"num_cpus": 1}),
    )  # fmt: skip
    try:
        for row in lifted.iter_rows():
            report(row["what"], row["text"])
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray: {(str(error).strip() or type(error).__name__).splitlines()[-1]}") from None
