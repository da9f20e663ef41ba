"""Rows on the screen, as JSON, as Markdown, as a figure. A section is a module with TITLE, COLUMNS and NOTES."""

import itertools
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from lifter._io import whole

from .timing import Timing


@dataclass
class Report:
    """Everything that one run measured."""

    environment: dict
    device: str
    input: str
    mode: str
    ceilings: dict = field(default_factory=dict)
    sections: dict = field(default_factory=dict)  # module -> rows

    @property
    def facts(self) -> dict:
        dtype = "float32 unless the row says otherwise"
        return {**self.environment, "device": self.device, "dtype": dtype, "input": self.input, "mode": self.mode}


def table(section, rows) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the columns that have something in them. A column is (title, key, template or function)."""

    def cell(value, template):
        return "" if value is None else template(value) if callable(template) else template.format(value)

    columns = [[title, *(cell(row.get(key), template) for row in rows)] for title, key, template in section.COLUMNS]
    titles, *lines = zip(*(column for column in columns if any(column[1:])))
    return titles, lines


def show(section, rows):
    """On the screen: rich's table, or Markdown without rich."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(_markdown(section, rows), flush=True)
        return
    notes = {"caption": "\n".join(section.NOTES), "caption_justify": "left"}
    rich = Table(title=section.TITLE, title_justify="left", show_edge=False, **notes)
    titles, lines = table(section, rows)
    for title, *column in zip(titles, *lines):
        number = all(text[:1] in "+-0123456789" for text in column)
        rich.add_column(title, justify="right" if number else "left")
    for line in lines:
        rich.add_row(*line)
    Console(width=None if Console().is_terminal else 200).print(rich)


def write_json(path, report: Report):
    """A list of rows, each with its section and where it was measured."""
    rows = [
        {"section": _name(section), **row, "run": report.facts}
        for section, rows in report.sections.items()
        for row in rows
    ]
    _dump(path, rows)


def write(folder, report: Report):
    """results.json, report.md and, with matplotlib, speed.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw(folder / "speed.png", write_results(folder, report))
    lines = ["# lifter benchmarks", "", *(f"- {key}: {value}" for key, value in report.facts.items() if value)]
    lines += [f"- {key}: {value:.4g}" for key, value in report.ceilings.items() if value]
    lines += ["", "![speed](speed.png)"] if figure else []
    for section, rows in report.sections.items():
        lines += ["", _markdown(section, rows)]
    (folder / "report.md").write_text("\n".join(lines) + "\n")


def write_results(folder, report: Report) -> dict:
    """results.json alone; its sections."""
    sections = {_name(section): rows for section, rows in report.sections.items()}
    _dump(Path(folder) / "results.json", {**report.facts, "ceilings": report.ceilings, **sections})
    return sections


def _name(section) -> str:
    return section.__name__.rpartition(".")[2]


def _markdown(section, rows) -> str:
    titles, lines = table(section, rows)
    lines = [titles, ["---"] * len(titles), *lines]
    text = [f"## {section.TITLE}", "", *("| " + " | ".join(line) + " |" for line in lines)]
    return "\n".join([*text, "", *(f"- {note}" for note in section.NOTES)])


def _dump(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partly:
        partly.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value):
    if isinstance(value, Timing):
        value = {"median": value.median, "spread": value.spread, "n": len(value.seconds)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(path, sections) -> bool:
    """How much faster the models are; the kernels' time beside their bound; how long a live user waits."""
    times = {}
    for row in sections.get("models", []):
        if row.get("speedup"):
            times.setdefault(row["case"], {})[row["implementation"]] = row["time"].median
    compared = {case: found for case, found in times.items() if {"lifter", "reference"} <= found.keys()}
    drawn = re.compile(r"\w+ [LT]=\d+ forward")  # the float32 rows of the ops that have a length
    kernels = [row for row in sections.get("kernels", []) if row.get("bound") and drawn.fullmatch(row["case"])]
    found = ((_draw_models, compared), (_draw_kernels, kernels), (_draw_streams, sections.get("stream")))
    panels = [(panel, data) for panel, data in found if data]
    if not panels:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for (panel, data), axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0]):
        panel(axes, data)
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return True


BASELINES = {"reference": "over the reference ops", "reference + torch.compile": "over torch.compile of them"}
COLORS = ("#1f6fb4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")


def _draw_models(axes, times):
    for i, (baseline, label) in enumerate(BASELINES.items()):
        speedups = [found.get(baseline, 0) / found["lifter"] for found in times.values()]
        places = [place + 0.4 * (i - 0.5) for place in range(len(times))]
        bars = axes.bar(places, speedups, 0.38, label=label, color=COLORS[i])
        axes.bar_label(bars, [f"{speedup:.0f}x" if speedup else "" for speedup in speedups], fontsize=8, padding=1)
    axes.set_ylabel("speedup of lifter, float32")
    axes.set_xticks(range(len(times)), [case.replace(" T=", "\nT=").replace(" batch", ", batch") for case in times])
    axes.tick_params("x", labelsize=8)
    axes.margins(y=0.2)


def _draw_kernels(axes, rows):
    series = {}
    for row in rows:
        op, size, _ = row["case"].split()
        series.setdefault(op, []).append((int(size.split("=")[1]), row["lifter"].median, row["bound"]["seconds"]))
    for color, (op, points) in zip(itertools.cycle(COLORS), series.items()):
        sizes, times, bounds = zip(*points)
        axes.plot(sizes, [seconds * 1e3 for seconds in times], "o-", color=color, label=op, markersize=4)
        axes.plot(sizes, [seconds * 1e3 for seconds in bounds], ":", color=color)
    axes.plot([], [], ":", color="black", label="bound, measured in the same run")
    axes.set(xscale="log", yscale="log", xlabel="steps L, or frames T", ylabel="forward, ms")


def _draw_streams(axes, rows):
    series = {}
    for row in rows:
        series.setdefault(row["implementation"].replace("lifter", row["model"]), []).append(row)
    for i, (label, rows) in enumerate(series.items()):
        chunks, latencies = [row["chunk_size"] for row in rows], [row["latency"] for row in rows]
        style = {"color": COLORS[i % len(COLORS)], "linestyle": "-" if i < len(COLORS) else "--"}
        axes.plot(chunks, latencies, label=label, **style)
        for row in rows:
            face = style["color"] if row["live"] else "white"
            axes.plot(row["chunk_size"], row["latency"], "o", color=style["color"], markerfacecolor=face, markersize=4)
    axes.plot(chunks, [row["waited"] or None for row in rows], ":", color="black", label="waiting alone")
    axes.plot([], [], "o", color="black", markerfacecolor="white", markersize=4, label="too slow to keep up")
    axes.set(xscale="log", yscale="log", xlabel="chunk size, frames", ylabel="first frame of a chunk to its pose, seconds")
    axes.set_xticks(chunks, chunks, minor=False)
    axes.set_xticks([], minor=True)
