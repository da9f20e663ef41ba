"""The last screen of a run: the machine, what a stranger wants to know first, what failed, and where all the rest is."""

import statistics
import textwrap

from . import published
from .report import WIDTH
from .timing import SAMPLES

BASE = "the same model in plain PyTorch"


def headlines(report, where: list[str], seconds: float) -> str:
    env = report.environment
    machine = f"{env['cpu']}, {env['threads']} threads, {env['cpu_capability'] or 'no'} kernels, torch {env['torch']}"
    if report.device != "cpu":
        machine = f"{env['gpu']}, torch {env['torch']}, triton {env['triton']}"
    sections = {section.__name__.rpartition(".")[2]: rows for section, rows in report.sections.items()}
    lines = [("Machine", machine), ("Measured", f"{report.progress} in {seconds:.0f} s ({report.mode} run)")]
    lines += [("", remark) for remark in report.remarks]
    for title, function in (("Models", _models), ("Kernels", _kernels), ("Zoo", _zoo), ("Tables", _tables)):
        found = list(function(sections.get(title.lower(), [])))
        lines += [(title if i == 0 else "", line) for i, line in enumerate(found)]
    lines += _failed(report.rows)
    lines.append(("Report", ", ".join(where) or "not written"))
    text = ["Summary", "-------"]
    for title, line in lines:
        text += textwrap.wrap(line, WIDTH, initial_indent=f"{title:<10}", subsequent_indent=" " * 10)
    return "\n".join(text)


def wrong(row) -> bool:
    return row.get("matches") is False


def _failed(rows):
    found = [("Failed", f"{row['case']}: {row.get('note') or 'wrong output'}") for row in rows if wrong(row)]
    slower = [("Slower", f"{row['case']}: on our kernels than on the reference ops") for row in rows if row.get("slower")]
    return found + slower or [("Failed", "nothing")]


def _models(rows):
    """Yield the fastest of our implementations for every case, among those with several samples that do not spread if there
    are any."""
    unsure = lambda time: time.noisy or len(time.seconds) < SAMPLES
    cases = {}
    for row in rows:
        if row.get("implementation", "").startswith("lifter") and row.get("time") and not wrong(row):
            best = cases.setdefault(row["case"], row)
            cases[row["case"]] = min(best, row, key=lambda row: (unsure(row["time"]), row["time"].median))
    for case, row in cases.items():
        speed = f"{row['time'].median * 1e3:.3g} ms{' (noisy)' * row['time'].noisy}, {row['frames_per_second']:,.0f} frames/s"
        yield f"{case}: {row['implementation']} takes {speed}, {_than(row.get('speedup'))}"


def _than(ratio) -> str:
    if ratio is None:
        return "not compared"
    if not ratio.clear:
        return f"not to be told from {BASE}"
    return f"{float(ratio):.3g} times as fast as {BASE}"


def _kernels(rows):
    ratios = [row["speedup"] for row in rows if row.get("speedup")]
    if ratios:
        faster, slower = (sum(r.clear and (r > 1) is wanted for r in ratios) for wanted in (True, False))
        yield (
            f"of {len(ratios)} calls {faster} are faster than plain PyTorch, {slower} slower, {len(ratios) - faster - slower} "
            f"even; the median is {statistics.median(ratios):.3g} times as fast"
        )


def _zoo(rows):
    ratios = [row["speedup"] for row in rows if row.get("speedup")]
    if ratios:
        yield f"{len(ratios)} calls of models, {min(ratios):.3g} to {max(ratios):.3g} times as fast as {BASE}"


def _tables(rows):
    if rows:
        exact = [row for row in rows if row.get("macs_deviation") == "as printed"]
        missing = len(published.ROWS) - len(rows)
        yield (
            f"of {len(rows)} figures of multiply-accumulates in the papers {len(exact)} are counted to the printed digit; "
            f"the others' deviations and their reasons are in the report{f'; {missing} were not counted' * bool(missing)}"
        )
