"""`lifter.inference.files.lift_files` on many machines, through Ray Data (extra: ray).

Files and outputs have to be where all of them see them. With RAY_ADDRESS set the cluster there is used, else this machine.
"""

import math
from pathlib import Path

from lifter._extras import needs

from .files import lift_files
from .sources import Source

FILES = 64  # for one call of a worker


class Worker:
    """Lifts some files at a time with a model of its own."""

    def __init__(self, lift):
        self.lift, self.model = lift, lift.model.load()

    def __call__(self, rows):
        sources = [Source(Path(path), str(place)) for path, place in zip(rows["path"], rows["place"])]
        told = []
        lift_files(self.model, sources, self.lift, lambda *event: told.append(event))
        return {"what": [what for what, _ in told], "text": [text for _, text in told]}


def lift_on_ray(sources, lift, report):
    """`lift_files` of all sources, one worker for each CPU, or for each GPU if the model runs on those."""
    with needs("ray", "--engine ray"):
        import ray.data
    on_gpu = lift.model.device != "cpu"
    if not on_gpu:
        lift.model.load()  # what is wrong with it is told here, before the workers tell it at length
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
