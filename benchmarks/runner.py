"""Runs a plan: a case that fails is a row, a section keeps to its share of the time, and what is measured is on disk after
every case."""

import contextlib
import math
import sys
import time
from functools import partial

import torch

from lifter._errors import first_line

from . import report
from .accuracy import fail
from .timing import Timing

CALLS = 8  # about: the implementations of a case and its bound, a budget each
LEAST = 0.01  # seconds: the budget of a candidate where the share is used up
PATIENCE = 4  # calls of the longest candidate that a case may take
END = 2  # shares: what has not begun by then is left out


def planned(section, setup) -> list:
    """The cases of a section: (name, function that returns rows). If they cannot be told, one that fails.

    ValueError: the section says that it cannot be run here.
    """
    try:
        return section.cases(setup)
    except ValueError:
        raise
    except Exception as failure:
        return [(section.__name__, partial(fail, failure))]


def run(plan, setup, shares, result, write_results, write_report):
    """Measure the cases of every section of `plan` into `result`: with fewer samples from the time on when the section has
    used its share of the seconds, if it has one, and no more when it has used END of them.

    `write_results()` is called after every case, `write_report()` after every section.
    """
    start, done, total = time.perf_counter(), 0, sum(map(len, plan.values()))
    most, patience = setup.seconds, setup.patience
    for section, cases in plan.items():
        rows = result.sections[section] = []
        share, late = shares.get(report.name_of(section), math.inf), 0
        end = time.perf_counter() + share
        for i, (name, case) in enumerate(cases):
            left = end - time.perf_counter()
            if left < (1 - END) * share:
                name = report.name_of(section)
                result.remarks.append(
                    f"{name}: the last {len(cases) - i} of {len(cases)} cases are left out, for the others took "
                    f"{END * share:.0f} s; `python -m benchmarks {name} --seconds 1` runs all"
                )
                break
            late += left <= 0
            allowed = max(left, 0) / (len(cases) - i)
            setup.seconds = min(most, max(LEAST, allowed / CALLS))
            setup.patience = min(patience, max(LEAST, allowed / PATIENCE))
            done += 1
            _progress(f"[{done}/{total}] {time.perf_counter() - start:.0f} s  {name}")
            rows += survived(name, case)
            result.progress = f"{done} of {total} cases"
            write_results()
        if late and any(isinstance(value, Timing) for row in rows for value in row.values()):
            result.remarks.append(
                f"{report.name_of(section)}: its {share:.0f} s were used up before the last {late} of {len(cases)} cases, "
                "which have as few samples as are honest"
            )
        _progress("")
        write_report()
        report.show(section, rows)
    setup.seconds, setup.patience = most, patience


def survived(name, case) -> list[dict]:
    """The rows of a case; one that fails is a wrong row, and the run goes on."""
    try:
        return [_with_noise(row) for row in case()]
    except Exception as failure:
        with contextlib.suppress(RuntimeError):  # of a capture that is not over
            torch.cuda.empty_cache()
        return [{"case": name, "matches": False, "note": f"FAILS: {first_line(failure)}"}]


def _with_noise(row) -> dict:
    """The row, which says so if its samples spread."""
    noisy = [f"{key} ±{value.spread:.0%}" for key, value in row.items() if isinstance(value, Timing) and value.noisy]
    return row | {"note": "; ".join(filter(None, (row.get("note"), f"noisy: {', '.join(noisy)}")))} if noisy else row


def _progress(line):
    """The current case: one changing line on a terminal, else one line each."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)
