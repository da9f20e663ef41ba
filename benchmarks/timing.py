"""Interleaved timing: every candidate once per round, so that a noisy minute hits all of them alike."""

import statistics
import time
from dataclasses import dataclass, field

import torch

LAUNCHES = 9  # rounds of `launched`
CLOCK = 2e9  # cycles per second, about: of torch.cuda._sleep


@dataclass
class Timing:
    seconds: list[float] = field(default_factory=list)  # per call

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        if len(self.seconds) < 2:
            return float("nan")
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median

    def __str__(self):
        spread = "" if len(self.seconds) < 2 else f" ±{self.spread:.0%}"
        return f"{milliseconds(self.median)}{spread} (n={len(self.seconds)})"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def measure(calls: dict, device="cpu", budget=0.5, rounds=50, sample=1e-3):
    """Time every call of `calls` -> (timings, outputs of the first calls), both by name.

    The first call of each warms up and is no sample, unless it alone lasts 8 times the budget (seconds per candidate):
    then it is the only one. A sample repeats a short call until it lasts `sample` seconds. A candidate leaves the
    rounds when its budget is spent.
    """
    timings = {name: Timing() for name in calls}
    outputs, repeats = {}, {}
    for name, call in calls.items():
        outputs[name], seconds = timed(call, device)
        if seconds < 8 * budget:
            _, seconds = timed(call, device)
            repeats[name] = max(1, round(sample / seconds))
        if seconds > budget:
            timings[name].seconds.append(seconds)
    spent = {name: sum(timings[name].seconds) for name in repeats}
    for _ in range(rounds):
        for name in [name for name in repeats if spent[name] < budget]:
            seconds = timed(calls[name], device, repeats[name])[1]
            spent[name] += seconds
            timings[name].seconds.append(seconds / repeats[name])
    return timings, outputs


def timed(call, device="cpu", repeats=1):
    """The output of `call` and the seconds that `repeats` calls take, to the end of the device's work."""
    synchronize = torch.cuda.synchronize if str(device).startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        output = call()
    synchronize()
    return output, time.perf_counter() - start


def best_seconds(call, device="cpu", budget=0.05) -> float:
    """The fastest of as many calls as the budget allows: what the machine can do, whatever else it does now. Of a GPU its own
    time: what the launches take is in no bound."""
    wall = min(measure({"": call}, device, budget, rounds=200, sample=1e-4)[0][""].seconds)
    if not str(device).startswith("cuda"):
        return wall
    return min(wall, launched(call, max(1, min(100, round(1e-3 / wall))), wall)[1])


def launched(call, repeats=1, seconds=1e-3) -> tuple[float, float]:
    """Median seconds per call of the launching thread, and of the device, which waits until everything is launched."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    hosts, devices = [], []
    for _ in range(LAUNCHES):
        torch.cuda.synchronize()
        torch.cuda._sleep(int(CLOCK * min(0.5, 1.5 * seconds * repeats + 1e-4)))
        begin.record()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        hosts.append((time.perf_counter() - start) / repeats)
        end.record()
        torch.cuda.synchronize()
        devices.append(begin.elapsed_time(end) / 1e3 / repeats)
    return statistics.median(hosts), statistics.median(devices)
