"""One thread against all: the longest scan, and its exponentials."""

from functools import partial

import torch

from .bounds import exponential_seconds
from .kernels import selective_scan
from .timing import RULE, measure, speedup

TITLE = "Threads"
COLUMNS = [
    ("case", "case", "{}"),
    ("1 thread", "one_thread", "{}"),
    ("all threads", "all_threads", "{}"),
    ("threads", "threads", "{}"),
    ("speedup", "scaling", "{}"),
    ("1 thread / exponentials", "one_thread_times_bound", "{:.2f}"),
    ("all threads / exponentials", "all_threads_times_bound", "{:.2f}"),
]
SCREEN = ("case", "1 thread", "all threads", "threads", "speedup")
NOTES = ["Time over the time of the same number of exponentials with the same vector code and threads.", RULE]


def cases(setup):
    if setup.device != "cpu" or torch.get_num_threads() == 1:
        return []
    return [("selective_scan L=4131 forward, threads", partial(_row, setup))]


def _row(setup):
    threads, length = torch.get_num_threads(), selective_scan.LENGTHS[-1]
    inputs = selective_scan.inputs(length, 1, "cpu", torch.float32)

    def call(threads):
        torch.set_num_threads(threads)
        with torch.no_grad():
            return selective_scan.ours(**inputs)

    try:
        timings, _ = measure({1: partial(call, 1), threads: partial(call, threads)}, "cpu", setup.seconds)
        bounds = {}
        for n in timings:
            torch.set_num_threads(n)
            bounds[n] = exponential_seconds(length * selective_scan.DIM * selective_scan.STATES, "cpu", n)
    finally:
        torch.set_num_threads(threads)
    times_bound = {n: bounds[n] and timings[n].median / bounds[n] for n in timings}
    return [
        {
            "case": f"selective_scan L={length} forward",
            "threads": threads,
            "one_thread": timings[1],
            "all_threads": timings[threads],
            "scaling": speedup(timings[threads], timings[1]),
            "one_thread_times_bound": times_bound[1],
            "all_threads_times_bound": times_bound[threads],
        }
    ]
