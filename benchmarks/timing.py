"""Interleaved timing, every candidate once per round, so that a noisy minute hits all alike; and what the samples say."""

import statistics
import time
from dataclasses import dataclass, field

import torch

LONG = 4  # budgets: a call that lasts longer, and longer than SHORT, is called once
SHORT = 0.1  # seconds
COLD = 2.0  # seconds that a first call may take for its own sake
SAMPLES = 3  # of any other call, at least
WARM_UPS = 6  # calls, at most, until two in a row take about the same time
NOISY = 1.25  # a row says so if the upper quartile of its samples is more than this times the lower one
EQUAL = 1.03  # by what equal calls differ on a quiet machine
FEW = 1.5  # by what calls must differ if one of them has fewer than SAMPLES samples
RULE = (
    f'"even": the samples do not tell the two apart. Medians and fastest samples must differ by more than {EQUAL - 1:.0%} in '
    f"the same direction, and the middle halves of the samples must not overlap; with fewer than {SAMPLES} samples only a "
    f'factor of {FEW} counts. "Noisy": the upper quartile of the samples is more than {NOISY} times the lower one.'
)
LAUNCHES = 9  # rounds of `launched`
CLOCK = 2e9  # cycles per second, about: of torch.cuda._sleep


@dataclass
class Timing:
    seconds: list[float] = field(default_factory=list)  # per call

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> list[float]:
        several = len(self.seconds) > 1
        return statistics.quantiles(self.seconds, n=4, method="inclusive") if several else 3 * self.seconds

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        low, _, high = self.quartiles
        return (high - low) / 2 / self.median if len(self.seconds) > 1 else float("nan")

    @property
    def noisy(self) -> bool:
        low, _, high = self.quartiles
        return high > NOISY * low

    def __str__(self):
        spread = "" if len(self.seconds) < 2 else f" ±{self.spread:.0%}"
        return f"{milliseconds(self.median)}{spread} (n={len(self.seconds)})"


class Ratio(float):
    """Ratio of the times of two calls. `clear`: whether their samples tell the two apart."""

    clear = True

    def __str__(self):
        return f"{float(self):.3g}x" if self.clear else "even"

    @property
    def slower(self) -> bool:
        return self.clear and self < 1


def speedup(ours: Timing, other: Timing) -> Ratio:
    """Return the speedup over `other` by the medians; `RULE` says when it is clear."""
    ratio = Ratio(other.median / ours.median)
    if ours is not other:
        slow, fast = (other, ours) if ratio > 1 else (ours, other)
        least = EQUAL if min(len(ours.seconds), len(other.seconds)) >= SAMPLES else FEW
        differ = slow.median > least * fast.median and min(slow.seconds) > least * min(fast.seconds)
        ratio.clear = differ and slow.quartiles[0] > fast.quartiles[2]
    return ratio


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def measure(calls: dict, device="cpu", budget=0.5, rounds=50, sample=1e-3):
    """Time every call of `calls` -> (timings, outputs of the first calls), both by name.

    Calls that warm up are no samples: they go on until two in a row take about the same time. Exception: a call that takes
    longer than LONG budgets (seconds per candidate) is made `twice` and gives a single sample. So is any call, called once,
    where the budget is 0. A sample repeats a short call until it lasts `sample` seconds. A candidate leaves the rounds when
    its budget is spent and it has SAMPLES samples.
    """
    timings = {name: Timing() for name in calls}
    outputs, repeats = {}, {}
    for name, call in calls.items():
        outputs[name], seconds = twice(call, device) if budget else timed(call, device)
        if seconds > max(SHORT, LONG * budget) or not budget:
            timings[name].seconds.append(seconds)
            continue
        for _ in range(WARM_UPS):
            before, (_, seconds) = seconds, timed(call, device)
            if before < NOISY * seconds or seconds > budget:
                break
        repeats[name] = max(1, round(sample / seconds))
        if seconds > budget and before < NOISY * seconds:
            timings[name].seconds.append(seconds)
    spent = {name: sum(timings[name].seconds) for name in repeats}
    for _ in range(rounds):
        for name in [name for name in repeats if spent[name] < budget or len(timings[name].seconds) < SAMPLES]:
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


def twice(call, device="cpu"):
    """The output of `call` and the seconds that it takes: the faster of two calls, the first of which may be slow for its own
    sake. A call that lasts COLD is not repeated."""
    output, seconds = timed(call, device)
    return output, min(seconds, timed(call, device)[1]) if seconds < COLD else seconds


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
